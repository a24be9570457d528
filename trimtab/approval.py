"""Promotion by a person: what the gate proved waits until somebody approves it or rejects it, or until it expires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab import champion
from trimtab.errors import InputError
from trimtab.history import PROPOSED, Round
from trimtab.lineage import with_promoted
from trimtab.parts import Parts
from trimtab.round import gained, promote_all, recorded
from trimtab.runtime import CHAMPION

__all__ = ["approve", "expire", "reject"]

APPROVED = "approved"
"""Kind of a promotion that makes its version the anchor, too."""


def approve(parts: Parts, who: str, reason: str) -> Round:
    """Promote what the newest round proposed; its version becomes the anchor, which later ones are held against.

    Raises
    ------
    InputError
        When nothing is proposed, or another promotion came first (the proposal has ended then).
    ArtifactError
        When the version does not load; the champion is unchanged, and the proposal waits on.
    """
    champion.reconcile(parts)
    asked = _proposed(parts)
    closed = _settle(parts, asked, {"who": who, "reason": reason}, promote=True)
    if closed.outcome != "promoted":
        raise InputError(f"another promotion came before {asked.operation} was approved, and it was not promoted")
    return closed


def reject(parts: Parts, who: str, reason: str) -> Round:
    """End what the newest round proposed without promoting it.

    Raises
    ------
    InputError
        When nothing is proposed.
    """
    return _settle(parts, _proposed(parts), {"who": who, "reason": reason}, promote=False)


def expire(parts: Parts, window: int) -> None:
    """End a proposal that nobody answered in ``promotion.expires`` windows, now that ``window`` has closed."""
    asked = parts.journal.proposed()
    expires = parts.project.promotion.expires
    if asked is not None and window - asked.window > expires:
        _settle(parts, asked, {"who": None, "reason": f"nobody answered in {expires} windows"}, promote=False)


def _proposed(parts: Parts) -> Round:
    asked = parts.journal.proposed()
    if asked is None:
        last = next((r for r in reversed(parts.journal.rounds()) if r.state == "closed"), None)
        told = "no round has ended yet" if last is None else f"the last round ({last.operation}) is {last.outcome}"
        raise InputError(f"nothing waits for approval in {parts.project.name}: {told}; see trimtab status")
    return asked


def _settle(parts: Parts, asked: Round, said: Mapping[str, Any], *, promote: bool) -> Round:
    """Close a proposal; one that was promoted before a process died is promoted, whatever is said now."""
    decided = recorded(parts, asked, "decided")
    if decided is None:
        raise InputError(f"{asked.operation} has no decision in the journal; ask for another round")
    versions = decided["versions"]
    begun = {p.alias for p in parts.journal.promotions(None) if asked.made(p)}
    moved = promote_all(parts, asked, versions, APPROVED, dict(said)) if promote or begun else []
    outcome = "promoted" if moved else "lost" if promote else "rejected"
    detail = with_promoted(decided["detail"], moved) | {"approval": dict(said)}
    if CHAMPION in moved:
        detail |= gained(parts, asked, detail["champion"], versions[CHAMPION])
    parts.journal.record("approval", {"round": asked.operation, "outcome": outcome, **said})
    parts.journal.settle_round(asked.operation, PROPOSED, outcome, detail)
    return next(r for r in parts.journal.rounds() if r.operation == asked.operation)
