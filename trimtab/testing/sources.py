"""What a source promises."""

# ruff: noqa: D401 (the docstring of a check says what is lost, which is no command)

from __future__ import annotations

import itertools

from trimtab.testing.material import Material
from trimtab.testing.promise import require
from trimtab.window import Source


def check_windows_join(source: Source, material: Material) -> None:
    """Rows between two windows are never looked at, or are looked at twice."""
    start = source.begins()
    last = source.last(start)
    require(last >= 1, f"last() is {last}: give the source rows in window 1 at least")
    windows = [source.read(number, start) for number in range(min(last, 20) + 1)]
    for number, window in enumerate(windows):
        require(window.number == number, f"read({number}) gave window {window.number}")
    for before, after in itertools.pairwise(windows):
        require(
            before.span.end == after.span.start,
            f"window {before.number} ends at {before.span.end}, the next begins at {after.span.start}",
        )
    for window in windows:
        require(
            bool(list(window.batches())), f"window {window.number} gives no batch; one without a row has its columns"
        )
    require(bool(len(source.read(last, start).frame)), f"window {last} is said to hold rows, and holds none")
    require(not len(source.read(last + 1, start).frame), f"window {last + 1} lies after last() and holds rows")


def check_reading_again_gives_the_same(source: Source, material: Material) -> None:
    """A round that resumes trains on other rows than those that were sealed."""
    start = source.begins()
    first, second = source.read(1, start), source.read(1, start)
    require(first.span == second.span and first.frame.equals(second.frame), "window 1 read twice gives two windows")


def check_windows_close_in_order(source: Source, material: Material) -> None:
    """A window is judged before its rows have come."""
    start = source.begins()
    closes = [source.closes(number, start) for number in (1, 2, 3)]
    timed = [at for at in closes if at is not None]
    require(not timed or (len(timed) == 3 and sorted(set(timed)) == timed), f"windows 1, 2, 3 close at {closes}")
