"""A round's labelled rows: gathered from windows, split by role, sealed in the journal, laid down once."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.artifact import fill_folder, read_json, write_json
from trimtab.data import FITTED, Data, Role, Rows, assign, group_keys, leaks, segments_of
from trimtab.errors import DataError
from trimtab.journal import Journal
from trimtab.monitor import Answer
from trimtab.parts import Parts, source_of
from trimtab.sections import DataSettings
from trimtab.settings import Project
from trimtab.window import Schema, Window, arrived

__all__ = ["Prepared", "Selection", "golden", "golden_rows", "prepare", "slug", "stock", "training_windows"]

QUIET = 2
"""Windows in a row without an alarm that end a change."""


@dataclass(frozen=True)
class Selection:
    """Which windows a round's rows come from.

    Parameters
    ----------
    newest
        Windows whose rows are used in every role.
    older
        Share of the training rows that is used of each older window; their other rows are not.
    replayed
        Windows of which a few training rows are drawn, against forgetting.
    """

    newest: tuple[int, ...]
    older: Mapping[int, float] = field(default_factory=dict)
    replayed: tuple[int, ...] = ()

    def without(self, number: int) -> Selection:
        """Return the selection without one window."""
        newest, replayed = (tuple(n for n in part if n != number) for part in (self.newest, self.replayed))
        return Selection(newest, {n: share for n, share in self.older.items() if n != number}, replayed)


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

    @property
    def reference_groups(self) -> npt.NDArray[np.uint64]:
        """Group of each held-back row."""
        with np.load(self.folder / "fitted.npz", allow_pickle=False) as file:
            return np.asarray(file["reference"])


def slug(operation: str) -> str:
    """Return an operation id as the name of a folder.

    Examples
    --------
    >>> slug("digits:round:6")
    'digits-round-6'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", operation)


