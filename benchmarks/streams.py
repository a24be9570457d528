"""Streams to try monitors on: rows that are alike at all times, generated or real but shuffled, and shifts of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.monitor import Sample
from trimtab.window import Feature, Schema

SHARED = Path(os.environ.get("TRIMTAB_SHARED", Path(__file__).parents[2] / "shared"))
ELECTRICITY = SHARED / "data" / "electricity.csv.gz"

KINDS = ("normal", "heavy", "integer", "zeros", "category")
LETTERS = np.array(list("abcde"), dtype=object)
BOUNDS = (-0.2533, 0.5244, 1.0364, 1.6449)
"""Of the categories on a normal scale: shares of 0.40, 0.30, 0.15, 0.10 and 0.05."""
SPEARMAN = (0.35, 0.5, 0.7)
TAILS = 1 / 3
STRONG = 0.3
KNOWN_ROWS = 20_000

Values = npt.NDArray[Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Stream:
    """Rows that are alike at all times.

    Parameters
    ----------
    name
        In tables.
    features
        Its columns.
    kinds
        Of the columns, by name.
    draw
        Gives so many fresh rows.
    """

    name: str
    features: Mapping[str, Feature]
    kinds: Mapping[str, str]
    draw: Callable[[Rng, int], pd.DataFrame]

    @cached_property
    def known(self) -> pd.DataFrame:
        """Rows from which it is known what a standard deviation is, and which pairs of columns go together."""
        return self.draw(np.random.default_rng(0), KNOWN_ROWS)

    @cached_property
    def schema(self) -> Schema:
        """Of its rows."""
        return Schema.freeze(self.features, self.known)

    @cached_property
    def numbers(self) -> list[str]:
        """Names of its numeric columns."""
        return [name for name, kind in self.kinds.items() if kind != "category"]

    @cached_property
    def categories(self) -> list[str]:
        """Names of the others."""
        return [name for name, kind in self.kinds.items() if kind == "category"]

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Numeric columns that go together: the rank correlation of Spearman is 0.3 or more either way."""
        strength = self.known[self.numbers].corr(method="spearman").abs().to_numpy()
        strong = zip(*(side.tolist() for side in np.nonzero(np.triu(strength, 1) >= STRONG)), strict=True)
        return [(self.numbers[i], self.numbers[j]) for i, j in strong]

    def sample(self, frame: pd.DataFrame, number: int = 0) -> Sample:
        """Return rows as a monitor sees them."""
        return Sample(self.schema, frame, number)


def generated(columns: int) -> Stream:
    """Return a stream of normal, heavy-tailed, integer, zero-inflated and categorical columns in turn.

    Each column goes together with its neighbour, by a rank correlation of 0.35, 0.5 or 0.7 before ties.
    """
    kinds = {f"{KINDS[i % 5]}_{i}": KINDS[i % 5] for i in range(columns)}
    features = {name: Feature(kind="categorical" if k == "category" else "numeric") for name, k in kinds.items()}

    def draw(rng: Rng, rows: int) -> pd.DataFrame:
        normal = rng.normal(size=(columns, rows))
        for pair, first in enumerate(range(0, columns - 1, 2)):
            r = 2 * math.sin(math.pi / 6 * SPEARMAN[pair % 3])
            normal[first + 1] = r * normal[first] + math.sqrt(1 - r * r) * normal[first + 1]
        return pd.DataFrame({name: shaped(kind, z) for (name, kind), z in zip(kinds.items(), normal, strict=True)})

    return Stream(f"generated {columns}", features, kinds, draw)


def shaped(kind: str, normal: Values) -> Values:
    """Turn normal values into those of a column of some kind; their order stays.

    Heavy tails are those of Tukey's h at 1/3: no moment beyond the third.
    """
    match kind:
        case "heavy":
            return normal * np.exp(TAILS * normal**2 / 2)
        case "integer":
            return np.floor(np.exp(1 + normal / 2))
        case "zeros":
            return np.where(normal > 0.5, np.exp(normal), 0.0)
        case "category":
            return LETTERS[np.searchsorted(BOUNDS, normal)]
    return normal


