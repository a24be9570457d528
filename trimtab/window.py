"""Windows of production data, the schema that is frozen with a champion, and the Source that gives rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from trimtab.errors import DataError

__all__ = [
    "Arrays",
    "Batches",
    "Column",
    "Feature",
    "Input",
    "Labels",
    "Partition",
    "Schema",
    "Source",
    "Span",
    "Task",
    "Window",
    "arrived",
    "stacked",
    "with_numbers",
]

Arrays = Mapping[str, npt.NDArray[Any]]
Labels = npt.NDArray[Any]
"""Class indices (int64 ``[rows]``, -1 where missing) or, in a regression, numbers (float64, NaN where missing)."""
Task = Literal["classification", "regression"]
Kind = Literal["numeric", "categorical", "text", "tensor"]

NUMERIC_INPUT = "numeric"
MISSING_LABEL = -1


class Feature(BaseModel):
    """One feature as the project file declares it.

    Parameters
    ----------
    kind
        ``numeric``, ``categorical`` (text or integers), ``text`` (free text, of which no two rows need be alike) or
        ``tensor``.
    shape
        Of one row's tensor, without the batch axis; required for tensors.
    minimum, maximum
        Declared bounds: a value beyond them breaks the window. What was merely observed never does.
    categories
        Declared levels: any other breaks the window. Without them the observed levels are frozen
        with the champion and a new one counts as moved.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "numeric"
    shape: tuple[int, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str | int, ...] | None = None


class Column(BaseModel):
    """One feature as it was when the champion was trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    feature: Feature
    dtype: Literal["number", "text", "tensor"]
    levels: tuple[str | int, ...] = ()

    @property
    def coded(self) -> bool:
        """Whether it travels in the numeric input (numbers and integer categories)."""
        return self.dtype == "number"


class Input(BaseModel):
    """One input of an exported model: ``[rows, *shape]`` of float32 or text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    dtype: Literal["float32", "text"]
    shape: tuple[int, ...]


