"""Training on new rows: the last layer of the parent, all of it, or a new network from nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.technique import About, Job
from trimtab_torch.frozen import OnlyThese, entering, gives_outputs
from trimtab_torch.layers import executed
from trimtab_torch.preserve import Kept
from trimtab_torch.settings import Augmented, Inherited
from trimtab_torch.spec import FloatModel
from trimtab_torch.trainer import fit_fresh
from trimtab_torch.training import fit, training_rows

__all__ = ["Finetune", "Head", "Scratch"]


@dataclass(frozen=True)
class Finetune(Augmented):
    """Train the parent further on the new rows; its preprocessing stays as it is.

    Zeros and shared values that pruning or clustering left in the weights stay. Its settings are those of
    :class:`trimtab_torch.settings.Augmented`.

    Examples
    --------
    >>> Finetune(learning_rate=-1.0)
    Traceback (most recent call last):
    ...
    ValueError: finetune.learning_rate must be above 0 and finite, got -1.0
    """

    about: ClassVar[About] = About(
        name="finetune",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        rung=3,
        effort="epochs",
        inherits=True,
        libraries=("torch",),
    )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the further trained model into ``job.folder``."""
        child = FloatModel.taken(model, job)
        rows, settings = training_rows(data, child.spec.schema), self.over(child.spec.settings)
        parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
        kept = Kept.of(child.network)
        loss = fit(child.network, parts, targets, settings, job, self.about.name, after_step=kept)
        return child.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss})


@dataclass(frozen=True)
class Scratch(Augmented):
    """Build the project's network anew, with fresh weights and freshly fitted preprocessing, and train it.

    Widths that pruning left, or blocks that a search found, are not kept: the factory's own come back, with
    ``model.arguments`` as the project has them today. Its settings are those of
    :class:`trimtab_torch.settings.Augmented`.
    """

    about: ClassVar[About] = About(
        name="scratch",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        effort="epochs",
        inherits=True,
        libraries=("torch",),
    )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the newly trained model into ``job.folder``."""
        parent = FloatModel.taken(model, job).spec
        spec = replace(parent.anew(job), schema=job.schema)
        return fit_fresh(spec, self.over(spec.settings), data, job, self.about.name)


@dataclass(frozen=True)
class Head(Inherited):
    """Train the last layer alone; what lies before it keeps its weights and its batch norm statistics.

    Where the last linear or convolution layer gives the network's outputs itself, what enters it is
    computed once for all rows, and training it takes seconds; images are then not augmented, whatever
    the project says. Where something follows it, the network runs in every step, and only
    the layer's weights move. ``facts.json`` names it (``layer``). Its settings are those of
    :class:`trimtab_torch.settings.Inherited`.
    """

    about: ClassVar[About] = About(
        name="head",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        rung=2,
        effort="epochs",
        inherits=True,
        libraries=("torch",),
    )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model with its new last layer into ``job.folder``."""
        child = FloatModel.taken(model, job)
        rows = training_rows(data, child.spec.schema)
        settings = self.over(child.spec.settings).but(flip=False, shift=0)
        parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
        name, layer = list(executed(child.network, child.examples(2)).items())[-1]
        kept = Kept.of(layer)
        if gives_outputs(layer, child):
            alone = [entering(layer, child.network, parts, job)]
            loss = fit(layer, alone, targets, settings, job, self.about.name, after_step=kept)
        else:
            last = OnlyThese(child.network, [layer])
            loss = fit(last, parts, targets, settings, job, self.about.name, after_step=kept)
        return child.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss, "layer": name})
