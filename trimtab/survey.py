"""Looking at a window batch by batch: what monitors keep of all its rows, and a draw of them for what needs rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.monitor import Monitor, Sample, Summary
from trimtab.window import Schema, stacked

__all__ = ["Draw", "Survey", "survey"]

Keep = Callable[[pd.DataFrame, npt.NDArray[np.int64]], npt.NDArray[np.bool_]]


@dataclass
class Draw:
    """Draws rows of a stream without replacement, the same whatever batches they come in.

    Each row's place has a number that looks like chance, and the rows with the lowest are drawn.

    Parameters
    ----------
    most
        Rows to draw.

    Examples
    --------
    >>> frame = pd.DataFrame({"x": range(100)})
    >>> whole, parts = Draw(5), Draw(5)
    >>> whole.add(frame, np.arange(100))
    >>> for first in range(0, 100, 30):
    ...     parts.add(frame[first : first + 30], np.arange(100)[first : first + 30])
    >>> whole.frame["x"].tolist() == parts.frame["x"].tolist(), len(whole.frame)
    (True, 5)
    """

    most: int
    _parts: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], pd.DataFrame]] = field(default_factory=list)
    _limit: np.uint64 = field(default_factory=lambda: np.uint64(2**64 - 1))

    def add(self, batch: pd.DataFrame, places: npt.NDArray[np.int64]) -> None:
        """Take a batch with the place of each of its rows in the window."""
        numbers = _mixed(places.astype(np.uint64))
        if len(numbers) > self.most:  # then the batch alone tells that some are too high, and they need no copy
            self._limit = min(self._limit, np.partition(numbers, self.most - 1)[self.most - 1])
        low = numbers <= self._limit
        if low.any() or not self._parts:
            self._parts.append((numbers[low], places[low], batch[low]))
        if sum(len(n) for n, *_ in self._parts) > 2 * self.most:
            self._prune()

    def _prune(self) -> None:
        if not self._parts:
            return
        every = np.concatenate([n for n, *_ in self._parts])
        if len(every) > self.most:
            self._limit = np.partition(every, self.most - 1)[self.most - 1]
            low = [n <= self._limit for n, *_ in self._parts]
            kept = zip(low, self._parts, strict=True)
            self._parts = [(numbers[i], places[i], frame[i]) for i, (numbers, places, frame) in kept]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows, in their order."""
        self._prune()
        return stacked([frame for *_, frame in self._parts])

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Their places, int64 ``[rows]``."""
        self._prune()
        return np.concatenate([np.zeros(0, dtype=np.int64), *(places for _, places, _ in self._parts)])


def _mixed(places: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Turn places into numbers that look like chance, no two alike (SplitMix64; Steele, Lea and Flood 2014)."""
    z = places + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


@dataclass(frozen=True)
class Survey:
    """What a look at every row of a window left.

    Parameters
    ----------
    rows
        How many there are.
    frame
        A draw of them.
    places
        Where in the window the drawn rows are, int64 ``[rows]``.
    seen
        What each monitor kept, by name.
    failed
        What a monitor raised, by its name; it has kept nothing.
    """

    rows: int
    frame: pd.DataFrame
    places: npt.NDArray[np.int64]
    seen: dict[str, Summary]
    failed: dict[str, Exception]


def survey(
    batches: Iterable[pd.DataFrame],
    schema: Schema,
    number: int,
    monitors: Sequence[tuple[Monitor, Summary]],
    most: int,
    keep: Keep | None = None,
) -> Survey:
    """Look at every row of a window once.

    Parameters
    ----------
    batches
        Its rows, in order.
    monitors
        With what each fitted to the reference.
    most
        Rows to draw.
    keep
        Tells which rows of a batch are to be looked at, by the batch and their places in the window.
    """
    draw, rows = Draw(most), 0
    seen: dict[str, Summary] = {}
    failed: dict[str, Exception] = {}
    for whole in batches:
        places = rows + np.arange(len(whole))
        kept = np.ones(len(whole), dtype=bool) if keep is None else keep(whole, places)
        batch = whole if kept.all() else whole[kept]
        draw.add(batch, places[kept])
        sample = Sample(schema, batch, number)
        for monitor, fitted in (m for m in monitors if m[0].name not in failed):
            try:
                summary = monitor.summarize(fitted, sample)
                before = seen.get(monitor.name)
                seen[monitor.name] = summary if before is None else monitor.add(fitted, before, summary)
            except Exception as error:  # a plugin may raise anything, and the other monitors must still look
                failed[monitor.name] = error
        rows += len(whole)
    return Survey(rows, draw.frame, draw.places, {n: summary for n, summary in seen.items() if n not in failed}, failed)
