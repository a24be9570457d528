"""How far a piece of work makes this process grow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["growth"]

STATUS = Path("/proc/self/status")
RESET = "5"
"""Written to ``clear_refs``, it sets the high-water mark back to what the process holds now (man 5 proc)."""


def growth(work: Callable[[], object], marks: Path = Path("/proc/self/clear_refs")) -> int:
    """Return by how many bytes the resident memory of this process grows at most while ``work`` is done.

    By the kernel's high-water mark where ``marks`` lets it be set back; else by looking every
    millisecond, which misses what is held for less.

    Examples
    --------
    >>> growth(lambda: bytes(range(256)) * 200_000) > 50_000_000
    True
    """
    try:
        marks.write_text(RESET)
    except OSError:
        return _watched(work)
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _watched(work: Callable[[], object]) -> int:
    before = highest = _status("VmRSS")
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, _status("VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
        highest = max(highest, _status("VmRSS"))
    finally:
        done.set()
        watcher.join()
    return max(0, highest - before)
