"""The champion: loading it with its reference, promoting, rolling back, and putting right what a crash left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.artifact import FLOAT, Model, read_json
from trimtab.data import assign, group_keys
from trimtab.errors import ArtifactError, InputError, ServiceError, TrimtabError
from trimtab.history import Promotion
from trimtab.monitor import Sample
from trimtab.parts import Parts
from trimtab.registry import CHALLENGER, PREVIOUS, beside
from trimtab.runtime import CHAMPION, Session, Setup
from trimtab.sections import DataSettings
from trimtab.serving import Serving
from trimtab.window import Schema

__all__ = ["groups_of", "load", "observe", "promote", "reconcile", "rollback", "trained_up_to", "unseen"]

BATCH = 256
DRAFT_SECONDS = 86400.0
EPOCH = "trimtab.epoch."
BACK = ("rollback", "repair")
"""Kinds of promotion that go back to an earlier champion."""


def load(parts: Parts, number: int) -> Serving:
    """Load a version, each file checked against its digest, and let it predict its reference.

    Raises
    ------
    ArtifactError
        When a file is missing or altered, or the model does not load or predict.
    """
    if number not in parts.loaded:
        package = parts.registry.fetch(number, parts.folder / "versions" / str(number))
        parts.loaded[number] = open_package(parts, number, package)
    return parts.loaded[number]


def open_package(parts: Parts, number: int, package: Path) -> Serving:
    """Load the files of one package."""
    schema = Schema.model_validate(read_json(package / "schema.json"))
    served = read_json(package / "serving.json")
    setup = Setup(served["runtime"], served["settings"])
    model = Model.at(package / "model", served["format"])
    session = parts.runtime(setup).load(model)
    with np.load(package / "fitted.npz", allow_pickle=False) as file:
        fitted, groups = file["groups"], file["reference"]
    reference = observe(session, schema, pd.read_parquet(package / "reference.parquet"), 0, groups)
    if reference.outputs is None or not np.isfinite(reference.outputs).all():
        raise ArtifactError(f"version {number} predicts values that are not numbers on its own reference")
    parent = Model.at(package / "parent", served.get("parent", FLOAT))  # older packages do not say
    lean = Model.at(package / "lean", parent.format) if (package / "lean").is_dir() else parent
    return Serving(number, package, model, schema, setup, session, parent, lean, reference, fitted)


def observe(
    session: Session,
    schema: Schema,
    frame: pd.DataFrame,
    number: int,
    groups: npt.NDArray[np.uint64] | None = None,
) -> Sample:
    """Return rows as a monitor sees them, with the model's output on each."""
    inputs = schema.encode(frame)
    parts = [session.run({k: v[i : i + BATCH] for k, v in inputs.items()}) for i in range(0, max(1, len(frame)), BATCH)]
    joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return Sample(
        schema=schema,
        frame=frame,
        number=number,
        inputs=inputs,
        probabilities=joined.get("probabilities"),
        predictions=joined.get("predictions"),
        embedding=joined.get("embedding"),
        labels=schema.encode_labels(frame),
        groups=groups,
    )


