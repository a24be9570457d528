"""A project's parts, found by name and connected: what every function of the loop is handed."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab import discover
from trimtab.energy import Meter
from trimtab.errors import PluginError, TrimtabError
from trimtab.executor import Direct, Executor, Progress, Silent
from trimtab.journal import Journal
from trimtab.metric import Metric, choose
from trimtab.monitor import Monitor, Sample, Summary
from trimtab.registry import Registry
from trimtab.runner import Runner, Workers
from trimtab.runtime import Runtime, Setup, Target
from trimtab.sampler import Sampler
from trimtab.segments import BySegment
from trimtab.serving import Serving
from trimtab.settings import Project
from trimtab.space import Space, converter
from trimtab.technique import Trainer, trainer_named, untrained
from trimtab.window import Batches, Source, Window, with_numbers

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True)
class Parts:
    """Everything that the loop works with.

    Parameters
    ----------
    project
        The settings.
    source, monitors, trainer, registry, metric, meter, sampler
        Plugins that the settings name; no meter where energy is not asked for.
    space
        Recipes that a round may try.
    journal
        Of this project.
    executor, progress
        How steps are run and shown.
    workers
        What the items of a step that has many are given to.
    loaded, runtimes
        Versions that are loaded in this process, by number, and runtimes that were made, by their words.
    references
        Windows that stand for a version's reference, by the version's number and the window's.
    fits
        What each monitor fitted to a reference, by the version's number, the reference's and the monitor's name.
    stored
        Which of these this process has stored.
    store
        Folder of finished steps and of measurements that several runs of a project share; None: they are kept
        in the project's home, and measurements for the round that they were taken in.
    """

    project: Project
    source: Source
    monitors: tuple[Monitor, ...]
    trainer: Trainer
    registry: Registry
    metric: Metric
    meter: Meter | None
    sampler: Sampler
    space: Space
    journal: Journal
    executor: Executor = field(default_factory=Direct)
    progress: Progress = field(default_factory=Silent)
    workers: Workers = field(default_factory=Workers)
    loaded: dict[int, Serving] = field(default_factory=dict)
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    references: dict[tuple[int, int], Sample] = field(default_factory=dict)
    fits: dict[tuple[int, int, str], Summary] = field(default_factory=dict)
    store: Path | None = None
    stored: set[tuple[int, int, str]] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """The project's home."""
        return self.project.folder

    @property
    def steps(self) -> Path:
        """Folder of the finished steps, by fingerprint."""
        return (self.store or self.folder) / "steps"

    @property
    def comparisons(self) -> int:
        """Number of candidates, over all targets, that the gate's confidence of a round is divided among."""
        return comparisons(self.project, self.space)

    @property
    def split_key(self) -> str:
        """The key under which groups are hashed into roles; fixed at the first run."""
        return self.journal.fixed()[0]

    @property
    def start(self) -> int:
        """Where window 1 begins (nanoseconds since 1970, or a row number); fixed at the first run."""
        start = self.journal.fixed()[1]
        if start is None:
            start = self.source.begins()
            self.journal.fix_start(start)
        return start

    @property
    def training(self) -> dict[str, Any]:
        """The trainer's settings, its defaults among them, from which a technique takes what it is not told."""
        return dataclasses.asdict(self.trainer)  # type: ignore[call-overload, no-any-return]

    @property
    def untrained(self) -> str:
        """Why nothing trains this project's models; empty where something does."""
        return untrained(self.trainer)

    def runtime(self, setup: Setup) -> Runtime:
        """Return a runtime, made once."""
        if setup.word not in self.runtimes:
            self.runtimes[setup.word] = setup.make("targets", self.project.model.settings.get("factory"))
        return self.runtimes[setup.word]

    def setups(self, target: Target, format: str) -> list[Setup]:
        """Return the target's runtimes that take a format."""
        return [s for s in target.setups if format in self.runtime(s).takes]

    def margin(self, target: Target) -> float:
        """Return the largest loss of quality that is allowed on a target."""
        own = target.max_quality_drop
        return self.project.gate.max_quality_drop if own is None else own

    def window(self, number: int) -> Window:
        """Read one window."""
        return read(self.project, self.source, number, self.start)


def assemble(
    project: Project,
    *,
    beside: Path | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    registry: Registry | None = None,
) -> Parts:
    """Find and connect every part that a project names.

    Parameters
    ----------
    beside
        Folder whose modules the project's factory may come from; the project file's.
    registry
        Instead of the one that the settings name (tests pass an in-memory one).

    Raises
    ------
    SettingsError, PluginError
        Naming the setting, its value and the way out.
    """
    if beside is not None:
        discover.look_beside(beside)
    project.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(project.journal_url, project.name)
    journal.begin(project.model_dump_json(), f"{project.name}:{project.seed}", project.sealed)
    runtimes = runtimes_of(project)
    space = space_of(project, runtimes)
    trainer: Trainer = discover.build("trainers", project.model.trainer, project.model.settings, "model")
    return Parts(
        project=project,
        source=source_of(project),
        monitors=monitors_of(project),
        trainer=trainer,
        registry=registry or registry_of(project),
        metric=choose(project.model.metric, project.model.trainer, trainer.task),
        meter=meter_of(project),
        sampler=sampler_of(project, space),
        space=space,
        journal=journal,
        executor=executor or Direct(),
        progress=progress or Silent(),
        workers=Workers(runner_of(project), beside),
        runtimes=runtimes,
    )


