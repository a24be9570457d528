"""Recipes: ordered techniques with their settings, checked before anything runs, built step by step, once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import platform
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from threadpoolctl import threadpool_limits

from trimtab import discover
from trimtab.artifact import Model, fill_folder, read_json, write_json
from trimtab.candidate import Built, Candidate
from trimtab.data import Data
from trimtab.errors import ArtifactError, OutOfTimeError, PluginError, SettingsError, TrimtabError
from trimtab.technique import FLOAT, ONNX, About, Job, Technique
from trimtab.window import Schema

__all__ = ["Kitchen", "Order", "Recipe", "Step"]

Call = Callable[[str, Callable[[], None]], None]


def plainly(_name: str, function: Callable[[], None]) -> None:
    """Run a step with nothing around it."""
    function()


class Step(BaseModel):
    """One technique with its settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    technique: str
    settings: dict[str, Any] = {}

    def __hash__(self) -> int:
        return hash(self.word)

    @property
    def word(self) -> str:
        """How a person reads it: ``prune.channel(ratio=0.5)``."""
        inner = ", ".join(f"{k}={v}" for k, v in sorted(self.settings.items()))
        return f"{self.technique}({inner})" if inner else self.technique

    def load(self) -> Technique:
        """Make the technique."""
        technique: Technique = discover.build(
            "techniques", self.technique, self.settings, f"optimize.techniques.{self.technique}"
        )
        return technique


class Recipe(BaseModel):
    """Ordered techniques with their settings, and what they start from.

    Parameters
    ----------
    start
        ``parent``: the champion's full float model, from which every compressed model is cut anew;
        ``champion``: the float model as the champion serves it, compressed already, which is adapted
        and not compressed again.
    steps
        In order.

    Examples
    --------
    >>> recipe = Recipe(steps=(Step(technique="export"), Step(technique="quantize.static")))
    >>> recipe.name
    'export > quantize.static'
    >>> Recipe.model_validate(recipe.model_dump()) == recipe
    True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Literal["parent", "champion"] = "parent"
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """How a person reads it."""
        begin = [self.start] if self.start == "champion" or not self.steps else []
        return " > ".join([*begin, *(step.word for step in self.steps)])

    def check(self, gives: Collection[str] = (ONNX,), parent: str = FLOAT) -> list[Technique]:
        """Load every technique and check that each takes what the one before gives.

        Parameters
        ----------
        gives
            Formats that the targets' runtimes take.
        parent
            The format that the trainer gives.

        Raises
        ------
        SettingsError
            Saying which step does not fit and what is missing.
        """
        techniques = [step.load() for step in self.steps]
        have, compressed = parent, self.start == "champion"
        for about in (t.about for t in techniques):
            if about.takes != have:
                raise SettingsError(
                    f"recipe {self.name!r}: {about.name} takes {about.takes}, the step before gives {have}; "
                    "put a technique between them that converts, such as export"
                )
            if about.needs_teacher and not compressed:
                raise SettingsError(
                    f"recipe {self.name!r}: {about.name} learns from the float parent, and nothing before it "
                    "departs from that parent; put a compressing technique such as prune.channel before it"
                )
            if self.start == "champion" and about.takes == about.gives == parent and about.compresses:
                raise SettingsError(
                    f"recipe {self.name!r}: {about.name} compresses the float model that the champion serves, which is "
                    "compressed already; nothing is compressed twice: start from the parent"
                )
            have = about.gives
            compressed = compressed or _departs(about, parent)
        if have not in gives:
            raise SettingsError(
                f"recipe {self.name!r} ends in format {have}, the targets' runtimes take {' or '.join(gives)}; "
                "add a technique that converts, such as export"
            )
        return techniques


def _departs(about: About, parent: str) -> bool:
    """Tell whether a step's result is no full model any more, whatever trains it afterwards."""
    return about.takes == about.gives == parent and not about.renews_parent


