"""Turns two samples into one table of statistics: what a drift test can read of numbers, tensors and a champion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.monitor import Sample
from trimtab.window import Column

__all__ = ["Components", "Table", "tabulate", "tensor_statistics"]

Kind = Literal["numeric", "categorical"]
Floats = npt.NDArray[np.float64]

BLOCK = 1 << 22  # tensor values that are turned to float64 at a time, 32 MB


@dataclass(frozen=True)
class Table:
    """One row per row of a sample, one column per statistic.

    Parameters
    ----------
    reference, current
        The statistics of both samples, under the same names.
    kinds
        ``numeric`` or ``categorical`` by column, in order.
    skipped
        Why a column cannot be compared, by column; those are not in the frames.
    """

    reference: pd.DataFrame
    current: pd.DataFrame
    kinds: Mapping[str, Kind]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def without(self, names: Iterable[str]) -> Table:
        """Return the table without the columns ``names``, as if they had never been there."""
        gone = set(names)
        skipped = {name: reason for name, reason in self.skipped.items() if name not in gone}
        return self._keep([name for name in self.kinds if name not in gone], skipped)

    def with_values(self, least: int) -> Table:
        """Skip every column that has fewer than ``least`` values in either sample."""
        skipped = dict(self.skipped)
        for name in self.kinds:
            before, now = int(self.reference[name].notna().sum()), int(self.current[name].notna().sum())
            if min(before, now) < least:
                skipped[name] = f"{before} values in the reference and {now} in the window, {least} needed in each"
        return self._keep([name for name in self.kinds if name not in skipped], skipped)

    def _keep(self, names: list[str], skipped: Mapping[str, str]) -> Table:
        return Table(self.reference[names], self.current[names], {n: self.kinds[n] for n in names}, skipped)


@dataclass(frozen=True)
class Components:
    """Principal components of an embedding.

    Parameters
    ----------
    mean
        Of the rows that they were fitted on ``[width]``.
    axes
        Orthonormal directions of largest variance first ``[width, components]``.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(200, 3)) * [3.0, 1.0, 0.0]
    >>> fitted = Components.fit(x, 8)
    >>> fitted.axes.shape, fitted.project(x).std(axis=0).round().tolist()
    ((3, 2), [3.0, 1.0])
    """

    mean: Floats
    axes: Floats

    @classmethod
    def fit(cls, embedding: npt.NDArray[Any], most: int) -> Components:
        """Fit at most ``most`` components to ``[rows, width]``, without those that do not vary."""
        rows = np.asarray(embedding, dtype=np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        mean = rows.mean(axis=0)
        variance, axes = np.linalg.eigh(np.cov(rows - mean, rowvar=False).reshape(len(mean), len(mean)))
        order = np.argsort(variance)[::-1][:most]
        kept = axes[:, order[variance[order] > 1e-9 * max(variance.max(), 1e-30)]]
        heaviest = np.abs(kept).argmax(axis=0)
        return cls(mean, kept * np.where(np.take_along_axis(kept, heaviest[None], 0) < 0, -1.0, 1.0))

    def project(self, embedding: npt.NDArray[Any]) -> Floats:
        """Return each row's components ``[rows, components]``; NaN where a row is not finite."""
        rows = np.asarray(embedding, dtype=np.float64)
        rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.nan)
        return np.asarray((rows - self.mean) @ self.axes)


