"""Adaptation from a few labels: batch norm by all rows, and a last layer that follows in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.deadline import Clock
from trimtab_torch.frozen import entering, gives_outputs
from trimtab_torch.layers import executed
from trimtab_torch.recalibrate import Recalibrate
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import training_rows

__all__ = ["FewShot"]

BLENDS = 11


@dataclass(frozen=True)
class FewShot:
    """Recalibrate batch norm, then blend the last layer with the mean of each class (Snell et al. 2017).

    What enters the last layer is averaged over the labelled rows of each class: the class's prototype. The
    nearest prototype is a linear layer, so that the network keeps its shape. The old last layer counts as
    ``prior`` rows of each class, which lie where its weights point (class means and last layer align in a
    trained network, Papyan et al. 2020); a class of which no row came is there alone. Nothing is
    trained: it takes two passes over the rows, and a dozen labels do; what hundreds of them could teach the
    other layers, it does not learn. Where only the looks of the rows changed, the gain is recalibration's,
    which needs no label. ``facts.json`` tells the share that prototypes have in the end (``blend``), and
    classes without a row (``unseen``).

    Parameters
    ----------
    prior
        Rows of each class that the old last layer counts for, 0 or more.
    blend
        Share of the prototypes in the new last layer, 0 to 1; the old one has the rest. None: the one with
        the highest likelihood of each labelled row beside prototypes from which it was left out.
    rows
        Most rows to recalibrate batch norm on, as ``recalibrate`` has it; a network without batch norm is
        not recalibrated.

    Examples
    --------
    >>> FewShot(blend=2.0)
    Traceback (most recent call last):
    ...
    ValueError: adapt.fewshot.blend must be in [0, 1], got 2.0
    """

    prior: float = 1.0
    blend: float | None = None
    rows: int = 4096

    about: ClassVar[About] = About(
        name="adapt.fewshot",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        rung=2,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        if not (self.prior >= 0 and math.isfinite(self.prior)):
            raise ValueError(f"adapt.fewshot.prior must be 0 rows or more and finite, got {self.prior}")
        if self.blend is not None and not 0 <= self.blend <= 1:
            raise ValueError(f"adapt.fewshot.blend must be in [0, 1], got {self.blend}")
        if self.rows < 2:
            raise ValueError(f"adapt.fewshot.rows must be at least 2, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model with its new last layer into ``job.folder``."""
        Clock(job.deadline, self.about.name, epochs=1).check(0)
        child = FloatModel.load(model, job.factory)
        rows = training_rows(data, child.spec.schema)
        layer = _last_layer(child)
        _, norms = Recalibrate(self.rows).renew(child, data, job)
        seen = entering(layer, child.network, child.prepare(rows.inputs), job).double()
        labels, old = child.targets(rows.labels), Linear(layer.weight.detach().double(), layer.bias.detach().double())
        means = Means.of(seen, labels, old, self.prior)
        new, blend = means.layer, self.blend
        if blend is None:
            blend = _likeliest(old(seen), means.without_itself(seen, labels), labels)
        with torch.no_grad():
            layer.weight.copy_(blend * new.weight + (1 - blend) * old.weight)
            layer.bias.copy_(blend * new.bias + (1 - blend) * old.bias)
        counted = zip(child.spec.schema.classes, means.counts.tolist(), strict=True)
        unseen = [name for name, count in counted if not count]
        return child.save(job.folder, {"rows": len(rows), "blend": blend, "unseen": unseen, "recalibrated": norms})


def _last_layer(model: FloatModel) -> nn.Linear:
    """Return the linear layer that gives a classifier's logits."""
    if model.spec.schema.task == "regression":
        raise PluginError("adapt.fewshot needs classes, and this model is a regression; name head or finetune instead")
    name, layer = list(executed(model.network, model.examples(2)).items())[-1]
    if not isinstance(layer, nn.Linear) or layer.bias is None or not gives_outputs(layer, model):
        raise PluginError(
            f"adapt.fewshot needs a linear layer with a bias that gives the logits; the last one, {name!r}, is none: "
            "name head or finetune instead"
        )
    return layer


class Linear(NamedTuple):
    """A linear layer's weight float64 ``[classes, width]`` and bias ``[classes]``."""

    weight: Tensor
    bias: Tensor

    def __call__(self, seen: Tensor) -> Tensor:
        return functional.linear(seen, self.weight, self.bias)


class Means(NamedTuple):
    """Prototypes.

    Parameters
    ----------
    sums
        Of each class's rows and of the prior's, ``[classes, width]``.
    counts
        Labelled rows of each class.
    prior
        Rows that the prior counts for.
    guess
        Where the old last layer says that each class lies, ``[classes, width]``.
    scale
        What squared distances are divided by, so that logits are as large as the old ones.
    """

    sums: Tensor
    counts: Tensor
    prior: float
    guess: Tensor
    scale: float

    @classmethod
    def of(cls, seen: Tensor, labels: Tensor, old: Linear, prior: float) -> Means:
        """Take the means of labelled rows, float64 ``[rows, width]``, each class beside the prior's."""
        member = functional.one_hot(labels, len(old.bias)).double()
        counts, sums, middle = member.sum(dim=0), member.T @ seen, seen.mean(dim=0)
        points = old.weight - old.weight.mean(dim=0)
        reach = (sums - counts[:, None] * middle).mul(points).sum() / (counts[:, None] * points**2).sum()
        if not (bool(torch.isfinite(reach)) and reach > 0):  # the old layer tells nothing of where the classes lie now
            spread = (seen - (sums / counts.clamp_min(1)[:, None])[labels]).var()
            return cls(sums + prior * middle, counts, prior, middle.expand_as(sums), float(spread.clamp_min(1e-12)))
        guess = middle + reach * points
        return cls(sums + prior * guess, counts, prior, guess, float(reach))

    def at(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Return prototypes; the old layer's guess where there is nothing to take a mean of."""
        weight = (counts + self.prior)[:, None]
        return torch.where(weight > 0, sums / weight.clamp_min(1e-12), self.guess)

    @property
    def layer(self) -> Linear:
        """The layer whose largest logit is that of the nearest prototype."""
        points = self.at(self.sums, self.counts)
        return Linear(points / self.scale, -0.5 * (points**2).sum(dim=1) / self.scale)

    def without_itself(self, seen: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of each labelled row under prototypes from which it was left out."""
        logits, rows = self.layer(seen), torch.arange(len(labels))
        left = self.counts[labels] - 1
        weight = (left + self.prior)[:, None]
        own = torch.where(weight > 0, (self.sums[labels] - seen) / weight.clamp_min(1e-12), self.guess[labels])
        logits[rows, labels] = ((own * seen).sum(dim=1) - 0.5 * (own**2).sum(dim=1)) / self.scale
        return logits


def _likeliest(old: Tensor, new: Tensor, labels: Tensor) -> float:
    """Return the share of the new logits under which the labels are likeliest; of equal ones the smallest."""
    shares = torch.linspace(0, 1, BLENDS, dtype=torch.float64)
    losses = [float(functional.cross_entropy(share * new + (1 - share) * old, labels)) for share in shares]
    return round(float(shares[min(range(BLENDS), key=losses.__getitem__)]), 3)
