"""Labelled rows of a round: split by keyed hash into roles, sealed, and laid down as files with a digest."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.artifact import fill_folder, sha256_folder
from trimtab.errors import ArtifactError, DataError
from trimtab.window import Arrays, Labels, Schema, missing_column

__all__ = ["Data", "Role", "Rows", "assign", "content", "leaks", "segments_of"]


TWINS = 0.5
"""Equal rows that a row may have by chance, at most, for two equal rows to count as one thing."""


class Role(StrEnum):
    """The one role that a labelled row has, for ever."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    SEARCH = "search"
    JUDGE = "judge"


FITTED = (Role.TRAIN, Role.CALIBRATION)
"""Roles that weights, or ranges of quantization, are fitted to: no model is watched or judged on them."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows.

    Parameters
    ----------
    inputs
        By name, ``[rows, ...]``.
    labels
        Class indices (int64 ``[rows]``) or, in a regression, numbers (float64 ``[rows]``).
    groups
        What each row is a picture of (uint64 ``[rows]``).
    segments
        Segments that each row belongs to, text ``column=value`` ``[rows, columns]``; None where the
        project names none.
    """

    inputs: Arrays
    labels: Labels
    groups: npt.NDArray[np.uint64]
    segments: npt.NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[Any]) -> Rows:
        """Return the rows at ``index`` (integers or a mask)."""
        segments = None if self.segments is None else self.segments[index]
        return Rows({k: v[index] for k, v in self.inputs.items()}, self.labels[index], self.groups[index], segments)

    @staticmethod
    def join(parts: Sequence[Rows]) -> Rows:
        """Return the rows of all ``parts``, one after the other."""
        segments = [p.segments for p in parts if p.segments is not None]
        return Rows(
            {k: np.concatenate([p.inputs[k] for p in parts]) for k in parts[0].inputs},
            np.concatenate([p.labels for p in parts]),
            np.concatenate([p.groups for p in parts]),
            np.concatenate(segments) if segments else None,
        )


@dataclass(frozen=True)
class Data:
    """A round's rows by role, as one ``.npz`` per role (no pickles) in a folder with a digest.

    Examples
    --------
    >>> import tempfile
    >>> rows = Rows({"x": np.zeros((2, 3), np.float32)}, np.array([0, 1]), np.array([7, 8], np.uint64))
    >>> data = Data.write(Path(tempfile.mkdtemp()) / "d", {Role.TRAIN: rows})
    >>> len(data.rows(Role.TRAIN)), len(data.rows(Role.JUDGE))
    (2, 0)
    """

    folder: Path
    digest: str

    @classmethod
    def write(cls, folder: Path, roles: Mapping[Role, Rows]) -> Data:
        """Lay the rows down in ``folder`` (whole or not at all)."""
        if not folder.is_dir():
            with fill_folder(folder) as draft:
                for role, rows in roles.items():
                    named: dict[str, Any] = {f"input.{k}": v for k, v in rows.inputs.items()}
                    named |= {} if rows.segments is None else {"segments": rows.segments}
                    np.savez(draft / f"{role}.npz", labels=rows.labels, groups=rows.groups, **named)
        return cls(folder, sha256_folder(folder))

    def rows(self, role: Role) -> Rows:
        """Return the rows of one role; none where the role was given none."""
        path = self.folder / f"{role}.npz"
        if not path.is_file():
            some = next((r for r in Role if (self.folder / f"{r}.npz").is_file()), None)
            if some is None:
                raise ArtifactError(f"{self.folder} holds no rows of any role; remove the folder and run again")
            return self.rows(some).take(np.zeros(0, dtype=np.int64))
        with np.load(path, allow_pickle=False) as file:
            inputs = {k.removeprefix("input."): file[k] for k in file.files if k.startswith("input.")}
            segments = file["segments"] if "segments" in file.files else None
            return Rows(inputs, file["labels"], file["groups"], segments)

    def first(self, most: int, *roles: Role) -> Rows:
        """Return the first rows of the first of some roles that has any.

        Raises
        ------
        DataError
            When none has.
        """
        for role in roles:
            rows = self.rows(role)
            if len(rows):
                return rows.take(np.arange(min(most, len(rows))))
        raise DataError(
            f"there is no row with the role {' or '.join(roles)}; raise data.split.calibration or data.split.train"
        )


def assign(
    keys: Sequence[object], shares: Mapping[Role, float], secret: str
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.uint64]]:
    """Give every group its role by a keyed hash, so that it keeps it in every round.

    Parameters
    ----------
    keys
        One group key per row.
    shares
        Share of the groups for each role; they sum to 1.
    secret
        The project's split key. Another key gives another split.

    Returns
    -------
    roles, groups
        Each row's role (text ``[rows]``) and the hash of its group (uint64 ``[rows]``).

    Examples
    --------
    >>> half = {Role.TRAIN: 0.5, Role.JUDGE: 0.5}
    >>> roles, groups = assign(["a", "b", "a"], half, "key")
    >>> bool(roles[0] == roles[2] and groups[0] == groups[2])
    True
    """
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        raise DataError(f"data.split sums to {sum(shares.values()):.3f}; the shares of all roles must sum to 1")
    codes = {key: _hash(key, secret) for key in set(keys)}
    groups = np.asarray([codes[key] for key in keys], dtype=np.uint64)
    names, edges = list(shares), np.cumsum(list(shares.values()))
    uniform = groups.astype(np.float64) / float(2**64)
    index = np.minimum(np.searchsorted(edges, uniform, side="right"), len(names) - 1)
    return np.asarray([str(n) for n in names])[index], groups


