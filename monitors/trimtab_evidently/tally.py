"""Counting what is wrong with rows, a batch at a time: the counts of two batches make those of both."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.monitor import Summary
from trimtab.window import Column, Schema
from trimtab_evidently.cells import fits, id_hashes, occurs_once, tensor, whole, word
from trimtab_evidently.observed import Held, Observed

__all__ = ["LOWER", "Fault", "Tally", "most_common", "tally"]

NUMBERS = frozenset({"integer", "floating", "mixed-integer-float", "decimal", "boolean"})
NO_TEXT = NUMBERS - {"boolean"} | {"complex", "bytes", "datetime64", "datetime", "date", "timedelta64", "timedelta"}
MOST_WORDS = 1000
"""Different values of which it is counted how often they occur."""
LOWER = ("minimum", "below")
"""Kinds of which the value that is furthest out is the least."""


@dataclass
class Fault:
    """One kind of thing that is wrong with one column.

    Parameters
    ----------
    count
        Rows that have it.
    reach
        The value that is furthest out, for a bound.
    words
        How often each wrong value occurs.
    text
        What else there is to say, of the first batch that had it.
    """

    count: int = 0
    reach: float | None = None
    words: Counter[str] = field(default_factory=Counter)
    text: str = ""

    def add(self, other: Fault, further: Callable[..., float]) -> None:
        """Count another batch's; ``further`` of two values is the one that is further out."""
        self.count += other.count
        self.words = Counter(dict((self.words + other.words).most_common(MOST_WORDS)))
        self.text = self.text or other.text
        reached = [r for r in (self.reach, other.reach) if r is not None]
        self.reach = further(reached) if reached else None


@dataclass
class Tally:
    """What there is to say about rows.

    Parameters
    ----------
    rows
        How many.
    spare
        Columns that the schema does not know.
    times
        How often a column occurs in a batch, where that is not once.
    missing
        Missing values by column.
    faults
        By column, and there by kind.
    labels
        Rows that have one.
    classes
        Labels of each class, by its place.
    strange
        Labels that are none of the classes, or no numbers.
    unknown
        The most frequent of these, in words.
    ids
        A number for each row's id ``[rows with one]``, uint64.
    """

    rows: int = 0
    spare: list[str] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    faults: dict[str, dict[str, Fault]] = field(default_factory=dict)
    labels: int = 0
    classes: list[int] = field(default_factory=list)
    strange: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    ids: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

    def __add__(self, other: Tally) -> Tally:
        faults = {column: dict(kinds) for column, kinds in self.faults.items()}
        for column, kinds in other.faults.items():
            for kind, fault in kinds.items():
                both = Fault()
                for one in (faults.get(column, {}).get(kind), fault):
                    if one is not None:
                        both.add(one, min if kind in LOWER else max)
                faults.setdefault(column, {})[kind] = both
        return Tally(
            self.rows + other.rows,
            list(dict.fromkeys([*self.spare, *other.spare])),
            {**self.times, **other.times},
            {n: self.missing.get(n, 0) + other.missing.get(n, 0) for n in {**self.missing, **other.missing}},
            faults,
            self.labels + other.labels,
            [a + b for a, b in zip(self.classes, other.classes, strict=True)],
            self.strange + other.strange,
            Counter(dict((self.unknown + other.unknown).most_common(MOST_WORDS))),
            np.concatenate([self.ids, other.ids]),
        )

    def pack(self) -> Summary:
        """Return it as arrays."""
        faults = {column: {k: vars(f) for k, f in kinds.items()} for column, kinds in self.faults.items()}
        told = {**vars(self), "faults": faults}
        ids = told.pop("ids")
        return {"tally": np.array([json.dumps(told)]), "ids": ids}

    @classmethod
    def unpack(cls, summary: Summary) -> Tally:
        """Read back what :meth:`pack` gave."""
        told = json.loads(str(summary["tally"][0]))
        faults = {
            column: {kind: Fault(f["count"], f["reach"], Counter(f["words"]), f["text"]) for kind, f in kinds.items()}
            for column, kinds in told.pop("faults").items()
        }
        unknown = Counter(told.pop("unknown"))
        return cls(**told, faults=faults, unknown=unknown, ids=np.asarray(summary["ids"], dtype=np.uint64))


def tally(schema: Schema, frame: pd.DataFrame, observed: Observed | None = None) -> Tally:
    """Count what is wrong with a batch of raw rows, and what goes beyond what was observed.

    Parameters
    ----------
    observed
        What the reference held; None: nothing goes beyond it.
    """
    held = {} if observed is None else observed.held
    wanted = dict.fromkeys([*schema.names, *(n for n in (schema.label, schema.id, schema.group) if n is not None)])
    found = Tally(rows=len(frame), classes=[0] * len(schema.classes))
    found.spare = [str(c) for c in frame.columns if c not in wanted]
    for name in wanted:
        times = int((frame.columns == name).sum())
        if times > 1 or (times == 0 and (len(frame) or len(frame.columns))):
            found.times[name] = times
    for column in schema.columns:
        if occurs_once(column.name, frame):
            values = frame[column.name]
            found.missing[column.name] = int(values.isna().sum())
            faults = _faults(column, values.dropna(), held.get(column.name, Held()))
            found.faults |= {column.name: faults} if faults else {}
    if schema.id is not None and occurs_once(schema.id, frame):
        found.ids = id_hashes(frame[schema.id].dropna())
    if schema.label is not None and occurs_once(schema.label, frame):
        _count_labels(schema, frame[schema.label].dropna(), found)
    return found


