"""One round: rows, recipes, candidates, measuring, judging, and the promotion or the reasons against it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

from trimtab import champion, rows, search
from trimtab.artifact import Model
from trimtab.benchmark import Scores
from trimtab.entry import Entry
from trimtab.errors import ArtifactError, InputError, ServiceError, TrimtabError
from trimtab.evidence import Bench
from trimtab.gate import Outcome
from trimtab.journal import LEASE_SECONDS, Round
from trimtab.lineage import CONFIDENCE, Context
from trimtab.parts import Parts
from trimtab.recipe import Kitchen, Recipe
from trimtab.registry import CHALLENGER
from trimtab.serving import Serving

__all__ = ["optimize", "request"]


def request(parts: Parts, window: int, cause: str, reasons: Sequence[str]) -> Round:
    """Write a requested round; the same cause after the same window asks for the same round."""
    return parts.journal.request_round(f"{parts.project.name}:round:{window}:{cause}", window, cause, reasons)


def request_by_hand(parts: Parts, reason: str) -> Round:
    """Write a round that a person asks for; an open one of the same reason is taken up instead."""
    asked = parts.journal.rounds()
    reasons = (f"asked for: {reason}",)
    still_open = next((r for r in asked if r.state != "closed" and r.reasons == reasons), None)
    if still_open is not None:
        return still_open
    newest = max((w.number for w in parts.journal.windows()), default=0)
    operation = f"{parts.project.name}:round:{newest}:manual-{len(asked) + 1}"
    return parts.journal.request_round(operation, newest, "manual", reasons)


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
        input is wrong (the round is closed as failed). The champion is unchanged either way.
    """
    with parts.journal.lease(asked.operation, wait=LEASE_SECONDS) as mine:
        if mine:
            try:
                _run(parts, asked)
            except ServiceError:
                raise
            except Exception as error:  # left open, it would be the first thing to fail at every start
                parts.journal.record("error", {"round": asked.operation, "message": str(error)})
                parts.journal.close_round(asked.operation, "failed", {"error": str(error)})
                raise
    return next(r for r in parts.journal.rounds() if r.operation == asked.operation)


def _run(parts: Parts, asked: Round) -> None:
    serving = champion.reconcile(parts)
    if serving is None:
        raise InputError("there is no champion yet: run the project once before asking for a round")
    promotions = parts.journal.promotions()
    mine = any(p.operation == asked.operation for p in promotions)
    if promotions[-1].epoch != asked.epoch and not mine:
        return parts.journal.close_round(asked.operation, "lost", {"reason": "another promotion came first"})
    serving = champion.load(parts, next(p.version for p in promotions if p.epoch == asked.epoch))
    repair = asked.degrades or parts.journal.degraded()
    anchor = champion.load(parts, champion.anchor(promotions))
    prepared = rows.prepare(parts, asked.operation, serving.schema, *training_windows(parts, asked.window))
    context = Context(asked, serving.schema, prepared, serving)
    run = parts.executor.call("log round", parts.registry.log_round, context.round_log(parts))
    entries = build(parts, serving, prepared)
    entries, (reigning, approved) = _measure(parts, asked, serving, anchor, prepared, entries)
    entries = _judge(parts, entries, reigning, approved, repair)
    logged = log_candidates(parts, context, run, entries)
    return _conclude(parts, context, run, entries, logged, choose(parts, entries), repair)


def log_candidates(parts: Parts, context: Context, run: str, entries: Sequence[Entry]) -> dict[str, str]:
    """Log every candidate under the round's run, and return their run ids by recipe."""
    logged: dict[str, str] = {}
    with parts.progress.stage("log to the registry", len(entries)) as advance:
        for entry in entries:
            log = context.candidate_log(parts, entry)
            logged[log.name] = parts.executor.call(f"log {log.name}", parts.registry.log_candidate, run, log)
            advance(log.name)
    return logged


def training_windows(parts: Parts, closed: int) -> tuple[list[int], list[int]]:
    """Return the newest labelled windows that a round trains on, and the older ones that it replays.

    ``closed`` is the newest window that had closed when the round was asked for.
    """
    quarantined = parts.journal.quarantined()
    labelled = [w.number for w in parts.journal.windows() if w.labelled and w.number <= closed]
    usable = [0, *(n for n in labelled if n not in quarantined and n != 0)]
    if not len(parts.window(0).frame):
        usable = usable[1:]
    count = max(1, parts.project.data.train)
    return usable[-count:], usable[:-count]


def build(parts: Parts, serving: Serving, prepared: rows.Prepared) -> list[Entry]:
    """Build the round's recipes from the champion's parent, until the minutes are spent."""
    settings = parts.project.optimize
    planned = search.plan(settings.choices, settings.candidates, parts.runtime.takes[0])
    recipes = list(dict.fromkeys([*settings.recipes, *planned]))[: settings.candidates]
    kitchen = Kitchen(
        serving.parent,
        prepared.data,
        serving.schema,
        parts.folder / "steps",
        parts.project.seed,
        settings.threads,
        parts.project.model.settings.get("factory"),
    )
    deadline = time.monotonic() + 60 * settings.minutes
    entries: list[Entry] = []
    with parts.progress.stage("build candidates", len(recipes)) as advance:
        for recipe in recipes:
            if entries and time.monotonic() > deadline:
                entries.append(Entry(recipe, error=f"not built: optimize.minutes ({settings.minutes:g}) were spent"))
            else:
                entries.append(_build_one(parts, kitchen, recipe))
            advance(recipe.name)
    return entries


