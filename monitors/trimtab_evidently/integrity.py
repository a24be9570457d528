"""Is the data broken? Raw rows against the schema that was frozen with the champion, every fault at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.errors import nearest
from trimtab.monitor import Answer, Finding, Sample
from trimtab.window import Column, Schema

__all__ = ["Integrity"]

NUMBERS = frozenset({"integer", "floating", "mixed-integer-float", "decimal", "boolean"})
NO_TEXT = NUMBERS - {"boolean"} | {"complex", "bytes", "datetime64", "datetime", "date", "timedelta64", "timedelta"}
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
    >>> from trimtab.window import Feature
    >>> good = pd.DataFrame({"age": [31.0, 40.0], "y": ["no", "yes"]})
    >>> schema = Schema.freeze({"age": Feature(minimum=0)}, good, label="y")
    >>> bad = pd.DataFrame({"age": [-1.0, 40.0], "y": ["no", "maybe"]})
    >>> finding = Integrity().check(Sample(schema, good), Sample(schema, bad, number=3), 0.05)
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

    def check(self, reference: Sample, current: Sample, alpha: float) -> Finding:
        """List every fault of ``current``'s raw rows; ``alpha`` plays no part."""
        schema, frame = current.schema, current.frame
        faults = list(_missing_columns(schema, frame))
        scores = {"rows": float(len(frame))}
        if len(frame) == 0:
            faults.insert(0, f"window {current.number} has no rows; check that the source still delivers")
        else:
            for column in schema.columns:
                if _once(column.name, frame):
                    found, missing = self._judge(column, reference.frame, frame)
                    faults += found
                    scores[f"{column.name}.missing"] = missing
            faults += _duplicated_ids(schema, frame)
            faults += self._labels(schema, reference.frame, frame)
        answer = Answer.BROKEN if faults else Answer.FINE
        return Finding(self.name, current.number, answer, tuple(faults), scores)

    def report(self, reference: Sample, current: Sample, path: Path) -> bool:
        """Write nothing: the reasons say all."""
        return False

    def _judge(self, column: Column, reference: pd.DataFrame, frame: pd.DataFrame) -> tuple[list[str], float]:
        """Return one column's faults and its share of missing values."""
        values = frame[column.name]
        before = reference[column.name] if _once(column.name, reference) else values.iloc[:0]
        missing = float(values.isna().mean())
        faults = [*self._missing(column, before, values)]
        if missing < 1:
            check = {"number": _numbers, "text": _texts, "tensor": _tensors}[column.dtype]
            try:
                faults += check(column, values.dropna())
            except (TypeError, ValueError, OverflowError) as error:  # values that no check foresaw
                faults.append(f"column {column.name!r} cannot be read as {column.dtype}: {error}; mend the source")
        return faults, missing

    def _missing(self, column: Column, before: pd.Series[Any], values: pd.Series[Any]) -> Iterator[str]:
        name, n, count = column.name, len(values), int(values.isna().sum())
        if count == n:
            yield f"column {name!r}: all {n} values are missing; mend the source, or drop features.{name}"
            return
        usual = float(before.isna().mean()) if len(before) else 0.0
        error = math.sqrt(usual * (1 - usual) * (1 / n + 1 / max(1, len(before))))
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

    def _labels(self, schema: Schema, reference: pd.DataFrame, frame: pd.DataFrame) -> Iterator[str]:
        if schema.label is None or not _once(schema.label, frame):
            return
        if schema.task == "regression":
            yield from _number_labels(schema.label, frame[schema.label].dropna())
            return
        counts = _class_counts(schema, frame)
        unknown = {repr(value): n for value, n in counts.items() if schema.code_of(value) is None}
        total = sum(counts.values())
        if unknown:
            yield (
                f"label column {schema.label!r}: {sum(unknown.values())} of {total} labels are none of the classes "
                f"{list(schema.classes)}: {_most_common(unknown)}; map them to these, or start a new project whose "
                "first rows hold the new class"
            )
        elif len(counts) == 1 and total >= self.min_rows_one_class:
            only = next(iter(counts))
            if _chance_of_one(schema, reference, only, total) < IMPLAUSIBLE:
                yield (
                    f"label column {schema.label!r}: all {total} labels are {only!r}, the classes are "
                    f"{list(schema.classes)}; mend the join that brings the labels, or raise the monitor's "
                    "min_rows_one_class"
                )


