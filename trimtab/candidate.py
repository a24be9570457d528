"""A candidate: a built model, the float parent it was cut from, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.artifact import Model

__all__ = ["Candidate"]


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
        The trainable float model that it was cut from, which is kept beside it.
    seconds
        Time that its steps took when they were built.
    steps
        Fingerprints of all its steps, in order.
    """

    name: str
    fingerprint: str
    model: Model
    parent: Model
    seconds: float
    steps: tuple[str, ...]
