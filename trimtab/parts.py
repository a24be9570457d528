"""A project's parts, found by name and connected: what every function of the loop is handed."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab import discover, search
from trimtab.errors import PluginError, TrimtabError
from trimtab.executor import Direct, Executor, Progress, Silent
from trimtab.journal import Journal
from trimtab.monitor import Monitor
from trimtab.registry import Registry
from trimtab.runtime import Runtime
from trimtab.serving import Serving
from trimtab.settings import Project
from trimtab.technique import Trainer
from trimtab.window import Source, Window, with_numbers

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True)
class Parts:
    """Everything that the loop works with.

    Parameters
    ----------
    project
        The settings.
    source, monitors, trainer, runtime, registry
        Plugins that the settings name.
    journal
        Of this project.
    executor, progress
        How steps are run and shown.
    loaded
        Versions that are loaded in this process, by number.
    """

    project: Project
    source: Source
    monitors: tuple[Monitor, ...]
    trainer: Trainer
    runtime: Runtime
    registry: Registry
    journal: Journal
    executor: Executor = field(default_factory=Direct)
    progress: Progress = field(default_factory=Silent)
    loaded: dict[int, Serving] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The project's home."""
        return self.project.folder

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
    return Parts(
        project=project,
        source=source_of(project),
        monitors=monitors_of(project),
        trainer=discover.build("trainers", project.model.trainer, project.model.settings, "model"),
        runtime=runtime_of(project),
        registry=registry or registry_of(project),
        journal=journal,
        executor=executor or Direct(),
        progress=progress or Silent(),
    )


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
    if not getattr(source, "untyped", False):
        return window
    numeric = [name for name, feature in project.features.items() if feature.kind == "numeric"]
    return dataclasses.replace(window, frame=with_numbers(window.frame, numeric))


def runtime_of(project: Project) -> Runtime:
    """Make the runtime of the project's target, and check that what a round would try can be built for it."""
    name, settings = next(iter(project.target.runtimes.items()))
    runtime: Runtime = discover.build("runtimes", name, settings, "targets.0.runtime")
    search.plan(project.optimize.choices, project.optimize.candidates, runtime.takes[0])
    for recipe in project.optimize.recipes:
        recipe.check(runtime.takes[0])
    return runtime


def monitors_of(project: Project) -> tuple[Monitor, ...]:
    """Make the monitors that the project uses."""
    settings = project.monitors
    for name in settings.use:
        if name not in discover.installed("monitors"):
            discover.build("monitors", name, {}, "monitors.use")
    return tuple(discover.build("monitors", name, settings.settings(name), f"monitors.{name}") for name in settings.use)


def registry_of(project: Project) -> Registry:
    """Make the registry that the project names."""
    project.folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "url": project.registry_url,
        "model": project.name,
        "experiment": project.name,
        "artifacts": os.fspath((project.folder / "artifacts").absolute()),
    }
    registry: Registry = discover.build("registries", project.registry.kind, settings, "registry")
    return registry
