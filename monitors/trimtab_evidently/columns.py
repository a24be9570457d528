"""A sample as columns that can be compared: its features, statistics of its tensors, and what the champion says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from trimtab.monitor import Sample
from trimtab.window import Column
from trimtab_evidently.sketch import Floats, LevelLens, NumberLens

__all__ = ["Columns", "Kind", "cut", "tensor_statistics"]

Kind = Literal["numbers", "levels", "codes"]

BLOCK = 1 << 22  # tensor values that are turned to float64 at a time, 32 MB


@dataclass(frozen=True)
class Columns:
    """What can be compared of a sample.

    Parameters
    ----------
    values
        By name, in order: numbers ``[rows]``, or levels as they came.
    kinds
        ``numbers``, ``levels`` or, where the levels are whole numbers, ``codes``, by name.
    skipped
        Why something cannot be compared, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, sample: Sample) -> Columns:
        """Return the columns of a sample of which all is known.

        Features as they are; of each free text ``<name>.length``, its characters; of each tensor
        ``<name>.mean``, ``.sd`` and ``.gradient``; ``confidence``, the champion's largest probability, or
        ``prediction``, its answer in a regression.
        """
        found = cls.raw(sample)
        for column in (c for c in sample.schema.columns if c.dtype == "tensor"):
            found._add_tensor(column.name, sample)
        if sample.probabilities is not None:
            found._add("confidence", "numbers", sample.probabilities.max(axis=1), sample.schema.names)
        if sample.predictions is not None:
            found._add("prediction", "numbers", sample.predictions[:, 0], sample.schema.names)
        return found

    @classmethod
    def raw(cls, sample: Sample) -> Columns:
        """Return what can be read of raw rows: the features that are no tensors."""
        found = cls()
        for column in (c for c in sample.schema.columns if c.dtype != "tensor"):
            found._add_feature(column, sample)
        return found

    def without(self, names: Iterable[str]) -> Columns:
        """Return them without those called ``names``, as if they had never been there."""
        gone = set(names)
        parts: list[Mapping[str, Any]] = [self.values, self.kinds, self.skipped]
        return Columns(*({k: v for k, v in part.items() if k not in gone} for part in parts))

    def _add(self, name: str, kind: Kind, values: Any, taken: Collection[str] = ()) -> None:
        while name in self.kinds or name in taken:  # a feature of the user's may bear the name of a statistic
            name = f"derived.{name}"
        self.values[name], self.kinds[name] = values, kind

    def _add_feature(self, column: Column, sample: Sample) -> None:
        if column.name not in sample.frame:
            self.skipped[column.name] = "it is not among the columns"
            return
        values = sample.frame[column.name]
        if values.ndim > 1:
            self.skipped[column.name] = "it is more than once among the columns"
        elif column.feature.kind == "text":
            self._add(f"{column.name}.length", "numbers", lengths(values), sample.schema.names)
        elif column.feature.kind != "numeric":
            self._add(column.name, "codes" if column.coded else "levels", values)
        else:
            try:
                numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
                self.skipped[column.name] = f"it cannot be read as numbers ({type(error).__name__})"
            else:
                self._add(column.name, "numbers", numbers)

    def _add_tensor(self, name: str, sample: Sample) -> None:
        if name not in sample.inputs:
            self.skipped[name] = "its encoded values are missing"
        elif len(sample):
            for statistic, values in tensor_statistics(sample.inputs[name]).items():
                self._add(f"{name}.{statistic}", "numbers", values, sample.schema.names)


def cut(kind: Kind, values: Any) -> NumberLens | LevelLens:
    """Cut the lens of a reference's column."""
    return NumberLens.cut(values) if kind == "numbers" else LevelLens.cut(values, kind == "codes")


def lengths(texts: pd.Series[Any]) -> Floats:
    """Return the number of characters of each text ``[rows]``, NaN where it is missing.

    Examples
    --------
    >>> lengths(pd.Series(["late", None, ""])).tolist()
    [4.0, nan, 0.0]
    """
    counted = [len(str(text)) if known else np.nan for text, known in zip(texts, texts.notna(), strict=True)]
    return np.asarray(counted, dtype=np.float64)


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
