"""A candidate: a built model, the float parent it was cut from, and how it came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.artifact import Model

__all__ = ["Built", "Candidate", "elapsed"]


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
    begun
        When it was begun, in seconds since 1970 on the clock of the machine that built it.
    effort
        What its time grows with, such as epochs; 0 where it takes little whatever its settings.
    fresh
        Whether it was built now, and not taken from the store.
    """

    fingerprint: str
    technique: str
    seconds: float
    begun: float
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


def elapsed(steps: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds in which at least one of some steps was under way; several may have been at once.

    Parameters
    ----------
    steps
        ``begun`` and ``seconds`` of each, as :class:`Built` has them.

    Examples
    --------
    >>> elapsed([{"begun": 10.0, "seconds": 5.0}, {"begun": 12.0, "seconds": 4.0}, {"begun": 20.0, "seconds": 1.0}])
    7.0
    """
    total, end = 0.0, float("-inf")
    for begin, finish in sorted((step["begun"], step["begun"] + step["seconds"]) for step in steps):
        total += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return total
