"""Distillation: a pruned model learns from the float parent it was cut from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import Lesson, check_settings, fit, predict, training_rows

__all__ = ["Distill"]


@dataclass(frozen=True)
class Distill:
    """Train on the labels and on the teacher's softened answers to the same training rows (Hinton et al. 2015).

    The teacher is the job's: the newest float parent on the way. Its answers are computed once.

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay
        As the trainer has them; None takes the model's own.
    temperature
        Softens both distributions, above 0.
    weight
        Share of the teacher in the loss, 0 to 1.

    Examples
    --------
    >>> Distill(weight=2.0)
    Traceback (most recent call last):
    ...
    ValueError: distill.weight must be in [0, 1], got 2.0
    """

    epochs: int | None = None
    learning_rate: float | None = None
    temperature: float = 4.0
    weight: float = 0.7
    batch_size: int | None = None
    weight_decay: float | None = None

    about: ClassVar[About] = About(
        name="distill",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_teacher=True,
        needs_labels=True,
        effort="epochs",
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        check_settings(self.about.name, asdict(self))
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"distill.temperature must be above 0 and finite, got {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distill.weight must be in [0, 1], got {self.weight}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the taught model into ``job.folder``."""
        if job.teacher is None:
            raise PluginError("distill has no teacher; put it after a step that trains, or give the round a parent")
        student, teacher = (FloatModel.load(m, job.factory) for m in (model, job.teacher))
        if student.spec.schema.classes != teacher.spec.schema.classes:
            raise PluginError(
                f"distill: the teacher's classes {list(teacher.spec.schema.classes)} are not the student's "
                f"{list(student.spec.schema.classes)}; use a teacher of the same project"
            )
        rows = training_rows(data, student.spec.schema)
        lesson = Lesson(predict(teacher.network, teacher.prepare(rows.inputs), job), self.temperature, self.weight)
        settings = student.spec.settings.but(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
        )
        labels = torch.from_numpy(rows.labels)
        loss = fit(student.network, student.prepare(rows.inputs), labels, settings, job, self.about.name, lesson)
        return student.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss})
