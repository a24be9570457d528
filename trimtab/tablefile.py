"""One file of rows: held in memory where it is small, read a part at a time where it is not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trimtab.window import Batches

__all__ = ["LARGE", "CsvFile", "HeldFile", "ParquetFile", "TableFile", "open_csv", "open_parquet"]

Int64s = npt.NDArray[np.int64]

BATCH = 1 << 17
PIECE = 1 << 20
"""Rows of a Parquet file that are one piece, rounded up to whole row groups."""
LARGE = 1 << 26
"""Bytes of a file beyond which it is read a part at a time, and again for each window."""


def open_csv(path: Path, large: int = LARGE) -> TableFile:
    """Open a CSV file with a header, also a compressed one.

    Raises
    ------
    ValueError
        When its rows have more fields than its header.
    """
    # Not pyarrow: it infers a column's type from the first megabyte and fails on a later value.
    if path.stat().st_size > large:
        return CsvFile.scanned(path)
    return HeldFile(path, without_index(pd.read_csv(path, low_memory=False)))


def open_parquet(path: Path, large: int = LARGE) -> TableFile:
    """Open a Parquet file; nested lists arrive as one numpy array per cell."""
    file = ParquetFile(path)
    if file.size > large:
        return file
    with pq.ParquetFile(path) as whole:  # not read_table, which adds columns for folders named key=value
        return HeldFile(path, unnested(whole.read()))


class TableFile(ABC):
    """One file of rows, read as a whole once where it is small, and a part at a time where it is not."""

    path: Path

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of rows."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns."""

    @abstractmethod
    def column(self, name: str) -> pd.Series[Any]:
        """Return one column of all rows."""

    @abstractmethod
    def rows(self, first: int, end: int) -> Iterator[pd.DataFrame]:
        """Yield the rows numbered ``first`` to ``end`` (excluded), a batch at a time; at least one, maybe empty."""

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, Batches]]:
        """Yield the same rows in pieces that can be read each by itself, each with the number of its first row."""
        yield first, partial(self.rows, first, end)


@dataclass(frozen=True)
class HeldFile(TableFile):
    """A file that is in memory."""

    path: Path
    frame: pd.DataFrame

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self.frame.columns]

    def column(self, name: str) -> pd.Series[Any]:
        """Return one column of all rows."""
        return self.frame[name]

    def rows(self, first: int, end: int) -> Iterator[pd.DataFrame]:
        """Yield the rows at once."""
        yield self.frame.iloc[first:end]

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, Batches]]:
        """Yield one piece, without the rows around it: another process is not to be sent those."""
        yield first, partial(HeldFile(self.path, self.frame.iloc[first:end]).rows, 0, end - first)


def without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a CSV file, numbered; refuse a file with more fields than its header."""
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("its rows have more fields than its header")
    return frame.reset_index(drop=True)


@dataclass(frozen=True)
class CsvFile(TableFile):
    """A CSV file that is too large to hold; each reading begins at its first line.

    Parameters
    ----------
    types
        Of the columns, over all rows: what a part alone would tell may be less.
    """

    path: Path
    rows_in_it: int
    types: Mapping[str, Any]

    @classmethod
    def scanned(cls, path: Path) -> CsvFile:
        """Read it once, for the number of rows and the types."""
        count, types = 0, dict[str, Any]()
        for chunk in pd.read_csv(path, chunksize=BATCH, low_memory=False):
            count += len(without_index(chunk))
            for name in chunk:
                kind = _kind(chunk[name])
                if kind is not None:
                    types[str(name)] = _wider(types.get(str(name), kind), kind)
                types.setdefault(str(name), None)
        return cls(path, count, types)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.rows_in_it

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.types)

    def column(self, name: str) -> pd.Series[Any]:
        """Return one column of all rows."""
        return pd.read_csv(self.path, usecols=[name], dtype=self._told, low_memory=False)[name]

    @property
    def _told(self) -> dict[str, Any]:
        """Types that the reader is to be told: what may be true, false or missing it must find out by itself."""
        return {name: kind for name, kind in self.types.items() if kind is not None and kind != np.dtype(bool)}

    def rows(self, first: int, end: int) -> Iterator[pd.DataFrame]:
        """Yield rows a batch at a time."""
        if first >= end:
            yield pd.read_csv(self.path, nrows=0)
            return
        place = 0
        with pd.read_csv(self.path, nrows=end, chunksize=BATCH, dtype=self._told, low_memory=False) as chunks:
            for chunk in chunks:
                low, high = max(first - place, 0), min(end - place, len(chunk))
                place += len(chunk)
                if low < high:
                    yield without_index(chunk).iloc[low:high].reset_index(drop=True)


def _kind(values: pd.Series[Any]) -> Any:
    """Return the type of a column's part; None where nothing tells."""
    have = values.dropna()
    if not len(have):
        return None
    return np.dtype(bool) if pd.api.types.infer_dtype(have) == "boolean" else values.dtype


