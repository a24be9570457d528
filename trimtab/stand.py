"""What a round stands on: its rows, the champions and anchors on every target, and what measures beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab import champion, rows
from trimtab.candidate import elapsed
from trimtab.data import Role
from trimtab.errors import SettingsError
from trimtab.evidence import Bench
from trimtab.history import Promotion, Round
from trimtab.lineage import Context
from trimtab.loadable import Loadable
from trimtab.metric import answer
from trimtab.parts import Parts
from trimtab.recipe import Kitchen
from trimtab.runtime import CHAMPION
from trimtab.serving import Serving

__all__ = ["Stand", "bench_of", "context_of", "kitchen", "loadable", "take"]

MEMORY_SECONDS = 3.0
"""About what it takes to measure the peak memory of a model, in a process of its own."""
LOG_SECONDS = 0.5
"""About what it takes to log a candidate to the registry."""
FEW = 32
"""Rows that the champion answers to see how long it takes."""


@dataclass(frozen=True)
class Stand:
    """What a round stands on, on every target by the alias of its champion.

    Parameters
    ----------
    asked
        The round.
    context
        For the registry.
    champions, anchors
        Versions that challengers are judged beside.
    benches
        What measures them.
    repair
        Whether the round is to mend a champion that is worse.
    deadline
        When the building ends, on the clock of :func:`time.monotonic`.
    """

    asked: Round
    context: Context
    champions: Mapping[str, Serving]
    anchors: Mapping[str, Serving]
    benches: Mapping[str, Bench]
    repair: bool
    deadline: float


def take(parts: Parts, asked: Round, promotions: Sequence[Promotion], begin: float) -> Stand:
    """Gather what a round stands on.

    Parameters
    ----------
    promotions
        All of the project's, oldest first.
    begin
        When its minutes begin, on the clock of :func:`time.monotonic`.
    """
    history = {alias: [p for p in promotions if p.alias == alias] for alias in parts.project.aliases}
    champions = {a: champion.load(parts, ps[-1].version) for a, ps in history.items()}
    context = context_of(parts, asked, champions[CHAMPION])
    return Stand(
        asked,
        context,
        champions,
        {a: champion.load(parts, champion.anchor(ps)) for a, ps in history.items()},
        {alias: bench_of(parts, context, alias, loadable(parts, reigning)) for alias, reigning in champions.items()},
        asked.degrades or parts.journal.degraded(),
        begin + 60 * parts.project.optimize.minutes - _spent(parts, asked) - _kept_seconds(parts, context),
    )


def _spent(parts: Parts, asked: Round) -> float:
    """Return the seconds that a round has built for already, before the process that did was ended."""
    steps = (detail for _, _, detail in parts.journal.records("step"))
    return elapsed(step for step in steps if step["round"] == asked.operation)


def context_of(parts: Parts, asked: Round, serving: Serving) -> Context:
    """Lay down a round's rows, once, and return what it is told to the registry with."""
    windows = rows.training_windows(parts.journal, parts.project.data, asked.window)
    prepared = rows.prepare(parts, asked.operation, serving.schema, windows)
    return Context(asked, serving.schema, prepared, serving)


def _kept_seconds(parts: Parts, context: Context) -> float:
    """Return the seconds of a round that are kept for judging and logging; never more than half of it."""
    optimize, settings = parts.project.optimize, parts.project.benchmark
    each = 2 * settings.seconds + (MEMORY_SECONDS if settings.memory else 0.0) + _answering_seconds(context)
    beside = 2  # champion and anchor
    judging = each * (optimize.finalists + beside) * len(parts.project.targets)
    return min(30 * optimize.minutes, judging + LOG_SECONDS * optimize.candidates)


def _answering_seconds(context: Context) -> float:
    """Return about what it takes the champion to answer all rows that it is judged on, from a few of them."""
    judged, searched = (context.prepared.data.rows(role) for role in (Role.JUDGE, Role.SEARCH))
    few = judged.take(np.arange(min(FEW, len(judged))))
    if context.champion is None or not len(few):
        return 0.0
    begin = time.perf_counter()
    answer(context.champion.session, few)
    return (time.perf_counter() - begin) / len(few) * (len(judged) + len(searched))


def bench_of(parts: Parts, context: Context, alias: str, beside: Loadable) -> Bench:
    """Return what measures models on a target beside another, on the round's rows."""
    settings, asked = parts.project.benchmark, context.asked.operation

    def tell(name: str, seconds: float) -> None:
        told = {"round": asked, "what": name, "seconds": seconds}
        parts.journal.record("measured", told, f"measured:{asked}:{alias}:{name}")

    own = parts.folder / "rounds" / rows.slug(asked) / "evidence"
    return Bench(
        folder=(own if parts.store is None else parts.store / "evidence") / alias,
        target=parts.project.aliases[alias],
        champion=beside,
        data=context.prepared.data,
        golden=rows.golden(parts, context.schema),
        metric=parts.metric,
        meter=parts.meter,
        memory=settings.memory,
        seconds=settings.seconds,
        factory=parts.project.model.settings.get("factory"),
        seed=parts.project.seed,
        tell=tell,
    )


def loadable(parts: Parts, serving: Serving) -> Loadable:
    """Return a version's model with the runtime that serves it."""
    factory = parts.project.model.settings.get("factory")
    return Loadable(serving.setup.runtime, serving.model, serving.setup.made_with(factory))


def kitchen(parts: Parts, stand: Stand) -> Kitchen:
    """Return what builds the round's recipes.

    Raises
    ------
    SettingsError
        When the project's trainer was exchanged for one whose models are of another format than the champion's parent.
    """
    serving = stand.champions[CHAMPION]
    if serving.parent.format != parts.space.parent:
        raise SettingsError(
            f"model.trainer: {parts.project.model.trainer!r} gives models of format {parts.space.parent}, and the "
            f"champion, version {serving.version}, was cut from one of format {serving.parent.format}; set "
            "model.trainer back, or give the project that begins with this one another name"
        )
    return Kitchen(
        serving.parent,
        serving.lean,
        stand.context.prepared.data,
        serving.schema,
        parts.steps,
        parts.project.seed,
        parts.project.optimize.threads,
        parts.project.model.settings.get("factory"),
        parts.training,
    )
