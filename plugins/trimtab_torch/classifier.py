"""The trainer of torch classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trimtab.window import Task
from trimtab_torch.settings import Loss
from trimtab_torch.trainer import NetworkTrainer

__all__ = ["Classifier"]


@dataclass(frozen=True)
class Classifier(NetworkTrainer):
    """Fit a network that a factory builds, by cross entropy on the training rows.

    The network is called with the preprocessed table ``[rows, width]`` (if the schema has numbers or
    categories) and then with each tensor, and gives logits ``[rows, classes]``. Settings are those of
    :class:`trimtab_torch.trainer.NetworkTrainer`.

    Examples
    --------
    >>> Classifier("trimtab_torch.networks:Mlp", epochs=0)
    Traceback (most recent call last):
    ...
    ValueError: model.epochs must be at least 1, got 0
    """

    name: ClassVar[str] = "torch.classifier"
    task: ClassVar[Task] = "classification"

    @property
    def _loss(self) -> Loss:
        return "cross_entropy"
