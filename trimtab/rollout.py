"""Rollout: live windows judge a challenger before it is promoted (shadow), and a champion after it was (probation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab import champion
from trimtab.closing import close_run, overtaken, recorded, settle
from trimtab.errors import DataError, InputError, ReadError
from trimtab.gate import Outcome, Verdict
from trimtab.history import PROPOSED, ROLLED_BACK, SHADOW, Promotion, Round
from trimtab.live import AnswerError, agreement, judge_live, sound_windows
from trimtab.parts import Parts
from trimtab.runtime import CHAMPION

__all__ = ["end_shadow", "probe"]


def end_shadow(parts: Parts, closed: int) -> Round | None:
    """Let a challenger in shadow answer window ``closed``, and end its shadow once enough windows have labels.

    What live windows do not refute is promoted, or proposed where a person promotes; what they refute is
    rejected. What they cannot decide is proposed to a person: too few rows never promote.

    Returns
    -------
    Round or None
        The round whose shadow ended; None where none did.
    """
    asked = parts.journal.waiting()
    if asked is None or asked.outcome != SHADOW:
        return None
    decided = recorded(parts, asked, "decided") or {}
    versions: Mapping[str, int] = decided["versions"]
    if overtaken(asked, parts.journal.promotions(None)):
        return settle(parts, asked, versions, "promote", {}, {"reason": "another promotion came first"})
    judged = recorded(parts, asked, "judged live")
    if judged is None:
        _try_out(parts, asked, versions, closed)
        _judge(parts, asked, versions, closed)
        judged = recorded(parts, asked, "judged live")
    return None if judged is None else _settle(parts, asked, versions, judged)


def _judge(parts: Parts, asked: Round, versions: Mapping[str, int], closed: int) -> None:
    """Write down what live windows say of the winners, once there are enough; the first judgement is the only one.

    A process that dies while it is carried out leaves some targets with their new champions, beside which nothing can
    be judged any more.
    """
    faults, most = _faults(parts, asked), parts.project.rollout.shadow
    windows = sound_windows(parts, asked.window, closed - parts.project.window.label_delay)[:most]
    if len(windows) < most and not faults.keys() >= versions.keys():
        return
    verdicts = {
        alias: Verdict(Outcome.REJECTED, (faults[alias],))
        if alias in faults
        else judge_live(parts, version, _serving(parts, alias), windows, alias)
        for alias, version in versions.items()
    }
    said = {alias: {"outcome": v.outcome.value, "reasons": list(v.reasons)} for alias, v in verdicts.items()}
    told = {"round": asked.operation, "windows": windows, "closed": closed, "verdicts": said}
    parts.journal.record("judged live", told, f"judged live:{asked.operation}")


def _try_out(parts: Parts, asked: Round, versions: Mapping[str, int], closed: int) -> None:
    """Let the winners answer a window beside the champions, once, and write down which of them must not serve."""
    told = [d["window"] for _, _, d in parts.journal.records("shadow") if d["round"] == asked.operation]
    if closed in told or closed not in sound_windows(parts, asked.window, closed):
        return
    agree: dict[str, float] = {}
    faults: dict[str, str] = {}
    for alias, version in versions.items():
        try:
            agree[alias] = agreement(parts, version, _serving(parts, alias), closed)
        except ReadError:
            raise
        except DataError:
            return
        except AnswerError as error:
            if error.version == version:
                faults[alias] = str(error)
            continue
        if not np.isfinite(agree[alias]):
            faults[alias] = f"version {version} gives answers on window {closed} that are not numbers"
            del agree[alias]
    answered = {"round": asked.operation, "window": closed, "agreement": agree, "faults": faults}
    parts.journal.record("shadow", answered, f"shadow:{asked.operation}:{closed}")


def _faults(parts: Parts, asked: Round) -> dict[str, str]:
    """Return why a winner must not serve, by the alias of its target, where one could not answer live rows."""
    told = [d["faults"] for _, _, d in parts.journal.records("shadow") if d["round"] == asked.operation]
    return {alias: fault for faults in reversed(told) for alias, fault in faults.items()}


def _serving(parts: Parts, alias: str) -> int:
    return parts.journal.promotions(alias)[-1].version


def _settle(parts: Parts, asked: Round, versions: Mapping[str, int], judged: Mapping[str, Any]) -> Round:
    """Promote, propose or reject what was in shadow, target by target."""
    outcomes = {alias: verdict["outcome"] for alias, verdict in judged["verdicts"].items()}
    refused = [alias for alias, outcome in outcomes.items() if outcome == Outcome.REJECTED]
    passed = {alias: versions[alias] for alias, outcome in outcomes.items() if outcome == Outcome.PASSED}
    told = {key: judged[key] for key in ("windows", "closed", "verdicts")}
    detail = {"shadow": {**told, "refused": refused}}
    if len(refused) < len(outcomes) and (parts.project.promotion.mode == "manual" or not passed):
        parts.journal.settle_round(asked.operation, SHADOW, PROPOSED, {**asked.detail, **detail})
        return next(r for r in parts.journal.rounds() if r.operation == asked.operation)
    return settle(parts, asked, passed, "promote", {"shadow": judged["windows"]}, detail)


def probe(parts: Parts, closed: int) -> dict[str, str]:
    """Roll back a champion on probation that its windows prove to be worse than its predecessor.

    Windows up to ``closed`` count, as their labels come. A rolled back version is not tried again: what is promoted
    next comes of another round.

    Returns
    -------
    dict
        Why champions were rolled back, in words, by the alias of the target; nothing of those that were not.
    """
    _mark_rolled_back(parts)
    aliases = parts.project.aliases if parts.project.rollout.probation else ()
    reasons = {alias: reason for alias in aliases if (reason := _probe(parts, alias, closed)) is not None}
    _mark_rolled_back(parts)
    return reasons


def _probe(parts: Parts, alias: str, closed: int) -> str | None:
    promotions, most = parts.journal.promotions(alias), parts.project.rollout.probation
    newest, standing = promotions[-1], champion.succession(promotions)
    asked = next((r for r in parts.journal.rounds() if r.cause != "first" and r.made(newest)), None)
    if asked is None or len(standing) < 2:
        return None
    windows = _labelled_since(parts, asked, newest, closed)[:most]
    told = {"round": asked.operation, "alias": alias, "version": standing[-1], "predecessor": standing[-2]}
    looks = [d["windows"] for _, _, d in parts.journal.records("probation") if told.items() <= d.items()]
    if not windows or windows in looks:
        return None
    verdict = judge_live(parts, standing[-1], standing[-2], windows, alias, max(most, len(looks) + 1))
    reason = _undo(parts, newest, standing, verdict) if verdict.outcome is Outcome.REJECTED else None
    said = {"windows": windows, "outcome": verdict.outcome.value, "reasons": list(verdict.reasons)}
    parts.journal.record(
        "probation", {**told, **said, "rolled_back": reason}, f"{UNDONE}{newest.operation}:{len(looks) + 1}"
    )
    return reason


def _labelled_since(parts: Parts, asked: Round, promotion: Promotion, closed: int) -> list[int]:
    """Return the sound windows since a promotion of which labels have come: what has none yet is no look."""
    labels, upto = parts.journal.labels(), closed - parts.project.window.label_delay
    sound = sound_windows(parts, _served_since(parts, asked, promotion), upto, looking=closed)
    return [number for number in sound if number in labels and labels[number].rows]


def _served_since(parts: Parts, asked: Round, promotion: Promotion) -> int:
    """Return the last window that had closed when a promotion was made."""
    before = (w.number for w in parts.journal.windows() if w.at <= promotion.at)
    return max([asked.window, *before])


def _undo(parts: Parts, promotion: Promotion, standing: Sequence[int], verdict: Verdict) -> str | None:
    """Roll a promotion back, and say why; None where that is not possible, which is written down."""
    found = f"version {standing[-1]} beside its predecessor {standing[-2]}, on probation: {verdict.reasons[0]}"
    try:
        champion.rollback(parts, f"{UNDONE}{promotion.operation}", found, promotion.alias)
    except InputError as error:
        parts.journal.record("error", {"message": f"not rolled back ({error}): {found}"})
        return None
    return f"rolled back: {found}"


def _mark_rolled_back(parts: Parts) -> None:
    """Give rounds whose promotion was rolled back on probation that outcome, also where a process died in between.

    On the first target, or on every other where nothing was promoted on that.
    """
    promotions = parts.journal.promotions(None)
    undone = {p.operation.removeprefix(UNDONE): p for p in promotions if p.operation.startswith(UNDONE)}
    for asked in (r for r in parts.journal.rounds() if r.outcome == "promoted"):
        made = [p for p in promotions if asked.made(p)]
        decisive = [p.operation for p in made if p.alias == CHAMPION] or [p.operation for p in made]
        if decisive and undone.keys() >= {*decisive}:
            why = {"rolled_back": undone[decisive[0]].detail["reason"]}
            parts.journal.settle_round(asked.operation, "promoted", ROLLED_BACK, {**asked.detail, **why})
            close_run(parts, asked, ROLLED_BACK, asked.detail.get("version"))


UNDONE = "probation:"
"""Begins the operation of a rollback; that of the promotion which it undoes follows."""
