"""Giving up in time: training looks at the clock in every batch, and after one epoch knows how long the rest takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trimtab.errors import OutOfTimeError

__all__ = ["Clock", "tick"]

FAR = 1.25
"""A first epoch is a rough measure: what is projected this much beyond the time left is given up, nothing less."""


def tick(deadline: float | None, where: str, otherwise: str = "") -> None:
    """Raise an OutOfTimeError when the deadline of something that does not train has passed.

    Parameters
    ----------
    deadline
        On the clock of :func:`time.monotonic`, in seconds; None: never.
    where
        What works, for messages.
    otherwise
        What makes it shorter beside more minutes, if anything.
    """
    if deadline is not None and time.monotonic() >= deadline:
        way = f"raise optimize.minutes{', or ' if otherwise else ''}{otherwise}"
        raise OutOfTimeError(f"{where}: the round's minutes were spent before it was done; {way}")


@dataclass
class Clock:
    """Watches a training's deadline.

    Parameters
    ----------
    deadline
        On the clock of :func:`time.monotonic`, in seconds; None: never.
    where
        What trains, for messages.
    epochs
        How many it is to do.
    """

    deadline: float | None
    where: str
    epochs: int
    began: float = field(default_factory=time.monotonic, init=False)

    def check(self, epoch: int) -> None:
        """Raise an OutOfTimeError when the deadline has passed in ``epoch``, counted from 0."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise OutOfTimeError(
                f"{self.where}: the round's minutes were spent in epoch {epoch + 1} of {self.epochs}; "
                "lower epochs, or raise optimize.minutes"
            )

    def project(self, done: int) -> None:
        """Raise an OutOfTimeError when the epochs after the ``done`` first ones would end far beyond the deadline."""
        if self.deadline is None or done >= self.epochs:
            return
        now = time.monotonic()
        needed, left = (now - self.began) / done * (self.epochs - done), self.deadline - now
        if needed > FAR * left:
            raise OutOfTimeError(
                f"{self.where} would need about {needed:.0f} s more, {max(0.0, left):.0f} s are left "
                f"(after epoch {done} of {self.epochs}); lower epochs, or raise optimize.minutes"
            )
