"""Judging: the best candidates of a round are measured beside champion and anchor, and the gate speaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.benchmark import Scores
from trimtab.entry import Entry
from trimtab.errors import ServiceError
from trimtab.evidence import Bench
from trimtab.metric import Answers, score, utility
from trimtab.parts import Parts
from trimtab.pick import Pick, finalists, pick
from trimtab.recipe import Recipe
from trimtab.runtime import CHAMPION
from trimtab.stand import Stand, loadable

__all__ = ["good_enough", "judge", "winners"]


def judge(
    parts: Parts, stand: Stand, entries: Mapping[Recipe, Entry], before: Mapping[Recipe, Entry]
) -> dict[Recipe, Entry]:
    """Measure and judge the best of the entries that are new; say of the others why they were not.

    Returns
    -------
    dict
        Every entry that is new or was judged before.
    """
    settings = parts.project.optimize
    new = {whole: entry for whole, entry in entries.items() if whole not in before}
    wholes: dict[Recipe, list[Recipe]] = {}  # early stopping builds less than was asked for, and the same of several
    for whole, entry in new.items():
        wholes.setdefault(entry.recipe, []).append(whole)
    for alias, bench in stand.benches.items():
        margin = parts.margin(bench.target)
        chosen = finalists(list(new.values()), alias, bench.target, parts.metric, margin, settings.finalists)
        for recipe, why in chosen.why.items():
            new |= {whole: _with(new[whole], alias, why=why) for whole in wholes[recipe]}
        if chosen.recipes:
            jury = _jury(parts, stand, alias, parts.comparisons)
            with parts.progress.stage(f"judge for {alias}", len(chosen.recipes)) as advance:
                for recipe in chosen.recipes:
                    judged = _judged(parts, jury, new[wholes[recipe][0]])
                    new |= dict.fromkeys(wholes[recipe], judged)
                    advance(recipe.name)
    return {**before, **new}


@dataclass(frozen=True)
class Jury:
    """What candidates are judged beside on one target.

    Parameters
    ----------
    alias
        Of the target's champion.
    bench
        Measures them.
    champion, anchor
        Their scores on the same rows.
    comparisons
        Number of candidates that the confidence is divided among.
    repair
        Whether nothing but a proven rise of quality will do.
    """

    alias: str
    bench: Bench
    champion: Scores
    anchor: Scores
    comparisons: int
    repair: bool


def _jury(parts: Parts, stand: Stand, alias: str, comparisons: int) -> Jury:
    bench, level = stand.benches[alias], parts.project.gate.level(comparisons)
    reigning, approved = (
        parts.executor.call(f"benchmark {who}", bench.measure, loadable(parts, serving), level)
        for who, serving in (("champion", stand.champions[alias]), ("anchor", stand.anchors[alias]))
    )
    return Jury(alias, bench, reigning, approved, comparisons, stand.repair)


def _judged(parts: Parts, jury: Jury, entry: Entry) -> Entry:
    trial, candidate, gate = entry.trials[jury.alias], entry.candidate, parts.project.gate
    if candidate is None:
        return entry
    model = jury.bench.loadable(candidate.model, trial.setup)
    level = gate.level(jury.comparisons)
    try:
        scores = parts.executor.call(f"benchmark {candidate.name}", jury.bench.measure, model, level)
    except ServiceError:
        raise
    except Exception as error:  # a stranger's runtime may raise anything, and the others are still judged
        parts.journal.record("error", {"candidate": entry.recipe.name, "message": str(error)})
        return _with(entry, jury.alias, why=f"not judged: {error}")
    verdict = gate.judge(
        scores,
        jury.champion,
        jury.anchor,
        metric=parts.metric,
        target=jury.bench.target,
        comparisons=jury.comparisons,
        repair=jury.repair,
    )
    if parts.untrained:
        verdict = dataclasses.replace(verdict, reasons=(*verdict.reasons, parts.untrained))
    return _with(entry, jury.alias, scores=scores, verdict=verdict)


def _with(entry: Entry, alias: str, **changes: Any) -> Entry:
    trial = dataclasses.replace(entry.trials[alias], **changes)
    return dataclasses.replace(entry, trials={**entry.trials, alias: trial})


def winners(parts: Parts, entries: Sequence[Entry]) -> dict[str, Pick]:
    """Pick the winner on each target that has one."""
    margins = {alias: parts.margin(target) for alias, target in parts.project.aliases.items()}
    picked = {a: pick(entries, a, t, margins[a]) for a, t in parts.project.aliases.items()}
    return {alias: winner for alias, winner in picked.items() if winner is not None}


def good_enough(parts: Parts, stand: Stand, entries: Sequence[Entry]) -> bool:
    """Tell whether a rung of the ladder may be the last: something passed, and it mends what was to be mended."""
    won = winners(parts, entries).get(CHAMPION)
    if won is None or not stand.repair:
        return won is not None
    scores, reference = won.entry.trials[CHAMPION].scores, stand.champions[CHAMPION].reference
    if scores is None or reference.labels is None or reference.outputs is None:
        return False
    alone = np.arange(len(reference), dtype=np.uint64)
    quality = score(parts.metric, Answers(reference.outputs, reference.labels, alone))
    slack = max(parts.margin(parts.project.target), scores.quality.error)
    return scores.quality.utility >= utility(parts.metric, quality) - slack
