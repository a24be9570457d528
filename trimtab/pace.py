"""Is the champion still as fast as it was? It is timed again on a schedule, and when the machine changed."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.data import Rows
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.state import windows_in
from trimtab.timing import race
from trimtab.window import Arrays

__all__ = ["Pace", "Yardstick", "keeps_pace", "machine"]

NAME = "pace"
YARD = 192


class Yardstick:
    """Elementwise arithmetic in NumPy: it does what it did, whatever becomes of the runtimes.

    What else runs on the machine slows it as much as the model that is timed beside it, if it takes as many
    threads. It is no product of matrices: BLAS takes every core, and waits for the last of them where others work.

    Parameters
    ----------
    threads
        That one call uses, each on an array of its own.

    Examples
    --------
    >>> Yardstick(2).predict({}).shape
    (2, 192, 192)
    """

    def __init__(self, threads: int = 1) -> None:
        self._arrays = np.random.default_rng(0).normal(size=(threads, YARD, YARD)).astype(np.float32)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Compute, and return the outcome as an output."""
        return {"waves": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Compute."""
        work = self._pool.map if self._pool else map
        return np.stack(list(work(_waves, self._arrays)))


def _waves(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.exp(np.sin(array))


@dataclass(frozen=True)
class Pace:
    """How fast a version was at one time.

    Parameters
    ----------
    version, window
        Of what, and after which window.
    p50_ms
        Median time of a call.
    low, high
        Bounds of how many calls are as long as one :class:`Yardstick`.
    machine
        What it ran on: :func:`machine`.
    """

    version: int
    window: int
    p50_ms: float
    low: float
    high: float
    machine: Mapping[str, str]

    def slower(self, before: Pace, most: float) -> bool:
        """Tell whether it is slower than before by more than ``most``: in time, and beside the yardstick.

        On another machine the yardstick is another too, and time alone counts.

        Examples
        --------
        >>> here = {"processor": "a"}
        >>> then, now = Pace(1, 0, 1.0, 9.0, 11.0, here), Pace(1, 8, 1.5, 6.0, 7.0, here)
        >>> now.slower(then, 0.05), dataclasses.replace(now, low=9.0, high=11.0).slower(then, 0.05)
        (True, False)
        """
        longer = self.p50_ms > before.p50_ms * (1 + most)
        elsewhere = self.machine.get("processor") != before.machine.get("processor")
        return longer and (elsewhere or before.low > self.high)


def keeps_pace(parts: Parts, serving: Serving, number: int) -> list[Finding]:
    """Time the champion on its target where that is due; a slowdown counts when it is measured twice.

    It is due when the version was not timed yet, ``benchmark.again`` after the last time, and when the
    processor, its driver or a package changed.

    Returns
    -------
    list of Finding
        One where it was timed, else none.
    """
    project = parts.project
    if "slower" not in project.trigger.on:
        return []
    timed = [Pace(**detail) for _, _, detail in parts.journal.records(NAME) if detail["version"] == serving.version]
    told = [pace for pace in timed if pace.window < number]  # another of this window is of a look that was cut off
    wait = windows_in(project.benchmark.again, project.windows_per_year)
    if told and told[-1].machine == machine() and number - told[-1].window < wait:
        return []
    now = _time(parts, serving, number)
    slower = bool(told) and now.slower(told[0], project.gate.max_slowdown)
    if slower:
        now = _time(parts, serving, number)
        slower = now.slower(told[0], project.gate.max_slowdown)
    parts.journal.record(NAME, dataclasses.asdict(now), f"{NAME}:{serving.version}:{number}")
    scores = {"p50_ms": now.p50_ms, "reference_p50_ms": (told or [now])[0].p50_ms}
    return [Finding(NAME, number, Answer.SLOWER if slower else Answer.FINE, _reason(now, told, slower), scores)]


def _reason(now: Pace, told: list[Pace], slower: bool) -> tuple[str, ...]:
    if not slower:
        return ()
    first = told[0]
    changed = ", ".join(k for k, v in now.machine.items() if first.machine.get(k) != v)
    where = f"; since then changed: {changed}" if changed else ""
    return (f"a call takes {now.p50_ms:.3f} ms, {first.p50_ms:.3f} after window {first.window}{where}",)


def _time(parts: Parts, serving: Serving, number: int) -> Pace:
    target, reference = parts.project.target, serving.reference
    rows = Rows(reference.inputs, np.zeros(len(reference), np.int64), np.zeros(len(reference), np.uint64))
    session = parts.runtime(serving.setup).load(serving.model, target.threads, target.batch)
    timed = race(
        Yardstick(target.threads), {NAME: session}, rows, batch=target.batch, seconds=parts.project.benchmark.seconds
    )
    speed = timed[NAME].speedup
    return Pace(serving.version, number, timed[NAME].p50_ms, speed.low, speed.high, machine())


def machine() -> dict[str, str]:
    """Return what a call's time depends on beside the model: processor, driver, and a digest of the packages.

    Examples
    --------
    >>> sorted(machine())
    ['driver', 'packages', 'processor', 'python']
    """
    packages = sorted(f"{d.name}=={d.version}" for d in metadata.distributions())
    return {
        "processor": _line(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "driver": _line(Path("/proc/driver/nvidia/version"), "NVRM version"),
        "python": platform.python_version(),
        "packages": hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16],
    }


def _line(file: Path, begins: str) -> str:
    """Return what follows the first line that begins so; nothing where there is none."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(begins)), "")
