"""One round: rows, recipes, candidates, measuring, judging, and the promotions or the reasons against them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab import champion
from trimtab.closing import carry_out, close_run, give_up, overtaken, recorded
from trimtab.entry import Entry
from trimtab.errors import InputError, PluginError, ServiceError, TrimtabError
from trimtab.explore import Costs, Explorer
from trimtab.history import Round
from trimtab.jury import good_enough, judge, winners
from trimtab.lease import LEASE_SECONDS
from trimtab.lineage import Context
from trimtab.pareto import order
from trimtab.parts import Parts
from trimtab.pick import nearest
from trimtab.recipe import Recipe
from trimtab.registry import Version
from trimtab.runtime import CHAMPION
from trimtab.search import Search, by_quality
from trimtab.space import LAST_ADAPTING_RUNG
from trimtab.stand import Stand, kitchen, take

__all__ = [
    "log_candidates",
    "optimize",
    "register",
    "request",
    "request_by_hand",
]


def request(parts: Parts, window: int, cause: str, reasons: Sequence[str]) -> Round:
    """Write a requested round; the same cause after the same window asks for the same round."""
    return parts.journal.request_round(f"{parts.project.name}:round:{window}:{cause}", window, cause, reasons)


def request_by_hand(parts: Parts, reason: str, who: str | None = None) -> Round:
    """Write a round that a person asks for; an open one of the same reason is taken up instead."""
    asked = parts.journal.rounds()
    reasons = (f"asked for: {reason}",)
    still_open = next((r for r in asked if r.state != "closed" and r.reasons == reasons), None)
    if still_open is not None:
        return still_open
    newest = max((w.number for w in parts.journal.windows()), default=0)
    operation = f"{parts.project.name}:round:{newest}:manual-{len(asked) + 1}"
    return parts.journal.request_round(operation, newest, "manual", reasons, who)


def optimize(parts: Parts, asked: Round) -> Round:
    """Run a round that was requested, unless another process holds it.

    Returns
    -------
    Round
        As the journal has it afterwards.

    Raises
    ------
    TrimtabError
        When a server did not answer (the round stays open and is taken up at the next start) or the
        input is wrong (the round is closed as failed, or as promoted where a champion had moved before).
    """
    with parts.journal.lease(asked.operation, wait=LEASE_SECONDS) as mine:
        if mine:
            try:
                _run(parts, asked)
            except ServiceError:
                raise
            except Exception as error:  # left open, it would be the first thing to fail at every start
                parts.journal.record("error", {"round": asked.operation, "message": str(error)})
                give_up(parts, asked, str(error))
                raise
    return next(r for r in parts.journal.rounds() if r.operation == asked.operation)


TAKES = 5
"""Times in a row that a round may be taken up and its process die without one step more."""


def _refuse_deadly(parts: Parts, asked: Round) -> None:
    """Refuse a round that ends its process again and again: left open it would let nothing else run.

    Raises
    ------
    PluginError
        When it was taken up :data:`TAKES` times since anything came of it.
    """
    parts.journal.record("taken up", {"round": asked.operation})
    records = parts.journal.records()
    told = [kind for _, kind, detail in records if detail.get("round") == asked.operation and kind != "logged"]
    since = list(itertools.takewhile(lambda kind: kind == "taken up", reversed(told)))
    if len(since) > TAKES:
        raise PluginError(
            f"the round was taken up {TAKES} times in a row and its process ended each time without one step more; "
            "look for what ends it (memory, a library that crashes), and leave the technique under way out of "
            "optimize.techniques"
        )


def _run(parts: Parts, asked: Round) -> None:
    begin = time.monotonic()
    if champion.reconcile(parts) is None or any(r.cause == "first" and r.open for r in parts.journal.rounds()):
        raise InputError("the first champion is not complete: run the project once before asking for a round")
    _refuse_deadly(parts, asked)
    decided = recorded(parts, asked, "decided")
    if decided is None:
        promotions = parts.journal.promotions(None)
        if overtaken(asked, promotions):
            parts.journal.close_round(asked.operation, "lost", {"reason": "another promotion came first"})
            return close_run(parts, asked, "lost", None)
        decided = _decide(parts, take(parts, asked, promotions, begin))
    return carry_out(parts, asked, decided)


def _decide(parts: Parts, stand: Stand) -> Mapping[str, Any]:
    """Build, measure, judge and register, and write down what is to be promoted before anything is.

    A process that dies in between leaves a decision that the next one carries out as it stands. The
    first decision of a round is the only one, however many processes come to one.
    """
    run = parts.executor.call("log round", parts.registry.log_round, stand.context.round_log(parts))
    told = {"round": stand.asked.operation, "run": run}
    parts.journal.record("logged", told, f"logged:{stand.asked.operation}")
    entries, spared = _climb(parts, stand)
    logged = log_candidates(parts, stand.context, run, entries)
    won = winners(parts, entries)
    versions = register(parts, stand.context, run, {a: p.entry for a, p in won.items()}, logged)
    kept = _best_so_far(parts, entries) if CHAMPION not in won and stand.repair else None
    challenger = None
    if kept is not None:
        challenger = register(parts, stand.context, run, {CHAMPION: kept}, logged).get(CHAMPION)
    decided = told | {
        "versions": {alias: version.number for alias, version in versions.items()},
        "challenger": None if challenger is None else challenger.number,
        "repair": stand.repair,
        "detail": stand.context.detail(parts, entries, won, versions, challenger, spared),
    }
    parts.journal.record("decided", decided, f"decided:{stand.asked.operation}")
    return recorded(parts, stand.asked, "decided") or decided  # another's, where this process slept and lost its lease


def _climb(parts: Parts, stand: Stand) -> tuple[list[Entry], list[str]]:
    """Explore the space, rung by rung where the project asks for it, and judge what is best.

    Returns
    -------
    entries, spared
        Every candidate, and in words what the rungs that were not climbed would have cost.
    """
    explorer = Explorer(parts, kitchen(parts, stand), stand.benches, stand.asked.operation, stand.deadline)
    rungs = _rungs(parts)
    judged: dict[Recipe, Entry] = {}
    for place, search in enumerate(rungs):
        explorer.run(search)
        judged |= judge(parts, stand, explorer.entries, judged)
        known = (judged.get(whole, entry) for whole, entry in explorer.entries.items())
        entries = list({entry.recipe: entry for entry in known}.values())
        if place + 1 < len(rungs) and good_enough(parts, stand, entries):
            return entries, _spared(parts, rungs[place + 1 :])
    return entries, []


def _rungs(parts: Parts) -> list[Search]:
    """Return the searches of a round: one, or where there is a ladder one for each rung and the full one."""
    settings, space = parts.project.optimize, parts.space
    ladder = [space.adapted(rung) for rung in space.rungs] if settings.ladder else []
    climbed = {r for given in ladder for r in given}
    adapted = (r for rung in space.rungs if rung < LAST_ADAPTING_RUNG for r in space.adapted(rung))
    cheap = [r for r in (*adapted, *space.untrained()) if r not in climbed]
    few = max(1, settings.candidates // 2)  # the rest of the candidates is for what is drawn
    first = [r for r in (*settings.recipes, *_last_winner(parts)) if r not in climbed]
    return [
        *(_search(parts, given, len(given)) for given in ladder if given),
        _search(parts, [*first, *cheap[:few]], settings.candidates, cheap[few:]),
    ]


def _search(parts: Parts, given: Sequence[Recipe], candidates: int, later: Sequence[Recipe] = ()) -> Search:
    settings = parts.project.optimize
    return Search(
        space=parts.space,
        sampler=parts.sampler,
        seed=parts.project.seed,
        given=given,
        candidates=candidates,
        objectives=2 + len(parts.project.targets),
        halving=settings.halving,
        later=later,
        rank=by_quality if all(t.prefer == "quality" for t in parts.project.targets) else order,
        defaults=parts.training,
    )


def _last_winner(parts: Parts) -> list[Recipe]:
    """Return the recipe that won last: what did well once is likely to again."""
    won = [c["steps"] for r in parts.journal.rounds() for c in r.detail.get("candidates", ()) if c["won"]]
    recipes = [Recipe.model_validate(plain) for plain in won[-1:]]
    return [r for r in recipes if r.start == "parent" and _still_fits(parts, r)]


def _still_fits(parts: Parts, recipe: Recipe) -> bool:
    """Tell whether a recipe of an earlier round compresses, and can be built with what is installed now."""
    try:
        return any(technique.about.compresses for technique in recipe.check(parts.space.formats, parts.space.parent))
    except TrimtabError:
        return False


def _spared(parts: Parts, rungs: Sequence[Search]) -> list[str]:
    """Say what the searches that were not run would have cost."""
    costs = Costs.of([detail for _, _, detail in parts.journal.records("step")], parts.training)
    return [f"spared: {search.promise(costs.foresee)}" for search in rungs]


def log_candidates(parts: Parts, context: Context, run: str, entries: Sequence[Entry]) -> dict[str, str]:
    """Log every candidate under the round's run, and return their run ids by recipe."""
    logged: dict[str, str] = {}
    with parts.progress.stage("log to the registry", len(entries)) as advance:
        for entry in entries:
            log = context.candidate_log(parts, entry)
            logged[log.name] = parts.executor.call(f"log {log.name}", parts.registry.log_candidate, run, log)
            advance(log.name)
    return logged