def tensor_statistics(tensors: npt.NDArray[Any]) -> dict[str, Floats]:
    """Return mean, standard deviation and gradient energy of each tensor ``[rows, *shape]``, ``[rows]`` each.

    The gradient energy is the mean squared difference of neighbours along the last two axes: blur
    lowers it, noise raises it. A single number per row has a mean alone.

    Examples
    --------
    >>> steps = tensor_statistics(np.array([[0.0, 1.0, 0.0, 1.0]]))
    >>> {name: values.tolist() for name, values in steps.items()}
    {'mean': [0.5], 'sd': [0.5], 'gradient': [1.0]}
    """
    parts = [_block_statistics(block) for block in _blocks(tensors)]
    names = ("mean", "sd", "gradient") if tensors[0].size > 1 else ("mean",)
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _blocks(tensors: npt.NDArray[Any]) -> Iterator[Floats]:
    rows = max(1, BLOCK // max(1, tensors[0].size))
    for start in range(0, len(tensors), rows):
        yield np.asarray(tensors[start : start + rows], dtype=np.float64)


def _block_statistics(block: Floats) -> dict[str, Floats]:
    finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    clean = np.where(finite.reshape(-1, *[1] * (block.ndim - 1)), block, np.nan)
    inner = tuple(range(1, block.ndim))
    energy = np.zeros(len(block))
    for axis in inner[-2:]:
        if block.shape[axis] > 1:
            energy += (np.diff(clean, axis=axis) ** 2).mean(axis=inner)
    return {"mean": clean.mean(axis=inner), "sd": clean.std(axis=inner), "gradient": energy}


def tabulate(reference: Sample, current: Sample, components: int) -> Table:
    """Return the statistics of both samples.

    Features as they are; of each tensor ``<name>.mean``, ``.sd`` and ``.gradient``; ``confidence``, the
    champion's largest probability, or ``prediction``, its answer in a regression; ``embedding.1`` … of its
    last hidden layer, fitted on both samples together; and ``<name>.missing`` of each feature that
    misses values in either sample.

    Parameters
    ----------
    components
        Most principal components of the embedding; 0 leaves it out.
    """
    table = _Draft()
    for column in reference.schema.columns:
        if column.dtype == "tensor":
            _add_tensor(table, column.name, reference, current)
        else:
            _add_feature(table, column, reference, current)
    if reference.probabilities is not None and current.probabilities is not None:
        table.add("confidence", "numeric", reference.probabilities.max(axis=1), current.probabilities.max(axis=1))
    if reference.predictions is not None and current.predictions is not None:
        before, now = (_finite(predictions[:, 0]) for predictions in (reference.predictions, current.predictions))
        table.add("prediction", "numeric", before, now)
    if components:
        _add_embedding(table, reference, current, components)
    return table.finish()


class _Draft:
    def __init__(self) -> None:
        self.reference: dict[str, Any] = {}
        self.current: dict[str, Any] = {}
        self.kinds: dict[str, Kind] = {}
        self.skipped: dict[str, str] = {}

    def add(self, name: str, kind: Kind, reference: Any, current: Any) -> None:
        while name in self.kinds:  # a feature of the user's may bear the name of a statistic
            name = f"derived.{name}"
        self.kinds[name], self.reference[name], self.current[name] = kind, reference, current

    def add_missing(self, name: str, reference: npt.NDArray[np.bool_], current: npt.NDArray[np.bool_]) -> None:
        if reference.any() or current.any():
            words = np.array(["present", "missing"], dtype=object)
            self.add(f"{name}.missing", "categorical", words[reference.astype(int)], words[current.astype(int)])

    def finish(self) -> Table:
        return Table(pd.DataFrame(self.reference), pd.DataFrame(self.current), self.kinds, self.skipped)


def _add_feature(table: _Draft, column: Column, reference: Sample, current: Sample) -> None:
    for sample, where in ((reference, "the reference"), (current, "the window")):
        if column.name not in sample.frame:
            table.skipped[column.name] = f"it is not among the columns of {where}"
            return
    read = _read_numbers if column.feature.kind == "numeric" else _read_levels
    kind: Kind = "numeric" if column.feature.kind == "numeric" else "categorical"
    before, now = read(reference.frame[column.name], column), read(current.frame[column.name], column)
    table.add(column.name, kind, before, now)
    table.add_missing(column.name, np.asarray(pd.isna(before)), np.asarray(pd.isna(now)))


def _read_numbers(values: pd.Series[Any], column: Column) -> Floats:
    return _finite(np.asarray(pd.to_numeric(values, errors="coerce")))


def _finite(numbers: npt.NDArray[Any]) -> Floats:
    return np.where(np.isfinite(numbers), numbers.astype(np.float64), np.nan)


def _read_levels(values: pd.Series[Any], column: Column) -> npt.NDArray[Any]:
    """Word each level the same in both samples: 3 that arrives as 3.0 beside a missing value is still 3."""
    plain = pd.to_numeric(values, errors="coerce") if column.coded else values
    words = [None if pd.isna(v) else f"{v:g}" if column.coded else str(v) for v in plain.tolist()]
    return np.array(words, dtype=object)


def _add_tensor(table: _Draft, name: str, reference: Sample, current: Sample) -> None:
    if name not in reference.inputs or name not in current.inputs:
        table.skipped[name] = "its encoded values are missing from the reference or the window"
        return
    before, now = tensor_statistics(reference.inputs[name]), tensor_statistics(current.inputs[name])
    for statistic in before:
        table.add(f"{name}.{statistic}", "numeric", before[statistic], now[statistic])
    table.add_missing(name, np.isnan(before["mean"]), np.isnan(now["mean"]))


def _add_embedding(table: _Draft, reference: Sample, current: Sample, components: int) -> None:
    if reference.embedding is None or current.embedding is None:
        return
    if reference.embedding.shape[1] != current.embedding.shape[1]:
        table.skipped["embedding"] = (
            f"it is {current.embedding.shape[1]} wide in the window and {reference.embedding.shape[1]} in the "
            "reference: fit the reference again after a promotion"
        )
        return
    if min(np.isfinite(e).all(axis=1).sum() for e in (reference.embedding, current.embedding)) < 2:
        table.skipped["embedding"] = "the champion gives values that are not finite: check its inputs"
        return
    # on both samples alike: components fitted on the reference alone vary more there than in any new
    # sample of the same kind (128 wide, 200 rows: sd 1.8 to 1), and a quiet window would alarm
    fitted = Components.fit(np.concatenate([reference.embedding, current.embedding]), components)
    before, now = fitted.project(reference.embedding), fitted.project(current.embedding)
    for i in range(before.shape[1]):
        table.add(f"embedding.{i + 1}", "numeric", before[:, i], now[:, i])
