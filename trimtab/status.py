"""What the journal and the registry know of a project, as plain values: for status, tables, metrics and flows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trimtab.acts import acts
from trimtab.errors import TrimtabError
from trimtab.history import PROPOSED, SHADOW, Promotion, Quality, Round, degraded
from trimtab.journal import Journal
from trimtab.monitor import Answer, Finding
from trimtab.registry import CHALLENGER, PREVIOUS, Registry, beside
from trimtab.runtime import CHAMPION

__all__ = ["describe", "gained", "mean_quality", "seconds_by_round", "waiting", "window_rows"]


def describe(journal: Journal, registry: Registry | None) -> dict[str, Any]:
    """Return everything worth telling as JSON values.

    Parameters
    ----------
    registry
        Asked for aliases and versions; a silent one is told as ``registry_up: false``.
    """
    promotions, rounds = journal.promotions(), [r for r in journal.rounds() if r.cause != "first"]
    asked = waiting(journal) or _approval(journal)
    return {
        "project": journal.project,
        "metric": _metric(journal),
        "state": state(rounds, bool(promotions), asked is not None),
        "waiting": asked,
        "rollout": rollout(journal),
        "champion": promotions[-1].version if promotions else None,
        "epoch": max((p.epoch for p in journal.promotions(None)), default=0),
        "windows": window_rows(journal),
        "rounds": [_round(r) for r in rounds],
        "targets": _targets(journal.promotions(None)),
        "promotions": [
            {"epoch": p.epoch, "version": p.version, "kind": p.kind, "operation": p.operation, "at": p.at}
            for p in promotions
        ],
        "quality": mean_quality(journal),
        "gained": gained(journal),
        "reports": [dict(detail) for _, _, detail in journal.records("report")],
        "acts": acts(journal),
        "errors": [{"at": at, **detail} for at, _, detail in journal.records("error")],
        **_registry(registry, _targets(journal.promotions(None))),
    }


def _metric(journal: Journal) -> str:
    """Return the name of the project's metric, whatever its settings."""
    named = json.loads(journal.config())["model"]["metric"]
    return str(named if isinstance(named, str) else next(iter(named)))


def _targets(promotions: Sequence[Promotion]) -> dict[str, int]:
    """Return the version that serves on each target, by the alias of the target's champion."""
    return {p.alias: p.version for p in promotions}


def _approval(journal: Journal) -> str | None:
    """Return what waits for a person's approval; None: nothing does."""
    asked = journal.waiting()
    return asked.waits if asked is not None and asked.outcome == PROPOSED else None


def rollout(journal: Journal) -> str | None:
    """Say what is in shadow or on probation; None where nothing is."""
    asked = journal.waiting()
    if asked is not None and asked.outcome == SHADOW:
        return asked.waits
    settings = json.loads(journal.config()).get("rollout", {})
    promotions, most = journal.promotions(), settings.get("probation", 0)
    made = next((r for r in journal.rounds() if promotions and r.cause != "first" and r.made(promotions[-1])), None)
    about = None if made is None else {"round": made.operation, "alias": CHAMPION}
    looks = [d["windows"] for _, _, d in journal.records("probation") if about and about.items() <= d.items()]
    judged = max(map(len, looks), default=0)
    if made is None or judged >= most:
        return None
    return f"version {promotions[-1].version} is on probation: {judged} of {most} windows are judged"


def waiting(journal: Journal) -> str | None:
    """Return what a person is asked for since the same is broken in window after window; None: nothing is."""
    windows = journal.windows()
    if not windows or windows[-1].number not in journal.quarantined():
        return None
    records = [detail for _, _, detail in journal.records("quarantine") if detail["window"] == windows[-1].number]
    return next((str(detail["reasons"][0]) for detail in records if detail.get("asks")), None)


def state(rounds: Sequence[Round], begun: bool, waiting: bool = False) -> str:
    """Return ``new``, ``optimizing``, ``serving``, ``degraded``, or ``waiting`` for a person.

    Degraded: the champion is worse and nothing won.
    """
    if any(r.state != "closed" for r in rounds):
        return "optimizing"
    if degraded(rounds):
        return "degraded"
    if waiting:
        return "waiting"
    return "serving" if begun else "new"


def _registry(registry: Registry | None, targets: Collection[str]) -> dict[str, Any]:
    if registry is None:
        return {"registry_up": None, "aliases": {}, "versions": []}
    try:
        registry.ready()
        names = [beside(alias, word) for alias in targets or [CHAMPION] for word in (CHAMPION, PREVIOUS, CHALLENGER)]
        return {
            "registry_up": True,
            "aliases": {a: n for a in names if (n := registry.alias(a)) is not None},
            "versions": [
                {"version": v.number, "files": dict(v.digests), "tags": dict(v.tags)} for v in registry.versions()
            ],
            "links": dict(registry.links()),
        }
    except TrimtabError as error:
        return {"registry_up": False, "aliases": {}, "versions": [], "registry_error": str(error)}


