"""Reference and window side by side: the same columns, sketched through the same lenses, and what changed in words."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import entropy

from trimtab.errors import SettingsError, nearest
from trimtab.monitor import Case, Sample
from trimtab_evidently.columns import Columns
from trimtab_evidently.packed import Lens, Sketches, unpack_lenses
from trimtab_evidently.scores import Score, Sketch
from trimtab_evidently.sketch import Floats, LevelSketch, NumberSketch

__all__ = ["Family", "Pair", "Shift", "changed", "completed", "shares_missing", "sketched"]

Floats32 = npt.NDArray[np.float32]
Family = Literal["columns", "correlations", "rows", "embedding", "entropy"]


@dataclass(frozen=True)
class Shift:
    """How one statistic differs from the reference.

    Parameters
    ----------
    name
        Of the statistic.
    family
        Statistics of one family share its part of alpha.
    score
        Its effect, p-value and what chance alone does.
    limit
        That the effect must exceed to matter.
    words
        What changed.
    p
        Adjusted for the number of statistics in the family.
    """

    name: str
    family: Family
    score: Score
    limit: float
    words: str
    p: float = 1.0

    @property
    def reason(self) -> str:
        """The whole in words."""
        return (
            f"{self.name} moved: {self.words}; effect {self.score.effect:.2f}, limit {self.limit:.3g}; "
            f"adjusted p {self.p:.0e}"
        )


@dataclass(frozen=True)
class Pair:
    """Reference and window as columns of the same names, and their sketches.

    Parameters
    ----------
    samples, sides
        Drawn rows of the reference and of the window, as they came and as columns.
    sketches
        Of both, by column: of the window's features over all its rows.
    skipped
        Why a column cannot be compared, by name.
    """

    samples: tuple[Sample, Sample]
    sides: tuple[Columns, Columns]
    sketches: Mapping[str, tuple[Sketch, Sketch]]
    skipped: Mapping[str, str]

    @classmethod
    def of(cls, case: Case, ignore: Collection[str], min_rows: int) -> Pair:
        """Lay a window beside the reference.

        Parameters
        ----------
        ignore
            Names of columns to leave out.
        min_rows
            Fewest values of a column in either.

        Raises
        ------
        SettingsError
            When ``ignore`` names no column.
        """
        lenses = unpack_lenses(case.fitted)
        sides = Columns.of(case.reference), Columns.of(case.current)
        _require_known(ignore, sides[0])
        before, now = (side.without(ignore) for side in sides)
        known = Sketches.unpack(case.fitted, lenses)
        seen = completed(Sketches.unpack(case.seen, lenses), now, lenses)
        skipped = {n: f"{why} of the window" for n, why in {**now.skipped, **seen.skipped}.items() if n not in ignore}
        unknown = {n: why for n, why in {**before.skipped, **known.skipped}.items() if n not in ignore}
        skipped |= {n: f"{why} of the reference" for n, why in unknown.items()}
        sketches: dict[str, tuple[Sketch, Sketch]] = {}
        for name in [n for n in known.by_name if n in seen.by_name and n not in ignore]:
            one, other = known.by_name[name], seen.by_name[name]
            sketches[name] = (one, other)
            if min(one.n, other.n) < min_rows:
                skipped[name] = (
                    f"{one.n} values in the reference and {other.n} in the window, {min_rows} needed in each"
                )
        embeddings = (case.reference.embedding, case.current.embedding)
        if "embedding" not in ignore and (why := _incomparable(*embeddings)):
            skipped["embedding"] = why
        return cls((case.reference, case.current), (before, now), sketches, skipped)

    @functools.cached_property
    def names(self) -> list[str]:
        """Columns whose values are compared."""
        return [n for n in self.sketches if n not in self.skipped]

    @functools.cached_property
    def numbers(self) -> list[str]:
        """Numeric ones of these."""
        return [n for n in self.names if self.sides[0].kinds[n] == "numbers"]

    @property
    def worth(self) -> tuple[float, float]:
        """What a row of either counts for: less than one where rows come in groups that are alike (Kish 1965).

        Groups are counted in the drawn rows, and the more rows there are beside these, the less each counts.
        """
        if all(s.groups is None for s in self.samples) or not self.sketches:
            return 1.0, 1.0
        whole = next(iter(self.sketches.values()))
        before, now = (_independent(s) / max(1, w.rows) for s, w in zip(self.samples, whole, strict=True))
        return min(1.0, before), min(1.0, now)

    def coded(self, most: int) -> list[dict[str, Floats]]:
        """Return both samples as numbers ``[rows]`` by column, one row a group, thinned to at most so many rows."""
        found = []
        for sample, side in zip(self.samples, self.sides, strict=True):
            rows = _drawn(sample, most)
            found.append({n: self.sketches[n][0].lens.code(_taken(side.values[n], rows)) for n in self.names})
        return found

    def embedding(self, most: int) -> list[Floats]:
        """Return the champion's embedding of both ``[rows, width]``, thinned; nothing where it cannot be compared."""
        if _incomparable(*(s.embedding for s in self.samples)):
            return []
        thin = [s.embedding[_drawn(s, most)].astype(np.float64) for s in self.samples if s.embedding is not None]
        return [e[np.isfinite(e).all(axis=1)] for e in thin] if len(thin) == 2 else []

    def entropy(self, most: int) -> list[Floats]:
        """Return the entropy of the champion's probabilities of both ``[rows]``, thinned; nothing in a regression."""
        thin = [s.probabilities[_drawn(s, most)] for s in self.samples if s.probabilities is not None]
        found = [np.asarray(entropy(p.astype(np.float64), axis=1)) for p in thin]
        return [e[np.isfinite(e)] for e in found] if len(found) == 2 else []