def runner_of(project: Project) -> Runner:
    """Make the runner that the project names."""
    runner: Runner = discover.build("runners", project.runner.kind, project.runner.settings, "runner")
    return runner


def source_of(project: Project, **instead: Any) -> Source:
    """Make the source that the project names, with some settings replaced (other files of the same kind)."""
    settings = project.source.model_dump(exclude={"kind"})
    window = {"every": project.window.every, "start": project.window.start}
    source: Source = discover.build("sources", project.source.kind, {**settings, **window, **instead}, "source")
    return source


def read(project: Project, source: Source, number: int, start: int) -> Window:
    """Read one window; where the source knows no types, as in CSV, with its numeric features as numbers.

    Raises
    ------
    PluginError
        When the source raises something that is not an error of trimtab's.
    """
    try:
        window = source.read(number, start)
    except TrimtabError:
        raise
    except Exception as error:  # a stranger's source may raise anything
        raise PluginError(
            f"source {project.source.kind!r} raised {type(error).__name__} on window {number}: {error}; "
            "mend the source, or name another source.kind"
        ) from error
    window = window.mapped(functools.partial(_told, kind=project.source.kind, number=number))
    if not getattr(source, "untyped", False):
        return window
    numeric = [name for name, feature in project.features.items() if feature.kind == "numeric"]
    return window.mapped(functools.partial(_with_numbers, names=numeric))


def _with_numbers(batches: Batches, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    return (with_numbers(batch, names) for batch in batches())


def _told(batches: Batches, kind: str, number: int) -> Iterator[pd.DataFrame]:
    """Give a window's rows; what the source raises meanwhile is told as its own."""
    try:
        yield from batches()
    except TrimtabError:
        raise
    except Exception as error:  # as above
        raise PluginError(
            f"source {kind!r} raised {type(error).__name__} on window {number}: {error}; "
            "mend the source, or name another source.kind"
        ) from error


def runtimes_of(project: Project) -> dict[str, Runtime]:
    """Make every runtime that the project's targets name."""
    factory = project.model.settings.get("factory")
    return {
        setup.word: setup.make(f"targets.{place}.runtime", factory)
        for place, target in enumerate(project.targets)
        for setup in target.setups
    }


def space_of(project: Project, runtimes: Mapping[str, Runtime]) -> Space:
    """Lay out what a round may try, and check that all of it can be built for the project's targets.

    Raises
    ------
    SettingsError
        When a recipe is in the wrong order or a technique's setting breaks its rule, before anything runs.
    """
    formats = tuple(dict.fromkeys(format for runtime in runtimes.values() for format in runtime.takes))
    trainer = trainer_named(project.model.trainer)
    parent = trainer.gives
    space = Space(project.choices, formats, parent, trained=not untrained(trainer))
    for recipe in project.optimize.recipes:
        recipe.check(formats, parent)
    for place, target in enumerate(project.targets):
        first = runtimes[target.setups[0].word]  # that the first champion is converted for
        converter(project.choices, first.takes, f"targets.{place}", parent)
    return space


def comparisons(project: Project, space: Space) -> int:
    """Return how many candidates a round may judge at most, over all targets and rungs."""
    rungs = len(space.rungs) + 1 if project.optimize.ladder else 1
    return project.optimize.finalists * len(project.targets) * rungs


def meter_of(project: Project) -> Meter | None:
    """Make the meter of energy that the project names, if any."""
    energy = project.benchmark.energy
    if energy is None:
        return None
    meter: Meter = discover.build("meters", energy.meter, energy.settings, "benchmark.energy")
    return meter


def sampler_of(project: Project, space: Space) -> Sampler:
    """Make the sampler that the project names, and check that it can draw from the project's space."""
    (name, settings), *_ = project.optimize.sampler_settings.items()
    sampler: Sampler = discover.build("samplers", name, settings, "optimize.sampler")
    sampler.begin(space.parameters, 2 + len(project.targets), project.seed)
    return sampler


def monitors_of(project: Project) -> tuple[Monitor, ...]:
    """Make the monitors that the project uses."""
    settings = project.monitors
    for name in settings.use:
        if name not in discover.installed("monitors"):
            discover.build("monitors", name, {}, "monitors.use")
    made: list[Monitor] = [
        discover.build("monitors", name, settings.settings(name), f"monitors.{name}") for name in settings.use
    ]
    segments = project.data.segments
    return tuple(BySegment(m, segments) if segments and m.statistical else m for m in made)


def registry_of(project: Project) -> Registry:
    """Make the registry that the project names."""
    project.folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "url": project.registry_url,
        "model": project.name,
        "experiment": project.name,
        "artifacts": project.registry.artifacts or os.fspath((project.folder / "artifacts").absolute()),
    }
    registry: Registry = discover.build("registries", project.registry.kind, settings, "registry")
    return registry
