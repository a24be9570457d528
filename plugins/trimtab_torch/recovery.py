"""A few epochs that mend a network whose shape was changed: from the round's teacher where there is one."""

from __future__ import annotations

from trimtab.data import Data
from trimtab.technique import Job
from trimtab_torch.lesson import Lesson, Teacher
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import AfterStep, fit, training_rows

__all__ = ["recover"]


def recover(
    model: FloatModel, data: Data, job: Job, epochs: int, where: str, after_step: AfterStep | None = None
) -> float:
    """Train the model's network in place, by distillation where the job has a teacher, and return the last loss.

    Parameters
    ----------
    where
        What trains, for messages.
    after_step
        As :func:`trimtab_torch.training.fit` has it.
    """
    rows = training_rows(data, model.spec.schema)
    lesson = None
    if job.teacher is not None:
        teacher = FloatModel.taken(job.teacher, job)
        scale = teacher.preprocess.into(model.preprocess)
        lesson = Lesson(Teacher((teacher.network,), teacher.prepare(rows.inputs), *scale))
    parts, targets = model.prepare(rows.inputs), model.targets(rows.labels)
    settings = model.spec.settings.but(epochs=epochs)
    return fit(model.network, parts, targets, settings, job, where, lesson, after_step)