def _faults(column: Column, values: pd.Series[Any], held: Held) -> dict[str, Fault]:
    if not len(values):
        return {}
    check = {"number": _numbers, "text": _texts, "tensor": _tensors}[column.dtype]
    found: dict[str, Fault] = {}
    try:
        for kind, fault in check(column, values, held):
            found |= {kind: fault} if fault.count else {}
    except (TypeError, ValueError, OverflowError) as error:  # values that no check foresaw
        found["unreadable"] = Fault(len(values), text=str(error))
    return found


def _numbers(column: Column, values: pd.Series[Any], held: Held) -> Iterator[tuple[str, Fault]]:
    kind = _inferred(values)
    if kind not in NUMBERS:
        junk = values[pd.to_numeric(values, errors="coerce").isna()] if kind in ("string", "mixed") else values
        example = next((v for v in junk.tolist() if not isinstance(v, int | float)), values.iloc[0])
        yield "type", Fault(len(values), text=f"{kind} ({values.dtype}) such as {_short(example)}")
        return
    numbers = values.to_numpy(dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    yield "infinite", Fault(len(numbers) - len(finite))
    yield from _beyond(column, held, finite)
    if column.feature.categories is not None:
        yield "undeclared", _undeclared(column, finite.tolist())
    yield "new", _new(held, pd.Series(finite))


def _texts(column: Column, values: pd.Series[Any], held: Held) -> Iterator[tuple[str, Fault]]:
    kind = _inferred(values)
    if kind in NO_TEXT:
        yield "type", Fault(len(values), text=f"{kind} ({values.dtype}) such as {_short(values.iloc[0])}")
    elif column.feature.categories is not None:
        yield "undeclared", _undeclared(column, [str(v) for v in values.tolist()])
    else:
        yield "new", _new(held, values)


def _tensors(column: Column, values: pd.Series[Any], held: Held) -> Iterator[tuple[str, Fault]]:
    shape = column.feature.shape or ()
    stacked: list[npt.NDArray[np.float64]] = []
    wrong: list[str] = []
    for cell in values.tolist():
        try:
            numbers = tensor(cell)
        except (TypeError, ValueError):
            wrong.append("no even array of numbers")
            continue
        if fits(numbers.shape, shape):
            stacked.append(numbers.ravel())
        else:
            wrong.append(f"shape {list(numbers.shape)}")
    yield "shape", Fault(len(wrong), words=Counter(wrong))
    if stacked:
        tensors = np.stack(stacked)
        yield "nan", Fault(int(np.isnan(tensors).any(axis=1).sum()))
        yield "infinite", Fault(int(np.isinf(tensors).any(axis=1).sum()))
        yield from _beyond(column, held, tensors[np.isfinite(tensors)])


def _beyond(column: Column, held: Held, numbers: npt.NDArray[np.float64]) -> Iterator[tuple[str, Fault]]:
    for kind, low in (("minimum", column.feature.minimum), ("below", held.low)):
        if low is not None and (below := int((numbers < low).sum())):
            yield kind, Fault(below, reach=float(numbers.min()))
    for kind, high in (("maximum", column.feature.maximum), ("above", held.high)):
        if high is not None and (above := int((numbers > high).sum())):
            yield kind, Fault(above, reach=float(numbers.max()))


def _new(held: Held, values: pd.Series[Any]) -> Fault:
    """Count categories that were neither declared nor held by the reference."""
    if held.levels is None:
        return Fault()
    counts = Counter[str]()
    for value, count in values.value_counts().items():
        if count and word(value) not in held.levels:
            counts[repr(whole(value))] += int(count)
    return Fault(sum(counts.values()), words=Counter(dict(counts.most_common(MOST_WORDS))))


def _undeclared(column: Column, values: list[Any]) -> Fault:
    levels = set(column.levels)
    other = Counter(repr(whole(v)) for v in values if v not in levels)
    return Fault(sum(other.values()), words=Counter(dict(other.most_common(MOST_WORDS))))


def _count_labels(schema: Schema, labels: pd.Series[Any], found: Tally) -> None:
    found.labels = len(labels)
    if schema.task == "regression":
        numbers = pd.to_numeric(labels, errors="coerce").to_numpy(dtype=np.float64)
        found.unknown = Counter(repr(whole(v)) for v in labels[~np.isfinite(numbers)].tolist())
        found.strange = sum(found.unknown.values())
        return
    for value, count in labels.map(_hashable).value_counts().items():
        code = schema.code_of(value)
        if code is None:
            found.unknown[repr(whole(value))] += int(count)
            found.strange += int(count)
        else:
            found.classes[code] += int(count)


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return str(value)
    return value


def _inferred(values: pd.Series[Any]) -> str:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return str(pd.api.types.infer_dtype(values.cat.categories))
    return str(pd.api.types.infer_dtype(values, skipna=True))


def most_common(counts: Mapping[str, int]) -> str:
    """Word the three most frequent values with their numbers."""
    top = Counter(dict(counts)).most_common(3)
    more = f" and {len(counts) - len(top)} more" if len(counts) > len(top) else ""
    return ", ".join(f"{_clip(value)} ({n})" for value, n in top) + more


def _short(value: Any) -> str:
    return _clip(repr(value))


def _clip(words: str) -> str:
    return words if len(words) <= 60 else f"{words[:57]}..."
