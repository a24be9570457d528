"""Is the data broken? Raw rows against the schema that was frozen with the champion, every fault at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.errors import nearest
from trimtab.monitor import Answer, Case, Figure, Finding, Sample, Summary
from trimtab.window import Column, Schema
from trimtab_evidently.tally import Fault, Tally, most_common, occurs_once, tally, whole

__all__ = ["Integrity"]

IMPLAUSIBLE = 1e-6


@dataclass(frozen=True)
class Integrity:
    """Find what cannot be right whatever the season: such a window is kept apart and never trained on.

    Broken are: no rows; a column that is missing, occurs twice, or became another type or shape; a
    column without a single value, or with far more missing values than in the reference; infinities;
    values beyond *declared* bounds or categories; the same id twice; a label outside the classes, or
    labels that all are one class; in a regression, a label that is no finite number. Values beyond what
    was merely observed are never broken.

    Parameters
    ----------
    max_missing
        Largest share of missing values in a column (0 to 1); where the reference misses as many,
        the reference's share and four standard errors more.
    min_rows_one_class
        Fewest labels of which it is a fault that all are of one class. Where one class prevails
        so much in the reference that it would happen by chance (1 in a million), it is none.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.monitor import case_of
    >>> from trimtab.window import Feature
    >>> good = pd.DataFrame({"age": [31.0, 40.0], "y": ["no", "yes"]})
    >>> schema = Schema.freeze({"age": Feature(minimum=0)}, good, label="y")
    >>> bad = pd.DataFrame({"age": [-1.0, 40.0], "y": ["no", "maybe"]})
    >>> finding = Integrity().check(case_of(Integrity(), Sample(schema, good), Sample(schema, bad, number=3), 0.05))
    >>> finding.answer.value
    'broken'
    >>> for reason in finding.reasons:
    ...     print(reason)
    column 'age': 1 of 2 values below the declared minimum 0.0, down to -1; mend the source, or widen ...
    label column 'y': 1 of 2 labels are none of the classes ['no', 'yes']: 'maybe' (1); map them to ...
    """

    max_missing: float = 0.5
    min_rows_one_class: int = 50

    name: ClassVar[str] = "integrity"
    guards: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing <= 1:
            raise ValueError(f"max_missing must be a share from 0 to 1, got {self.max_missing}")
        if self.min_rows_one_class < 2:
            raise ValueError(f"min_rows_one_class must be at least 2, got {self.min_rows_one_class}")

    def fit(self, reference: Sample) -> Summary:
        """Count the reference's missing values and labels."""
        return tally(reference.schema, reference.frame).pack()

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        """Count what is wrong with a batch."""
        return tally(batch.schema, batch.frame).pack()

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        """Count two batches together."""
        return (Tally.unpack(one) + Tally.unpack(other)).pack()

    def check(self, case: Case) -> Finding:
        """List every fault of the window's raw rows; ``alpha`` plays no part."""
        schema, before, now = case.current.schema, Tally.unpack(case.fitted), Tally.unpack(case.seen)
        number, faults = case.current.number, list(_missing_columns(schema, now))
        scores = {"rows": float(now.rows)}
        if now.rows == 0:
            faults.insert(0, f"window {number} has no rows; check that the source still delivers")
        else:
            for column in (c for c in schema.columns if c.name in now.missing):
                faults += [*self._missing(column, before, now), *_explained(column, now)]
                scores[f"{column.name}.missing"] = now.missing[column.name] / now.rows
            faults += _duplicated_ids(schema, now, case.current)
            faults += self._labels(schema, before, now)
        return Finding(self.name, number, Answer.BROKEN if faults else Answer.FINE, tuple(faults), scores)

    def keep(self, case: Case) -> Summary:
        """Store nothing: the ids of all rows are among what was counted, and the reasons say all."""
        return {}

    def figures(self, fitted: Summary, kept: Summary) -> Sequence[Figure]:
        """Draw nothing."""
        return ()

    def _missing(self, column: Column, before: Tally, now: Tally) -> Iterator[str]:
        name, n, count = column.name, now.rows, now.missing[column.name]
        if count == n:
            yield f"column {name!r}: all {n} values are missing; mend the source, or drop features.{name}"
            return
        usual = before.missing.get(name, 0) / before.rows if before.rows else 0.0
        error = math.sqrt(usual * (1 - usual) * (1 / n + 1 / max(1, before.rows)))
        limit = max(self.max_missing, usual + 4 * error) if usual else self.max_missing
        if count / n > limit:
            yield (
                f"column {name!r}: {count / n:.3g} of its values are missing, at most {limit:.3g} allowed "
                f"({usual:.3g} in the reference); mend the source, or raise the monitor's max_missing"
            )
        elif count and column.dtype == "tensor":
            yield (
                f"column {name!r}: {count} of {n} rows have no tensor, and the model cannot read a row without; "
                "drop these rows in the source"
            )

    def _labels(self, schema: Schema, before: Tally, now: Tally) -> Iterator[str]:
        known, unknown = sum(now.classes), now.strange
        if schema.task == "regression" and unknown:
            yield (
                f"label column {schema.label!r}: {unknown} of {now.labels} labels are no finite numbers: "
                f"{most_common(now.unknown)}; mend the source, or send them as missing"
            )
        elif unknown:
            yield (
                f"label column {schema.label!r}: {unknown} of {now.labels} labels are none of the classes "
                f"{list(schema.classes)}: {most_common(now.unknown)}; map them to these, or start a new project whose "
                "first rows hold the new class"
            )
        elif known >= self.min_rows_one_class and max(now.classes) == known:
            only = int(np.argmax(now.classes))
            total = before.labels
            if (before.classes[only] / total) ** known < IMPLAUSIBLE if total else True:
                yield (
                    f"label column {schema.label!r}: all {known} labels are {schema.classes[only]!r}, the classes are "
                    f"{list(schema.classes)}; mend the join that brings the labels, or raise the monitor's "
                    "min_rows_one_class"
                )


