"""What a journal tells: the quality of versions, windows, promotions and rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trimtab.runtime import CHAMPION
from trimtab.trigger import Action

__all__ = ["PROPOSED", "ROLLED_BACK", "SHADOW", "Labelled", "Promotion", "Quality", "Round", "WindowRecord", "degraded"]


PROPOSED = "proposed"
"""Outcome of a round whose winner waits for a person."""
SHADOW = "shadow"
"""Outcome of a round whose winner is judged on live windows before it is promoted."""
ROLLED_BACK = "rolled back"
"""Outcome of a round whose winner was promoted, and was worse than its predecessor on the windows after that."""


@dataclass(frozen=True)
class Quality:
    """The project's metric of one version on the ``rows`` labelled rows of one window.

    ``value`` is NaN where the rows do not determine it (none of the class that counts), or where the
    version's outputs are not numbers.
    """

    window: int
    version: int
    value: float
    rows: int

    @property
    def told(self) -> bool:
        """Whether there is a value to tell."""
        return self.rows > 0 and math.isfinite(self.value)


@dataclass(frozen=True)
class WindowRecord:
    """A checked window as the journal tells it."""

    number: int
    start: str
    end: str
    rows: int
    champion: int | None
    labelled: bool
    action: Action | None
    reasons: tuple[str, ...]
    weighed: Mapping[str, Any]
    seconds: float
    at: str


@dataclass(frozen=True)
class Labelled:
    """How many rows of a window had their label when they were last judged.

    Parameters
    ----------
    rows
        How many.
    complete
        Whether that is all of them.
    closed
        The window that had just closed then.
    """

    rows: int
    complete: bool
    closed: int = 0


@dataclass(frozen=True)
class Promotion:
    """One change of champion: which version took which alias, as which of the project's changes in order."""

    epoch: int
    version: int
    operation: str
    kind: str
    detail: Mapping[str, Any]
    at: str
    alias: str = CHAMPION


@dataclass(frozen=True)
class Round:
    """One optimization as the journal tells it.

    Parameters
    ----------
    operation
        Its operation id, derived from what caused it.
    window
        The window that had closed when it was requested.
    cause
        ``worse``, ``moved``, ``first``, ``manual``, or ``alert``.
    state
        ``requested``, ``running`` or ``closed``.
    outcome
        ``promoted``, ``shadow`` (its winner is judged on live windows first), ``proposed`` (its winner waits for a
        person), ``rejected`` (by live windows or by a person), ``rolled back`` (promoted, and worse on the windows
        after that), ``degraded``, ``kept`` (nothing better, and nothing was wrong), ``lost`` (another promotion came
        first) or ``failed``; None before it is closed.
    epoch
        The newest promotion when it was requested: what its own promotion must follow.
    detail
        Candidates with scores and verdicts, targets with their winners, what was gained; why it failed.
    """

    operation: str
    window: int
    cause: str
    reasons: tuple[str, ...]
    state: str
    outcome: str | None
    epoch: int
    detail: Mapping[str, Any]
    requested: str
    closed: str | None

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Every outcome that it had, oldest first: one in shadow or proposed gets another, one promoted may."""
        return () if self.outcome is None else (*self.detail.get("was", ()), self.outcome)

    @property
    def open(self) -> bool:
        """Whether it is still to be run, or under way."""
        return self.state != "closed"

    @property
    def seconds(self) -> float | None:
        """How long it took from its request to its end; None before it is closed."""
        if self.closed is None:
            return None
        return (datetime.fromisoformat(self.closed) - datetime.fromisoformat(self.requested)).total_seconds()

    def made(self, promotion: Promotion) -> bool:
        """Whether a promotion, on whatever target, came of it."""
        return promotion.operation == self.operation or promotion.operation.startswith(f"{self.operation}:")

    @property
    def waits(self) -> str | None:
        """What its winner waits for, in words; None where it does not wait."""
        if self.outcome == PROPOSED:
            return f"what {self.operation} proposed waits for trimtab promote, or trimtab reject"
        if self.outcome == SHADOW:
            return f"the winner of {self.operation} is in shadow: live windows are to say whether it is promoted"
        return None

    @property
    def degrades(self) -> bool:
        """Whether it was opened because the champion is worse."""
        return self.cause == "worse"


def degraded(rounds: Sequence[Round]) -> bool:
    """Tell whether a round ended without a winner though the champion is worse; only a promotion ends that."""
    vain = ("failed", "rejected", ROLLED_BACK)
    told = [r.outcome for r in rounds if r.outcome in ("promoted", "degraded") or (r.degrades and r.outcome in vain)]
    return bool(told) and told[-1] != "promoted"
