"""Distillation: a pruned model learns from a stronger one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Rows
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.lesson import Lesson, Teacher
from trimtab_torch.preserve import Kept
from trimtab_torch.settings import Augmented
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import fit, training_rows

__all__ = ["Distill"]

TEACHERS = ("parent", "ensemble", "larger")


@dataclass(frozen=True)
class Distill(Augmented):
    """Train on the labels and on a teacher's answers to the same training rows (Hinton et al. 2015).

    Of a classification the answers are softened probabilities, of a regression predictions. Where
    images are augmented the teacher sees the same views; otherwise it is asked once. Zeros and shared
    values that pruning or clustering left in the weights stay.

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    temperature
        Softens both distributions, above 0.
    weight
        Share of the teacher's answers in the loss, 0 to 1.
    features
        Weight of matching what enters the last layer (Romero et al. 2015), in units of the teacher's
        variance there; where the widths differ a linear map between them is learnt, and thrown away.
    teacher
        ``parent``, the newest float parent on the way; ``ensemble``, it and ``members - 1`` more of its
        network, trained here from other seeds, averaged in probability; ``larger``, the project's
        factory with other arguments, trained here.
    members
        Networks of the ensemble, the parent among them, at least 2.
    teacher_arguments
        Merged over the model's arguments to build the larger teacher, such as ``{widths: [64, 128, 256]}``.
    teacher_epochs
        That a teacher is trained here; None takes ``model.epochs``.

    Examples
    --------
    >>> Distill(weight=2.0)
    Traceback (most recent call last):
    ...
    ValueError: distill.weight must be in [0, 1], got 2.0
    """

    temperature: float = 4.0
    weight: float = 0.7
    features: float = 0.0
    teacher: Literal["parent", "ensemble", "larger"] = "parent"
    members: int = 3
    teacher_arguments: Mapping[str, Any] = field(default_factory=dict)
    teacher_epochs: int | None = None

    about: ClassVar[About] = About(
        name="distill",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_teacher=True,
        needs_labels=True,
        effort="epochs",
        inherits=True,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"distill.temperature must be above 0 and finite, got {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distill.weight must be in [0, 1], got {self.weight}")
        if not (self.features >= 0 and math.isfinite(self.features)):
            raise ValueError(f"distill.features must be 0 or more and finite, got {self.features}")
        if self.teacher not in TEACHERS:
            raise ValueError(f"distill.teacher must be one of {', '.join(TEACHERS)}, got {self.teacher!r}")
        if self.members < 2:
            raise ValueError(f"distill.members must be at least 2, the parent among them, got {self.members}")
        if self.teacher == "larger" and not self.teacher_arguments:
            raise ValueError("distill.teacher 'larger' needs distill.teacher_arguments: what the factory is given")
        if self.teacher_epochs is not None and self.teacher_epochs < 1:
            raise ValueError(f"distill.teacher_epochs must be at least 1, got {self.teacher_epochs}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the taught model into ``job.folder``."""
        if job.teacher is None:
            raise PluginError("distill has no teacher; put it after a step that trains, or give the round a parent")
        student, parent = (FloatModel.taken(m, job) for m in (model, job.teacher))
        if student.spec.schema.classes != parent.spec.schema.classes:
            raise PluginError(
                f"distill: the teacher's classes {list(parent.spec.schema.classes)} are not the student's "
                f"{list(student.spec.schema.classes)}; use a teacher of the same project"
            )
        rows, settings = training_rows(data, student.spec.schema), self.over(student.spec.settings)
        teacher = self._teacher(student, parent, rows, job)
        lesson = Lesson(teacher, self.temperature, self.weight, self.features)
        parts, targets = student.prepare(rows.inputs), student.targets(rows.labels)
        kept = Kept.of(student.network)
        loss = fit(student.network, parts, targets, settings, job, self.about.name, lesson, kept)
        return student.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss})

    def _teacher(self, student: FloatModel, parent: FloatModel, rows: Rows, job: Job) -> Teacher:
        """Return who teaches, trained where it is not the parent alone."""
        networks = [parent.network]
        if self.teacher == "larger":
            own = parent.spec.anew(job)
            spec = replace(own, arguments={**own.arguments, **self.teacher_arguments})
            networks = [self._train(replace(parent, spec=spec), rows, job, "distill's larger teacher").network]
        elif self.teacher == "ensemble":
            networks += [
                self._train(parent, rows, replace(job, seed=job.seed + more), f"distill's teacher {more + 1}").network
                for more in range(1, self.members)
            ]
        return Teacher(networks, parent.prepare(rows.inputs), *parent.preprocess.into(student.preprocess))

    def _train(self, like: FloatModel, rows: Rows, job: Job, where: str) -> FloatModel:
        """Train a network of the factory behind the parent's preprocessing."""
        fresh = FloatModel.build(like.spec, like.preprocess, job.seed)
        settings = self.over(like.spec.settings).but(epochs=self.teacher_epochs or like.spec.settings.epochs)
        fit(fresh.network, fresh.prepare(rows.inputs), fresh.targets(rows.labels), settings, job, where)
        return fresh
