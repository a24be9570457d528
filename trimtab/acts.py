"""What people did, and whoever acts in their place: asked, released, acknowledged, promoted, rejected, rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trimtab.journal import Journal

__all__ = ["acts"]


def acts(journal: Journal) -> list[dict[str, Any]]:
    """Return every act of somebody who has a name, oldest first, as JSON values.

    Returns
    -------
    list of dict
        Each with ``at``, ``who``, ``act`` (a verb), ``what``, ``reason`` and the ``window`` that it is about: of a
        round the one after which it was asked for; None of a rollback.

    Examples
    --------
    >>> journal = Journal("sqlite://", "p")
    >>> journal.begin("{}", "key")
    >>> journal.release(3, "ada", "the sensor was mended")
    >>> [(act["who"], act["act"], act["what"]) for act in acts(journal)]
    [('ada', 'released', 'window 3')]
    """
    return sorted((act for act in (*_recorded(journal), *_rollbacks(journal)) if act["who"]), key=lambda a: a["at"])


def _recorded(journal: Journal) -> Iterator[dict[str, Any]]:
    rounds = {r.operation: r for r in journal.rounds()}
    for at, kind, told in journal.records():
        who, reason = told.get("who"), told.get("reason", "")
        if kind == "asked":
            asked = rounds[told["round"]]
            yield _act(at, who, "asked for", asked.operation, "; ".join(asked.reasons), asked.window)
        elif kind == "release":
            yield _act(at, who, "released", f"window {told['window']}", reason, told["window"])
        elif kind == "backfill":
            yield _act(at, who, "looked again at", f"window {told['window']}", told["did"], told["window"])
        elif kind == "ack":
            alarm = ":".join(filter(None, [told["monitor"], told["statistic"]]))
            what = f"{alarm} up to window {told['until']}"
            yield _act(at, who, "acknowledged", what, told["expected"], told["until"])
        elif kind == "approval":
            verb = "approved" if told["outcome"] == "lost" else told["outcome"]
            yield _act(at, who, verb, f"what {told['round']} proposed", reason, rounds[told["round"]].window)


def _rollbacks(journal: Journal) -> Iterator[dict[str, Any]]:
    for p in journal.promotions(None):
        if p.kind == "rollback":
            what = f"{p.alias} to version {p.version}"
            yield _act(p.at, p.detail.get("who"), "rolled back", what, p.detail.get("reason", ""), None)


def _act(at: str, who: str | None, act: str, what: str, reason: str, window: int | None) -> dict[str, Any]:
    return {"at": at, "who": who, "act": act, "what": what, "reason": reason, "window": window}
