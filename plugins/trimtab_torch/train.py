"""Training anew on new rows: from the parent's weights, or from nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import torch

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.technique import About, Job
from trimtab_torch.classifier import fit_fresh
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import check_settings, fit, training_rows

__all__ = ["Finetune", "Scratch"]


@dataclass(frozen=True)
class Finetune:
    """Train the parent further on the new rows; its preprocessing stays as it is.

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay
        As the trainer has them; None takes the parent's own.

    Examples
    --------
    >>> Finetune(learning_rate=-1.0)
    Traceback (most recent call last):
    ...
    ValueError: finetune.learning_rate must be above 0 and finite, got -1.0
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None

    about: ClassVar[About] = About(
        name="finetune",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        rung=3,
        effort="epochs",
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        check_settings(self.about.name, asdict(self))

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the further trained model into ``job.folder``."""
        child = FloatModel.load(model, job.factory)
        rows = training_rows(data, child.spec.schema)
        settings = child.spec.settings.but(**asdict(self))
        labels = torch.from_numpy(rows.labels)
        loss = fit(child.network, child.prepare(rows.inputs), labels, settings, job, self.about.name)
        return child.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss})


@dataclass(frozen=True)
class Scratch:
    """Build the parent's network anew, with fresh weights and freshly fitted preprocessing, and train it.

    Widths that pruning left are not kept: the factory's own come back.

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay
        As the trainer has them; None takes the parent's own.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None

    about: ClassVar[About] = About(
        name="scratch",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        effort="epochs",
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        check_settings(self.about.name, asdict(self))

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the newly trained model into ``job.folder``."""
        spec = replace(FloatModel.load(model, job.factory).spec, schema=job.schema)
        return fit_fresh(spec, spec.settings.but(**asdict(self)), data, job, self.about.name)