DETAIL = (
    *("candidates", "targets", "spared", "untrained", "rows"),
    *("version", "champion", "error", "shadow", "rolled_back"),
)
"""What a closed round's record says beside its outcome."""


def _round(asked: Round) -> dict[str, Any]:
    return {
        "operation": asked.operation,
        "window": asked.window,
        "cause": asked.cause,
        "reasons": list(asked.reasons),
        "state": asked.state,
        "outcome": asked.outcome,
        "requested": asked.requested,
        "closed": asked.closed,
        **{k: asked.detail[k] for k in DETAIL if k in asked.detail},
    }


def window_rows(journal: Journal) -> list[dict[str, Any]]:
    """Return one row a window: what was found when it closed, what was decided, who served, how well."""
    found: dict[int, list[Finding]] = {}
    for tick, finding in journal.findings():
        found.setdefault(tick, []).append(finding)
    qualities = {(q.window, q.version): q for q in journal.qualities()}
    released = journal.released()
    rows = []
    for w in journal.windows():
        quality = qualities.get((w.number, w.champion or 0))
        rows.append(
            {
                "window": w.number,
                "start": w.start,
                "end": w.end,
                "rows": w.rows,
                "finding": _worst(found.get(w.number, [])),
                "findings": [f.to_json() for f in found.get(w.number, [])],
                "decision": w.action.value if w.action is not None else None,
                "reasons": list(w.reasons),
                "released": released.get(w.number),
                "champion": w.champion,
                "quality": None if quality is None or not quality.told else quality.value,
                "labelled_rows": 0 if quality is None else quality.rows,
                "at": w.at,
            }
        )
    return rows


def _worst(findings: Sequence[Finding]) -> str:
    """Return the worst answer; ``unknown`` of one monitor does not hide that the others are fine."""
    answers = {f.answer for f in findings}
    order = (Answer.BROKEN, Answer.WORSE, Answer.SLOWER, Answer.MOVED, Answer.FINE, Answer.UNKNOWN)
    return next((a.value for a in order if a in answers), Answer.UNKNOWN.value)


def mean_quality(journal: Journal) -> dict[str, float | int | None]:
    """Return the mean quality over windows of the champions that served, and of the first had it stayed.

    Windows count by their rows: of those that a champion was trained on only the others are judged, and these
    are the windows in which it was worst.
    """
    promotions = journal.promotions()
    by_key = {(q.window, q.version): q for q in journal.qualities() if q.told}
    pairs = []
    for w in journal.windows():
        told = [by_key.get((w.number, version)) for version in (w.champion or 0, promotions[0].version)]
        weighed = [dataclasses.replace(quality, rows=w.rows) for quality in told if quality is not None]
        if len(weighed) == 2:
            pairs.append(weighed)
    return {
        "windows": len(pairs),
        "served": _mean([served for served, _ in pairs]),
        "never_replaced": _mean([never for _, never in pairs]),
    }


def gained(journal: Journal) -> Mapping[str, Any] | None:
    """Return what the present champion gained over the first, on the labelled windows that it served since."""
    promotions = journal.promotions()
    if len(promotions) < 2 or promotions[-1].version == promotions[0].version:
        return None
    first, last = promotions[0].version, promotions[-1].version
    asked = next((r for r in journal.rounds() if r.operation == promotions[-1].operation), None)
    closed = asked.window if asked is not None else 0
    after = {q.window for q in journal.qualities() if q.version == last and q.window > closed}
    qualities = [q for q in journal.qualities() if q.window in after and q.told]
    told = {version: [q for q in qualities if q.version == version] for version in (first, last)}
    return {
        "first": first,
        "champion": last,
        "windows": sorted(after),
        "rows": sum(q.rows for q in told[last]),
        "quality_before": _mean(told[first]),
        "quality_after": _mean(told[last]),
        **(asked.detail.get("against_first", {}) if asked is not None else {}),
    }


def seconds_by_round(journal: Journal) -> dict[str, float]:
    """Return the seconds of building and measuring that each round took, by its operation."""
    spent: dict[str, float] = {}
    for kind in ("step", "measured"):
        for _, _, detail in journal.records(kind):
            spent[detail["round"]] = spent.get(detail["round"], 0.0) + float(detail["seconds"])
    return spent


def _mean(qualities: Sequence[Quality]) -> float | None:
    """Return the mean value, windows counting by their rows; None of none."""
    rows = sum(q.rows for q in qualities)
    return math.fsum(q.value * q.rows for q in qualities) / rows if rows else None
