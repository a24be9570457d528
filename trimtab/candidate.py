"""A candidate: a built model, the float parent it was cut from, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.artifact import Model

__all__ = ["Built", "Candidate"]


@dataclass(frozen=True)
class Built:
    """A step that was built, now or before.

    Parameters
    ----------
    fingerprint
        Of everything that its result follows from.
    technique
        Its name.
    seconds
        Time that it took when it was built.
    effort
        What its time grows with, such as epochs; 0 where it takes little whatever its settings.
    fresh
        Whether it was built now, and not taken from the store.
    """

    fingerprint: str
    technique: str
    seconds: float
    effort: int
    fresh: bool


@dataclass(frozen=True)
class Candidate:
    """A built model and its lineage.

    Parameters
    ----------
    name
        Its recipe as a person reads it.
    fingerprint
        Of its last step; equal fingerprints are equal models.
    model
        What would serve.
    parent
        The full float model that the next round cuts from; it is kept beside the model.
    lean
        The float model that the served one was converted from, compressed already; it is kept too, to be
        adapted without compressing anything twice.
    steps
        All its steps, in order.
    """

    name: str
    fingerprint: str
    model: Model
    parent: Model
    lean: Model
    steps: tuple[Built, ...]

    @property
    def seconds(self) -> float:
        """Time that its steps took when they were built."""
        return sum(step.seconds for step in self.steps)
