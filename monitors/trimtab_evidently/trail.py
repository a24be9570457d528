"""Rows in their order: what tells a file that was delivered twice, a clock that stands still, a sensor that froze."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.monitor import Summary
from trimtab.window import Column, Schema
from trimtab_evidently.cells import hashes, instants, occurs_once

__all__ = ["Trail", "followed", "trail"]

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no power of it is 0 modulo 2 ** 64
SIZE = 2**64
HALF = 2**32
LOWEST = 1 << 12
"""Hashes among which the lowest different ones are looked for first."""


@dataclass(frozen=True)
class Trail:
    """What is kept of rows in their order.

    Parameters
    ----------
    rows
        How many.
    digest
        Of all features of all rows, in order: a polynomial over the rows' hashes modulo 2 ** 64, so that the
        digest of two batches follows from theirs (Karp and Rabin 1987).
    different
        The lowest hashes of rows that differ, ascending; no more than are asked for.
    first, last
        Hash of each followed column's first and last value that is not missing ``[columns]``.
    values, changes
        Of each column, how many values are not missing, and how many differ from the one before ``[columns]``.
    newest
        The latest timestamp, as a number; NaN where there is none.

    Examples
    --------
    >>> from trimtab.window import Feature
    >>> frame = pd.DataFrame({"x": [1.0, 2.0, 2.0, 4.0]})
    >>> schema = Schema.freeze({"x": Feature()}, frame)
    >>> whole = trail(schema, frame, 20)
    >>> both = trail(schema, frame[:1], 20).add(trail(schema, frame[1:], 20), 20)
    >>> both.digest == whole.digest, both.changes.tolist(), len(both.different)
    (True, [2], 3)
    """

    rows: int
    digest: int
    different: Hashes
    first: Hashes
    last: Hashes
    values: Counts
    changes: Counts
    newest: float

    def add(self, other: Trail, most: int) -> Trail:
        """Return that of two batches, this one before the other; at most ``most`` different rows are kept."""
        here, there = self.values > 0, other.values > 0
        return Trail(
            self.rows + other.rows,
            (self.digest * pow(MULTIPLIER, other.rows, SIZE) + other.digest) % SIZE,
            np.union1d(self.different, other.different)[:most],
            np.where(here, self.first, other.first),
            np.where(there, other.last, self.last),
            self.values + other.values,
            self.changes + other.changes + (here & there & (self.last != other.first)),
            float(np.fmax(self.newest, other.newest)),
        )

    @property
    def identity(self) -> list[float]:
        """What two windows have in common when their rows are the same: the digest in parts that floats hold."""
        return [float(self.rows), float(self.digest // HALF), float(self.digest % HALF)]

    def change(self, column: int) -> float:
        """Return how often a value of a column differs from the one before, 0 to 1; NaN below two values."""
        pairs = int(self.values[column]) - 1
        return int(self.changes[column]) / pairs if pairs > 0 else math.nan

    def pack(self) -> Summary:
        """Return it as arrays."""
        return {
            "trail.counts": np.array([self.rows, self.digest], dtype=np.uint64),
            "trail.different": self.different,
            "trail.ends": np.stack([self.first, self.last]),
            "trail.values": np.stack([self.values, self.changes]),
            "trail.newest": np.array([self.newest]),
        }

    @classmethod
    def unpack(cls, summary: Summary) -> Trail:
        """Read back what :meth:`pack` gave."""
        rows, digest = (int(n) for n in summary["trail.counts"])
        (first, last), (values, changes) = summary["trail.ends"], summary["trail.values"]
        newest = float(summary["trail.newest"][0])
        return cls(rows, digest, summary["trail.different"], first, last, values, changes, newest)


def followed(schema: Schema) -> list[str]:
    """Return the columns whose changes are counted: the features, and the timestamp."""
    return list(dict.fromkeys([*schema.names, *([schema.timestamp] if schema.timestamp is not None else [])]))


def trail(schema: Schema, frame: pd.DataFrame, most: int) -> Trail:
    """Follow a batch of raw rows; a column that is not there, or twice, plays no part.

    Parameters
    ----------
    most
        Different rows that are kept.
    """
    columns, rows = {c.name: c for c in schema.columns}, np.zeros(len(frame), dtype=np.uint64)
    ends: list[tuple[np.uint64, np.uint64, int, int]] = []
    newest = math.nan
    for name in followed(schema):
        found = _hashed(columns.get(name), name, frame)
        if name in columns:
            rows = rows * np.uint64(MULTIPLIER) + found
        ends.append(_ends(found[found != 0]))
    if schema.timestamp is not None and occurs_once(schema.timestamp, frame):
        times = instants(frame[schema.timestamp])
        newest = float(np.fmax.reduce(times, initial=np.nan))
    first, last, values, changes = zip(*ends, strict=True) if ends else ((), (), (), ())
    return Trail(
        len(frame),
        _digest(rows),
        _lowest(rows, most),
        np.array(first, dtype=np.uint64),
        np.array(last, dtype=np.uint64),
        np.array(values, dtype=np.int64),
        np.array(changes, dtype=np.int64),
        newest,
    )


def _hashed(column: Column | None, name: str, frame: pd.DataFrame) -> Hashes:
    """Return a number for each of a column's cells, 0 where it is missing or cannot be read."""
    if occurs_once(name, frame):
        try:
            if column is None:
                return hashes(pd.Series(instants(frame[name])), "number")
            return hashes(frame[name], column.dtype)
        except (TypeError, ValueError, OverflowError):  # such values are told by their type
            pass
    return np.zeros(len(frame), dtype=np.uint64)


def _ends(found: Hashes) -> tuple[np.uint64, np.uint64, int, int]:
    if not len(found):
        return np.uint64(0), np.uint64(0), 0, 0
    return found[0], found[-1], len(found), int((found[1:] != found[:-1]).sum())


def _digest(rows: Hashes) -> int:
    weights = np.ones(len(rows), dtype=np.uint64)
    weights[1:] = np.cumprod(np.full(max(0, len(rows) - 1), MULTIPLIER, dtype=np.uint64))
    return int((rows * weights[::-1]).sum(dtype=np.uint64))


def _lowest(rows: Hashes, most: int) -> Hashes:
    """Return the lowest different hashes; sorting all is needed only where few rows differ."""
    if len(rows) > LOWEST:
        low = np.unique(np.partition(rows, LOWEST - 1)[:LOWEST])
        if len(low) >= most:
            return low[:most]
    return np.unique(rows)[:most]
