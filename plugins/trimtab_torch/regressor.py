"""The trainer of torch regressors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from trimtab.window import Task
from trimtab_torch.settings import Loss
from trimtab_torch.trainer import NetworkTrainer

__all__ = ["Regressor"]


@dataclass(frozen=True)
class Regressor(NetworkTrainer):
    """Fit a network that a factory builds to a numeric label.

    The network is called as a classifier's is, and gives one number a row, ``[rows, 1]``. It works on
    labels that are standardised by the training rows; the model brings its answers back to the
    label's units. Settings are those of :class:`trimtab_torch.trainer.NetworkTrainer`, and:

    Parameters
    ----------
    loss
        ``squared``, or ``huber`` (Huber 1964): linear beyond one standard deviation of the label, so
        that outliers pull less.

    Examples
    --------
    >>> Regressor("trimtab_torch.networks:Mlp", loss="absolute")
    Traceback (most recent call last):
    ...
    ValueError: model.loss must be one of squared, huber, got 'absolute'
    """

    loss: Literal["squared", "huber"] = "squared"

    name: ClassVar[str] = "torch.regressor"
    task: ClassVar[Task] = "regression"

    @property
    def _loss(self) -> Loss:
        return self.loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("squared", "huber"):
            raise ValueError(f"model.loss must be one of squared, huber, got {self.loss!r}")
