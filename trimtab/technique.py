"""The contract of a technique: it takes a model in one format and gives one in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from trimtab.artifact import FLOAT, ONNX, Model
from trimtab.data import Data
from trimtab.window import Arrays, Schema

__all__ = ["FLOAT", "ONNX", "Job", "Technique", "Trainer"]


@dataclass(frozen=True)
class Job:
    """Where and how one step works.

    Parameters
    ----------
    folder
        An empty folder that exists; the step writes its model's files there and nowhere else.
    seed
        Of every random draw.
    schema
        Of the rows.
    teacher
        The newest float parent on the way to this step (what distillation learns from), or None.
    threads
        Most threads that the step may use.
    factory
        The factory that the project names. A model's files say which one rebuilds it, and files are
        not trusted: another than this is not called. None where the project names none.
    """

    folder: Path
    seed: int
    schema: Schema
    teacher: Model | None = None
    threads: int = 1
    factory: str | None = None


class Technique(Protocol):
    """Takes a model and returns a new one, leaving the old one's files alone.

    A technique is a frozen dataclass: its fields are its settings, validated in ``__post_init__``.
    ``takes`` and ``gives`` are formats; ``renews_parent`` says that the result is a full float model
    and becomes the parent of what follows (training does, compressing does not); ``needs_data``
    that it reads rows; ``needs_teacher`` that it learns from the float parent, and so belongs after a
    step that departs from it; ``experimental`` keeps it out of every default search; ``libraries``
    names the distributions whose versions its result depends on.
    """

    name: ClassVar[str]
    takes: ClassVar[str]
    gives: ClassVar[str]
    renews_parent: ClassVar[bool]
    needs_data: ClassVar[bool]
    needs_teacher: ClassVar[bool]
    experimental: ClassVar[bool]
    libraries: ClassVar[tuple[str, ...]]

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the new model into ``job.folder`` and describe it."""
        ...


class Trainer(Protocol):
    """How the user's model is built and fitted for the first time.

    A frozen dataclass whose fields are the project's ``model`` settings beside ``trainer`` and ``metric``.
    """

    name: ClassVar[str]

    def draft(self, inputs: Arrays, job: Job) -> Model:
        """Build the model without fitting it, into ``job.folder``: to see that it can be built and converted.

        Raises
        ------
        PluginError
            When it cannot be built, naming the setting.
        """
        ...

    def fit(self, data: Data, job: Job) -> Model:
        """Fit a float model on the training rows, from nothing, into ``job.folder``."""
        ...