def _best_so_far(parts: Parts, entries: Sequence[Entry]) -> Entry | None:
    """Return what comes nearest to a winner on the first target."""
    return nearest(entries, CHAMPION, parts.project.target, parts.margin(parts.project.target))


def register(
    parts: Parts, context: Context, run: str, chosen: Mapping[str, Entry], logged: Mapping[str, str]
) -> dict[str, Version]:
    """Register what was chosen on each target; targets that chose the same model and runtime share a version.

    Parameters
    ----------
    run
        Of the round.
    chosen
        Entries by the alias of each target's champion.
    logged
        Run ids of the candidates, by recipe.
    """
    made: dict[tuple[str, str], Version] = {}
    versions: dict[str, Version] = {}
    for alias, entry in chosen.items():
        if entry.candidate is None:
            continue
        trial = entry.trials[alias]
        key = (entry.candidate.fingerprint, trial.setup.word)
        if key not in made:
            own = _run_of(parts, context, run, entry, alias, logged)
            made[key] = context.register(parts, entry, entry.candidate, alias, trial.setup, own)
        versions[alias] = made[key]
    return versions


def _run_of(parts: Parts, context: Context, run: str, entry: Entry, alias: str, logged: Mapping[str, str]) -> str:
    """Return the run of a candidate on a target's runtime: one of its own where it was logged on another.

    A version is a model with its runtime, and what a run logged is one model.
    """
    log = context.candidate_log(parts, entry, alias)
    if log.name == entry.recipe.name:
        return logged[log.name]
    return parts.executor.call(f"log {log.name}", parts.registry.log_candidate, run, log)
