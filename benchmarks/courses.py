"""Streams in their order, in which what a model has learned does not stay true: electricity, and generated ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
from streams import ELECTRICITY

from trimtab.window import Feature, Schema

COLUMNS = 6
ROWS = 500
FORTNIGHTS = 26
WINDOWS = 2 * FORTNIGHTS + 1
NOISE = 0.5
"""Standard deviation of what no model can know, beside a score of about 1.1."""
WOBBLE = 0.1
"""Standard deviation of the angle from one window to the next, in radians, beside what is meant to happen."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """Windows of labelled rows in their order; window 0 is history.

    Parameters
    ----------
    features
        Numbers ``[windows * rows, columns]``.
    labels
        0 or 1, int64 ``[windows * rows]``.
    rows
        Of a window.
    per_year
        Windows in a year.
    """

    features: pd.DataFrame
    labels: npt.NDArray[np.int64]
    rows: int
    per_year: float

    @property
    def last(self) -> int:
        """The number of the last whole window."""
        return len(self.labels) // self.rows - 1

    @cached_property
    def schema(self) -> Schema:
        """Of the rows."""
        return Schema.freeze({str(name): Feature() for name in self.features}, self.features)

    def places(self, first: int, last: int) -> npt.NDArray[np.int64]:
        """Return the places of the rows of some windows in a row."""
        return np.arange(first * self.rows, (last + 1) * self.rows)


def electricity(seed: int) -> Course:
    """Return electricity prices in windows of four weeks of half-hours; the stream has no seed."""
    table = pd.read_csv(ELECTRICITY)
    labels = table.pop("class").to_numpy(np.int64)
    return Course(table, labels, rows=4 * 7 * 48, per_year=13)


def seasonal(season: int, swing: float) -> Callable[[int], Course]:
    """Return what makes streams whose relation to the label swings with a season, beginning at one end of it.

    Parameters
    ----------
    season
        Windows in a year, which has one season.
    swing
        Half of the angle between summer and winter, in radians.
    """

    def course(seed: int) -> Course:
        phase = 2 * math.pi * np.arange(WINDOWS) / season
        means = 0.5 * np.sin(phase[:, None] + np.arange(COLUMNS))
        return turned(-swing * np.cos(phase), means, season, seed)

    return course


def abrupt(seed: int) -> Course:
    """Return a stream that changes at once every 8 to 16 windows, each time by another angle to either side."""
    rng = np.random.default_rng([seed, 1])
    changes = np.isin(np.arange(WINDOWS), np.cumsum(rng.integers(8, 17, size=WINDOWS // 8)))
    jumps = rng.uniform(0.5, 1.0, size=WINDOWS) * rng.choice([-1, 1], size=WINDOWS)
    means = np.cumsum(changes[:, None] * rng.normal(0, 0.3, size=(WINDOWS, COLUMNS)), axis=0)
    return turned(np.cumsum(changes * jumps), means, FORTNIGHTS, seed)


def slow(seed: int) -> Course:
    """Return a stream that turns evenly, by about half a right angle a year."""
    passed = np.arange(WINDOWS) / FORTNIGHTS
    direction = np.random.default_rng([seed, 1]).choice([-1, 1], size=COLUMNS)
    return turned(0.8 * passed, 0.4 * passed[:, None] * direction, FORTNIGHTS, seed)


def turned(angles: Floats, means: Floats, per_year: float, seed: int) -> Course:
    """Return rows whose label hangs on two columns, by an angle that changes, evenly on a third, and on chance.

    Parameters
    ----------
    angles
        By window, in radians.
    means
        Of the columns by window ``[windows, columns]``.
    """
    rng = np.random.default_rng([seed, 0])
    windows = len(angles)
    rows = rng.normal(size=(windows, ROWS, COLUMNS)) + means[:, None]
    angle = (angles + rng.normal(0, WOBBLE, size=windows))[:, None]
    score = np.cos(angle) * rows[..., 0] + np.sin(angle) * rows[..., 1] + 0.5 * rows[..., 2]
    labels = (score + rng.normal(0, NOISE, size=score.shape) > 0).astype(np.int64)
    frame = pd.DataFrame(rows.reshape(-1, COLUMNS), columns=[f"x{i}" for i in range(COLUMNS)])
    return Course(frame, labels.ravel(), ROWS, per_year)


COURSES: dict[str, Callable[[int], Course]] = {
    "electricity": electricity,
    "seasonal": seasonal(26, swing=0.6),
    "short season": seasonal(13, swing=0.8),
    "abrupt": abrupt,
    "slow": slow,
}