def _build_one(parts: Parts, kitchen: Kitchen, recipe: Recipe) -> Entry:
    try:
        return Entry(recipe, parts.executor.call(f"build {recipe.name}", kitchen.build, recipe, parts.runtime.takes[0]))
    except TrimtabError as error:
        parts.journal.record("error", {"candidate": recipe.name, "message": str(error)})
        return Entry(recipe, error=str(error))


def _measure(
    parts: Parts, asked: Round, serving: Serving, anchor: Serving, prepared: rows.Prepared, entries: list[Entry]
) -> tuple[list[Entry], tuple[Scores, Scores]]:
    """Measure champion, anchor and every built candidate on the same rows; what was measured is kept."""
    built = [e.candidate for e in entries if e.candidate is not None]
    bench = Bench(
        folder=parts.folder / "rounds" / rows.slug(asked.operation) / "evidence",
        runtime=parts.runtime,
        target=parts.project.target,
        champion=serving.model,
        data=prepared.data,
        golden=rows.golden(parts, serving.schema),
        confidence=parts.project.gate.level(len(built)),
        seed=parts.project.seed,
    )
    with parts.progress.stage("benchmark", len(built) + 2) as advance:

        def measure(name: str, key: str, model: Model) -> Scores:
            scores = parts.executor.call(f"benchmark {name}", bench.measure, key, model)
            advance(name)
            return scores

        both = measure("champion", "champion", serving.model), measure("anchor", "anchor", anchor.model)
        return [_measured(parts, measure, entry) for entry in entries], both


def _measured(parts: Parts, measure: Callable[[str, str, Model], Scores], entry: Entry) -> Entry:
    if entry.candidate is None:
        return entry
    try:
        scores = measure(entry.candidate.name, entry.candidate.fingerprint, entry.candidate.model)
        return dataclasses.replace(entry, scores=scores)
    except ArtifactError as error:
        parts.journal.record("error", {"candidate": entry.recipe.name, "message": str(error)})
        return dataclasses.replace(entry, error=str(error))


def _judge(parts: Parts, entries: list[Entry], reigning: Scores, anchor: Scores, repair: bool) -> list[Entry]:
    comparisons = sum(e.scores is not None for e in entries)
    gate = parts.project.gate
    return [
        dataclasses.replace(e, verdict=gate.judge(e.scores, reigning, anchor, comparisons, repair)) if e.scores else e
        for e in entries
    ]


def choose(parts: Parts, entries: Sequence[Entry]) -> Entry | None:
    """Return the fastest candidate that passed and is not clearly behind the best of them in quality.

    Clearly: by more than the quality margin and more than one standard error of the best (the
    one-standard-error rule of Breiman et al. 1984).
    """
    passed = [e for e in entries if e.verdict is not None and e.verdict.outcome is Outcome.PASSED]
    return _fastest(parts, passed)


def _fastest(parts: Parts, entries: Sequence[Entry]) -> Entry | None:
    scored = [(e, e.scores) for e in entries if e.scores is not None]
    if not scored:
        return None
    best, count = max(s.ranking for _, s in scored)
    error = math.sqrt(best * (1 - best) / max(1, count))
    bar = best - max(parts.project.gate.max_quality_drop, error)
    able = [(e, s) for e, s in scored if s.ranking[0] >= bar]
    return max(able, key=lambda pair: (pair[1].latency.speedup.value, -pair[1].size_bytes))[0]


def _conclude(
    parts: Parts,
    context: Context,
    run: str,
    entries: list[Entry],
    logged: Mapping[str, str],
    winner: Entry | None,
    repair: bool,
) -> None:
    asked = context.asked
    kept = winner or (_best_so_far(parts, entries) if repair else None)
    version = None
    if kept is not None and kept.candidate is not None:
        version = context.register(parts, kept, kept.candidate, logged[kept.recipe.name])
    outcome = "degraded" if repair else "kept"
    if winner is not None and version is not None:
        promotion = champion.promote(parts, asked.operation, version.number, asked.epoch, "promote", {})
        outcome = "promoted" if promotion is not None else "lost"
    elif version is not None:
        parts.registry.set_alias(CHALLENGER, version.number)
    detail = context.detail(entries, winner, version)
    if outcome == "promoted" and version is not None:
        detail |= {"against_first": _against_first(parts, context, version.number)}
    parts.registry.close_round(run, outcome, context.outcome_tags(outcome, version))
    parts.journal.close_round(asked.operation, outcome, detail)


def _against_first(parts: Parts, context: Context, version: int) -> dict[str, float]:
    """Measure a new champion beside the very first, for the line that says what was gained."""
    first = champion.load(parts, parts.journal.promotions()[0].version)
    new = champion.load(parts, version)
    bench = Bench(
        folder=parts.folder / "rounds" / rows.slug(context.asked.operation) / "evidence",
        runtime=parts.runtime,
        target=parts.project.target,
        champion=first.model,
        data=context.prepared.data,
        golden=None,
        confidence=CONFIDENCE,
        seed=parts.project.seed,
    )
    scores = parts.executor.call("benchmark against the first champion", bench.measure, "against-first", new.model)
    speedup = scores.latency.speedup
    return {
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "size_bytes": float(scores.size_bytes),
        "size_ratio": scores.size_bytes / first.model.size_bytes,
    }


def _best_so_far(parts: Parts, entries: Sequence[Entry]) -> Entry | None:
    """Return what comes nearest to a winner: the best among those that were not refused."""
    undecided = [e for e in entries if e.verdict is not None and e.verdict.outcome is Outcome.UNKNOWN]
    return _fastest(parts, undecided or [e for e in entries if e.verdict is not None])