def sketched(values: Mapping[str, Any], lenses: Mapping[str, Lens], skipped: Mapping[str, str]) -> Sketches:
    """Sketch columns through their lenses; one that cannot be read hides no other.

    Parameters
    ----------
    skipped
        Why some have no sketch already.
    """
    found = Sketches(skipped=dict(skipped))
    for name, column in values.items():
        if name in lenses and name not in skipped:
            try:
                found.by_name[name] = lenses[name].look(column)
            except (TypeError, ValueError, OverflowError) as error:  # values that no lens foresaw
                found.skipped[name] = f"it cannot be read ({type(error).__name__}: {error}) in the rows"
    return found


def completed(seen: Sketches, columns: Columns, lenses: Mapping[str, Lens]) -> Sketches:
    """Return the sketches of all rows with those of what is known of a draw of them alone.

    Parameters
    ----------
    columns
        Of the draw.
    """
    derived = sketched({n: v for n, v in columns.values.items() if n not in seen.by_name}, lenses, seen.skipped)
    return Sketches({**seen.by_name, **derived.by_name}, {**seen.skipped, **derived.skipped})


def _incomparable(before: Floats32 | None, now: Floats32 | None) -> str | None:
    """Say why two embeddings cannot be compared; None where they can, and where there are none."""
    if before is None or now is None:
        return None
    if before.shape[1] != now.shape[1]:
        return (
            f"it is {now.shape[1]} wide in the window and {before.shape[1]} in the reference: "
            "fit the reference again after a promotion"
        )
    if min(int(np.isfinite(e).all(axis=1).sum()) for e in (before, now)) < 2:
        return "the champion gives values that are not finite: check its inputs"
    return None


def _require_known(ignore: Collection[str], columns: Columns) -> None:
    known = [*columns.values, *columns.skipped, *get_args(Family), "embedding.kernel"]
    for name in ignore:
        if name.removesuffix(".missing") not in known and not {*name.split(" ~ ")} <= {*columns.values}:
            raise SettingsError(
                f"ignore names no statistic {name!r}; there are {', '.join(known)}.{nearest(name, known)}"
            )


def _groups(sample: Sample) -> npt.NDArray[np.intp]:
    """Return a number for each row's group."""
    if sample.groups is None:
        return np.arange(len(sample))
    return np.asarray(np.unique(sample.groups, return_inverse=True)[1])


def _independent(sample: Sample) -> float:
    """Return as how many rows, each of a group of its own, the sample's rows count."""
    sizes = np.bincount(_groups(sample)).astype(np.float64)
    return float(sizes.sum() ** 2 / max(1.0, (sizes**2).sum()))


def _drawn(sample: Sample, most: int) -> npt.NDArray[np.intp]:
    """Return places of at most ``most`` rows of different groups, drawn without replacement, always the same."""
    draw = np.random.default_rng(len(sample))
    if sample.groups is None:
        return np.sort(draw.choice(len(sample), min(most, len(sample)), replace=False))
    places = draw.permutation(len(sample))
    _, first = np.unique(_groups(sample)[places], return_index=True)
    return np.sort(places[draw.choice(first, min(most, len(first)), replace=False)])


def _taken(values: npt.NDArray[np.float64] | pd.Series[float], rows: npt.NDArray[np.intp]) -> Any:
    return values.iloc[rows] if isinstance(values, pd.Series) else values[rows]


def changed(before: Sketch, now: Sketch) -> str:
    """Word how a column changed."""
    if isinstance(before, NumberSketch) and isinstance(now, NumberSketch):
        return _means(before, now)
    if isinstance(before, LevelSketch) and isinstance(now, LevelSketch):
        return _most_moved(before, now)
    raise TypeError(f"a {type(before).__name__} has nothing in common with a {type(now).__name__}")


def _means(before: NumberSketch, now: NumberSketch) -> str:
    return f"mean {_mean(before)} to {_mean(now)}, sd {before.sd:.4g} to {now.sd:.4g}"


def _mean(sketch: NumberSketch) -> str:
    """Word the mean; rounding noise around 0 reads 0."""
    return "0" if abs(sketch.mean) < 1e-9 * sketch.sd else f"{sketch.mean:.4g}"


def _most_moved(before: LevelSketch, now: LevelSketch) -> str:
    """Word which level's share moved most (of two, the one that grew)."""
    old, new = ({level: n / s.n for level, n in s.counted.items()} for s in (before, now))
    change = {level: new.get(level, 0.0) - old.get(level, 0.0) for level in {*old, *new}}
    level = max(change, key=lambda name: (round(abs(change[name]), 9), change[name], name))
    unseen = ", never seen in the reference" if not old.get(level) and not before.other else ""
    return f"share of {level!r} {old.get(level, 0.0):.3g} to {new.get(level, 0.0):.3g}{unseen}"


def shares_missing(before: Sketch, now: Sketch) -> str:
    """Word how the share of missing values changed."""
    return "share of missing or infinite values {:.3g} to {:.3g}".format(*(1 - s.n / s.rows for s in (before, now)))
