"""Is the data broken? Raw rows against the schema that was frozen with the champion, every fault at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import binom

from trimtab.errors import nearest
from trimtab.monitor import Answer, Case, Figure, Finding, Sample, Summary
from trimtab.window import Column, Schema
from trimtab_evidently.cells import occurs_once, whole
from trimtab_evidently.observed import Held, Observed
from trimtab_evidently.stale import IMPLAUSIBLE, delivered_twice, kept, not_advancing, standing_still
from trimtab_evidently.tally import Fault, Tally, most_common, tally
from trimtab_evidently.trail import Trail, trail

__all__ = ["Integrity"]

ROWS = "rows"
"""What a finding is about that concerns no column."""


@dataclass(frozen=True)
class Integrity:
    """Find what cannot be right whatever the season: such a window is kept apart and never trained on.

    Broken are: no rows; a column that is missing, occurs twice, or became another type or shape; a
    column without a single value, or with far more missing values than in the reference; infinities;
    values beyond *declared* bounds or categories; the same id twice; a label outside the classes, or
    labels that all are one class; in a regression, a label that is no finite number.

    Values beyond what was merely *observed* are not broken until most of a column's values are: numbers
    outside the reference's range by more than it is wide (seasons go a little beyond it), and categories that
    it did not have. Within declared bounds and categories nothing is, nor where the reference held one value.

    Stale rows are broken too: those of an earlier window once more, in the same order; rows that are all
    older than the newest of the window before; a column (or the clock) that holds one value in all rows,
    although it changed in every window before and the reference hardly knows the value. Earlier windows are
    those looked at under the same champion, so that its first window is never found stale.

    Parameters
    ----------
    max_missing
        Largest share of missing values in a column (0 to 1); where the reference misses as many,
        the reference's share and four standard errors more.
    max_unseen
        Largest share of a column's values beyond what was observed in the reference (0 to 1); where further
        rows of the reference would hold as many, as with names, their share and four standard errors more.
        So few values that chance could do it (1 in a million) are no fault. With 1 none are.
    min_rows_one_class
        Fewest labels of which it is a fault that all are of one class. Where one class prevails
        so much in the reference that it would happen by chance (1 in a million), it is none; nor while labels
        are still to come that may be of another: one class may well be labelled first.
    min_rows_still
        Fewest values of a column of which it is a fault that all are the same. A value that has more than
        one percent of the reference may last as long as it likes.
    min_rows_repeated
        Fewest different rows of a window of which it is a fault that an earlier window had the same rows: where
        hardly any differ, two windows are the same by chance.

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
    max_unseen: float = 0.5
    min_rows_one_class: int = 50
    min_rows_still: int = 100
    min_rows_repeated: int = 20

    name: ClassVar[str] = "integrity"
    guards: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for share in ("max_missing", "max_unseen"):
            if not 0 <= getattr(self, share) <= 1:
                raise ValueError(f"{share} must be a share from 0 to 1, got {getattr(self, share)}")
        for setting in ("min_rows_one_class", "min_rows_still", "min_rows_repeated"):
            if getattr(self, setting) < 2:
                raise ValueError(f"{setting} must be at least 2, got {getattr(self, setting)}")

    def fit(self, reference: Sample) -> Summary:
        """Count the reference's missing values and labels, and learn what its columns hold."""
        return {**tally(reference.schema, reference.frame).pack(), **Observed.of(reference).pack()}

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        """Count what is wrong with a batch, and follow its rows."""
        counted = tally(batch.schema, batch.frame, Observed.unpack(fitted))
        return {**counted.pack(), **trail(batch.schema, batch.frame, self.min_rows_repeated).pack()}

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        """Count two batches together, and join their rows."""
        both = Trail.unpack(one).add(Trail.unpack(other), self.min_rows_repeated)
        return {**(Tally.unpack(one) + Tally.unpack(other)).pack(), **both.pack()}

    def check(self, case: Case) -> Finding:
        """List every fault of the window's raw rows; ``alpha`` plays no part."""
        number, now, rows = case.current.number, Tally.unpack(case.seen), Trail.unpack(case.seen)
        if now.rows:
            faults = [*self._of_columns(case, now)]
            faults += self._of_order(case, rows, {subject for subject, _ in faults})
        else:
            faults = [(ROWS, f"window {number} has no rows; check that the source still delivers")]
            faults += _missing_columns(case.current.schema, now)
        return Finding(
            self.name,
            number,
            Answer.BROKEN if faults else Answer.FINE,
            tuple(reason for _, reason in faults),
            _scores(case.current.schema, now),
            kept(rows, self.min_rows_repeated),
            about=tuple(dict.fromkeys(subject for subject, _ in faults)),
        )

    def _of_columns(self, case: Case, now: Tally) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with single columns: its name, and in words."""
        schema, before, held = case.current.schema, Tally.unpack(case.fitted), Observed.unpack(case.fitted).held
        yield from _missing_columns(schema, now)
        for column in (c for c in schema.columns if c.name in now.missing):
            name = column.name
            yield from ((name, r) for r in (*self._missing(column, before, now), *_explained(column, now)))
            yield from ((name, r) for r in self._unseen(column, held.get(name, Held()), now))
        yield from ((str(schema.id), r) for r in _duplicated_ids(schema, now, case.current))
        yield from ((str(schema.label), r) for r in self._labels(schema, before, now))

    def _of_order(self, case: Case, rows: Trail, faulty: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield what is stale, and not broken in another way already."""
        yield from ((ROWS, r) for r in delivered_twice(case, rows, self.min_rows_repeated))
        yield from ((str(case.current.schema.timestamp), r) for r in not_advancing(case, rows))
        yield from standing_still(case, rows, self.min_rows_still, faulty)

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
        limit = _limit(self.max_missing, usual, n, before.rows)
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

    def _unseen(self, column: Column, held: Held, now: Tally) -> Iterator[str]:
        name, faults = column.name, now.faults.get(column.name, {})
        unseen = [faults[kind] for kind in UNSEEN if kind in faults]
        values, share = now.rows - now.missing[name], _share_unseen(column, now)
        limit = _limit(self.max_unseen, held.usual, max(1, values), held.values)
        if unseen and share > limit and binom.sf(math.floor(share * values) - 1, values, held.usual) < IMPLAUSIBLE:
            yield (
                f"column {name!r}: {share:.3g} of its values are {_beyond_words(held, faults)}, at most {limit:.3g} "
                "allowed; mend the source, release the window if it is right, or raise the monitor's max_unseen"
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
            usual = before.classes[only] / before.labels if before.labels else 0.0
            if binom.sf(known - 1, now.rows, usual) < IMPLAUSIBLE:  # whatever those say that are still to come
                yield (
                    f"label column {schema.label!r}: all {known} labels are {schema.classes[only]!r}, the classes are "
                    f"{list(schema.classes)}; mend the join that brings the labels, or raise the monitor's "
                    "min_rows_one_class"
                )


UNSEEN = ("below", "above", "new")
"""Kinds of faults that are none until they are many."""


def _limit(most: float, usual: float, values: int, known: int) -> float:
    """Return the largest share that is no fault: ``most``, or what is usual and four standard errors more."""
    error = math.sqrt(usual * (1 - usual) * (1 / values + 1 / max(1, known)))
    return max(most, usual + 4 * error) if usual else most


def _share_unseen(column: Column, now: Tally) -> float:
    """Return the share of a column's values that lie beyond what was observed; of a tensor's, of its numbers."""
    faults = now.faults.get(column.name, {})
    wrong = faults["shape"].count if "shape" in faults else 0
    many = (now.rows - now.missing[column.name] - wrong) * math.prod(column.feature.shape or ())
    return sum(faults[kind].count for kind in UNSEEN if kind in faults) / many if many else 0.0


def _beyond_words(held: Held, faults: Mapping[str, Fault]) -> str:
    if held.levels is not None:
        return f"categories that the reference did not have: {most_common(faults['new'].words)}"
    ends = [f"{low:.6g}" if low is not None else "its bound" for low in (held.low, held.high)]
    reached = [
        (word, faults[kind].reach) for kind, word in (("below", "down to"), ("above", "up to")) if kind in faults
    ]
    far = " and ".join(f"{word} {reach:.6g}" for word, reach in reached)
    return f"far outside what the reference held ({ends[0]} to {ends[1]}), {far}"


def _scores(schema: Schema, now: Tally) -> dict[str, float]:
    scores = {"rows": float(now.rows)}
    for column in (c for c in schema.columns if now.rows and c.name in now.missing):
        scores[f"{column.name}.missing"] = now.missing[column.name] / now.rows
        scores[f"{column.name}.unseen"] = _share_unseen(column, now)
    return scores


def _missing_columns(schema: Schema, now: Tally) -> Iterator[tuple[str, str]]:
    wanted = {name: f"features.{name}" for name in schema.names}
    others = {"source.label": schema.label, "source.id": schema.id, "data.group": schema.group}
    wanted |= {name: setting for setting, name in others.items() if name is not None and name not in wanted}
    for name, setting in wanted.items():
        times = now.times.get(name, 1)
        if times > 1:
            yield name, f"column {name!r} occurs {times} times in the rows; keep one of them in the source"
        elif times == 0:
            hint = nearest(name, now.spare) or (f" Unknown to the schema: {now.spare}." if now.spare else "")
            yield (
                name,
                f"column {name!r} (setting {setting}) is missing from the rows; bring it back under this name.{hint}",
            )


def _explained(column: Column, now: Tally) -> Iterator[str]:
    """Word each fault of a column."""
    values, faults = now.rows - now.missing[column.name], now.faults.get(column.name, {})
    for kind, fault in ((k, f) for k, f in faults.items() if k not in UNSEEN):
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
