"""The trainer of torch classifiers: how a project's first model comes to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from trimtab.artifact import Model
from trimtab.data import Data
from trimtab.technique import Job
from trimtab.window import Arrays, Task
from trimtab_torch.spec import FloatModel, Spec
from trimtab_torch.training import Settings, fit, training_rows

__all__ = ["Classifier", "fit_fresh"]


@dataclass(frozen=True)
class Classifier:
    """Fit a network that a factory builds, by cross entropy on the training rows.

    The network is called with the preprocessed table ``[rows, width]`` (if the schema has numbers or
    categories) and then with each tensor, and gives logits ``[rows, classes]``.

    Parameters
    ----------
    factory
        ``module:name`` of a class or function that gives a ``torch.nn.Module``.
    arguments
        What to call it with; ``inputs``, ``classes`` and ``shape`` are filled in from the schema where
        it has such parameters and they are not set here.
    epochs, learning_rate, batch_size, weight_decay
        Of SGD with Nesterov momentum and a one-cycle schedule.

    Examples
    --------
    >>> Classifier("trimtab_torch.networks:Mlp", epochs=0)
    Traceback (most recent call last):
    ...
    ValueError: model.epochs must be at least 1, got 0
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 6
    learning_rate: float = 0.05
    batch_size: int = 64
    weight_decay: float = 5e-4

    name: ClassVar[str] = "torch.classifier"
    task: ClassVar[Task] = "classification"

    def __post_init__(self) -> None:
        self.settings.check("model")

    @property
    def settings(self) -> Settings:
        """The training settings, as the model's spec keeps them."""
        return Settings(self.epochs, self.learning_rate, self.batch_size, self.weight_decay)

    def draft(self, inputs: Arrays, job: Job) -> Model:
        """Build the model without fitting its weights, into ``job.folder``."""
        return FloatModel.create(self._spec(job), inputs, job.seed).save(job.folder, {})

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
    model = FloatModel.create(spec, rows.inputs, job.seed)
    labels = torch.from_numpy(rows.labels)
    loss = fit(model.network, model.prepare(rows.inputs), labels, settings, job, where)
    return model.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss})