def training_windows(journal: Journal, settings: DataSettings, closed: int) -> Selection:
    """Return the labelled windows that a round works on, by ``data.train``.

    Parameters
    ----------
    closed
        The newest window that had closed when the round was asked for.
    """
    quarantined = journal.quarantined()
    labelled = sorted(n for n, labels in journal.labels().items() if labels.rows and 0 < n <= closed)
    usable = [0, *(n for n in labelled if n not in quarantined)]
    train = settings.train
    count = max(1, train.windows)
    if train.rule == "since change" and (since := _change(journal, closed)) is not None:
        count = max(1, sum(n >= since for n in usable))
    newest, older = usable[-count:], usable[:-count]
    if train.rule in ("last", "since change"):
        return Selection(tuple(newest), {}, tuple(older))
    return Selection(tuple(newest), {n: _share(train.rule, (usable[-1] - n) // count) for n in older})


def stock(journal: Journal, settings: DataSettings, closed: int) -> tuple[int, int]:
    """Count the labelled rows that a round would be made on now, and those of the last one; nothing is read.

    Rows that are replayed count in neither.

    Parameters
    ----------
    closed
        The newest window that has closed.

    Returns
    -------
    tuple of int
        Rows now, and rows of the last round, or of the first champion before any.
    """
    sealed = [_made_on(detail) for detail in journal.splits()]
    if not sealed:
        return 0, 0
    rows = {0: sealed[0]} | {n: labels.rows for n, labels in journal.labels().items()}
    chosen = training_windows(journal, settings, closed)
    older = sum(share * rows[n] * settings.split.train for n, share in chosen.older.items())
    return sum(rows[n] for n in chosen.newest) + round(older), sealed[-1]


def _made_on(counts: Mapping[str, Any]) -> int:
    """Return how many rows a sealed split is of, without those that are replayed."""
    return sum(int(counts[role]) for role in Role) + int(counts["leaked"]) - int(counts["replayed"])


def _share(rule: str, half_lives: int) -> float:
    return 1.0 if rule == "all" else 0.5**half_lives


def _change(journal: Journal, closed: int) -> int | None:
    """Return the window in which what the monitors last said began; None: nothing.

    Of the present champion's data; where they found those fine, of what was there before it: what it was trained
    on begins with that change, and rows from before it are no more like those that come.
    """
    quarantined = journal.quarantined()
    for version in dict.fromkeys(p.version for p in reversed(journal.promotions())):
        telling = [f for tick, f in journal.findings(version) if tick <= closed and f.window not in quarantined]
        alarms = sorted({f.window for f in telling if f.answer in (Answer.MOVED, Answer.WORSE)})
        if alarms:
            begins = [now for before, now in itertools.pairwise(alarms) if now - before > QUIET]
            return begins[-1] if begins else alarms[0]
    return None


def prepare(parts: Parts, operation: str, schema: Schema, windows: Selection) -> Prepared:
    """Gather the labelled rows of windows, give each its role, and seal the split.

    Parameters
    ----------
    operation
        What the rows are for; the same operation gets the same rows again.
    windows
        Where the rows come from.

    Raises
    ------
    DataError
        When no labelled row is left to train on.
    """
    folder = parts.folder / "rounds" / slug(operation) / "rows"
    if not folder.is_dir():
        with fill_folder(folder) as draft:
            _lay_down(parts, schema, windows, draft)
    data = Data.write(folder / "data", {})
    counts = read_json(folder / "counts.json")
    parts.journal.seal(operation, data.digest, counts)
    return Prepared(folder, data, counts)


def _lay_down(parts: Parts, schema: Schema, windows: Selection, folder: Path) -> None:
    if not len(parts.window(0).frame):
        windows = windows.without(0)
    frames, rows, roles = _gather(parts, schema, windows.newest)
    added = _only_trained(parts, schema, windows, rows.take(roles == Role.TRAIN))
    if not (roles == Role.TRAIN).any() and not any(map(len, added)):
        raise DataError(
            f"windows {[*windows.newest]} hold no labelled training row; check source.label "
            f"({parts.project.source.label!r}), window.label_delay and data.split"
        )
    trained = Rows.join([rows, *added])
    leaked = leaks(trained, np.append(roles, [str(Role.TRAIN)] * (len(trained) - len(rows))))[: len(rows)]
    by_role = {role: rows.take((roles == role) & ~leaked) for role in Role}
    by_role[Role.TRAIN] = Rows.join([by_role[Role.TRAIN], *added])
    Data.write(folder / "data", by_role)
    held_back = frames[~np.isin(roles, FITTED) & ~leaked]
    reference = _thin(held_back, parts.project.data.reference_rows, parts.project.seed)
    reference.pipe(_flat, schema).to_parquet(folder / "reference.parquet", index=False)
    fitted = np.concatenate([by_role[role].groups for role in FITTED])
    groups = fitted if schema.group is not None else np.zeros(0, np.uint64)
    np.savez(folder / "fitted.npz", groups=np.unique(groups), reference=rows.groups[reference.index])
    older, replayed = (len(part) for part in added)
    counts: dict[str, Any] = {str(role): len(r) for role, r in by_role.items()}
    counts |= {"leaked": int(leaked.sum()), "older": older, "replayed": replayed, "windows": [*windows.newest]}
    write_json(folder / "counts.json", counts)


def _gather(parts: Parts, schema: Schema, numbers: Sequence[int]) -> tuple[pd.DataFrame, Rows, npt.NDArray[np.str_]]:
    gathered = [_labelled(parts, schema, parts.window(n)) for n in numbers]
    frames = pd.concat([frame for frame, _, _ in gathered], ignore_index=True)
    return frames, Rows.join([rows for _, rows, _ in gathered]), np.concatenate([roles for _, _, roles in gathered])


def _labelled(parts: Parts, schema: Schema, window: Window) -> tuple[pd.DataFrame, Rows, npt.NDArray[np.str_]]:
    data = parts.project.data
    places = window.span.start + np.arange(len(window.frame))
    keys = group_keys(window.frame, schema, data.block, places)
    roles, groups = assign(keys, data.split.shares, parts.split_key)
    labels = schema.encode_labels(window.frame)
    have = arrived(labels)
    frame = window.frame[have]
    return frame, Rows(schema.encode(frame), labels[have], groups[have], segments_of(frame, data.segments)), roles[have]


def _only_trained(parts: Parts, schema: Schema, windows: Selection, newest: Rows) -> tuple[Rows, Rows]:
    """Return the training rows of older windows, and what is replayed beside these and the newest ones."""
    nothing = newest.take(np.zeros(0, dtype=np.int64))
    older = Rows.join([nothing, *(_aged(_training(parts, schema, [n]), s) for n, s in windows.older.items())])
    share = parts.project.data.replay
    wanted = round((len(newest) + len(older)) * share / (1 - share))
    if not windows.replayed or not wanted:
        return older, nothing
    pool = _training(parts, schema, windows.replayed)
    rng = np.random.default_rng(parts.project.seed)
    return older, pool.take(np.sort(rng.choice(len(pool), size=min(wanted, len(pool)), replace=False)))


def _training(parts: Parts, schema: Schema, numbers: Sequence[int]) -> Rows:
    _, rows, roles = _gather(parts, schema, numbers)
    return rows.take(roles == Role.TRAIN)


def _aged(rows: Rows, share: float) -> Rows:
    """Return a share of the rows, by their groups' hash: what is left out once stays out as the window ages.

    The roles follow from the hash's high bits; these are the low ones, which know nothing of those.
    """
    return rows.take((rows.groups & np.uint64(0xFFFFFFFF)).astype(np.float64) < share * 2**32)


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
    keys = group_keys(frame, schema, None, np.arange(len(frame)))
    roles, groups = assign(keys, project.data.split.shares, split_key)
    keep = ~np.isin(roles, FITTED) if schema.group is not None else np.ones(len(frame), dtype=bool)
    labels = schema.encode_labels(frame)
    keep &= arrived(labels)
    return Rows(schema.encode(frame[keep]), labels[keep], groups[keep])
