"""Sources on files: windows of rows from CSV and Parquet, cut by time or by number of rows."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from trimtab.errors import DataError, InputError, ReadError, SettingsError, nearest
from trimtab.tablefile import TableFile, open_csv, open_parquet
from trimtab.window import Batches, Partition, Span, Window, missing_column, stacked

__all__ = ["CsvSource", "ParquetSource", "duration"]

Int64s = npt.NDArray[np.int64]

SECOND = 10**9
UNITS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
FACTORS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
FIRST_MONDAY = 4 * UNITS["d"]  # 1970-01-05, so that windows of a week begin on Mondays
LATEST = int(np.iinfo(np.int64).max)


def duration(text: str, setting: str = "window.every") -> int:
    """Return the length of time that ``text`` names, in nanoseconds.

    Parameters
    ----------
    text
        A whole number above 0 and a unit: ``d`` days, ``h`` hours, ``m`` minutes, ``s`` seconds.
    setting
        Where it was written, for the message.

    Raises
    ------
    SettingsError
        When ``text`` is none.

    Examples
    --------
    >>> duration("7d") // 10**9
    604800
    >>> duration("1 week")
    Traceback (most recent call last):
    ...
    trimtab.errors.SettingsError: window.every: '1 week' is no length of time; write a whole number above 0 and one
    of d, h, m, s, such as 7d, 12h, 30m or 15s
    """
    match = re.fullmatch(r"([0-9]{1,9})([dhms])", text.strip())
    length = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < length <= LATEST:
        raise SettingsError(
            f"{setting}: {text!r} is no length of time; write a whole number above 0 and one of d, h, m, s, "
            "such as 7d, 12h, 30m or 15s"
        )
    return length


@dataclass(frozen=True)
class _Stream:
    """All rows in order.

    Parameters
    ----------
    files
        In the order of their names.
    first
        Number of each file's first row among all, and the number of all rows last ``[files + 1]``.
    key
        Instant of each row in order, by which windows are cut; None where they are cut by number.
    order
        Place of each row in order among those of the files; None where it is the same.
    """

    files: tuple[TableFile, ...]
    first: Int64s
    key: Int64s | None
    order: Int64s | None

    @property
    def lowest(self) -> int:
        """Instant or number of the first row."""
        return 0 if self.key is None else int(self.key[0])

    @property
    def highest(self) -> int:
        """Instant or number of the last row."""
        return int(self.first[-1]) - 1 if self.key is None else int(self.key[-1])

    def cut(self, lower: int, upper: int) -> tuple[int, int]:
        """Return the numbers of the first row from ``lower`` on, and of the first from ``upper`` on."""
        if self.key is None:
            return min(max(lower, 0), int(self.first[-1])), min(max(upper, 0), int(self.first[-1]))
        first, end = np.searchsorted(self.key, [lower, upper], side="left")
        return int(first), int(end)

    def between(self, first: int, end: int) -> tuple[Partition, ...]:
        """Return the rows numbered ``first`` to ``end`` (excluded), with the columns of the files that hold them."""
        if first >= end:
            return (Partition(0, lambda: [stacked([next(iter(file.rows(0, 0))) for file in self.files])]),)
        order = self.order
        if order is not None:
            return (Partition(0, lambda: [self._gathered(order[first:end])]),)
        ranges = [
            (file, begins, max(first - begins, 0), min(end - begins, file.count))
            for file, begins in zip(self.files, self.first.tolist(), strict=False)
        ]
        held = [(file, begins, low, high) for file, begins, low, high in ranges if low < high]
        names = list(dict.fromkeys(name for file, *_ in held for name in next(iter(file.rows(0, 0))).columns))
        return tuple(
            Partition(begins + place - first, partial(_with_columns, rows, names))
            for file, begins, low, high in held
            for place, rows in file.pieces(low, high)
        )

    def _gathered(self, places: Int64s) -> pd.DataFrame:
        """Return the rows at some places among those of the files, in this order."""
        holding = np.searchsorted(self.first, places, side="right") - 1
        parts = []
        for number in np.unique(holding):
            rows = places[holding == number] - self.first[number]
            low, high = int(rows.min()), int(rows.max()) + 1
            parts.append(stacked(list(self.files[number].rows(low, high))).iloc[rows - low])
        by_file = np.argsort(holding, kind="stable")
        return stacked(parts).iloc[np.argsort(by_file, kind="stable")].reset_index(drop=True)


@dataclass(frozen=True)
class _FileSource(ABC):
    """Rows of one or many files in order, cut into windows; the subclasses say how a file is read.

    Small files are read once per object; rows that arrive later are seen by a new object.
    """

    _format: ClassVar[str]

    path: str
    every: str | int
    timestamp: str | None = None
    label: str | None = None
    id: str | None = None
    prediction: str | None = None
    start: str | int | None = None
    base: str = "."

    def __post_init__(self) -> None:
        if isinstance(self.every, int) and self.every < 1:
            raise SettingsError(f"window.every: a window must hold at least 1 row, got {self.every}")
        if self._timed and self.timestamp is None:
            raise SettingsError(
                f"window.every: {self.every!r} is a length of time, which needs source.timestamp; "
                "name the column that holds each row's instant, or give a number of rows"
            )
        _ = (self._length, self._fixed_start)  # a wrong value is told here, before a file is read

    def begins(self) -> int:
        """Return the instant (nanoseconds since 1970, UTC) or row number at which window 1 begins."""
        if self._fixed_start is not None:
            return self._fixed_start
        if not self._timed:
            return self._length
        earliest = self._stream.lowest + self._length - FIRST_MONDAY
        return FIRST_MONDAY - (-earliest // self._length) * self._length

    def last(self, start: int) -> int:
        """Return the number of the last window that holds rows; 0 when all rows lie before ``start``."""
        return max(0, (self._stream.highest - start) // self._length + 1)

    def read(self, number: int, start: int) -> Window:
        """Return window ``number`` of a stream whose window 1 begins at ``start``; 0 is all rows before it.

        Its columns are those of the files that hold its rows; a window without rows has those of all
        files.

        Raises
        ------
        DataError
            When the files cannot be read, or ``number`` is negative.
        """
        if number < 0:
            raise DataError(f"there is no window {number}; the first is 0, the rows before window 1")
        stream = self._stream
        lower = start + (number - 1) * self._length if number else min(start, stream.lowest)
        upper = start + number * self._length
        first, end = stream.cut(lower, upper)
        bounds = (self._written(lower), self._written(upper))
        window = Window(Span(number, lower, upper), *bounds, stream.between(first, end))
        return window.mapped(partial(_told, path=self.path, format=self._format))

    def closes(self, number: int, start: int) -> float | None:
        """Return when window ``number`` ends (seconds since 1970), or None for windows of rows."""
        return (start + number * self._length) / SECOND if self._timed else None

    @property
    def _timed(self) -> bool:
        return isinstance(self.every, str)

    @cached_property
    def _length(self) -> int:
        return duration(self.every) if isinstance(self.every, str) else self.every

    @cached_property
    def _fixed_start(self) -> int | None:
        if self.start is None:
            return None
        if self._timed:
            return int(_instants(pd.Series([self.start]), lambda _: "window.start", SettingsError)[0])
        if not isinstance(self.start, int) or self.start < 0:
            raise SettingsError(
                f"window.start: {self.start!r} is no row number; windows of {self.every} rows begin at a whole "
                "number of at least 0"
            )
        return self.start

    def _written(self, bound: int) -> str:
        return pd.Timestamp(bound, tz="UTC").isoformat() if self._timed else f"row {bound}"

    @cached_property
    def _stream(self) -> _Stream:
        files = tuple(self._opened(path) for path in _paths(self.path, Path(self.base).absolute()))
        first = np.cumsum([0, *(file.count for file in files)])
        if not first[-1]:
            raise DataError(
                f"source.path: {self.path!r} in {Path(self.base).resolve()} holds no rows in {len(files)} file(s); "
                "write rows there first, or name other files"
            )
        if self.timestamp is None:
            return _Stream(files, first, None, None)
        instants = np.concatenate([self._times(file) for file in files])
        in_order = bool((np.diff(instants) >= 0).all())
        order = None if in_order else np.argsort(instants, kind="stable")
        key = instants if order is None else instants[order]
        return _Stream(files, first, key if self._timed else None, order)

    def _times(self, file: TableFile) -> Int64s:
        name = self.timestamp or ""
        if name not in file.columns:
            raise DataError(
                f"{file.path}: {missing_column(name, 'source.timestamp', pd.DataFrame(columns=file.columns))}"
            )
        with _explained(file.path, self._format):
            values = file.column(name)
        return _instants(values, lambda row: f"{file.path}, row {row} (of 0 to {file.count - 1})", DataError)

    def _opened(self, path: Path) -> TableFile:
        with _explained(path, self._format):
            return self._open(path)

    @abstractmethod
    def _open(self, path: Path) -> TableFile:
        """Look at one file."""


def _with_columns(rows: Batches, names: list[str]) -> Iterator[pd.DataFrame]:
    """Yield rows of one file; a column that another file of the window has is missing in them."""
    for batch in rows():
        whole = batch if set(names) <= set(batch.columns) else batch.reindex(columns=names)
        yield whole.reset_index(drop=True)


def _told(batches: Batches, path: str, format: str) -> Iterator[pd.DataFrame]:
    with _explained(path, format):
        yield from batches()


@contextmanager
def _explained(path: Path | str, format: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zlib.error, pa.ArrowException) as error:
        raise ReadError(
            f"source.path: {path} cannot be read as {format}: {str(error).strip()}; mend or remove the file, "
            "or narrow source.path"
        ) from error


@dataclass(frozen=True)
class CsvSource(_FileSource):
    r"""Rows of CSV files with a header, also compressed (``.csv.gz``).

    The types of the columns are inferred for each file as a whole; where one cell makes text of a
    column that the project declares numeric, only the windows that hold such cells get it as text.
    Text that pandas reads as missing (``NA``, ``nan``, nothing) is missing.

    Parameters
    ----------
    path
        A file, or a pattern with ``*``, ``?``, ``[...]`` or ``**``, below ``base``. Several files are
        taken in the order of their names. They may differ in their columns: a window has those of
        the files that hold its rows.
    every
        Length of a window: a number of rows, or a length of time such as ``7d``, ``12h``, ``30m``, ``15s``.
    timestamp
        Column of each row's instant, by which rows are put in order (equal ones stay in the order of
        the files): datetimes, dates, ISO 8601 text, or numbers since 1970 in seconds, milli-, micro- or
        nanoseconds, whichever puts a file's largest into the years 1973 to 5138. What has no time zone
        is taken as UTC. Without it rows keep the order of the files.
    label, id, prediction
        Columns of the label, of a row's name, and of what the deployed model answered.
    start
        Where window 1 begins: an instant, written as in ``timestamp``, or a row number. By default one
        window's length after the first row; instants are then rounded up to a multiple of ``every``
        since Monday 1970-01-05, so that weeks begin on Mondays.
    base
        The folder that ``path`` starts from.

    Raises
    ------
    SettingsError
        When ``every`` or ``start`` cannot be read, or a length of time comes without ``timestamp``.
    DataError
        On first use, when files are missing, unreadable or empty, or a timestamp is none.

    Examples
    --------
    >>> import tempfile
    >>> base = Path(tempfile.mkdtemp())
    >>> _ = (base / "a.csv").write_text("at,x\n2026-01-05,1\n2026-01-12,2\n2026-01-14,3\n")
    >>> source = CsvSource("*.csv", every="7d", timestamp="at", base=str(base))
    >>> window = source.read(1, source.begins())
    >>> window.start, window.frame["x"].tolist(), source.last(source.begins())
    ('2026-01-12T00:00:00+00:00', [2, 3], 1)
    """

    untyped: ClassVar[bool] = True

    _format: ClassVar[str] = "CSV"

    def _open(self, path: Path) -> TableFile:
        return open_csv(path)


@dataclass(frozen=True)
class ParquetSource(_FileSource):
    """Rows of Parquet files; a list column (a tensor) arrives as one numpy array per cell, nested lists as one too.

    Its settings are those of ``CsvSource``.
    """

    _format: ClassVar[str] = "Parquet"

    def _open(self, path: Path) -> TableFile:
        return open_parquet(path)


def _paths(path: str, base: Path) -> tuple[Path, ...]:
    """Return the files that ``path`` names, sorted by name."""
    named = base / path
    if named.is_file():
        return (named,)
    parts = named.parts
    fixed = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    if fixed < len(parts):
        found = Path(*parts[:fixed]).glob(str(Path(*parts[fixed:])))
        if files := tuple(sorted({file for file in found if file.is_file()})):
            return files
    raise DataError(
        f"source.path: no file {path!r} in {base.resolve()}.{_nearest_entry(named)} Name an existing file or a "
        "pattern such as data/*.parquet, or write the rows there first"
    )


def _nearest_entry(named: Path) -> str:
    """Look where the path stops to exist for the entry whose name is closest to what was asked for."""
    if named.is_dir():
        return f" {str(named)!r} is a folder."
    missing = named
    while not missing.parent.is_dir():
        missing = missing.parent
    return nearest(missing.name, [entry.name for entry in missing.parent.iterdir()])


def _instants(values: pd.Series[Any], where: Callable[[int], str], error: type[InputError]) -> Int64s:
    """Return nanoseconds since 1970 (UTC) for timestamps of any kind; what has no zone is taken as UTC."""
    if values.dtype == object:
        values = values.infer_objects()
    if pd.api.types.is_datetime64_any_dtype(values):
        instants, good = _from_datetimes(values)
    elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        instants, good = _from_numbers(values)
    else:
        texts = values.astype(str).where(values.notna(), None)
        instants, good = _from_datetimes(pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce"))
    if not good.all():
        row = int(np.argmin(good))
        raise error(
            f"{where(row)}: {values.iloc[row]!r} is no instant between 1678 and 2261; write it as ISO 8601, such as "
            "2026-01-05T00:00:00Z, or as a number of seconds, milli-, micro- or nanoseconds since 1970"
        )
    return instants


def _from_datetimes(values: pd.Series[Any]) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    zoned = values.dt.tz_localize("UTC") if values.dt.tz is None else values
    factor = FACTORS[zoned.dt.unit]
    return _scaled(zoned.dt.tz_convert(None).to_numpy().view(np.int64), factor, zoned.notna().to_numpy())


def _from_numbers(values: pd.Series[Any]) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Read numbers since 1970 in the unit that puts the largest into the years 1973 to 5138."""
    good = values.notna().to_numpy() & np.isfinite(values.to_numpy(np.float64, na_value=np.nan))
    plain = values.where(good, 0).to_numpy()
    largest = float(np.abs(plain.astype(np.float64)).max(initial=0.0))
    unit = next((u for u, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if largest < limit), "ns")
    factor = FACTORS[unit]
    whole = np.floor(plain)
    instants, fits = _scaled(whole.astype(np.int64), factor, good)
    return instants + np.rint((plain - whole).astype(np.float64) * factor).astype(np.int64), fits


def _scaled(values: Int64s, factor: int, good: npt.NDArray[np.bool_]) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    fits = good & (np.abs(values) < LATEST // factor)
    return np.where(fits, values, 0) * factor, fits