def _wider(one: Any, other: Any) -> Any:
    """Return the type of a column of which one part is read as one type, and one as another."""
    if one == other:
        return one
    numbers = all(np.issubdtype(kind, np.number) for kind in (one, other))
    return np.result_type(one, other) if numbers else np.dtype(object)


@dataclass(frozen=True)
class ParquetFile(TableFile):
    """A Parquet file that is read a part at a time."""

    path: Path

    @cached_property
    def _about(self) -> pq.FileMetaData:
        return pq.read_metadata(self.path)

    @cached_property
    def _groups(self) -> Int64s:
        """Number of each row group's first row, and the number of all rows last."""
        counts = [self._about.row_group(i).num_rows for i in range(self._about.num_row_groups)]
        return np.cumsum([0, *counts])

    @property
    def size(self) -> int:
        """Bytes that its values take, not compressed."""
        return sum(self._about.row_group(i).total_byte_size for i in range(self._about.num_row_groups))

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self._about.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._about.schema.to_arrow_schema().names)

    def column(self, name: str) -> pd.Series[Any]:
        """Return one column of all rows."""
        with pq.ParquetFile(self.path) as file:
            values: pd.Series[Any] = file.read(columns=[name]).column(name).to_pandas()
        return values

    def rows(self, first: int, end: int) -> Iterator[pd.DataFrame]:
        """Yield rows a batch at a time."""
        # not read_table, which adds columns for folders named key=value; a buffer would keep all that was read
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            if first >= end:
                yield unnested(file.schema_arrow.empty_table())
                return
            groups = [i for i in range(len(self._groups) - 1) if self._groups[i] < end and self._groups[i + 1] > first]
            place = int(self._groups[groups[0]])
            for batch in file.iter_batches(BATCH, row_groups=groups):
                low, high = max(first - place, 0), min(end - place, batch.num_rows)
                place += batch.num_rows
                if low < high:
                    yield unnested(pa.Table.from_batches([batch.slice(low, high - low)]))

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, Batches]]:
        """Yield pieces of whole row groups, but for the first and the last; they depend on these rows alone."""
        place, file = first, ParquetFile(self.path)  # without what this one has looked up, which would be sent along
        for bound in (int(group) for group in self._groups if group > first):
            if bound - place >= PIECE or bound >= end:
                yield place, partial(file.rows, place, min(bound, end))
                place = bound
            if bound >= end:
                return


def unnested(table: pa.Table) -> pd.DataFrame:
    """Return a table as a frame whose nested lists are one numpy array per cell."""
    frame: pd.DataFrame = table.to_pandas()
    frame = frame.reset_index(drop=all(name is None for name in frame.index.names))
    for field in table.schema:
        depth = _depth(field.type)
        if depth > 1:
            frame[field.name] = pd.Series([_dense(cell, depth) for cell in frame[field.name]], dtype=object)
    return frame


def _depth(kind: pa.DataType) -> int:
    """Return how many lists lie around a cell's values."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return 1 + _depth(kind.value_type) if lists else 0


def _dense(cell: Any, depth: int) -> Any:
    """Turn an array of arrays into one array; a ragged cell stays as it is, for a monitor to find."""
    if depth == 1 or cell is None:
        return cell
    try:
        return np.stack([_dense(part, depth - 1) for part in cell])
    except ValueError:
        return cell