def _once(name: str, frame: pd.DataFrame) -> bool:
    return int((frame.columns == name).sum()) == 1


def _missing_columns(schema: Schema, frame: pd.DataFrame) -> Iterator[str]:
    wanted = {name: f"features.{name}" for name in schema.names}
    others = {"source.label": schema.label, "source.id": schema.id, "data.group": schema.group}
    wanted |= {name: setting for setting, name in others.items() if name is not None and name not in wanted}
    spare = [str(c) for c in frame.columns if c not in wanted]
    for name, setting in wanted.items():
        times = int((frame.columns == name).sum())
        if times > 1:
            yield f"column {name!r} occurs {times} times in the rows; keep one of them in the source"
        elif times == 0 and (len(frame) or len(frame.columns)):
            hint = nearest(name, spare) or (f" Unknown to the schema: {spare}." if spare else "")
            yield f"column {name!r} (setting {setting}) is missing from the rows; bring it back under this name.{hint}"


def _numbers(column: Column, values: pd.Series[Any]) -> Iterator[str]:
    kind = _inferred(values)
    if kind not in NUMBERS:
        junk = values[pd.to_numeric(values, errors="coerce").isna()] if kind in ("string", "mixed") else values
        example = next((v for v in junk.tolist() if not isinstance(v, int | float)), values.iloc[0])
        yield (
            f"column {column.name!r} held numbers and now holds {kind} ({values.dtype}) such as {_short(example)}; "
            f"mend the source, or declare features.{column.name}.kind: categorical in a new project"
        )
        return
    numbers = values.to_numpy(dtype=np.float64)
    yield from _infinite(column, np.isinf(numbers), len(numbers))
    yield from _beyond(column, numbers[np.isfinite(numbers)])
    if column.feature.categories is not None:
        yield from _undeclared(column, numbers[np.isfinite(numbers)].tolist())


def _texts(column: Column, values: pd.Series[Any]) -> Iterator[str]:
    kind = _inferred(values)
    if kind in NO_TEXT:
        yield (
            f"column {column.name!r} held text and now holds {kind} ({values.dtype}) such as "
            f"{_short(values.iloc[0])}; turn it back into text in the source"
        )
    elif column.feature.categories is not None:
        yield from _undeclared(column, [str(v) for v in values.tolist()])


def _tensors(column: Column, values: pd.Series[Any]) -> Iterator[str]:
    shape = column.feature.shape or ()
    stacked: list[npt.NDArray[np.float64]] = []
    wrong: list[str] = []
    for cell in values.tolist():
        try:
            tensor = _tensor(cell)
        except (TypeError, ValueError):
            wrong.append("no even array of numbers")
            continue
        if _fits(tensor.shape, shape):
            stacked.append(tensor.ravel())
        else:
            wrong.append(f"shape {list(tensor.shape)}")
    if wrong:
        yield (
            f"column {column.name!r}: {len(wrong)} of {len(values)} rows do not hold a tensor of shape {list(shape)} "
            f"(setting features.{column.name}.shape): {_most_common(Counter(wrong))}; mend the source, or freeze a "
            "new champion on the new shape"
        )
    if stacked:
        tensors = np.stack(stacked)
        if np.isnan(tensors).any(axis=1).all():
            yield f"column {column.name!r}: every tensor holds values that are no numbers (NaN); mend the source"
        yield from _infinite(column, np.asarray(np.isinf(tensors).any(axis=1)), len(values), "rows with ")
        yield from _beyond(column, tensors[np.isfinite(tensors)])


