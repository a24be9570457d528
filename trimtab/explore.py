"""Exploring: recipes are built one after another within the round's minutes, and looked at on every target."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trimtab.candidate import Candidate
from trimtab.entry import Entry, Glance, Trial
from trimtab.errors import OutOfTimeError, ServiceError, TrimtabError
from trimtab.evidence import Bench
from trimtab.parts import Parts
from trimtab.recipe import Kitchen, Recipe
from trimtab.search import Search, Task

__all__ = ["Costs", "Explorer"]

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

        What was built and looked at before costs nothing, and is taken up also when the minutes are
        spent: a round that goes on after a crash comes to the same end.
        """
        with self.parts.progress.stage("build candidates", search.candidates) as advance:
            while not self._late and (task := search.ask()) is not None:
                entry, losses = self._try(task)
                self.entries[task.whole] = entry
                search.tell(task, losses)
                if task.level == 0:
                    advance(task.recipe.name)
        minutes, most = self.parts.project.optimize.minutes, search.candidates
        why = f"minutes: {minutes:g} were spent" if self._late else f"candidates: {most} were tried"
        for recipe in search.left():
            self.entries.setdefault(recipe, Entry(recipe, note=f"not begun: optimize.{why}"))

    _late: bool = field(default=False, init=False)

    def _try(self, task: Task) -> tuple[Entry, tuple[float, ...] | None]:
        """Return what became of a task, and its losses; None where it gave none."""
        known = self._told().get(self._key(task))
        if known is not None:
            return self._without(task, **known)
        try:
            candidate = self._built(task.recipe)
            hopeless = self._hopeless(task) if candidate is None and task.level == 0 else None
            if hopeless is not None:
                return self._tell_of(task, note=hopeless)
            entry = self._look(task.recipe, candidate or self._build(task.recipe))
        except OutOfTimeError as error:
            self._late = time.monotonic() >= self.deadline
            return self._without(task, note=str(error)) if self._late else self._tell_of(task, note=str(error))
        except ServiceError:
            raise
        except Exception as error:  # a stranger's runtime may raise anything, and the other recipes go on
            self.parts.journal.record("error", {"candidate": task.recipe.name, "message": str(error)})
            return self._tell_of(task, error=str(error))
        return entry, entry.losses(list(self.benches), self.parts.metric.larger_is_better)

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

    def _build(self, recipe: Recipe) -> Candidate:
        call, formats = self.parts.executor.call, self.parts.space.formats
        return self.kitchen.build(recipe, formats, call, self._tell, self.deadline)

    def _tell(self, step: Mapping[str, object]) -> None:
        """Write a step into the journal as soon as it is built, each time that it is.

        One that others built into a store that is shared is new to this journal, and takes the minutes that it
        took them: with or without them a round comes to the same end.
        """
        if not step["fresh"]:
            if self.parts.store is None or step["fingerprint"] in {known["fingerprint"] for known in self._steps()}:
                return
            self.deadline -= float(str(step["seconds"]))
        self.parts.journal.record("step", {"round": self.operation, **step})

    def _look(self, recipe: Recipe, candidate: Candidate) -> Entry:
        """Look at a candidate on every target, there on every runtime that takes it; the fastest one counts."""
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
        return Entry(recipe, candidate, trials=trials, failures={a: str(e) for a, e in failures.items()})

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

    def _hopeless(self, task: Task) -> str | None:
        """Say why a recipe cannot win whatever its training gives, by the speed and size of its untrained shape."""
        probe = self.parts.space.probe(task.recipe)
        foreseen = Costs.of(self._steps(), self.parts.training).foresee(task.whole)
        if probe is None or (foreseen is not None and foreseen < PROBE_SECONDS):
            return None
        try:
            shape = self._look(probe, self._build(probe))
        except (OutOfTimeError, ServiceError):
            raise
        except TrimtabError:
            return None  # what is wrong with it shows when it is built
        return self._unfit(shape) or self._dominated(shape)

    def _steps(self) -> list[Mapping[str, object]]:
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
        for other in self.entries.values():
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
            for entry in self.entries.values()
            if entry.candidate is not None and entry.candidate.lean.digest == entry.candidate.parent.digest
            for trial in entry.trials.values()
        ]
        return max(uncut) if uncut else None

    def _signed(self, glance: Glance) -> float:
        return glance.quality if self.parts.metric.larger_is_better else -glance.quality
