"""What flows tell Prefect of windows and rounds: events that others act on, and artifacts that people read.

Telling decides nothing: the journal has every word of it, and a Prefect that does not listen changes no result.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec
from uuid import NAMESPACE_DNS, UUID, uuid5

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.exceptions import PrefectException

from trimtab.errors import ServiceError
from trimtab.history import PROPOSED, SHADOW, Round
from trimtab.journal import Journal
from trimtab.loop import Report
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.trigger import Action

__all__ = [
    "DOCTOR",
    "DRIFT_DETECTED",
    "OPERATION",
    "ROUND_CLOSED",
    "ROUND_REQUESTED",
    "ask",
    "drift",
    "event_id",
    "found_at",
    "outcomes",
    "round_closed",
    "round_requested",
    "window_closed",
]

DRIFT_DETECTED = "trimtab.drift.detected"
ROUND_REQUESTED = "trimtab.round.requested"
ROUND_CLOSED = "trimtab.round.closed"
OPERATION = "trimtab.operation"
"""Label of a request's resource."""
DOCTOR = "doctor:"
"""Begins an operation that is no round."""
_WAITS = {
    PROPOSED: "**It waits for a person**: `trimtab promote CONFIG`, or `trimtab reject CONFIG`, each with `--reason`.",
    SHADOW: "**It is in shadow**: it answers beside the champion until live windows say whether it is promoted.",
}
NAMESPACE = uuid5(NAMESPACE_DNS, "trimtab.events")

P = ParamSpec("P")
logger = logging.getLogger(__name__)