def _hash(key: object, secret: str) -> int:
    """Hash a key; 3, 3.0 and "3" are one group, whatever type the file at hand gave the column."""
    whole = isinstance(key, float) and key.is_integer()
    value = hmac.new(secret.encode(), str(int(key) if whole else key).encode(), hashlib.sha256).digest()  # type: ignore[call-overload]
    return int.from_bytes(value[:8], "big")


def content(inputs: Arrays, labels: Labels) -> npt.NDArray[np.uint64]:
    """Return a hash of each row's own values ``[rows]``, to find one row under two ids."""
    hashes = np.zeros(len(labels), dtype=np.uint64)
    parts = [np.ascontiguousarray(v) for v in inputs.values()]
    for row in range(len(labels)):
        sha = hashlib.blake2b(digest_size=8)
        for part in parts:
            sha.update(part[row].tobytes())
        hashes[row] = int.from_bytes(sha.digest(), "big")
    return hashes


def leaks(rows: Rows, roles: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Mark every row outside ``train`` whose group or whose very values also occur in ``train``.

    The split keeps one group in one role; what it cannot know is that the same thing came under two
    group ids. Rows that are equal to the last bit give that away, unless rows so poor that chance makes
    them equal (a table of a few categories): there equality says nothing, and groups alone count.

    Examples
    --------
    >>> x = np.array([[1.0, 5.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]], np.float32)
    >>> rows = Rows({"x": x}, np.array([0, 0, 1, 1]), np.array([1, 2, 3, 4], np.uint64))
    >>> leaks(rows, np.array(["train", "judge", "judge", "train"])).tolist()
    [False, True, False, False]
    """
    train = roles == Role.TRAIN
    known = np.isin(rows.groups, rows.groups[train])
    if chance_twins(rows.inputs) < TWINS:
        values = content(rows.inputs, rows.labels)
        known |= np.isin(values, values[train])
    return np.asarray(known & ~train)


def chance_twins(inputs: Arrays) -> float:
    """Return how many equal rows a row is expected to have by chance, were its values independent of each other.

    Examples
    --------
    >>> coins = np.random.default_rng(0).integers(0, 2, (100, 3)).astype(np.float32)
    >>> chance_twins({"numeric": coins}) > 10
    True
    >>> chance_twins({"numeric": np.random.default_rng(0).normal(size=(100, 3))}) < 0.01
    True
    """
    count = len(next(iter(inputs.values())))
    meet = 1.0
    for array in inputs.values():
        for values in array.reshape(count, -1).T:
            _, times = np.unique(values, return_counts=True)
            meet *= float((times * (times - 1)).sum()) / max(1, count * (count - 1))
            if meet * count < TWINS:
                return meet * count
    return meet * count


def group_keys(frame: pd.DataFrame, schema: Schema, block: int | None, places: npt.NDArray[np.int64]) -> list[object]:
    """Return one group key per row: its group, else its block of neighbours in time, else its id, else its number.

    Parameters
    ----------
    block
        Number of consecutive rows that share a role, where neighbours in time resemble each other.
    places
        Number of each row in the whole stream, int64 ``[rows]``.
    """
    if schema.group is not None:
        if schema.group not in frame:
            raise DataError(f"column {schema.group!r} (setting data.group) is not in the rows")
        return list(frame[schema.group].tolist())
    if block is not None:
        return [("block", place // block) for place in places.tolist()]
    if schema.id is not None and schema.id in frame:
        return list(frame[schema.id].tolist())
    return [("row", place) for place in places.tolist()]


def segments_of(frame: pd.DataFrame, columns: Sequence[str]) -> npt.NDArray[np.str_] | None:
    """Return the segments that each row belongs to, text ``column=value`` ``[rows, columns]``; None for no columns.

    Raises
    ------
    DataError
        When a column is not in the rows.

    Examples
    --------
    >>> segments_of(pd.DataFrame({"site": ["a", None], "shift": [1.0, 2.0]}), ["site", "shift"]).tolist()
    [['site=a', 'shift=1'], ['site=missing', 'shift=2']]
    """
    if not columns:
        return None
    for name in columns:
        if name not in frame:
            raise DataError(missing_column(name, "data.segments", frame))
    named = [[f"{name}={level}" for level in _levels(frame[name])] for name in columns]
    return np.asarray(named, dtype=np.str_).reshape(len(columns), len(frame)).T


def _levels(values: pd.Series[Any]) -> Iterator[str]:
    for value, gone in zip(values.tolist(), values.isna().tolist(), strict=True):
        yield "missing" if gone else _level(value)


def _level(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
