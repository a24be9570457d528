"""Sketches of columns: counts that add up over batches and partitions, from which every score of drift is computed.

A lens is cut once, from the reference. Whatever is looked at through it, a million rows or a hundred, becomes
one sketch of a few kilobytes, and two sketches of the same lens become one by addition.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["LevelLens", "LevelSketch", "NumberLens", "NumberSketch"]

BINS = 4096
MOST_LEVELS = 4096
EXAMPLES = 20
CROWDED = 0.01
BLOCK = 1 << 16
LARGEST = 1e150

NULL = 0.99
POINTS = 512
BRIDGES = 2000
TAIL = 1e-6

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NumberLens:
    """Bins for one numeric column.

    Parameters
    ----------
    edges
        Ascending, ``[bins + 1]``. What lies below the first or beyond the last has a bin of its own.
    even
        Whether the bins are equally wide, which is faster.
    center
        What squares are taken around, so that they do not cancel.
    chance
        The 99 % quantile of the distance of Wasserstein between two samples of n and m values of the
        reference, times the root of n m / (n + m), in the column's unit.

    Notes
    -----
    ``chance`` is the area under a Brownian bridge's absolute value along the reference's distribution
    (del Barrio, Giné and Matrán 1999), of which many are drawn. Where tails are so heavy that a variance
    means little it is too small, and the p-value alone decides.

    Examples
    --------
    >>> lens = NumberLens.cut(np.arange(100.0))
    >>> first, second = lens.look(np.arange(50.0)), lens.look(np.arange(50.0, 100.0))
    >>> (first + second).mean, (first + second).n
    (49.5, 100)
    """

    edges: Floats
    even: bool
    center: float
    chance: float = 0.0

    @classmethod
    def cut(cls, values: npt.NDArray[Any], bins: int = BINS) -> NumberLens:
        """Cut bins that tell the reference's values apart.

        Equally wide ones where no bin is crowded; one for each whole number, and one between any two,
        where they are few; else half of them equally wide and half of them equally full, with one for
        each value that repeats so much that it fills several.

        Parameters
        ----------
        values
            The reference's; NaN and infinities play no part.
        """
        numbers = np.asarray(values, dtype=np.float64)
        finite = np.sort(numbers[_counts(numbers)])
        if not len(finite):
            return cls(np.array([0.0, 1.0]), True, 0.0)
        low, high, known = finite[0], finite[-1], (float(finite.mean()), _by_chance(finite))
        if low == high:
            return cls(np.array([low, np.nextafter(low, np.inf)]), False, *known)
        if high - low < bins / 2 and bool((finite == np.round(finite)).all()):
            return cls(np.arange(low - 0.25, high + 0.5, 0.5), True, *known)
        pad = (high - low) / bins
        even = np.linspace(low - pad, high + pad, bins + 1)
        if np.histogram(finite, even)[0].max() <= CROWDED * len(finite):
            return cls(even, True, *known)
        return cls(_mixed(finite, even, bins), False, *known)

    def look(self, values: npt.NDArray[Any]) -> NumberSketch:
        """Sketch values ``[rows]``; NaN counts as missing."""
        parts = [self._look(values[i : i + BLOCK]) for i in range(0, max(1, len(values)), BLOCK)]
        return functools.reduce(NumberSketch.__add__, parts)

    def _look(self, values: npt.NDArray[Any]) -> NumberSketch:
        numbers = np.asarray(values, dtype=np.float64)
        finite = _counts(numbers)
        count = int(finite.sum())
        missing = 0
        if count < len(numbers):
            missing = int(np.isnan(numbers).sum())
            infinite, numbers = len(numbers) - count - missing, numbers[finite]
        else:
            infinite = 0
        counts, sums = self._even(numbers) if self.even else self._uneven(numbers)
        squares = float(np.square(numbers - self.center).sum())  # not a dot product, which wakes every core for it
        return NumberSketch(self, counts, sums, squares, missing, infinite)

    def code(self, values: npt.NDArray[Any]) -> Floats:
        """Return the values as a classifier of rows reads them: as they are, NaN where missing or infinite."""
        numbers = np.asarray(values, dtype=np.float64)
        return np.where(_counts(numbers), numbers, np.nan)

    def _even(self, numbers: Floats) -> tuple[Counts, Floats]:
        """Return counts and sums by bin, from each value's place."""
        bins = len(self.edges) - 1
        scaled = (numbers - self.edges[0]) * (bins / (self.edges[-1] - self.edges[0]))
        np.clip(scaled, -1.0, bins, out=scaled)
        place = np.floor(scaled, out=scaled).astype(np.intp) + 1
        counts, sums = (np.bincount(place, weights=w, minlength=bins + 2) for w in (None, numbers))
        return counts.astype(np.int64), np.asarray(sums, dtype=np.float64)

    def _uneven(self, numbers: Floats) -> tuple[Counts, Floats]:
        """Return counts and sums by bin: few edges are found sooner among sorted values than all values among edges."""
        ascending = np.sort(numbers)
        ends = np.concatenate([[0], np.searchsorted(ascending, self.edges, side="left"), [len(ascending)]])
        counts = np.diff(ends).astype(np.int64)
        used, sums = counts > 0, np.zeros(len(counts))
        if len(ascending):
            sums[used] = np.add.reduceat(ascending, ends[:-1][used])
        return counts, sums


