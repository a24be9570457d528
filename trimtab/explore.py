"""Exploring: recipes are built within the round's minutes, some at a time, and looked at on every target."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.builder import Builder, Outcome
from trimtab.candidate import Candidate, elapsed
from trimtab.entry import Entry, Glance, Trial
from trimtab.errors import OutOfTimeError, ServiceError, TrimtabError
from trimtab.evidence import Bench
from trimtab.parts import Parts
from trimtab.recipe import Kitchen, Recipe
from trimtab.search import Search, Task

__all__ = ["Costs", "Explorer"]

CLOCKS = 1.0
"""Seconds by which the clocks of machines that share a round may differ."""
PROBE_SECONDS = 30.0
"""Training that is expected to take longer than this is worth a look at the untrained shape first."""


@dataclass(frozen=True)
class Costs:
    """What steps have cost so far in this project, to foresee what others will.

    Parameters
    ----------
    seconds
        Seconds a unit of effort, by technique; with the technique's whole time where it has no effort.
    defaults
        The trainer's settings, from which a technique takes what it is not told.
    """

    seconds: Mapping[str, float]
    defaults: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: Iterable[Mapping[str, object]], defaults: Mapping[str, object]) -> Costs:
        """Learn from what the journal says of steps that were built; the newest of each technique counts."""
        known = {str(s["technique"]): float(str(s["seconds"])) / max(1, int(str(s["effort"]))) for s in steps}
        return cls(known, defaults)

    def foresee(self, recipe: Recipe) -> float | None:
        """Return the seconds that a recipe will take, or None where a step of it was never built."""
        total = 0.0
        for step in recipe.steps:
            technique = step.load()
            if technique.about.name not in self.seconds:
                return None
            name = technique.about.effort
            effort = (getattr(technique, name) or self.defaults.get(name)) if name else 1
            total += self.seconds[technique.about.name] * max(1, int(str(effort or 1)))
        return total


@dataclass
class Explorer:
    """Builds what a search proposes, and takes a first look at it.

    Parameters
    ----------
    parts
        The project.
    kitchen
        Builds the recipes.
    benches
        What a candidate is measured with, by the alias of each target's champion.
    operation
        Of the round, for the journal.
    deadline
        On the clock of :func:`time.monotonic`.
    """

    parts: Parts
    kitchen: Kitchen
    benches: Mapping[str, Bench]
    operation: str
    deadline: float
    entries: dict[Recipe, Entry] = field(default_factory=dict)

    def run(self, search: Search) -> None:
        """Try what the search proposes until it has nothing left or the minutes are spent.

        Recipes are asked for ``optimize.together`` at a time, and the search is told of all of them in the order in
        which it proposed them: whoever builds them, and however fast, the same are tried. What was built and
        looked at before costs nothing, and is taken up also when the minutes are spent: a round that goes on
        after a crash comes to the same end.
        """
        together = self.parts.project.optimize.together
        with self.parts.progress.stage("build candidates", search.candidates) as advance:
            while not self._late and (tasks := search.batch(together)):
                for task, (entry, losses) in zip(tasks, self._try(tasks), strict=True):
                    self.entries[task.whole] = entry
                    search.tell(task, losses)
                    if task.level == 0:
                        advance(task.recipe.name)
        minutes, most = self.parts.project.optimize.minutes, search.candidates
        why = f"minutes: {minutes:g} were spent" if self._late else f"candidates: {most} were tried"
        for recipe in search.left():
            self.entries.setdefault(recipe, Entry(recipe, note=f"not begun: optimize.{why}"))

    _late: bool = field(default=False, init=False)

    def _try(self, tasks: Sequence[Task]) -> Iterator[tuple[Entry, tuple[float, ...] | None]]:
        """Yield what became of each task, and its losses; None where it gave none."""
        told, self._before = self._told(), dict(self.entries)
        known = {at: told[key] for at, task in enumerate(tasks) if (key := self._key(task)) in told}
        found = {at: self._built(task.recipe) for at, task in enumerate(tasks) if at not in known}
        absent = [at for at, candidate in found.items() if candidate is None]
        made: dict[int, Outcome | str] = {}
        for at, task in enumerate(tasks):
            if at in absent and at not in made:
                made |= self._make({n: tasks[n] for n in (absent if self._builder.at_once else [at])})
            yield self._without(task, **known[at]) if at in known else self._came(task, found[at] or made[at])

    def _make(self, tasks: Mapping[int, Task]) -> dict[int, Outcome | str]:
        """Build tasks, and return what came of each: a text says why it was given up before it was trained."""
        made: dict[int, Outcome | str] = dict(self._hopeless({at: t for at, t in tasks.items() if t.level == 0}))
        for at, why in made.items():
            if isinstance(why, str):  # a round that goes on after a crash knows more, and might not give it up
                self._tell_of(tasks[at], note=why)
        rest = [at for at in tasks if at not in made]
        self._until = self._end_of_building(len(rest))
        outcomes = self._builder.build([tasks[at].recipe for at in rest], self._until)
        return made | dict(zip(rest, outcomes, strict=True))

    _before: dict[Recipe, Entry] = field(default_factory=dict, init=False)
    _until: float = field(default=math.inf, init=False)

    def _came(self, task: Task, outcome: Outcome | str) -> tuple[Entry, tuple[float, ...] | None]:
        """Look at what was built, and return what became of the task."""
        if isinstance(outcome, str):
            return self._tell_of(task, note=outcome)
        try:
            if isinstance(outcome, Exception):
                raise outcome
            entry = self._look(task.recipe, outcome)
        except OutOfTimeError as error:
            apart = CLOCKS if self._builder.at_once else 0.0
            self._late = self._late or time.monotonic() >= min(self._until, self.deadline) - apart
            return self._without(task, note=str(error)) if self._late else self._tell_of(task, note=str(error))
        except ServiceError:
            raise
        except Exception as error:  # a stranger's runtime may raise anything, and the other recipes go on
            self.parts.journal.record("error", {"candidate": task.recipe.name, "message": str(error)})
            return self._tell_of(task, error=str(error))
        return entry, entry.losses(list(self.benches), self.parts.metric.larger_is_better)

    def _end_of_building(self, number: int) -> float:
        """Return when the building of so many candidates ends: with time to look at those that are built at once.

        Half of what is left at most: a look at a busy moment took longer than others will.
        """
        looks = self._look_seconds * (number - 1) if self._builder.at_once else 0.0
        return self.deadline - max(0.0, min(looks, (self.deadline - time.monotonic()) / 2))

    @functools.cached_property
    def _builder(self) -> Builder:
        parts = self.parts
        return Builder(self.kitchen, parts.space.formats, parts.workers, parts.executor, self._tell)

    def _tell_of(self, task: Task, **why: str) -> tuple[Entry, None]:
        """Write down why a task gave nothing, so that a round that goes on after a crash need not try it again."""
        key, told = self._key(task), {"round": self.operation, "candidate": task.recipe.name, **why}
        self.parts.journal.record("gave nothing", {**told, "key": key}, f"gave nothing:{self.operation}:{key}")
        return self._without(task, **why)

    def _without(self, task: Task, note: str | None = None, error: str | None = None) -> tuple[Entry, None]:
        """Return the entry of a task that gave nothing: what a shorter training gave, where there was one."""
        return self.entries.get(task.whole) or Entry(task.recipe, note=note, error=error), None

    def _told(self) -> dict[str, dict[str, str]]:
        records = [d for _, _, d in self.parts.journal.records("gave nothing") if d["round"] == self.operation]
        return {str(d["key"]): {k: str(d[k]) for k in ("note", "error") if k in d} for d in records}

    def _key(self, task: Task) -> str:
        what = [task.recipe.model_dump(mode="json"), self.kitchen.training]  # what is mended is tried again
        recipe = json.dumps(what, sort_keys=True, default=str)
        return hashlib.sha256(f"{task.level}{recipe}".encode()).hexdigest()[:32]

    def _built(self, recipe: Recipe) -> Candidate | None:
        """Return the candidate where every step of it is built already."""
        try:
            return self.kitchen.build(recipe, self.parts.space.formats, tell=self._tell, deadline=-math.inf)
        except TrimtabError:
            return None

    def _tell(self, step: Mapping[str, Any]) -> None:
        """Write a step into the journal as soon as it is built, each time that it is.

        One that others built into a store that is shared is new to this journal, and takes the minutes that it
        took them: with or without them a round comes to the same end.
        """
        if not step["fresh"]:
            known = self._steps()
            if self.parts.store is None or step["fingerprint"] in {k["fingerprint"] for k in known}:
                return
            mine = [k for k in known if k["round"] == self.operation]
            self.deadline -= elapsed([*mine, step]) - elapsed(mine)
        self.parts.journal.record("step", {"round": self.operation, **step})

    def _look(self, recipe: Recipe, candidate: Candidate) -> Entry:
        """Look at a candidate on every target, there on every runtime that takes it; the fastest one counts.

        It is this process that looks, with all champions at hand: what is compared is timed on one machine.
        """
        begin = time.monotonic()
        trials: dict[str, Trial] = {}
        failures: dict[str, Exception] = {}
        for alias, bench in self.benches.items():
            try:
                looks = self._looks(candidate, bench)
            except ServiceError:
                raise
            except Exception as error:  # as above; what fails in one place may do in another
                failures[alias] = error
                continue
            sane = [t for t in looks if math.isfinite(t.glance.quality)] or looks
            if sane:
                trials[alias] = max(sane, key=lambda t: t.glance.speedup.value)
        if failures and not trials:
            raise next(iter(failures.values()))
        self._look_seconds = max(self._look_seconds, time.monotonic() - begin)
        return Entry(recipe, candidate, trials=trials, failures={a: str(e) for a, e in failures.items()})

    _look_seconds: float = field(default=0.0, init=False)

    def _looks(self, candidate: Candidate, bench: Bench) -> list[Trial]:
        """Look at a candidate on every runtime of a target that takes it; one that fails leaves the others."""
        looks: list[Trial] = []
        failed: Exception | None = None
        for setup in self.parts.setups(bench.target, candidate.model.format):
            if self.entries and time.monotonic() >= self.deadline and not bench.knows(candidate, setup):
                raise OutOfTimeError(f"{candidate.name} was built and not looked at: the round's minutes were spent")
            try:
                glance = self.parts.executor.call(f"look at {candidate.name}", bench.glance, candidate, setup)
                looks.append(Trial(setup, glance))
            except ServiceError:
                raise
            except Exception as error:  # as above
                failed = error
                message = f"{candidate.name} on {setup.word}: {error}"
                self.parts.journal.record("error", {"candidate": candidate.name, "message": message})
        if failed is not None and not looks:
            raise failed
        return looks

    # what need not be trained

    def _hopeless(self, tasks: Mapping[int, Task]) -> dict[int, str | Exception]:
        """Say of which recipes it can be told by the speed and size of their untrained shapes that they cannot win.

        Whatever their training gives, beside what was tried before this batch; or why the shape of one could not be
        looked at in time.
        """
        probes = {at: probe for at, task in tasks.items() if (probe := self._probe(task)) is not None}
        making = self._builder.build(list(probes.values()), self.deadline)
        found = {at: self._shape(probe, outcome) for (at, probe), outcome in zip(probes.items(), making, strict=True)}
        said = {at: self._verdict(shape) if isinstance(shape, Entry) else shape for at, shape in found.items()}
        return {at: why for at, why in said.items() if why is not None}

    def _probe(self, task: Task) -> Recipe | None:
        """Return the recipe of the untrained shape, where that is worth a look first."""
        foreseen = Costs.of(self._steps(), self.parts.training).foresee(task.whole)
        return None if foreseen is not None and foreseen < PROBE_SECONDS else self.parts.space.probe(task.recipe)

    def _shape(self, probe: Recipe, outcome: Outcome) -> Entry | Exception | None:
        """Look at an untrained shape; None where something is wrong with it, which shows when it is built."""
        try:
            if isinstance(outcome, Exception):
                raise outcome
            return self._look(probe, outcome)
        except OutOfTimeError as error:
            return error
        except ServiceError:
            raise
        except TrimtabError:
            return None
        except Exception as error:  # as above
            return error

    def _verdict(self, shape: Entry) -> str | None:
        return self._unfit(shape) or self._dominated(shape)

    def _steps(self) -> list[Mapping[str, Any]]:
        return [detail for _, _, detail in self.parts.journal.records("step")]

    def _unfit(self, shape: Entry) -> str | None:
        broken = {a: why for a, t in shape.trials.items() if (why := t.breaks(self.benches[a].target)) is not None}
        if len(broken) < len(self.benches):
            return None
        return "not trained: the untrained shape breaks " + "; ".join(f"{a}: {why}" for a, why in broken.items())

    def _dominated(self, shape: Entry) -> str | None:
        """Name a candidate that is at least as fast and small, and as good as any full float model here."""
        ceiling = self._ceiling()
        if ceiling is None:
            return None
        for other in self._before.values():
            if other.candidate is not None and self._beats(other, shape, ceiling):
                return f"not trained: its untrained shape is no faster and no smaller than {other.recipe.name}"
        return None

    def _beats(self, other: Entry, shape: Entry, ceiling: float) -> bool:
        if set(other.trials) != set(shape.trials):
            return False
        pairs = [(other.trials[a].glance, shape.trials[a].glance) for a in shape.trials]
        return all(
            self._signed(a) >= ceiling and a.speedup.high >= b.speedup.low and a.size_bytes <= b.size_bytes
            for a, b in pairs
        )

    def _ceiling(self) -> float | None:
        """Return the best quality of a candidate whose float model nothing compressed: what others learn from."""
        uncut = [
            self._signed(trial.glance)
            for entry in self._before.values()
            if entry.candidate is not None and entry.candidate.lean.digest == entry.candidate.parent.digest
            for trial in entry.trials.values()
        ]
        return max(uncut) if uncut else None

    def _signed(self, glance: Glance) -> float:
        return glance.quality if self.parts.metric.larger_is_better else -glance.quality
