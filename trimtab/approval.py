"""Promotion by a person: what the gate proved waits until somebody approves it or rejects it, or until it expires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab import champion
from trimtab.closing import overtaken, recorded, settle
from trimtab.errors import InputError
from trimtab.history import PROPOSED, Round
from trimtab.parts import Parts

__all__ = ["approve", "expire", "reject"]

APPROVED = "approved"
"""Kind of a promotion that makes its version the anchor, too."""


def approve(parts: Parts, who: str, reason: str) -> Round:
    """Promote what waits since the newest round; its version becomes the anchor, which later ones are held against.

    Raises
    ------
    InputError
        When nothing waits, or another promotion came first (the proposal has ended then).
    ArtifactError
        When the version does not load; the champion is unchanged, and the proposal waits on.
    """
    champion.reconcile(parts)
    asked = _waiting(parts)
    closed = _settle(parts, asked, {"who": who, "reason": reason}, promote=True)
    if closed.outcome != "promoted":
        raise InputError(f"another promotion came before {asked.operation} was approved, and it was not promoted")
    return closed


def reject(parts: Parts, who: str, reason: str) -> Round:
    """End what waits since the newest round without promoting it.

    Raises
    ------
    InputError
        When nothing waits.
    """
    return _settle(parts, _waiting(parts), {"who": who, "reason": reason}, promote=False)


def expire(parts: Parts, window: int) -> None:
    """End a proposal that nobody answered in ``promotion.expires`` windows, now that ``window`` has closed.

    One that nobody can approve any more, since another promotion came first, is lost at once.
    """
    asked = parts.journal.waiting()
    expires = parts.project.promotion.expires
    if asked is None or asked.outcome != PROPOSED:
        return
    if overtaken(asked, parts.journal.promotions(None)):
        versions = (recorded(parts, asked, "decided") or {})["versions"]
        settle(parts, asked, versions, APPROVED, {}, {"reason": "another promotion came first"})
        return
    since = asked.detail.get("shadow", {}).get("closed", asked.window)
    if window - since > expires:
        _settle(parts, asked, {"who": None, "reason": f"nobody answered in {expires} windows"}, promote=False)


def _settle(parts: Parts, asked: Round, said: Mapping[str, Any], *, promote: bool) -> Round:
    """End what waited; on a target on which live windows refused it, nobody can approve it any more."""
    decided = recorded(parts, asked, "decided")
    if decided is None:
        raise InputError(f"{asked.operation} has no decision in the journal; ask for another round")
    refused = asked.detail.get("shadow", {}).get("refused", ())
    versions = {a: v for a, v in decided["versions"].items() if a not in refused} if promote else {}
    closed = settle(parts, asked, versions, APPROVED, said, {"approval": dict(said)})
    parts.journal.record("approval", {"round": asked.operation, "outcome": closed.outcome, **said})
    return closed


def _waiting(parts: Parts) -> Round:
    asked = parts.journal.waiting()
    if asked is None:
        last = next((r for r in reversed(parts.journal.rounds()) if r.state == "closed"), None)
        told = "no round has ended yet" if last is None else f"the last round ({last.operation}) is {last.outcome}"
        raise InputError(f"nothing waits for approval in {parts.project.name}: {told}; see trimtab status")
    return asked