def _counts(numbers: Floats) -> npt.NDArray[np.bool_]:
    """Mark what counts as a finite value: nothing whose square would not be one."""
    return np.asarray(np.abs(numbers) < LARGEST)


def _by_chance(finite: Floats) -> float:
    points, bridges = _bridges()
    between = np.diff(np.interp(points * (len(finite) - 1), np.arange(len(finite)), finite))  # its quantiles
    return float(np.quantile(bridges @ between, NULL))


@functools.cache
def _bridges() -> tuple[Floats, Floats]:
    """Return points from 0 to 1, denser towards both ends, and Brownian bridges' absolute values between them.

    Returns
    -------
    points, bridges
        ``[points]`` and ``[bridges, points - 1]``.
    """
    tail = np.geomspace(TAIL, 1 / POINTS, POINTS // 8, endpoint=False)
    points = np.concatenate([[0.0], tail, np.linspace(1 / POINTS, 1 - 1 / POINTS, POINTS - 1), 1 - tail[::-1], [1.0]])
    steps = np.random.default_rng(0).normal(size=(BRIDGES, len(points) - 1)) * np.sqrt(np.diff(points))
    walks = np.cumsum(steps, axis=1)
    bridges = np.concatenate([np.zeros((BRIDGES, 1)), walks - points[1:] * walks[:, -1:]], axis=1)
    return points, np.asarray(np.abs(bridges[:, :-1] + bridges[:, 1:]) / 2)


def _mixed(finite: Floats, even: Floats, bins: int) -> Floats:
    full = finite[np.linspace(0, len(finite) - 1, bins // 2 + 1).astype(np.intp)]
    values, times = np.unique(full, return_counts=True)
    again = values[times > 1]
    return np.unique(np.concatenate([even[::2], even[-1:], values, again, np.nextafter(again, np.inf)]))


@dataclass(frozen=True)
class NumberSketch:
    """What is kept of a numeric column's values: exact counts, sums and moments, and where they lie by bin.

    Parameters
    ----------
    lens
        That it was looked at through.
    counts, sums
        Of the values in each bin, and their sum, ``[bins + 2]``: below the first edge, the bins, beyond the last.
    squares
        Sum of squares around the lens's center.
    missing, infinite
        Numbers of values that are NaN, and that are infinite or above 1e150; neither is in the counts.
    """

    lens: NumberLens = field(repr=False)
    counts: Counts = field(repr=False)
    sums: Floats = field(repr=False)
    squares: float
    missing: int
    infinite: int

    def __add__(self, other: NumberSketch) -> NumberSketch:
        return NumberSketch(
            self.lens,
            self.counts + other.counts,
            self.sums + other.sums,
            self.squares + other.squares,
            self.missing + other.missing,
            self.infinite + other.infinite,
        )

    @functools.cached_property
    def n(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.n + self.missing + self.infinite

    @functools.cached_property
    def mean(self) -> float:
        """Mean of the finite values; NaN where there are none."""
        return float(self.sums.sum()) / self.n if self.n else float("nan")

    @functools.cached_property
    def sd(self) -> float:
        """Standard deviation of the finite values (over n); NaN where there are none."""
        if not self.n:
            return float("nan")
        return float(np.sqrt(max(0.0, self.squares / self.n - (self.mean - self.lens.center) ** 2)))

    @functools.cached_property
    def atoms(self) -> tuple[Floats, Floats]:
        """Where the values lie, by bin the mean of those in it, and how many there are, both ``[bins in use]``."""
        used = np.flatnonzero(self.counts)
        return self.sums[used] / self.counts[used], self.counts[used].astype(np.float64)


@dataclass(frozen=True)
class LevelLens:
    """The levels of one categorical column.

    Parameters
    ----------
    levels
        Words of the reference's levels, the most frequent first; what is none of them is counted together.

    Examples
    --------
    >>> lens = LevelLens.cut(pd.Series(["a", "a", "b"]))
    >>> sketch = lens.look(pd.Series(["b", "c", None]))
    >>> sketch.counted, sketch.other, sketch.missing
    ({'b': 1, 'c': 1}, 1, 1)
    """

    levels: tuple[str, ...]
    coded: bool = False

    @classmethod
    def cut(cls, values: pd.Series[Any], coded: bool = False, most: int = MOST_LEVELS) -> LevelLens:
        """Take the reference's levels; the ``most`` most frequent of them where they are more.

        Parameters
        ----------
        coded
            Whether levels are whole numbers: 3 that arrives as 3.0 beside a missing value is still 3.
        """
        counted = sorted(_counted(values, coded).items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(word for word, _ in counted[:most]), coded)

    def look(self, values: pd.Series[Any]) -> LevelSketch:
        """Sketch values ``[rows]``; what is missing is counted apart."""
        counted = _counted(values, self.coded)
        counts = np.array([counted.pop(level, 0) for level in self.levels], dtype=np.int64)
        other = sum(counted.values())
        return LevelSketch(self, counts, other, len(values) - int(counts.sum()) - other, _most(counted))

    def code(self, values: pd.Series[Any]) -> Floats:
        """Return each value as a classifier of rows reads it ``[rows]``.

        The place of its level among the lens's, one more for any other, NaN where it is missing.
        """
        place = {level: float(i) for i, level in enumerate(self.levels)}
        places, uniques = pd.factorize(values)
        codes = [_word(v, self.coded) for v in uniques.tolist()]
        found = np.array([*(np.nan if c is None else place.get(c, len(place)) for c in codes), np.nan])
        return np.asarray(found[places])


def _counted(values: pd.Series[Any], coded: bool) -> dict[str, int]:
    """Count each level by its word."""
    counts = values.value_counts()
    found: dict[str, int] = {}
    for value, count in zip(counts.index.tolist(), counts.tolist(), strict=True):
        word = _word(value, coded)
        if word is not None and count:
            found[word] = found.get(word, 0) + int(count)
    return found


def _word(value: Any, coded: bool) -> str | None:
    if not coded:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(number):
        return None
    return str(int(number)) if number.is_integer() else repr(number)


def _most(counted: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:EXAMPLES])


@dataclass(frozen=True)
class LevelSketch:
    """What is kept of a categorical column's values.

    Parameters
    ----------
    lens
        That it was looked at through.
    counts
        Of the lens's levels ``[levels]``.
    other
        Number of values that are none of these.
    missing
        Number of values that are missing.
    examples
        The most frequent of the others, with their numbers; exact in one batch, a lower bound over several.
    """

    lens: LevelLens = field(repr=False)
    counts: Counts = field(repr=False)
    other: int
    missing: int
    examples: Mapping[str, int]

    def __add__(self, other: LevelSketch) -> LevelSketch:
        words = {w: self.examples.get(w, 0) + other.examples.get(w, 0) for w in {*self.examples, *other.examples}}
        return LevelSketch(
            self.lens, self.counts + other.counts, self.other + other.other, self.missing + other.missing, _most(words)
        )

    @functools.cached_property
    def n(self) -> int:
        """Number of values that are there."""
        return int(self.counts.sum()) + self.other

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.n + self.missing

    @functools.cached_property
    def counted(self) -> dict[str, int]:
        """How many values each level has of which that is known: the lens's, and the most frequent of the others."""
        known = dict(zip(self.lens.levels, self.counts.tolist(), strict=True))
        return {level: n for level, n in {**known, **self.examples}.items() if n}
