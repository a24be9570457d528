"""Training that looks harder at what is rare: rows weighted, or drawn, by their class or by their segment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Rows
from trimtab.errors import DataError, PluginError
from trimtab.technique import About, Job
from trimtab_torch.emphasis import Emphasis, balance
from trimtab_torch.preserve import Kept
from trimtab_torch.settings import Augmented
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import fit, training_rows

__all__ = ["Rebalance"]


@dataclass(frozen=True)
class Rebalance(Augmented):
    """Train the parent further on rows that count the more the rarer their class or their segment is.

    A network serves best what it sees most of. Here a row's weight is the inverse of the number of rows of
    its class, or of its segments (``data.segments``; those of several columns are multiplied), or of their
    effective number (Cui et al. 2019). It costs what ``finetune`` costs. By class, probabilities lean
    towards rare classes: they are those of a stream in which all classes are as frequent. It closes a gap
    that comes of too few rows, and none that comes of labels that nobody could tell. ``facts.json`` tells
    rows and weight of each class or segment (``groups``).

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    by
        ``class``, or ``segment``.
    how
        ``weights``: every row once an epoch, its loss weighted. ``sampling``: rows drawn by their weights,
        with replacement.
    strength
        0 to 1: the power of the inverse. 0 is ``finetune``; 1 lets all classes, or all segments of a
        column, count alike in sum.
    beta
        Of the effective number of rows, ``(1 - beta ** n) / (1 - beta)``, above 0 and at most 1; 1 is their number.

    Examples
    --------
    >>> Rebalance(by="site")
    Traceback (most recent call last):
    ...
    ValueError: rebalance.by must be class or segment, got 'site'
    """

    by: Literal["class", "segment"] = "class"
    how: Literal["weights", "sampling"] = "weights"
    strength: float = 1.0
    beta: float = 1.0

    about: ClassVar[About] = About(
        name="rebalance",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ("class", "segment"):
            raise ValueError(f"rebalance.by must be class or segment, got {self.by!r}")
        if self.how not in ("weights", "sampling"):
            raise ValueError(f"rebalance.how must be weights or sampling, got {self.how!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"rebalance.strength must be in [0, 1], got {self.strength}")
        if not (0 < self.beta <= 1 and math.isfinite(self.beta)):
            raise ValueError(f"rebalance.beta must be above 0 and at most 1, got {self.beta}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the further trained model into ``job.folder``."""
        child = FloatModel.taken(model, job)
        rows, settings = training_rows(data, child.spec.schema), self.over(child.spec.settings)
        columns = self._columns(rows, child)
        weights = balance(columns, self.strength, self.beta)
        emphasis = Emphasis(torch.from_numpy(weights.astype(np.float32)), self.how == "sampling")
        parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
        kept = Kept.of(child.network)
        loss = fit(child.network, parts, targets, settings, job, self.about.name, after_step=kept, emphasis=emphasis)
        groups = {name: told for column in columns for name, told in _told(column, weights).items()}
        return child.save(job.folder, {"epochs": settings.epochs, "rows": len(rows), "loss": loss, "groups": groups})

    def _columns(self, rows: Rows, model: FloatModel) -> list[npt.NDArray[Any]]:
        """Return what each row belongs to, text ``[rows]`` for each column."""
        if self.by == "segment":
            if rows.segments is None:
                raise DataError(
                    "rebalance.by is segment, and the rows have none; name columns in data.segments, or set "
                    "rebalance.by to class"
                )
            return list(rows.segments.T)
        if model.spec.schema.task == "regression":
            raise PluginError("rebalance.by is class, and a regression has none; set rebalance.by to segment")
        return [np.asarray([str(c) for c in model.spec.schema.classes])[rows.labels]]


def _told(column: npt.NDArray[Any], weights: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
    return {
        str(name): {"rows": int((column == name).sum()), "weight": round(float(weights[column == name].mean()), 4)}
        for name in np.unique(column)
    }
