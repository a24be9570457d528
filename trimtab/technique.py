"""The contract of a technique: it takes a model in one format and gives one in another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from trimtab import discover
from trimtab.artifact import FLOAT, ONNX, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.window import Arrays, Schema, Task

__all__ = ["FLOAT", "ONNX", "About", "Job", "Technique", "Trainer", "trainer_named", "untrained", "usual"]


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
    deadline
        When the round's minutes are spent, on the clock of :func:`time.monotonic`; None: never. A step
        that works for long looks at it now and then, and gives up by raising
        :class:`~trimtab.errors.OutOfTimeError`.
    training
        The trainer's settings as the project has them today, for a technique that ``inherits`` them; a
        setting that is not among them is as the model was made with.
    """

    folder: Path
    seed: int
    schema: Schema
    teacher: Model | None = None
    threads: int = 1
    factory: str | None = None
    deadline: float | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What a search must know of a technique to place it in a recipe.

    Parameters
    ----------
    name
        As projects call it.
    takes, gives
        Formats.
    renews_parent
        Whether the result of a full model is a full model, and becomes the parent of what follows (training does,
        compressing does not). What trains a compressed model leaves the parent as it is.
    needs_data, needs_labels
        Whether it reads rows, and whether it reads their labels.
    needs_teacher
        Whether it learns from the float parent, and so belongs after a step that departs from it.
    rung
        Its place on the ladder of techniques that adapt a model without changing its shape, from the
        cheapest (1: no labels, 2: one layer, 3: every layer); None for one that does not do that.
    effort
        The setting that its time grows with, such as ``epochs``, by which a search begins small; None
        where it takes little time whatever its settings.
    faster_on
        Runtimes on which its result is faster than what it took; empty where there is none.
    smaller
        Whether its result is smaller on disk than what it took.
    experimental
        Keeps it out of every default search.
    inherits
        Whether it takes from the trainer's settings what it is not told (``Job.training``).
    libraries
        Distributions whose versions its result depends on.
    """

    name: str
    takes: str
    gives: str
    renews_parent: bool = False
    needs_data: bool = False
    needs_labels: bool = False
    needs_teacher: bool = False
    rung: int | None = None
    effort: str | None = None
    faster_on: tuple[str, ...] = ()
    smaller: bool = False
    experimental: bool = False
    inherits: bool = False
    libraries: tuple[str, ...] = ()

    @property
    def compresses(self) -> bool:
        """Whether it is there to make a model faster or smaller."""
        return self.smaller or bool(self.faster_on)


class Technique(Protocol):
    """Takes a model and returns a new one, leaving the old one's files alone.

    A technique is a frozen dataclass: its fields are its settings, validated in ``__post_init__``, and
    its ``about`` says the same of all its instances.
    """

    about: ClassVar[About]

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the new model into ``job.folder`` and describe it.

        Raises
        ------
        OutOfTimeError
            When ``job.deadline`` passes while it works.
        """
        ...


class Trainer(Protocol):
    """How the user's model is built and fitted for the first time.

    A frozen dataclass whose fields are the project's ``model`` settings beside ``trainer`` and ``metric``.
    ``task`` says what its models answer: ``classification`` with the output ``probabilities`` (float32
    ``[rows, classes]``), ``regression`` with ``predictions`` (float32 ``[rows, 1]``). ``gives`` names the
    format of its models: what parents are stored in, and what a recipe starts from.

    One that hands over a model which nothing can train says why in a text ``untrained``: such a model is only converted
    and compressed, and every verdict repeats it. One that makes models of more than its settings and the rows, such
    as a file, gives the ``digest`` of that. ``techniques`` may say what a project's rounds try that names none, as
    ``optimize.techniques`` would.
    """

    name: ClassVar[str]
    task: ClassVar[Task]
    gives: ClassVar[str]

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


def trainer_named(name: str) -> type[Trainer]:
    """Find a trainer by the name that ``model.trainer`` gives it.

    Raises
    ------
    PluginError
        When there is none, it does not import, or it does not say of itself what a trainer must.
    """
    found: type[Trainer] = discover.find("trainers", name, "model")
    missing = [word for word in ("name", "task", "gives") if not hasattr(found, word)]
    if missing:
        raise PluginError(
            f"model.trainer {name!r} does not say its {' and '.join(missing)}; a trainer's class has name, task and "
            "gives (trimtab.technique.Trainer): install a newer version of it, or name another"
        )
    return found


def usual(trainer: Trainer | type[Trainer]) -> tuple[str | Mapping[str, Any], ...]:
    """Return the techniques that projects of a trainer try where they name none; empty where it says nothing."""
    return tuple(getattr(trainer, "techniques", ()))


def untrained(trainer: Trainer | type[Trainer]) -> str:
    """Return why nothing can train the models of a trainer; empty where something can."""
    return str(getattr(trainer, "untrained", ""))