def _only_told(function: Callable[P, None]) -> Callable[P, None]:
    """Let no failure to tell undo or hide what was done."""

    @wraps(function)
    def tell(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (httpx.HTTPError, PrefectException, ServiceError) as error:
            logger.warning("%s was not told: %s: %s", function.__name__, type(error).__name__, error)

    return tell


def event_id(project: str, what: str) -> UUID:
    """Return the id of the event that tells ``what``: told twice, it is one event.

    Examples
    --------
    >>> event_id("digits", "drift:5:integrity") == event_id("digits", "drift:5:integrity")
    True
    """
    return uuid5(NAMESPACE, f"{project}:{what}")


def found_at(journal: Journal, closed: int) -> list[Finding]:
    """Return what was found when window ``closed`` closed, also about earlier ones."""
    return [finding for tick, finding in journal.findings() if tick == closed]


def drift(parts: Parts, findings: Iterable[Finding]) -> None:
    """Emit ``trimtab.drift.detected`` for every finding that something moved or is worse."""
    for finding in findings:
        if finding.answer in (Answer.MOVED, Answer.WORSE):
            _emit(parts.project.name, DRIFT_DETECTED, f"drift:{finding.window}:{finding.monitor}", finding.to_json())


def round_requested(journal: Journal, asked: Round) -> None:
    """Emit ``trimtab.round.requested`` with the operation id under which the journal has the round."""
    scores = {f.monitor: f.to_json()["scores"] for f in found_at(journal, asked.window)}
    payload = {
        "operation": asked.operation,
        "window": asked.window,
        "cause": asked.cause,
        "reasons": list(asked.reasons),
        "scores": scores,
    }
    _request(journal.project, payload)


def ask(project: str, question: str) -> None:
    """Emit ``trimtab.round.requested`` for no round: what answers is the deployment that rounds are run by."""
    _request(project, {"operation": question})


def _request(name: str, payload: dict[str, Any]) -> None:
    """Emit ``trimtab.round.requested``, labelled with its operation: the deployment answers once for each."""
    operation = payload["operation"]
    _emit(name, ROUND_REQUESTED, f"requested:{operation}", payload, {OPERATION: operation})


def _emit(
    name: str, event: str, what: str, payload: dict[str, Any], labels: Mapping[str, str] = MappingProxyType({})
) -> None:
    emit_event(
        event,
        resource={"prefect.resource.id": f"trimtab.project.{name}", "prefect.resource.name": name, **labels},
        payload={"project": name} | payload,
        id=event_id(name, what),
    )


@_only_told
def window_closed(parts: Parts, report: Report) -> None:
    """Tell what a window's report says: its drift as events, and what was done about it as an artifact."""
    drift(parts, report.findings)
    decision = report.decision
    if decision is None or decision.action in (Action.IGNORE, Action.OPTIMIZE):
        return
    lines = [
        f"# Window {report.window}: {decision.action}",
        *_bullets("Because", decision.reasons),
        *_bullets("Found", [_found(f) for f in report.findings]),
        *_bullets("To mend", report.problems),
        *_links(parts, report.window),
    ]
    create_markdown_artifact("\n".join(lines), key=f"{parts.project.name}-decision")


def outcomes(journal: Journal) -> dict[str, str | None]:
    """Return the outcome that was last told of every round that was told of, by its operation."""
    return {told["round"]: told["outcome"] for _, _, told in journal.records("told")}


@_only_told
def round_closed(parts: Parts, operation: str) -> None:
    """Tell what became of a round: its candidates as a table, the decision as a page; nothing while it is open."""
    done = next(r for r in parts.journal.rounds() if r.operation == operation)
    became = {"round": operation, "outcome": done.outcome}
    if done.state != "closed" or not parts.journal.record("told", became, f"told:{operation}:{done.outcome}"):
        return  # or another flow run, which waited for the round as this one did, has told it
    told = {"operation": operation, "window": done.window, "cause": done.cause, "outcome": done.outcome}
    _emit(parts.project.name, ROUND_CLOSED, f"closed:{operation}:{done.outcome}", told)  # it may get another outcome
    name, candidates = parts.project.name, done.detail.get("candidates", [])
    if candidates:
        create_table_artifact(
            [_row(c) for c in candidates],
            key=f"{name}-candidates",
            description=f"Candidates of the round after window {done.window} ({done.cause}): {done.outcome}",
        )
    create_markdown_artifact("\n".join(_page(parts, done, candidates)), key=f"{name}-decision")


def _page(parts: Parts, done: Round, candidates: Sequence[dict[str, Any]]) -> list[str]:
    winner = next((c for c in candidates if c["won"]), None)
    champion, version = done.detail.get("champion"), done.detail.get("version")
    before = "" if champion is None else f", before it version {champion}"
    error = done.detail.get("error") or done.detail.get("reason")
    return [
        f"# Round after window {done.window}: {done.outcome}",
        "",
        f"Operation `{done.operation}`, cause {_plain(done.cause)}.",
        *_bullets("Because", done.reasons),
        *_bullets("Found", [_found(f) for f in found_at(parts.journal, done.window)]),
        *_bullets("Failed", [error] if error else []),
        *(["", _WAITS[done.outcome]] if done.outcome in _WAITS else []),
        *_bullets("On live windows", _lived(done)),
        *(
            []
            if winner is None or done.outcome != "promoted"
            else ["", f"Champion: version {version}, {_plain(winner['recipe'])}{before}."]
        ),
        *_bullets("Verdicts", [f"{c['recipe']}: {c['outcome']}; {'; '.join(c['reasons'])}" for c in candidates]),
        *_links(parts, done.window),
    ]


def _row(candidate: dict[str, Any]) -> dict[str, Any]:
    metrics = candidate["metrics"]
    return {
        "candidate": candidate["recipe"],
        "won": candidate["won"],
        "verdict": candidate["outcome"],
        **{name: metrics.get(name) for name in ("quality", "quality_low", "quality_high", "p50_ms", "p95_ms")},
        **{name: metrics.get(name) for name in ("speedup", "speedup_low", "speedup_high", "size_bytes")},
        "reasons": "; ".join(candidate["reasons"]),
    }


def _lived(done: Round) -> list[str]:
    """Say what live windows said of the winners, in shadow and on probation."""
    verdicts = done.detail.get("shadow", {}).get("verdicts", {})
    told = [f"{alias} in shadow: {v['outcome']}; {'; '.join(v['reasons'])}" for alias, v in verdicts.items()]
    return [*told, *([done.detail["rolled_back"]] if "rolled_back" in done.detail else [])]


def _found(finding: Finding) -> str:
    about = f"{finding.monitor} on window {finding.window}: {finding.answer}"
    return f"{about}; {'; '.join(finding.reasons)}" if finding.reasons else about


def _links(parts: Parts, window: int) -> list[str]:
    told = [d for _, _, d in parts.journal.records("report") if window in (d["window"], d["closed"])]
    pages = {d["window"]: Path(d["path"]) for d in told}
    places = [f"{title}: `{place}`" for title, place in parts.registry.links().items()]
    lines = [*places, *(f"report on window {n}: [{_plain(str(path))}]({path.as_uri()})" for n, path in pages.items())]
    return ["", "## More", "", *(f"- {line}" for line in lines)] if lines else []


def _bullets(title: str, items: Iterable[str]) -> list[str]:
    lines = [f"- {_plain(item)}" for item in items]
    return ["", f"## {title}", "", *lines] if lines else []


def _plain(text: str) -> str:
    r"""Return text that came with data so that a page shows it as it is.

    Examples
    --------
    >>> _plain("level <b> of a_b")
    'level \\<b\\> of a\\_b'
    """
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
