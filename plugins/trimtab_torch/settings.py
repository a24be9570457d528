"""How long, how fast and on what views of the rows a network trains: the trainer's settings, and a technique's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from trimtab.errors import ArtifactError
from trimtab.technique import About

__all__ = ["Augmented", "Inherited", "Loss", "Precision", "Settings", "Shaping", "check_settings"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Loss = Literal["cross_entropy", "squared", "huber"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """How to train, complete.

    Parameters
    ----------
    epochs
        Passes over the training rows.
    learning_rate
        The highest of the one-cycle schedule.
    batch_size
        Rows in one step.
    weight_decay
        L2 penalty.
    precision
        Of the forward pass; weights and loss stay float32 (mixed precision, Micikevicius et al. 2018).
        ``auto`` is float32 for a network without convolutions, and for others bfloat16 where processor or
        GPU computes it natively, float16 on a GPU that does not, else float32. The loss is scaled under
        ``float16``, so that small gradients do not become 0.
    flip
        Whether half of the images of a batch are mirrored left to right, drawn anew each time.
    shift
        Most pixels that an image is moved by, each way; what comes in at the edge is zero.
    loss
        ``cross_entropy`` of a classification; of a regression ``squared``, or ``huber``, which is linear
        beyond one standard deviation of the label, so that outliers pull less.
    """

    epochs: int = 6
    learning_rate: float = 0.05
    batch_size: int = 64
    weight_decay: float = 5e-4
    precision: Precision = "auto"
    flip: bool = False
    shift: int = 0
    loss: Loss = "cross_entropy"

    def check(self, where: str) -> None:
        """Raise a ValueError that names the setting (``where`` and its name) when a value breaks its rule."""
        check_settings(where, asdict(self))

    def but(self, **changes: Any) -> Settings:
        """Return these settings with every change that is not None.

        Examples
        --------
        >>> Settings().but(epochs=2, learning_rate=None).epochs
        2
        """
        return Settings(**{**asdict(self), **{k: v for k, v in changes.items() if v is not None}})

    @property
    def augments(self) -> bool:
        """Whether a row looks otherwise in each epoch."""
        return self.flip or self.shift > 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Settings:
        """Read back what ``asdict`` gave."""
        try:
            return cls(**value)
        except TypeError as error:
            raise ArtifactError(
                f"training settings {dict(value)} in spec.json are not those of this version"
            ) from error


@dataclass(frozen=True)
class Inherited:
    """The training settings of a technique: what is None is taken from the project's ``model`` settings.

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay, precision
        As :class:`Settings` has them.
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    precision: Precision | None = None

    about: ClassVar[About]

    def __post_init__(self) -> None:
        check_settings(self.about.name, asdict(self))

    def over(self, own: Settings) -> Settings:
        """Return the model's own settings with what this technique sets."""
        known = {f.name for f in fields(Settings)}
        return own.but(**{f.name: getattr(self, f.name) for f in fields(self) if f.name in known})


@dataclass(frozen=True)
class Augmented(Inherited):
    """The same for a technique that trains on images as they look from one epoch to the next.

    Parameters
    ----------
    flip, shift
        As :class:`Settings` has them.
    """

    flip: bool | None = None
    shift: int | None = None


@dataclass(frozen=True)
class Shaping(Augmented):
    """The same for a technique that gives the network a form while it trains, and at ``epochs`` 0 without training.

    Parameters
    ----------
    epochs
        Passes over the training rows, 0 or more.
    """

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 0:
            raise ValueError(f"{self.about.name}.epochs must be at least 0, got {self.epochs}")
        check_settings(self.about.name, {**asdict(self), "epochs": self.epochs or None})


def check_settings(where: str, values: Mapping[str, Any]) -> None:
    """Raise a ValueError for the first training setting that breaks its rule; None passes."""
    for name in ("epochs", "batch_size"):
        value = values.get(name)
        if value is not None and value < 1:
            raise ValueError(f"{where}.{name} must be at least 1, got {value}")
    rate = values.get("learning_rate")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"{where}.learning_rate must be above 0 and finite, got {rate}")
    decay = values.get("weight_decay")
    if decay is not None and not (decay >= 0 and math.isfinite(decay)):
        raise ValueError(f"{where}.weight_decay must be 0 or more and finite, got {decay}")
    shift = values.get("shift")
    if shift is not None and shift < 0:
        raise ValueError(f"{where}.shift must be 0 pixels or more, got {shift}")
    precision = values.get("precision")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"{where}.precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
