"""A round's labelled rows: gathered from windows, split by role, sealed in the journal, laid down once."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.artifact import fill_folder, read_json, write_json
from trimtab.data import FITTED, Data, Role, Rows, assign, group_keys, leaks
from trimtab.errors import DataError
from trimtab.parts import Parts, source_of
from trimtab.settings import Project
from trimtab.window import MISSING_LABEL, Schema, Window

__all__ = ["Prepared", "golden", "golden_rows", "prepare", "slug"]


@dataclass(frozen=True)
class Prepared:
    """A round's rows on disk.

    Parameters
    ----------
    folder
        Holds ``data/`` (arrays by role), ``reference.parquet``, ``fitted.npz`` and ``counts.json``.
    data
        Rows by role.
    counts
        Rows by role, rows left out as leaks, the windows they came from.
    """

    folder: Path
    data: Data
    counts: dict[str, Any]

    @property
    def reference(self) -> pd.DataFrame:
        """Held-back raw rows."""
        return pd.read_parquet(self.folder / "reference.parquet")

    @property
    def fitted(self) -> npt.NDArray[np.uint64]:
        """Groups of the rows that weights and ranges are fitted to."""
        with np.load(self.folder / "fitted.npz", allow_pickle=False) as file:
            return np.asarray(file["groups"])


def slug(operation: str) -> str:
    """Return an operation id as the name of a folder.

    Examples
    --------
    >>> slug("digits:round:6")
    'digits-round-6'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", operation)


def prepare(parts: Parts, operation: str, schema: Schema, newest: Sequence[int], older: Sequence[int] = ()) -> Prepared:
    """Gather the labelled rows of windows, give each its role, and seal the split.

    Parameters
    ----------
    operation
        What the rows are for; the same operation gets the same rows again.
    newest
        Windows whose rows are used in every role.
    older
        Windows of which only training rows are drawn, for replay.

    Raises
    ------
    DataError
        When no labelled row is left to train on.
    """
    folder = parts.folder / "rounds" / slug(operation) / "rows"
    if not folder.is_dir():
        with fill_folder(folder) as draft:
            _lay_down(parts, schema, newest, older, draft)
    data = Data.write(folder / "data", {})
    counts = read_json(folder / "counts.json")
    parts.journal.seal(operation, data.digest, counts)
    return Prepared(folder, data, counts)


def _lay_down(parts: Parts, schema: Schema, newest: Sequence[int], older: Sequence[int], folder: Path) -> None:
    frames, rows, roles = _gather(parts, schema, newest)
    if not (roles == Role.TRAIN).any():
        raise DataError(
            f"windows {list(newest)} hold no labelled training row; check source.label "
            f"({parts.project.source.label!r}), window.label_delay and data.split"
        )
    replayed = _replay(parts, schema, older, int((roles == Role.TRAIN).sum()))
    trained = rows if replayed is None else Rows.join([rows, replayed])
    leaked = leaks(trained, np.append(roles, [str(Role.TRAIN)] * (len(trained) - len(rows))))[: len(rows)]
    by_role = {role: rows.take((roles == role) & ~leaked) for role in Role}
    if replayed is not None:
        by_role[Role.TRAIN] = Rows.join([by_role[Role.TRAIN], replayed])
    Data.write(folder / "data", by_role)
    held_back = frames[~np.isin(roles, FITTED) & ~leaked]
    _thin(held_back, parts.project.data.reference_rows, parts.project.seed).pipe(_flat, schema).to_parquet(
        folder / "reference.parquet", index=False
    )
    fitted = np.concatenate([by_role[role].groups for role in FITTED])
    groups = fitted if schema.group is not None else np.zeros(0, np.uint64)
    np.savez(folder / "fitted.npz", groups=np.unique(groups))
    counts: dict[str, Any] = {str(role): len(r) for role, r in by_role.items()}
    counts |= {
        "leaked": int(leaked.sum()),
        "replayed": 0 if replayed is None else len(replayed),
        "windows": list(newest),
    }
    write_json(folder / "counts.json", counts)


def _gather(parts: Parts, schema: Schema, numbers: Sequence[int]) -> tuple[pd.DataFrame, Rows, npt.NDArray[np.str_]]:
    gathered = [_labelled(parts, schema, parts.window(n)) for n in numbers]
    frames = pd.concat([frame for frame, _, _ in gathered], ignore_index=True)
    return frames, Rows.join([rows for _, rows, _ in gathered]), np.concatenate([roles for _, _, roles in gathered])


def _labelled(parts: Parts, schema: Schema, window: Window) -> tuple[pd.DataFrame, Rows, npt.NDArray[np.str_]]:
    data = parts.project.data
    keys = group_keys(window.frame, schema, data.block, window.span.start)
    roles, groups = assign(keys, data.split.shares, parts.split_key)
    labels = schema.encode_labels(window.frame)
    have = labels != MISSING_LABEL
    frame = window.frame[have]
    return frame, Rows(schema.encode(frame), labels[have], groups[have]), roles[have]


def _replay(parts: Parts, schema: Schema, older: Sequence[int], training: int) -> Rows | None:
    share = parts.project.data.replay
    wanted = round(training * share / (1 - share))
    if not older or not wanted:
        return None
    _, rows, roles = _gather(parts, schema, older)
    pool = np.flatnonzero(roles == Role.TRAIN)
    rng = np.random.default_rng(parts.project.seed)
    return rows.take(np.sort(rng.choice(pool, size=min(wanted, len(pool)), replace=False)))


def _thin(frame: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    return frame if len(frame) <= most else frame.sample(most, random_state=seed).sort_index()


def _flat(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Flatten tensors to one list per cell, which Parquet keeps without pickling."""
    flat = {
        c.name: pd.Series([np.ravel(np.asarray(v, dtype=np.float32)) for v in frame[c.name]], index=frame.index)
        for c in schema.columns
        if c.dtype == "tensor"
    }
    return frame.assign(**flat)


def golden(parts: Parts, schema: Schema) -> Rows | None:
    """Return the rows that must never be forgotten; None where the project names none."""
    return golden_rows(parts.project, schema, parts.split_key)


def golden_rows(project: Project, schema: Schema, split_key: str) -> Rows | None:
    """Read the golden file, less the rows whose group is for fitting."""
    if project.data.golden is None:
        return None
    source = source_of(project, path=project.data.golden, every=sys.maxsize, start=0, timestamp=None)
    try:
        frame = source.read(1, 0).frame
    except DataError as error:
        raise DataError(f"data.golden: {error}") from error
    keys = group_keys(frame, schema, None, 0)
    roles, groups = assign(keys, project.data.split.shares, split_key)
    keep = ~np.isin(roles, FITTED) if schema.group is not None else np.ones(len(frame), dtype=bool)
    labels = schema.encode_labels(frame)
    keep &= labels != MISSING_LABEL
    return Rows(schema.encode(frame[keep]), labels[keep], groups[keep])
