"""What the reference merely held: the range of its numbers, and its categories where none are declared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.monitor import Sample, Summary
from trimtab.window import Column
from trimtab_evidently.cells import occurs_once, tensor, word

__all__ = ["Held", "Observed"]


@dataclass(frozen=True)
class Held:
    """What one column held in the reference.

    Parameters
    ----------
    low, high
        Least and greatest number; None where a bound is declared on that side, which then is what counts.
    margin
        How far beyond these a number may lie: as far as the range is wide.
    levels
        Categories, those of the frozen schema among them; None for numbers, and where they are declared.
    usual
        Share of values beyond this that is to be expected of further rows like the reference's.
    values
        Number of values that this was learned from.
    """

    low: float | None = None
    high: float | None = None
    margin: float = 0.0
    levels: frozenset[str] | None = None
    usual: float = 0.0
    values: int = 0


@dataclass(frozen=True)
class Observed:
    """What each column held in the reference, by name.

    A column that could not be read is not among them, and none that held a single value: it says nothing of how
    it varies when it does.

    Notes
    -----
    A reference covers some weeks, and seasons go beyond its range by less than the range is wide; another
    unit, or another column's numbers, go further.

    Of n numbers, the next lies outside the range with probability 2 / (n + 1) at most. The share of new categories
    is estimated by that of values that occurred once, one more counted (Good 1953): where nearly every
    value is new in quiet rows, as with names of people, no share of new ones says anything.

    Examples
    --------
    >>> from trimtab.window import Feature, Schema
    >>> frame = pd.DataFrame({"age": [31.0, 40.0], "town": ["Ulm", "Bonn"]})
    >>> schema = Schema.freeze({"age": Feature(minimum=0), "town": Feature(kind="categorical")}, frame)
    >>> held = Observed.of(Sample(schema, frame)).held
    >>> held["age"].low, held["age"].high, held["age"].margin, sorted(held["town"].levels)
    (None, 40.0, 9.0, ['Bonn', 'Ulm'])
    """

    held: Mapping[str, Held] = field(default_factory=dict)

    @classmethod
    def of(cls, reference: Sample) -> Observed:
        """Learn from the reference's rows."""
        held: dict[str, Held] = {}
        for column in reference.schema.columns:
            if occurs_once(column.name, reference.frame):
                try:
                    found = _held(column, reference.frame[column.name].dropna())
                except (TypeError, ValueError, OverflowError):  # such values are told by their type
                    continue
                held |= {column.name: found} if found.values else {}
        return cls(held)

    def pack(self) -> Summary:
        """Return it as an array."""
        told = {name: {**asdict(h), "levels": h.levels and sorted(h.levels)} for name, h in self.held.items()}
        return {"observed": np.array([json.dumps(told)])}

    @classmethod
    def unpack(cls, summary: Summary) -> Observed:
        """Read back what :meth:`pack` gave."""
        told = json.loads(str(summary["observed"][0]))
        return cls({n: Held(**{**h, "levels": h["levels"] and frozenset(h["levels"])}) for n, h in told.items()})


def _held(column: Column, values: pd.Series[Any]) -> Held:
    if column.feature.kind == "text":  # every row may hold another
        return Held()
    if column.feature.kind == "categorical":
        if column.feature.categories is not None:
            return Held()
        counts = values.map(word).value_counts()
        levels = frozenset(map(str, [*counts.index, *map(word, column.levels)]))
        if len(levels) < 2:
            return Held()
        return Held(levels=levels, usual=(int((counts == 1).sum()) + 1) / (len(values) + 1), values=len(values))
    numbers = _numbers(column, values.tolist())
    if not len(numbers) or numbers.min() == numbers.max():
        return Held()
    low = float(numbers.min()) if column.feature.minimum is None else None
    high = float(numbers.max()) if column.feature.maximum is None else None
    return Held(low, high, float(np.ptp(numbers)), usual=2 / (len(numbers) + 1), values=len(numbers))


def _numbers(column: Column, cells: Iterable[Any]) -> npt.NDArray[np.float64]:
    """Return the finite numbers among the cells, which may be tensors."""
    if column.dtype == "tensor":
        numbers = np.concatenate([tensor(cell).ravel() for cell in cells] or [np.zeros(0)])
    else:
        numbers = np.asarray(list(cells), dtype=np.float64)
    return np.asarray(numbers[np.isfinite(numbers)])