def electricity(columns: int | None = None) -> Stream:
    """Return the electricity stream without its order: rows are dealt from a shuffled deck, shuffled anew when it ends.

    Parameters
    ----------
    columns
        How many numeric ones; beyond six they are the same quantities one, two, ... half hours before.
        None: its six quantities, and the direction of the price as a category.
    """
    table = pd.read_csv(ELECTRICITY)
    price = table.pop("class").map({0: "down", 1: "up"})
    quantities = table.columns
    wanted = columns or len(quantities)
    lags = math.ceil(wanted / len(quantities))
    late = {f"{name}_{lag}" if lag else name: table[name].shift(lag) for lag in range(lags) for name in quantities}
    deck = pd.DataFrame(late).iloc[lags - 1 :, :wanted]
    kinds = dict.fromkeys(deck.columns, "electricity")
    if columns is None:
        deck, kinds = deck.assign(price=price), kinds | {"price": "category"}
    features = {name: Feature(kind="categorical" if k == "category" else "numeric") for name, k in kinds.items()}
    return Stream(f"electricity {len(kinds)}", features, kinds, Deck(deck.reset_index(drop=True)).deal)


@dataclass
class Deck:
    """Rows that are dealt without replacement, and shuffled when too few are left."""

    rows: pd.DataFrame
    left: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def deal(self, rng: Rng, rows: int) -> pd.DataFrame:
        """Deal so many rows."""
        if len(self.left) < rows:
            self.left = rng.permutation(len(self.rows))
        dealt, self.left = self.left[:rows], self.left[rows:]
        return self.rows.iloc[dealt].reset_index(drop=True)


@dataclass(frozen=True)
class Shifted:
    """A window in which something changed.

    Parameters
    ----------
    frame
        Its rows.
    where
        The column, or the pair of columns, that changed.
    kind
        Of the column, or of both.
    """

    frame: pd.DataFrame
    where: tuple[str, ...]
    kind: str


Shift = Callable[[Stream, pd.DataFrame, Rng], Shifted]


def shift_mean(stream: Stream, frame: pd.DataFrame, rng: Rng) -> Shifted:
    """Move the mean of one numeric column by a quarter of its standard deviation."""
    name = str(rng.choice(stream.numbers))
    by = 0.25 * float(stream.known[name].std())
    return _changed(stream, frame, name, lambda values, moving: values + by / moving, rng)


def widen(stream: Stream, frame: pd.DataFrame, rng: Rng) -> Shifted:
    """Stretch one numeric column around its mean by half."""
    name = str(rng.choice(stream.numbers))
    mean = 0.0 if stream.kinds[name] == "zeros" else float(stream.known[name].mean())
    return _changed(stream, frame, name, lambda values, _: mean + 1.5 * (values - mean), rng)


def _changed(
    stream: Stream, frame: pd.DataFrame, name: str, change: Callable[[Values, float], Values], rng: Rng
) -> Shifted:
    """Change a column as its kind allows: zeros stay zeros, and whole numbers whole, or the change could not be missed.

    ``change`` takes the values and the share of them that moves.
    """
    values, kind = frame[name].to_numpy(np.float64), stream.kinds[name]
    if kind == "zeros":
        values = np.where(values == 0, 0.0, change(values, float((stream.known[name] != 0).mean())))
    else:
        values = change(values, 1.0)
    if kind == "integer":
        values = np.floor(values + rng.random(len(values)))
    return Shifted(frame.assign(**{name: values}), (name,), kind)


def lose(stream: Stream, frame: pd.DataFrame, rng: Rng) -> Shifted:
    """Take a fifth of the values of one column away."""
    name = str(rng.choice(list(stream.kinds)))
    return Shifted(frame.assign(**{name: frame[name].mask(rng.random(len(frame)) < 0.2)}), (name,), stream.kinds[name])


def favour(stream: Stream, frame: pd.DataFrame, rng: Rng) -> Shifted:
    """Let the share of one category grow by 15 points, at the cost of all others."""
    name = str(rng.choice(stream.categories))
    shares = stream.known[name].value_counts(normalize=True)
    level = str(rng.choice(shares.index[shares <= 0.8].to_numpy(dtype=str)))
    turns = (frame[name] != level) & (rng.random(len(frame)) < 0.15 / (1 - shares[level]))
    return Shifted(frame.assign(**{name: frame[name].mask(turns, level)}), (name,), "category")


def decouple(stream: Stream, frame: pd.DataFrame, rng: Rng) -> Shifted:
    """Shuffle one column of a pair that goes together: each stays as it is, and the relation is gone."""
    pair = stream.pairs[int(rng.integers(len(stream.pairs)))]
    kinds = "~".join(dict.fromkeys(stream.kinds[name] for name in pair))
    return Shifted(frame.assign(**{pair[0]: rng.permutation(frame[pair[0]])}), pair, kinds)


SHIFTS: dict[str, Shift] = {
    "mean 0.25 sd": shift_mean,
    "scale 1.5": widen,
    "missing 20 %": lose,
    "category +15 points": favour,
    "correlation broken": decouple,
}