def groups_of(
    parts: Parts, serving: Serving, frame: pd.DataFrame, places: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """Return the group of each row; ``places`` are their numbers in the stream (int64 ``[rows]``)."""
    keys = group_keys(frame, serving.schema, parts.project.data.block, places)
    return assign(keys, parts.project.data.split.shares, parts.split_key)[1]


@dataclass(frozen=True)
class Unseen:
    """Marks the rows whose group a version and its ancestors were never fitted to.

    A model is over-confident on what it was fitted to, so that such rows would make every quiet
    window look moved and every model look good.

    Parameters
    ----------
    schema
        Of the rows.
    data
        Says what a group is, and the shares of the roles.
    split_key
        Under which groups are hashed.
    fitted
        Groups that the version and its ancestors were fitted to.
    start
        Number of the window's first row.
    """

    schema: Schema
    data: DataSettings
    split_key: str
    fitted: npt.NDArray[np.uint64]
    start: int

    def __call__(self, batch: pd.DataFrame, places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Mark rows of a batch; ``places`` are theirs in the window (int64 ``[rows]``)."""
        keys = group_keys(batch, self.schema, self.data.block, self.start + places)
        _, groups = assign(keys, self.data.split.shares, self.split_key)
        return ~np.isin(groups, self.fitted)


def unseen(parts: Parts, serving: Serving, start: int) -> Unseen:
    """Return what marks the rows of a window, which begins at row ``start``, that a version was not fitted to."""
    return Unseen(serving.schema, parts.project.data, parts.split_key, serving.fitted, start)


def trained_up_to(parts: Parts) -> int:
    """Return the last window on whose labels the present champion may have been trained."""
    rounds = [r.window for r in parts.journal.rounds() if r.cause != "first" and r.outcome == "promoted"]
    return max(rounds, default=0) - parts.project.window.label_delay


def anchor(promotions: list[Promotion]) -> int:
    """Return the version that a person approved last, of those not rolled back; at first the first champion.

    The oldest that is known where a journal was rebuilt from a registry that lost the first.
    """
    standing = succession(promotions)
    approved = (p.version for p in reversed(promotions) if p.kind in ("first", "approved") and p.version in standing)
    return next(approved, standing[0])


def promote(
    parts: Parts,
    operation: str,
    version: int,
    after: int,
    kind: str,
    detail: Mapping[str, Any],
    alias: str = CHAMPION,
) -> Promotion | None:
    """Make a version champion: it is loaded first, then the journal's epoch is taken, then the alias follows.

    Parameters
    ----------
    after
        The project's newest epoch when this was decided.
    alias
        Of the target on which it becomes champion.

    Returns
    -------
    Promotion or None
        None when another promotion came first; the champion is then the other's. What another process promotes
        by the same operation at the same moment is no other.

    Raises
    ------
    ArtifactError
        When the version does not load; nothing was changed.
    """
    load(parts, version)
    promotion = parts.journal.promote(operation, version, after, kind, detail, alias) or _made(parts, operation)
    if promotion is not None:
        project_aliases(parts, alias)
    return promotion


def _made(parts: Parts, operation: str) -> Promotion | None:
    return next((p for p in parts.journal.promotions(None) if p.operation == operation), None)


def rollback(parts: Parts, operation: str, reason: str, alias: str = CHAMPION, who: str | None = None) -> Promotion:
    """Make the champion's newest predecessor that loads champion again, on one target.

    A second rollback goes one further back. The same operation changes nothing a second time.

    Parameters
    ----------
    reason, who
        For the record; None: no person asked for it.

    Raises
    ------
    InputError
        When there is none, or another promotion came first.
    """
    if (done := _made(parts, operation)) is not None:
        return done
    epoch, detail = newest_epoch(parts), {"reason": reason} | ({} if who is None else {"who": who})
    versions = succession(parts.journal.promotions(alias))
    for earlier in (v for v in reversed(versions[:-1]) if v != versions[-1]):
        try:
            promotion = promote(parts, operation, earlier, epoch, "rollback", detail, alias)
        except ServiceError:
            raise
        except TrimtabError as error:
            parts.journal.record("error", {"version": earlier, "message": str(error)})
            continue
        if promotion is None:
            raise InputError("another promotion came first, and nothing was rolled back; look at the status, ask again")
        return promotion
    raise InputError(f"there is no earlier {alias} to roll back to")


def newest_epoch(parts: Parts) -> int:
    """Return the number of the project's last promotion on any target; 0 before the first."""
    return max((p.epoch for p in parts.journal.promotions(None)), default=0)


def succession(promotions: Sequence[Promotion]) -> list[int]:
    """Return the versions from the first champion to the present one, without those that were rolled back.

    Parameters
    ----------
    promotions
        On one target, oldest first.

    Examples
    --------
    >>> kinds = [(1, "first"), (2, "promote"), (3, "promote"), (2, "rollback"), (1, "rollback")]
    >>> told = [Promotion(epoch, version, "", kind, {}, "") for epoch, (version, kind) in enumerate(kinds)]
    >>> succession(told[:3]), succession(told[:4]), succession(told)
    ([1, 2, 3], [1, 2], [1])
    """
    versions: list[int] = []
    for promotion in promotions:
        if promotion.kind in BACK and promotion.version in versions:
            versions = versions[: versions.index(promotion.version)]
        if versions[-1:] != [promotion.version]:
            versions.append(promotion.version)
    return versions


def project_aliases(parts: Parts, alias: str) -> None:
    """Make the registry's aliases on one target say what the journal says; setting them again changes nothing."""
    promotions = parts.journal.promotions(alias)
    challenger = beside(alias, CHALLENGER)
    earlier = succession(promotions)[:-1]
    wanted = {alias: promotions[-1].version, beside(alias, PREVIOUS): earlier[-1] if earlier else None}
    if parts.registry.alias(challenger) == promotions[-1].version:
        wanted[challenger] = None
    for name, number in wanted.items():
        if parts.registry.alias(name) != number:
            parts.registry.set_alias(name, number)
    last = promotions[-1]
    parts.registry.tag_version(last.version, {f"{EPOCH}{last.epoch}": f"{last.kind}:{alias}"})


def reconcile(parts: Parts) -> Serving | None:
    """Put right what a crash or a stranger's hand left, and return the champion, or None before the first.

    On every target the champion is the newest version that loads, of those that were not rolled back and
    only then of those that were; the aliases follow. A target that the project gained since begins with
    the champion of the first one. A journal that was lost is rebuilt from the registry's tags.
    """
    parts.registry.ready()
    _sweep(parts)
    _remember(parts)
    if not parts.journal.promotions():
        return None
    serving = _put_right(parts, CHAMPION)
    if any(r.cause == "first" and r.state != "closed" for r in parts.journal.rounds()):
        return serving  # a crash in between: the other targets' first champions are still to come
    for alias in parts.project.aliases:
        if alias != CHAMPION:
            if not parts.journal.promotions(alias):
                operation = f"{parts.project.name}:first:{alias}"
                parts.journal.promote(operation, serving.version, newest_epoch(parts), "first", {}, alias)
            _put_right(parts, alias)
    return serving


def _put_right(parts: Parts, alias: str) -> Serving:
    promotions = parts.journal.promotions(alias)
    standing = reversed(succession(promotions))
    for version in dict.fromkeys([*standing, *(p.version for p in reversed(promotions))]):
        try:
            serving = load(parts, version)
            break
        except ArtifactError as error:
            parts.journal.record("error", {"version": version, "message": str(error)})
    else:
        raise ArtifactError(
            f"none of the versions {sorted({p.version for p in promotions})} loads; restore the artifact store"
        )
    if version != promotions[-1].version:
        operation = f"{parts.project.name}:repair:{promotions[-1].epoch}"
        detail = {"reason": f"version {promotions[-1].version} does not load"}
        parts.journal.promote(operation, version, newest_epoch(parts), "repair", detail, alias)
    if parts.registry.alias(alias) != serving.version:
        parts.journal.record("repair", {"alias": alias, "version": serving.version})
    project_aliases(parts, alias)
    return serving


def _sweep(parts: Parts) -> None:
    """Remove drafts that a crash left; a young one may be another process's, at work right now."""
    places = [parts.folder] if parts.store is None else [parts.folder, parts.store]
    for draft in (draft for place in places for draft in place.glob("*/.*")):
        if draft.is_dir() and time.time() - draft.stat().st_mtime > DRAFT_SECONDS:
            shutil.rmtree(draft, ignore_errors=True)


def _remember(parts: Parts) -> None:
    """Rebuild promotions that this journal does not know from the registry's tags."""
    if parts.journal.promotions():
        return
    why = {"rebuilt": "from the registry"}
    promotions = [
        # under no operation of a round's: one that is asked for again would take the promotion for its own
        Promotion(int(tag.removeprefix(EPOCH)), v.number, f"rebuilt:{tag}:{v.operation}", kind, why, "", alias)
        for v in parts.registry.versions()
        for tag, value in v.tags.items()
        if tag.startswith(EPOCH)
        for kind, alias in [value.split(":", 1)]
    ]
    if promotions:
        parts.journal.restore(promotions)
        epochs = sorted(p.epoch for p in promotions)
        parts.journal.record("repair", {"journal": "rebuilt from the registry", "epochs": epochs})