@dataclass(frozen=True)
class Kitchen:
    """Builds recipes on one round's data; a step with the same fingerprint is built once.

    Parameters
    ----------
    parent
        The full float model that every compressed model is cut from.
    served
        The float model as the champion serves it; the parent itself where that was never compressed.
    data
        The round's rows.
    schema
        Of the rows.
    store
        Folder of the finished steps, by fingerprint.
    seed
        Of every step.
    threads
        Most threads that a step may use.
    factory
        The only factory that a step may call, which the project names.
    training
        The trainer's settings, from which a step that inherits them takes what it is not told.
    """

    parent: Model
    served: Model
    data: Data
    schema: Schema
    store: Path
    seed: int
    threads: int = 1
    factory: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def build(
        self,
        recipe: Recipe,
        gives: Collection[str] = (ONNX,),
        call: Call = plainly,
        tell: Callable[[Mapping[str, Any]], None] = lambda _: None,
        deadline: float | None = None,
    ) -> Candidate:
        """Build every step that is not built yet, here.

        Parameters
        ----------
        gives
            Formats that the targets' runtimes take.
        call
            Runs each step that is built, under a name.
        tell
            Is told of each step as soon as it is there, and whether it was built now (``fresh``).
        deadline
            Of :class:`~trimtab.technique.Job`; a step that is built already is taken however late it is.

        Raises
        ------
        SettingsError
            For a recipe whose steps do not fit.
        OutOfTimeError
            When the deadline passes.
        PluginError
            When a technique raises something that is not an error of trimtab's.
        """
        walk = self.walk(recipe, gives)
        made: Built | None = None
        try:
            while True:
                order = next(walk) if made is None else walk.send(made)
                fresh = not order.done
                if fresh:
                    order.refuse_after(deadline)
                    call(f"build {order.step.word}", functools.partial(order.make, deadline))
                made = order.built(fresh)
                tell(dataclasses.asdict(made))
        except StopIteration as end:
            candidate: Candidate = end.value
            return candidate

    def walk(self, recipe: Recipe, gives: Collection[str] = (ONNX,)) -> Generator[Order, Built, Candidate]:
        """Yield the recipe's steps one after another; each is to be sent back as it was built, by whom ever.

        Raises
        ------
        SettingsError
            For a recipe whose steps do not fit.
        """
        techniques = recipe.check(gives, self.parent.format)
        model = self.served if recipe.start == "champion" else self.parent
        parent, lean, built = self.parent, model, []
        whole = model.digest == self.parent.digest
        for step, technique in zip(recipe.steps, techniques, strict=True):
            made = yield Order(self, model, parent, step, self.fingerprint(model, parent, step, technique))
            built.append(made)
            model = Model.at(self.store / made.fingerprint / "model", technique.about.gives)
            if technique.about.gives == self.parent.format:
                lean = model
            whole = whole and not _departs(technique.about, self.parent.format)
            if technique.about.renews_parent and whole:
                parent = model
        fingerprint = built[-1].fingerprint if built else model.digest[:32]
        return Candidate(recipe.name, fingerprint, model, parent, lean, tuple(built))

    def fingerprint(self, model: Model, teacher: Model, step: Step, technique: Technique) -> str:
        """Return the digest of everything that the step's result follows from."""
        data = self.data.digest if technique.about.needs_data else None
        own = discover.installed("techniques")[step.technique].dist
        names = ("trimtab", *technique.about.libraries, *([own.name] if own is not None else []))
        versions = {name: _version(name) for name in names}
        settings = dataclasses.asdict(technique)  # type: ignore[call-overload]
        models, training = [model.digest, teacher.digest], self.inherited(technique)
        cause = [models, step.technique, settings, training, data, self.seed, versions, self._code]
        return hashlib.sha256(json.dumps(cause, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def inherited(self, technique: Technique) -> Mapping[str, Any]:
        """Return the trainer's settings for a technique that inherits them."""
        return self.training if technique.about.inherits else {}

    @functools.cached_property
    def _code(self) -> str:
        return discover.source_digest(self.factory, "model.factory")


_BUILDING = threading.Lock()
"""One step at a time in a process: techniques draw from their library's random state, and a process has one of it."""


@dataclass(frozen=True)
class Order:
    """A step to build; it can be pickled, and built on any machine that sees the same folders.

    Parameters
    ----------
    kitchen
        Whose step it is.
    model, teacher
        What it starts from, and the newest float parent on the way to it.
    step
        The technique with its settings.
    fingerprint
        Of everything that the result follows from.
    """

    kitchen: Kitchen
    model: Model
    teacher: Model
    step: Step
    fingerprint: str

    @property
    def folder(self) -> Path:
        """Where the finished step lies."""
        return self.kitchen.store / self.fingerprint

    @property
    def done(self) -> bool:
        """Whether the step is built."""
        return self.folder.is_dir()

    def built(self, fresh: bool) -> Built:
        """Return what is told of the step, which is built."""
        told = read_json(self.folder / "step.json")
        seconds, begun = float(told["seconds"]), float(told["begun"])
        return Built(self.fingerprint, told["technique"], seconds, begun, int(told["effort"]), fresh)

    def make(self, deadline: float | None) -> None:
        """Build the step.

        Parameters
        ----------
        deadline
            On this machine's clock of :func:`time.monotonic`.

        Raises
        ------
        OutOfTimeError
            When the deadline passes.
        PluginError
            When the technique raises something that is not an error of trimtab's.
        """
        technique = self.step.load()
        with _BUILDING, threadpool_limits(self.kitchen.threads):
            self.refuse_after(deadline)
            with fill_folder(self.folder) as draft:
                begun, begin = time.time(), time.perf_counter()
                made = self._apply(technique, draft, deadline)
                told = {"technique": technique.about.name, "effort": effort_of(technique, made.facts), "begun": begun}
                write_json(draft / "step.json", told | {"seconds": time.perf_counter() - begin})

    def refuse_after(self, deadline: float | None) -> None:
        """Refuse to begin when the deadline has passed.

        Raises
        ------
        OutOfTimeError
            Then.
        """
        if deadline is not None and time.monotonic() >= deadline:
            raise OutOfTimeError(f"{self.step.word} was not begun: the round's minutes were spent")

    def _apply(self, technique: Technique, draft: Path, deadline: float | None) -> Model:
        kitchen, where = self.kitchen, draft / "model"
        where.mkdir()
        training = kitchen.inherited(technique)
        job = Job(
            where, kitchen.seed, kitchen.schema, self.teacher, kitchen.threads, kitchen.factory, deadline, training
        )
        try:
            return technique.apply(self.model, kitchen.data, job)
        except TrimtabError:
            raise
        except Exception as error:  # a plugin may raise anything; the round goes on without this candidate
            what = " ".join(str(error).split())[:300]
            raise PluginError(
                f"technique {technique.about.name!r} raised {type(error).__name__}: {what}; "
                "mend it, or leave it out of optimize.techniques"
            ) from error

    def anywhere(self) -> Order:
        """Return the order with absolute paths, for a process that works in another folder."""
        kitchen = self.kitchen
        data = dataclasses.replace(kitchen.data, folder=kitchen.data.folder.absolute())
        parent, served, model, teacher = map(_absolute, (kitchen.parent, kitchen.served, self.model, self.teacher))
        moved = dataclasses.replace(kitchen, parent=parent, served=served, data=data, store=kitchen.store.absolute())
        return dataclasses.replace(self, kitchen=moved, model=model, teacher=teacher)

    def check(self) -> None:
        """Check that what is built here would be what was ordered.

        Raises
        ------
        ArtifactError
            When this machine does not see the folders, or other files in them.
        PluginError
            When it has other versions of what builds the step.
        """
        node, share = platform.node(), "a runner's machines share the project's home, at the same path"
        for folder in (self.model.folder, self.teacher.folder, self.kitchen.data.folder, self.kitchen.store.parent):
            if not folder.is_dir():
                raise ArtifactError(f"{folder} is not on {node}: {share}; mount it there, or set runner: processes")
        for model in (self.model, self.teacher):
            if Model.at(model.folder, model.format).digest != model.digest:
                raise ArtifactError(f"{model.folder} holds other files on {node}: {share}; see what is mounted there")
        found = self.kitchen.fingerprint(self.model, self.teacher, self.step, self.step.load())
        if found != self.fingerprint:
            raise PluginError(
                f"{node} would build {self.step.word} otherwise: its trimtab, a library of the technique, or the file "
                "of model.factory is another than the loop's; install the same there"
            )


def _absolute(model: Model) -> Model:
    return dataclasses.replace(model, folder=model.folder.absolute())


def effort_of(technique: Technique, facts: Mapping[str, Any]) -> int:
    """Return what a step's time grew with, as its result says it, else as it was set; 0 for a quick technique."""
    name = technique.about.effort
    return 0 if name is None else int(facts.get(name) or getattr(technique, name) or 0)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