def _tensor(cell: Any) -> npt.NDArray[np.float64]:
    """Read a cell that may be an array, nested lists, or (from Parquet) an array of arrays."""
    if isinstance(cell, str | bytes):
        raise TypeError("text is no tensor")
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return np.stack([_tensor(part) for part in cell])
    return np.asarray(cell, dtype=np.float64)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a cell can be read as ``wanted``: flat, or nested in this order (axes of length 1 aside)."""
    if len(found) <= 1:
        return math.prod(found) == math.prod(wanted)
    return [n for n in found if n != 1] == [n for n in wanted if n != 1]


def _infinite(column: Column, mask: npt.NDArray[np.bool_], n: int, what: str = "") -> Iterator[str]:
    if mask.any():
        yield (
            f"column {column.name!r}: {int(mask.sum())} of {n} {what or 'values are '}infinite"
            f"{' values' if what else ''}; mend the division or the sensor that makes them, or send them as missing"
        )


def _beyond(column: Column, numbers: npt.NDArray[np.float64]) -> Iterator[str]:
    sides: tuple[tuple[str, float | None, str, str, Callable[..., Any], Callable[..., Any]], ...] = (
        ("minimum", column.feature.minimum, "below", "down to", np.less, np.min),
        ("maximum", column.feature.maximum, "above", "up to", np.greater, np.max),
    )
    for setting, bound, side, reach, compare, extreme in sides:
        if bound is not None and (count := int(compare(numbers, bound).sum())):
            yield (
                f"column {column.name!r}: {count} of {numbers.size} values {side} the declared {setting} {bound}, "
                f"{reach} {float(extreme(numbers)):.6g}; mend the source, or widen features.{column.name}.{setting}"
            )


def _undeclared(column: Column, values: list[Any]) -> Iterator[str]:
    levels = set(column.levels)
    other = Counter(repr(_whole(v)) for v in values if v not in levels)
    if other:
        yield (
            f"column {column.name!r}: {sum(other.values())} of {len(values)} values are none of the declared "
            f"categories {list(column.levels)}: {_most_common(other)}; mend the source, or add them to "
            f"features.{column.name}.categories"
        )


def _duplicated_ids(schema: Schema, frame: pd.DataFrame) -> Iterator[str]:
    if schema.id is None or not _once(schema.id, frame):
        return
    ids = Counter(repr(_whole(v)) for v in frame[schema.id].dropna().tolist())
    twice = {name: n for name, n in ids.items() if n > 1}
    if twice:
        extra = sum(twice.values()) - len(twice)
        yield (
            f"id column {schema.id!r}: {len(twice)} ids occur more than once ({extra} rows too many): "
            f"{_most_common(twice)}; drop the copies in the source"
        )


def _number_labels(name: str, labels: pd.Series[Any]) -> Iterator[str]:
    numbers = pd.to_numeric(labels, errors="coerce").to_numpy(dtype=np.float64)
    wrong = Counter(repr(_whole(v)) for v in labels[~np.isfinite(numbers)].tolist())
    if wrong:
        yield (
            f"label column {name!r}: {sum(wrong.values())} of {len(labels)} labels are no finite numbers: "
            f"{_most_common(wrong)}; mend the source, or send them as missing"
        )


def _class_counts(schema: Schema, frame: pd.DataFrame) -> Counter[Any]:
    values = frame[schema.label].dropna().tolist() if schema.label is not None else []
    codes = [schema.code_of(v) for v in values]
    return Counter(_whole(v) if c is None else schema.classes[c] for v, c in zip(values, codes, strict=True))


def _chance_of_one(schema: Schema, reference: pd.DataFrame, only: Any, n: int) -> float:
    """Return how likely ``n`` labels are all ``only``, judged by the reference's labels."""
    if schema.label is None or not _once(schema.label, reference):
        return 0.0
    counts = _class_counts(schema, reference)
    total = sum(counts.values())
    return float((counts[only] / total) ** n) if total else 0.0


def _inferred(values: pd.Series[Any]) -> str:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return str(pd.api.types.infer_dtype(values.cat.categories))
    return str(pd.api.types.infer_dtype(values, skipna=True))


def _whole(value: Any) -> Any:
    """Unwrap a numpy scalar and read 3.0 as 3; what cannot be hashed stands for itself in words."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    return plain if isinstance(plain, str | int | float) else str(plain)


def _most_common(counts: Counter[str] | dict[str, int]) -> str:
    top = Counter(counts).most_common(3)
    more = f" and {len(counts) - len(top)} more" if len(counts) > len(top) else ""
    return ", ".join(f"{_clip(value)} ({n})" for value, n in top) + more


def _short(value: Any) -> str:
    return _clip(repr(value))


def _clip(words: str) -> str:
    return words if len(words) <= 60 else f"{words[:57]}..."