class Schema(BaseModel):
    """Columns, classes and dtypes, frozen with the champion; turns raw rows into model inputs.

    A regression has no classes: its labels are numbers.

    All numeric columns and integer categories form one input ``numeric`` of float32
    ``[rows, columns]`` in the order of ``columns``; each text category and each free text is an input of
    its own, text ``[rows, 1]`` (a missing one is empty); each tensor is one, float32 ``[rows, *shape]``.
    Scaling, imputation and one-hot encoding are the model's own affair, so that they travel inside the
    exported file.

    Examples
    --------
    >>> frame = pd.DataFrame({"a": [1.0, 2.0], "c": ["x", "y"], "y": [0, 1]})
    >>> schema = Schema.freeze({"a": Feature(), "c": Feature(kind="categorical")}, frame, label="y")
    >>> [(i.name, i.shape) for i in schema.inputs]
    [('numeric', (1,)), ('c', (1,))]
    >>> schema.encode(frame)["numeric"].ravel().tolist()
    [1.0, 2.0]
    >>> schema.encode_labels(frame).tolist()
    [0, 1]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]
    task: Task = "classification"
    label: str | None = None
    classes: tuple[bool | int | str, ...] = ()
    id: str | None = None
    group: str | None = None
    timestamp: str | None = None

    @classmethod
    def freeze(
        cls,
        features: Mapping[str, Feature],
        frame: pd.DataFrame,
        *,
        task: Task = "classification",
        label: str | None = None,
        id: str | None = None,
        group: str | None = None,
        timestamp: str | None = None,
    ) -> Schema:
        """Freeze the schema of ``frame``'s rows; a classification's classes are its label values in sorted order.

        Raises
        ------
        DataError
            When a column is missing, cannot be what it is declared as, or fewer than two classes occur
            (in a regression: fewer than two different numbers).
        """
        columns = tuple(_freeze_column(name, feature, frame) for name, feature in features.items())
        classes: tuple[bool | int | str, ...] = ()
        if label is not None:
            if label not in frame:
                raise DataError(missing_column(label, "source.label", frame))
            freeze_labels = _classes if task == "classification" else _no_classes
            classes = freeze_labels(frame[label], label)
        return cls(columns=columns, task=task, label=label, classes=classes, id=id, group=group, timestamp=timestamp)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs of a model on this schema, in order: numeric, texts, tensors."""
        coded = [c for c in self.columns if c.coded]
        numeric = [Input(name=NUMERIC_INPUT, dtype="float32", shape=(len(coded),))] if coded else []
        texts = [Input(name=c.name, dtype="text", shape=(1,)) for c in self.columns if c.dtype == "text"]
        tensors = [
            Input(name=c.name, dtype="float32", shape=c.feature.shape or ())
            for c in self.columns
            if c.dtype == "tensor"
        ]
        return (*numeric, *texts, *tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the feature columns."""
        return tuple(c.name for c in self.columns)

    def encode(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Turn raw rows into model inputs (float32 and text arrays; missing numbers stay NaN).

        Raises
        ------
        DataError
            Naming the column that is missing or cannot be read as what the schema says.
        """
        for name in self.names:
            if name not in frame:
                raise DataError(missing_column(name, f"features.{name}", frame))
            _refuse_twice(name, frame)
        arrays: dict[str, npt.NDArray[Any]] = {}
        coded = [c.name for c in self.columns if c.coded]
        if coded:
            stacked = [_as_float32(frame[name], name) for name in coded]
            arrays[NUMERIC_INPUT] = np.stack(stacked, axis=1)
        for column in self.columns:
            if column.dtype == "text":
                texts = frame[column.name].astype("object").where(frame[column.name].notna(), "")
                arrays[column.name] = np.asarray(texts.astype(str).to_list(), dtype=np.str_).reshape(-1, 1)
            elif column.dtype == "tensor":
                arrays[column.name] = stack_tensors(frame[column.name], column.name, column.feature.shape or ())
        return arrays

    def readable(self, frame: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Turn what can be read of broken rows into model inputs; an input that cannot be is left out.

        Examples
        --------
        >>> frame = pd.DataFrame({"a": [1.0, 2.0], "c": ["x", "y"]})
        >>> schema = Schema.freeze({"a": Feature(), "c": Feature(kind="categorical")}, frame)
        >>> list(schema.readable(frame.drop(columns="a")))
        ['c']
        """
        found: dict[str, npt.NDArray[Any]] = {}
        parts = [[c for c in self.columns if c.coded], *([c] for c in self.columns if not c.coded)]
        for columns in (part for part in parts if part):
            try:
                found |= self.model_copy(update={"columns": tuple(columns)}).encode(frame)
            except Exception:  # noqa: S112 (broken rows may hold anything, and who looks for faults names them)
                continue
        return found

    def encode_labels(self, frame: pd.DataFrame) -> Labels:
        """Return each row's class index (int64 ``[rows]``, -1 where the label has not arrived).

        In a regression its number (float64 ``[rows]``, NaN where the label has not arrived).

        Raises
        ------
        DataError
            When a label is none of ``classes``, or no finite number.
        """
        absent = self.label is None or self.label not in frame
        if self.task == "regression":
            return np.full(len(frame), np.nan) if absent else _as_numbers(frame[self.label], str(self.label))
        codes = np.full(len(frame), MISSING_LABEL, dtype=np.int64)
        if absent:
            return codes
        _refuse_twice(str(self.label), frame)
        labels = frame[self.label]
        for row, value in zip(np.flatnonzero(labels.notna()).tolist(), labels.dropna().tolist(), strict=True):
            code = self.code_of(value)
            if code is None:
                raise DataError(
                    f"label column {self.label!r} holds {_plain(value)!r}, which is none of the classes "
                    f"{list(self.classes)} that the champion knows; map it to one of them, or start a new "
                    "project with the new class among its first rows"
                )
            codes[row] = code
        return codes

    def code_of(self, label: object) -> int | None:
        """Return the index of a label's class, or None where it is none.

        A number that came as text counts as the number: in a CSV file one label that is no number
        turns all the others into text.

        Examples
        --------
        >>> schema = Schema(columns=(), label="y", classes=(0, 1))
        >>> schema.code_of(1.0), schema.code_of("1"), schema.code_of("maybe")
        (1, 1, None)
        """
        try:
            code = self._codes.get(_plain(label))
        except TypeError:  # what cannot be hashed, such as a list, is no class
            return None
        if code is None and isinstance(label, str):
            return next((c for v, c in self._codes.items() if not isinstance(v, str) and _reads_as(label, v)), None)
        return code

    @functools.cached_property
    def _codes(self) -> dict[bool | int | str, int]:
        return {value: code for code, value in enumerate(self.classes)}


def arrived(labels: Labels) -> npt.NDArray[np.bool_]:
    """Mark the rows whose label has arrived.

    Examples
    --------
    >>> arrived(np.array([0, -1])).tolist(), arrived(np.array([-1.0, np.nan])).tolist()
    ([True, False], [True, False])
    """
    return np.asarray(np.isfinite(labels) if labels.dtype.kind == "f" else labels != MISSING_LABEL)


def missing_column(name: str, setting: str, frame: pd.DataFrame) -> str:
    """Word the error for a column that the rows do not have, with the nearest one that they do."""
    from trimtab.errors import nearest

    have = [str(c) for c in frame.columns]
    return f"column {name!r} (setting {setting}) is not in the rows; they have {have}.{nearest(name, have)}"


def _refuse_twice(name: str, frame: pd.DataFrame) -> None:
    if frame[name].ndim > 1:
        raise DataError(f"column {name!r} is more than once in the rows; keep one of them in the source")


def with_numbers(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Turn the columns ``names`` that hold text into numbers where every value of theirs reads as one.

    For sources without types: one cell that is no number turns a whole CSV column into text, and only
    the window that holds this cell is broken.

    Examples
    --------
    >>> with_numbers(pd.DataFrame({"a": ["1.5", None], "b": ["1", "x"]}), ["a", "b", "c"]).dtypes.astype(str).tolist()
    ['float64', 'object']
    """
    read: dict[str, pd.Series[Any]] = {}
    for name in names:
        if name in frame and frame[name].dtype == object:
            numbers = pd.to_numeric(frame[name], errors="coerce")
            if (numbers.notna() == frame[name].notna()).all():
                read[name] = numbers
    return frame.assign(**read) if read else frame


def stack_tensors(cells: pd.Series[Any], name: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """Stack one tensor column into float32 ``[rows, *shape]``; cells may be flat or nested.

    Raises
    ------
    DataError
        Naming the first row whose cell has another number of values or none.
    """
    wanted = int(np.prod(shape))
    out = np.empty((len(cells), wanted), dtype=np.float32)
    for row, cell in enumerate(cells.tolist()):
        try:
            flat = np.asarray(cell, dtype=np.float32).ravel()
        except (TypeError, ValueError):
            flat = np.asarray(np.concatenate([np.ravel(part) for part in cell]), dtype=np.float32).ravel()
        if flat.size != wanted:
            raise DataError(
                f"column {name!r}, row {row}: {flat.size} values, but features.{name}.shape "
                f"{list(shape)} asks for {wanted}"
            )
        out[row] = flat
    return out.reshape(len(cells), *shape)


def _as_float32(values: pd.Series[Any], name: str) -> npt.NDArray[np.float32]:
    try:
        return np.asarray(pd.to_numeric(values, errors="raise"), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"column {name!r} is numeric in the frozen schema but holds {values.dtype} values: {error}; "
            f"mend the rows, or declare features.{name}.kind: categorical in a new project"
        ) from error


def _classes(labels: pd.Series[Any], name: str) -> tuple[bool | int | str, ...]:
    values = labels.dropna().unique().tolist()
    classes = tuple(sorted((_plain(v) for v in values), key=lambda v: (str(type(v)), v)))
    if len(classes) < 2:
        raise DataError(
            f"label column {name!r} holds {len(classes)} class(es) {list(classes)} in the first rows; "
            "a classifier needs at least 2: set window.start later, or check source.label"
        )
    return classes


def _no_classes(labels: pd.Series[Any], name: str) -> tuple[bool | int | str, ...]:
    """Make sure that there is something to regress on; numbers have no classes."""
    numbers = _as_numbers(labels, name)
    different = len(np.unique(numbers[np.isfinite(numbers)]))
    if different < 2:
        raise DataError(
            f"label column {name!r} holds {different} different number(s) in the first rows; "
            "a regression needs at least 2: set window.start later, or check source.label"
        )
    return ()


def _as_numbers(labels: pd.Series[Any], name: str) -> npt.NDArray[np.float64]:
    numbers = np.asarray(pd.to_numeric(labels, errors="coerce"), dtype=np.float64)
    wrong = (np.isnan(numbers) & labels.notna().to_numpy()) | np.isinf(numbers)
    if wrong.any():
        raise DataError(
            f"label column {name!r} holds {_plain(labels.to_numpy()[wrong][0])!r}, and a regression's labels are "
            "finite numbers; mend the source, send it as missing, or name a trainer of classifiers in model.trainer"
        )
    return numbers


def _freeze_column(name: str, feature: Feature, frame: pd.DataFrame) -> Column:
    if name not in frame:
        raise DataError(missing_column(name, f"features.{name}", frame))
    values = frame[name].dropna()
    if values.empty:
        raise DataError(f"column {name!r} is empty in every first row; mend the source, or drop features.{name}")
    if feature.kind == "tensor":
        if feature.shape is None:
            raise DataError(f"features.{name} is a tensor without a shape; add shape: [channels, height, width]")
        stack_tensors(values.head(1), name, feature.shape)
        return Column(name=name, feature=feature, dtype="tensor")
    numbers = pd.api.types.is_numeric_dtype(values)
    if feature.kind == "text":
        if numbers:
            raise DataError(
                f"column {name!r} is declared text but holds {values.dtype} values such as {values.iloc[0]!r}; "
                f"mend the rows, or set features.{name}.kind: numeric"
            )
        return Column(name=name, feature=feature, dtype="text")
    if feature.kind == "numeric":
        if not numbers:
            raise DataError(
                f"column {name!r} is declared numeric but holds {values.dtype} values such as "
                f"{values.iloc[0]!r}; mend the rows, or set features.{name}.kind: categorical"
            )
        return Column(name=name, feature=feature, dtype="number")
    levels = feature.categories or tuple(sorted({_plain(v) for v in values.tolist()}, key=str))
    if numbers:
        if any(not isinstance(v, int) for v in levels):
            raise DataError(
                f"column {name!r} is declared categorical but holds {levels[0]!r}: categories are text or whole "
                f"numbers; mend the rows, or set features.{name}.kind: numeric"
            )
        return Column(name=name, feature=feature, dtype="number", levels=tuple(int(v) for v in levels))
    return Column(name=name, feature=feature, dtype="text", levels=tuple(str(v) for v in levels))


def _reads_as(text: str, value: bool | int) -> bool:
    try:
        return text == str(value) or (not isinstance(value, bool) and float(text) == value)
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """Unwrap a numpy scalar, and read 3.0 as the class 3 (a late integer label arrives as a float)."""
    plain = value.item() if isinstance(value, np.generic) else value
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


@dataclass(frozen=True)
class Span:
    """The bounds of one window: instants (nanoseconds since 1970, UTC) or row numbers; ``end`` is excluded."""

    number: int
    start: int
    end: int


Batches = Callable[[], Iterable[pd.DataFrame]]
"""Gives rows in order, a part at a time; anew each time it is called."""


@dataclass(frozen=True)
class Partition:
    """Rows of a window that follow each other, and can be read without the others.

    Parameters
    ----------
    first
        Place of its first row in the window.
    batches
        Gives its rows as the source has them. Where a window has several partitions, one that can be pickled:
        another process may read it.
    """

    first: int
    batches: Batches


@dataclass(frozen=True)
class Window:
    """Rows of production data between two instants.

    Parameters
    ----------
    span
        Its number (1 is the first of the stream, 0 the rows before it) and bounds.
    start, end
        The bounds as a person reads them (ISO 8601, or ``row 1344``).
    partitions
        Its rows in order, in one partition or more; the same rows are always cut in the same places.
    """

    span: Span
    start: str
    end: str
    partitions: tuple[Partition, ...]

    @classmethod
    def of(cls, span: Span, start: str, end: str, frame: pd.DataFrame) -> Window:
        """Return a window whose rows are at hand."""
        return cls(span, start, end, (Partition(0, lambda: [frame]),))

    @property
    def number(self) -> int:
        """The window's number in the stream."""
        return self.span.number

    def batches(self) -> Iterator[pd.DataFrame]:
        """Yield its rows as the source has them, in order, a part at a time."""
        for partition in self.partitions:
            yield from partition.batches()

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """All its rows at once."""
        return stacked(list(self.batches()))

    def mapped(self, change: Callable[[Batches], Iterable[pd.DataFrame]]) -> Window:
        """Return the window with the batches of each partition changed."""
        changed = (Partition(p.first, functools.partial(change, p.batches)) for p in self.partitions)
        return dataclasses.replace(self, partitions=tuple(changed))


def stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put frames one below the other; a column that only some have is missing in the others' rows."""
    if len(parts) == 1:
        return parts[0]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=names)
    holds = [{name for name in part.columns if part[name].notna().any()} for part in parts]
    filled = set().union(*holds)
    # An empty column has no type worth keeping: beside floats, its objects would make the floats objects.
    typed = [
        part[[n for n in part.columns if n in held or n not in filled]] for part, held in zip(parts, holds, strict=True)
    ]
    return pd.concat(typed, ignore_index=True).reindex(columns=names)


class Source(Protocol):
    """Gives production rows, window by window, in time order.

    ``start`` is the instant (nanoseconds since 1970, UTC) or row number at which window 1 begins.
    """

    def begins(self) -> int:
        """Return the instant or row number at which window 1 begins."""
        ...

    def last(self, start: int) -> int:
        """Return the number of the last window that holds rows, where window 1 begins at ``start``."""
        ...

    def read(self, number: int, start: int) -> Window:
        """Return window ``number`` of a stream whose window 1 begins at ``start``; 0 is all rows before it."""
        ...

    def closes(self, number: int, start: int) -> float | None:
        """Return when window ``number`` closes (seconds since 1970), or None where rows carry no time."""
        ...