def _missing_columns(schema: Schema, now: Tally) -> Iterator[str]:
    wanted = {name: f"features.{name}" for name in schema.names}
    others = {"source.label": schema.label, "source.id": schema.id, "data.group": schema.group}
    wanted |= {name: setting for setting, name in others.items() if name is not None and name not in wanted}
    for name, setting in wanted.items():
        times = now.times.get(name, 1)
        if times > 1:
            yield f"column {name!r} occurs {times} times in the rows; keep one of them in the source"
        elif times == 0:
            hint = nearest(name, now.spare) or (f" Unknown to the schema: {now.spare}." if now.spare else "")
            yield f"column {name!r} (setting {setting}) is missing from the rows; bring it back under this name.{hint}"


def _explained(column: Column, now: Tally) -> Iterator[str]:
    """Word each fault of a column."""
    values, faults = now.rows - now.missing[column.name], now.faults.get(column.name, {})
    for kind, fault in faults.items():
        fitting = values - (faults["shape"].count if kind == "nan" and "shape" in faults else 0)
        words = WORDS[kind](column, fault, fitting)
        if words:
            yield f"column {column.name!r}{words}"


def _type(column: Column, fault: Fault, values: int) -> str:
    held, way_out = (
        ("numbers", f"mend the source, or declare features.{column.name}.kind: categorical in a new project")
        if column.dtype == "number"
        else ("text", "turn it back into text in the source")
    )
    return f" held {held} and now holds {fault.text}; {way_out}"


def _unreadable(column: Column, fault: Fault, values: int) -> str:
    return f" cannot be read as {column.dtype}: {fault.text}; mend the source"


def _infinite(column: Column, fault: Fault, values: int) -> str:
    what = "rows with infinite values" if column.dtype == "tensor" else "values are infinite"
    return (
        f": {fault.count} of {values} {what}; mend the division or the sensor that makes them, or send them as missing"
    )


def _bound(setting: str, side: str, reach: str) -> Callable[[Column, Fault, int], str]:
    def words(column: Column, fault: Fault, values: int) -> str:
        many = values * math.prod(column.feature.shape or ())
        return (
            f": {fault.count} of {many} values {side} the declared {setting} {getattr(column.feature, setting)}, "
            f"{reach} {fault.reach:.6g}; mend the source, or widen features.{column.name}.{setting}"
        )

    return words


def _undeclared(column: Column, fault: Fault, values: int) -> str:
    return (
        f": {fault.count} of {values} values are none of the declared categories {list(column.levels)}: "
        f"{most_common(fault.words)}; mend the source, or add them to features.{column.name}.categories"
    )


def _shape(column: Column, fault: Fault, values: int) -> str:
    shape = list(column.feature.shape or ())
    return (
        f": {fault.count} of {values} rows do not hold a tensor of shape {shape} "
        f"(setting features.{column.name}.shape): {most_common(fault.words)}; mend the source, or freeze a "
        "new champion on the new shape"
    )


def _nan(column: Column, fault: Fault, values: int) -> str:
    """Word it where no tensor is whole: here and there a missing pixel is for the model to bear."""
    every = fault.count == values
    return ": every tensor holds values that are no numbers (NaN); mend the source" if every else ""


WORDS: dict[str, Callable[[Column, Fault, int], str]] = {
    "type": _type,
    "unreadable": _unreadable,
    "infinite": _infinite,
    "minimum": _bound("minimum", "below", "down to"),
    "maximum": _bound("maximum", "above", "up to"),
    "undeclared": _undeclared,
    "shape": _shape,
    "nan": _nan,
}


def _duplicated_ids(schema: Schema, now: Tally, drawn: Sample) -> Iterator[str]:
    """Name ids that occur more than once, with examples where the drawn rows hold some."""
    _, times = np.unique(now.ids, return_counts=True)
    twice = int((times > 1).sum())
    if not twice or schema.id is None:
        return
    few = drawn.frame[schema.id].dropna().tolist() if occurs_once(schema.id, drawn.frame) else []
    examples = {name: n for name, n in Counter(repr(whole(v)) for v in few).items() if n > 1}
    named = f": {most_common(examples)}" if examples else ""
    yield (
        f"id column {schema.id!r}: {twice} ids occur more than once ({int((times - 1).sum())} rows too many){named}; "
        "drop the copies in the source"
    )
