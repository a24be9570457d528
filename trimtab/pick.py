"""Picking, pure: which candidates of a round are judged on a target, and which of those that pass wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.benchmark import Scores
from trimtab.entry import Entry, Glance
from trimtab.gate import Outcome
from trimtab.metric import Metric, utility
from trimtab.recipe import Recipe
from trimtab.runtime import Target

__all__ = ["Finalists", "Pick", "finalists", "nearest", "pick"]


@dataclass(frozen=True)
class Finalists:
    """Which candidates are judged.

    Parameters
    ----------
    recipes
        Those that are.
    why
        Why each other is not.
    """

    recipes: tuple[Recipe, ...]
    why: Mapping[Recipe, str]


@dataclass(frozen=True)
class Pick:
    """The winner on a target.

    Parameters
    ----------
    entry
        The candidate.
    why
        Why this one of those that passed.
    """

    entry: Entry
    why: str


def finalists(
    entries: Sequence[Entry], alias: str, target: Target, metric: Metric, margin: float, most: int
) -> Finalists:
    """Choose whom to judge: the Pareto front of quality, speed and size on the search rows, the best of it.

    Parameters
    ----------
    alias, target
        Where they would serve.
    margin
        The gate's largest loss of quality: those that are further behind the best come last.
    most
        Number of candidates to choose.
    """
    trials = {e.recipe: e.trials[alias] for e in entries if alias in e.trials}
    why: dict[Recipe, str] = {}
    for recipe, trial in trials.items():
        if (broken := trial.breaks(target)) is not None:
            why[recipe] = f"not judged: {broken}"
        elif trial.glance.rows and not math.isfinite(trial.glance.quality):
            why[recipe] = "not judged: its answers on the search rows are not numbers"
    looks = {r: t.glance for r, t in trials.items() if r not in why}
    # without search rows speed and size alone say whom to judge
    worth = {r: utility(metric, look.quality) if look.rows else 0.0 for r, look in looks.items()}
    # Nobody in this order is ahead of somebody before. What is behind another is left out at once, and leaves out
    # nobody itself: speeds are equal where their intervals overlap, so that being behind is not transitive.
    kept: list[Recipe] = []
    for recipe in sorted(looks, key=lambda r: (-worth[r], looks[r].size_bytes, -looks[r].speedup.value)):
        ahead = next((o for o in kept if looks[recipe].is_behind(looks[o], worth[recipe], worth[o])), None)
        if ahead is None:
            kept.append(recipe)
        else:
            why[recipe] = f"not judged: at a look no better, faster or smaller than {ahead.name}"
    error = 0.0 if metric.relative else _error({r: looks[r] for r in kept}, worth)
    ordered = _by_promise(kept, looks, {r: worth[r] for r in kept}, target, max(margin, error))
    for recipe in ordered[most:]:
        why[recipe] = f"not judged: not among the {most} most promising on the search rows"
    return Finalists(tuple(ordered[:most]), why)


def _by_promise(
    recipes: Sequence[Recipe],
    looks: Mapping[Recipe, Glance],
    utilities: Mapping[Recipe, float],
    target: Target,
    margin: float,
) -> list[Recipe]:
    """Sort: those near the best in quality by what the target prefers; then the rest by quality."""
    if not recipes:
        return []
    bar = max(utilities.values()) - margin
    key = {
        "speed": lambda r: -looks[r].speedup.value,
        "energy": lambda r: -looks[r].speedup.value,
        "size": lambda r: float(looks[r].size_bytes),
        "quality": lambda r: -utilities[r],
    }[target.prefer]
    near = sorted((r for r in recipes if utilities[r] >= bar), key=key)
    far = sorted((r for r in recipes if utilities[r] < bar), key=lambda r: -utilities[r])
    top = max(recipes, key=lambda r: utilities[r])
    first = near[:1]  # the one of the highest quality is judged in any case: a worse champion is mended by it
    return list(dict.fromkeys([*first, top, *near, *far]))


def _error(looks: Mapping[Recipe, Glance], utilities: Mapping[Recipe, float]) -> float:
    """Return about one standard error of the best quality, where it is a share; 0 where that cannot be told."""
    best = max(looks, key=lambda r: utilities[r], default=None)
    if best is None:
        return 0.0
    share, rows = looks[best].quality, looks[best].rows
    return math.sqrt(share * (1 - share) / rows) if rows and 0 <= share <= 1 else 0.0


def pick(entries: Sequence[Entry], alias: str, target: Target, margin: float) -> Pick | None:
    """Pick the winner of those that passed: what the target prefers, and not clearly behind the best in quality.

    Clearly: by more than the quality margin and more than one standard error of the best (the
    one-standard-error rule of Breiman et al. 1984).
    """
    return _pick([e for e in entries if _outcome(e, alias) is Outcome.PASSED], alias, target, margin)


def nearest(entries: Sequence[Entry], alias: str, target: Target, margin: float) -> Entry | None:
    """Return what comes nearest to a winner: the best of those that were not refused, else of all that were judged."""
    judged = [e for e in entries if _outcome(e, alias) is not None]
    undecided = [e for e in judged if _outcome(e, alias) is Outcome.UNKNOWN]
    picked = _pick(undecided or judged, alias, target, margin)
    return None if picked is None else picked.entry


def _outcome(entry: Entry, alias: str) -> Outcome | None:
    trial = entry.trials.get(alias)
    return None if trial is None or trial.verdict is None else trial.verdict.outcome


def _pick(entries: Sequence[Entry], alias: str, target: Target, margin: float) -> Pick | None:
    scored = [(e, s) for e in entries if (s := e.trials[alias].scores) is not None]
    if not scored:
        return None
    best = max((s.quality for _, s in scored), key=lambda q: q.utility)
    slack = max(margin, best.error)
    able = [(e, s) for e, s in scored if s.quality.utility >= best.utility - slack]
    winner, _ = min(able, key=lambda pair: _preference(pair[1], target))
    among = f"of {len(able)} within {slack:.3f} of the best {best.metric} of {len(scored)}"
    word = {"speed": "the fastest", "size": "the smallest", "energy": "of the least energy", "quality": "the best"}
    return Pick(winner, f"{word[target.prefer]} {among}" if len(scored) > 1 else "the only one")


def _preference(scores: Scores, target: Target) -> tuple[float, ...]:
    energy = scores.latency.energy
    joules = energy.joules_per_1000_rows if energy is not None else math.inf
    speed, size = -scores.latency.speedup.value, float(scores.size_bytes)
    return {
        "speed": (speed, size),
        "size": (size, speed),
        "energy": (joules, speed),
        "quality": (-scores.quality.utility, speed),
    }[target.prefer]
