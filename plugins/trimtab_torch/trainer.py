"""How a project's first network comes to be: what the trainers of classifiers and of regressors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Rows
from trimtab.technique import Job
from trimtab.window import Arrays
from trimtab_torch.settings import Loss, Precision, Settings
from trimtab_torch.spec import FloatModel, Spec
from trimtab_torch.training import fit, training_rows

__all__ = ["NetworkTrainer", "fit_fresh"]


@dataclass(frozen=True)
class NetworkTrainer(ABC):
    """Fits a network that a factory builds.

    Parameters
    ----------
    factory
        ``module:name`` of a class or function that gives a ``torch.nn.Module``.
    arguments
        What to call it with; ``inputs``, ``outputs`` (or ``classes``) and ``shape`` are filled in from
        the schema where it has such parameters and they are not set here.
    epochs, learning_rate, batch_size, weight_decay, precision, flip, shift
        As :class:`trimtab_torch.settings.Settings` has them.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 6
    learning_rate: float = 0.05
    batch_size: int = 64
    weight_decay: float = 5e-4
    precision: Precision = "auto"
    flip: bool = False
    shift: int = 0

    gives: ClassVar[str] = FLOAT
    techniques: ClassVar[tuple[str | Mapping[str, Any], ...]] = (
        "finetune",
        {"prune.channel": {"ratio": [0.5, 0.7]}},
        "distill",
        "export",
        "quantize.static",
    )

    def __post_init__(self) -> None:
        self.settings.check("model")

    @property
    def settings(self) -> Settings:
        """The training settings, as the model's spec keeps them."""
        shared = {f.name: getattr(self, f.name) for f in fields(Settings) if f.name != "loss"}
        return Settings(**shared, loss=self._loss)

    @property
    @abstractmethod
    def _loss(self) -> Loss:
        """What is made small."""

    def draft(self, inputs: Arrays, job: Job) -> Model:
        """Build the model without fitting its weights, into ``job.folder``."""
        count = len(next(iter(inputs.values())))
        rows = Rows(inputs, np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.uint64))
        return FloatModel.create(self._spec(job), rows, job.seed).save(job.folder, {})

    def fit(self, data: Data, job: Job) -> Model:
        """Fit a float model on the training rows into ``job.folder``."""
        return fit_fresh(self._spec(job), self.settings, data, job, "model")

    def _spec(self, job: Job) -> Spec:
        return Spec(self.factory, dict(self.arguments), job.schema, self.settings)


def fit_fresh(spec: Spec, settings: Settings, data: Data, job: Job, where: str) -> Model:
    """Fit fresh weights and fresh preprocessing, and save them.

    Parameters
    ----------
    settings
        Of this training; the spec keeps the trainer's own.
    where
        What trains, for messages.
    """
    rows = training_rows(data, spec.schema)
    model = FloatModel.create(spec, rows, job.seed)
    loss = fit(model.network, model.prepare(rows.inputs), model.targets(rows.labels), settings, job, where)
    return model.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss})
