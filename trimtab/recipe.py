"""Recipes: ordered techniques with their settings, checked before anything runs, built step by step, once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from trimtab import discover
from trimtab.artifact import Model, fill_folder, read_json, write_json
from trimtab.candidate import Candidate
from trimtab.data import Data
from trimtab.errors import PluginError, SettingsError, TrimtabError
from trimtab.technique import FLOAT, ONNX, Job, Technique
from trimtab.window import Schema

__all__ = ["Kitchen", "Recipe", "Step"]


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
    """Ordered techniques with their settings.

    Examples
    --------
    >>> recipe = Recipe(steps=(Step(technique="export"), Step(technique="quantize.static")))
    >>> recipe.name
    'export > quantize.static'
    >>> Recipe.model_validate(recipe.model_dump()) == recipe
    True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """How a person reads it."""
        return " > ".join(step.word for step in self.steps)

    def check(self, gives: str = ONNX) -> list[Technique]:
        """Load every technique and check that each takes what the one before gives.

        Parameters
        ----------
        gives
            Format that the target's runtime takes.

        Raises
        ------
        SettingsError
            Saying which step does not fit and what is missing.
        """
        techniques = [step.load() for step in self.steps]
        have, compressed = FLOAT, False
        for technique in techniques:
            if technique.about.takes != have:
                raise SettingsError(
                    f"recipe {self.name!r}: {technique.about.name} takes {technique.about.takes}, "
                    f"the step before gives {have}; "
                    "put a technique between them that converts, such as export"
                )
            if technique.about.needs_teacher and not compressed:
                raise SettingsError(
                    f"recipe {self.name!r}: {technique.about.name} learns from the float parent, and nothing before it "
                    "departs from that parent; put a compressing technique such as prune.channel before it"
                )
            have = technique.about.gives
            compressed = not technique.about.renews_parent and (
                compressed or technique.about.takes == technique.about.gives == FLOAT
            )
        if have != gives:
            raise SettingsError(
                f"recipe {self.name!r} ends in format {have}, the target's runtime takes {gives}; "
                "add a technique that converts, such as export"
            )
        return techniques


@dataclass(frozen=True)
class Kitchen:
    """Builds recipes from one parent on one round's data; a step with the same fingerprint is built once.

    Parameters
    ----------
    parent
        The float model that every recipe starts from.
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
    """

    parent: Model
    data: Data
    schema: Schema
    store: Path
    seed: int
    threads: int = 1
    factory: str | None = None

    def build(self, recipe: Recipe, gives: str = ONNX) -> Candidate:
        """Build every step that is not built yet.

        Raises
        ------
        SettingsError
            For a recipe whose steps do not fit.
        PluginError
            When a technique raises something that is not an error of trimtab's.
        """
        techniques = recipe.check(gives)
        model, parent, seconds, prints = self.parent, self.parent, 0.0, []
        for step, technique in zip(recipe.steps, techniques, strict=True):
            print_ = self.fingerprint(model, parent, step, technique)
            model, spent = self._step(print_, model, parent, technique)
            parent = model if technique.about.renews_parent else parent
            seconds += spent
            prints.append(print_)
        return Candidate(recipe.name, prints[-1], model, parent, seconds, tuple(prints))

    def fingerprint(self, model: Model, teacher: Model, step: Step, technique: Technique) -> str:
        """Return the digest of everything that the step's result follows from."""
        data = self.data.digest if technique.about.needs_data else None
        versions = {name: _version(name) for name in ("trimtab", *technique.about.libraries)}
        settings = dataclasses.asdict(technique)  # type: ignore[call-overload]
        cause = [model.digest, teacher.digest, step.technique, settings, data, self.seed, versions]
        return hashlib.sha256(json.dumps(cause, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _step(self, fingerprint: str, model: Model, teacher: Model, technique: Technique) -> tuple[Model, float]:
        folder = self.store / fingerprint
        if not folder.is_dir():
            self._make(folder, model, teacher, technique)
        return Model.at(folder / "model", technique.about.gives), float(read_json(folder / "step.json")["seconds"])

    def _make(self, folder: Path, model: Model, teacher: Model, technique: Technique) -> None:
        begin = time.perf_counter()
        with fill_folder(folder) as draft:
            (draft / "model").mkdir()
            job = Job(draft / "model", self.seed, self.schema, teacher, self.threads, self.factory)
            try:
                technique.apply(model, self.data, job)
            except TrimtabError:
                raise
            except Exception as error:  # a plugin may raise anything; the round goes on without this candidate
                raise PluginError(
                    f"technique {technique.about.name!r} raised {type(error).__name__}: {error}"
                ) from error
            write_json(draft / "step.json", {"technique": technique.about.name, "seconds": time.perf_counter() - begin})


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
