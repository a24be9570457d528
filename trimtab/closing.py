"""How a round ends: promoted, proposed to a person, put into shadow, or given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab import champion
from trimtab.benchmark import CONFIDENCE
from trimtab.errors import ServiceError
from trimtab.history import PROPOSED, SHADOW, Promotion, Round
from trimtab.lineage import Context, outcome_tags, with_promoted
from trimtab.parts import Parts
from trimtab.registry import CHALLENGER, beside
from trimtab.runtime import CHAMPION
from trimtab.stand import bench_of, context_of, loadable

__all__ = ["carry_out", "close_run", "give_up", "overtaken", "recorded", "settle"]


def carry_out(parts: Parts, asked: Round, decided: Mapping[str, Any]) -> None:
    """Promote what was decided, or let it wait for what the project asks for first, and close the round."""
    versions, challenger = decided["versions"], decided["challenger"]
    if versions and parts.project.rollout.shadow:
        return _let_wait(parts, asked, decided, SHADOW)
    if versions and parts.project.promotion.mode == "manual":
        return _let_wait(parts, asked, decided, PROPOSED)
    promoted = _promote_all(parts, asked, versions)
    if challenger is not None:
        parts.registry.set_alias(CHALLENGER, challenger)
    outcome = _outcome(decided, promoted)
    detail = with_promoted(decided["detail"], promoted)
    if CHAMPION in promoted:
        detail |= _gained(parts, asked, detail["champion"], versions[CHAMPION])
    parts.registry.close_round(decided["run"], outcome, outcome_tags(outcome, detail["version"]))
    parts.journal.close_round(asked.operation, outcome, detail)
    return None


def _let_wait(parts: Parts, asked: Round, decided: Mapping[str, Any], outcome: str) -> None:
    """Close the round with its winners as the challengers: a person, or live windows, say what becomes of them."""
    for alias, version in decided["versions"].items():
        parts.registry.set_alias(beside(alias, CHALLENGER), version)
    parts.registry.close_round(decided["run"], outcome, outcome_tags(outcome, None))
    parts.journal.close_round(asked.operation, outcome, with_promoted(decided["detail"], ()))


def settle(
    parts: Parts,
    asked: Round,
    versions: Mapping[str, int],
    kind: str,
    why: Mapping[str, Any],
    told: Mapping[str, Any],
) -> Round:
    """End a round whose winners waited: promote those given, and reject it where none is.

    What was promoted before a process died is promoted, whatever is said now.

    Parameters
    ----------
    versions
        To promote, by the alias of each target's champion.
    kind, why
        Of the promotions.
    told
        Added to the round's detail.
    """
    decided = recorded(parts, asked, "decided") or {}
    begun = {p.alias for p in parts.journal.promotions(None) if asked.made(p)}
    wanted = versions or {a: v for a, v in decided["versions"].items() if a in begun}
    moved = _promote_all(parts, asked, wanted, kind, why)
    outcome = "promoted" if moved else "lost" if versions else "rejected"
    detail = {**asked.detail, **with_promoted(decided["detail"], moved), **told}
    if CHAMPION in moved:
        detail |= _gained(parts, asked, detail["champion"], wanted[CHAMPION])
    parts.journal.settle_round(asked.operation, str(asked.outcome), outcome, detail)
    close_run(parts, asked, outcome, detail["version"] if moved else None)
    return next(r for r in parts.journal.rounds() if r.operation == asked.operation)


def give_up(parts: Parts, asked: Round, error: str) -> None:
    """Close a round that raised, with what it had decided and what of it was done."""
    promoted = [p.alias for p in parts.journal.promotions(None) if asked.made(p)]
    decided = recorded(parts, asked, "decided")
    outcome = "lost" if decided is None else _outcome(decided, promoted)
    outcome = "failed" if outcome == "lost" else outcome
    detail = {"error": error} | ({} if decided is None else with_promoted(decided["detail"], promoted))
    parts.journal.close_round(asked.operation, outcome, detail)
    close_run(parts, asked, outcome, detail.get("version"))


def close_run(parts: Parts, asked: Round, outcome: str, version: int | None) -> None:
    """Close the registry's run of a round that is closed, if one was begun; the journal is what counts."""
    try:
        begun = recorded(parts, asked, "logged")
        if begun is not None:
            parts.registry.close_round(begun["run"], outcome, outcome_tags(outcome, version))
    except Exception as error:  # a stranger's registry may raise anything, and must not hide what came before
        parts.journal.record("error", {"run": asked.operation, "message": str(error)})


def recorded(parts: Parts, asked: Round, kind: str) -> Mapping[str, Any] | None:
    """Return what was written down first of a kind for a round, by whatever process."""
    return next((d for _, _, d in parts.journal.records(kind) if d["round"] == asked.operation), None)


def overtaken(asked: Round, promotions: Sequence[Promotion]) -> bool:
    """Tell whether a champion moved since the round was asked for, by another's hand.

    A target that the project gained since begins with the champion that it had: nothing moved.
    """
    return any(p.epoch > asked.epoch and p.kind != "first" and not asked.made(p) for p in promotions)


def _outcome(decided: Mapping[str, Any], promoted: Sequence[str]) -> str:
    """Say in one word what became of a round, over all targets.

    A champion that is worse stays so until the first target's moves, whatever became of the others.
    """
    if decided["repair"] and CHAMPION not in promoted:
        return "lost" if CHAMPION in decided["versions"] else "degraded"
    if promoted:
        return "promoted"
    return "lost" if decided["versions"] else "kept"


def _promote_all(
    parts: Parts,
    asked: Round,
    versions: Mapping[str, int],
    kind: str = "promote",
    detail: Mapping[str, Any] | None = None,
) -> list[str]:
    """Promote on each target, and return the aliases that moved; another's promotion in between ends it.

    Parameters
    ----------
    versions
        By the alias of each target's champion.
    kind, detail
        Of the promotions.
    """
    moved: list[str] = []
    for alias, version in versions.items():
        promotions = parts.journal.promotions(None)
        operation = asked.operation if alias == CHAMPION else f"{asked.operation}:{alias}"
        mine = any(p.operation == operation for p in promotions)
        if not mine and overtaken(asked, promotions):
            break
        if champion.promote(parts, operation, version, promotions[-1].epoch, kind, detail or {}, alias) is None:
            break
        moved.append(alias)
    return moved


def _gained(parts: Parts, asked: Round, before: int, version: int) -> dict[str, Any]:
    """Return what was gained over the first champion; nothing where that can no longer be measured."""
    try:
        context = context_of(parts, asked, champion.load(parts, before))
        return {"against_first": _against_first(parts, context, version)}
    except ServiceError:
        raise
    except Exception as error:  # the promotion stands, whatever became of the first version's files or its runtime
        parts.journal.record("error", {"version": version, "message": str(error)})
        return {}


def _against_first(parts: Parts, context: Context, version: int) -> dict[str, float]:
    """Measure a new champion beside the very first, for the line that says what was gained."""
    first = champion.load(parts, parts.journal.promotions()[0].version)
    new = champion.load(parts, version)
    bench = bench_of(parts, context, CHAMPION, loadable(parts, first))
    scores = parts.executor.call(
        "benchmark against the first champion", bench.measure, loadable(parts, new), CONFIDENCE
    )
    speedup = scores.latency.speedup
    return {
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "size_bytes": float(scores.size_bytes),
        "size_ratio": scores.size_bytes / first.model.size_bytes,
    }
