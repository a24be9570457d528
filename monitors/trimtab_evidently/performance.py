"""Did the champion get worse? Its accuracy on a window's labels beside its accuracy on the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.stats import hypergeom

from trimtab.monitor import Answer, Finding, Sample

__all__ = ["Performance", "Share", "chance_of_fall"]


@dataclass(frozen=True)
class Share:
    """``hits`` of ``n`` rows."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.n


def chance_of_fall(before: Share, now: Share) -> float:
    """Return Fisher's exact one-sided p-value: how likely so few hits in ``now`` are if nothing changed.

    Examples
    --------
    >>> chance_of_fall(Share(8, 10), Share(3, 10))  # (C(11,3) C(9,7) + C(11,2) C(9,8) + C(11,1)) / C(20,10)
    0.0348...
    """
    return float(hypergeom.cdf(now.hits, before.n + now.n, before.hits + now.hits, now.n))


@dataclass(frozen=True)
class Performance:
    """Find a champion that got worse, as soon as labels arrive.

    ``worse`` needs both: the fall is beyond chance (Fisher's exact one-sided p-value is at most alpha)
    and it matters (it is larger than ``max_drop``).

    Parameters
    ----------
    max_drop
        Fall of accuracy that is put up with, as a fraction (0.02 = two points).
    min_rows
        Fewest labelled rows of the window and of the reference to judge on.

    Notes
    -----
    Fisher's test keeps alpha for every accuracy and number of rows. Intervals from Wilson's do not: with
    50 labels against a reference of 800 at accuracy 0.98 they alarm in 7.1 % of quiet windows at 5 %.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.window import Schema
    >>> def sample(right: int, rows: int, number: int) -> Sample:
    ...     said = np.where(np.arange(rows) < right, 0, 1)
    ...     labels = np.zeros(rows, np.int64)
    ...     output = np.eye(2, dtype=np.float32)[said]
    ...     frame = pd.DataFrame(index=range(rows))
    ...     return Sample(Schema(columns=()), frame, number, probabilities=output, labels=labels)
    >>> Performance().check(sample(980, 1000, 0), sample(600, 1000, 7), 0.05).reasons
    ('accuracy fell from 0.980 (1000 rows of the reference) to 0.600 (1000 labelled rows): by 0.380,
    at most 0.02 allowed; p 3e-113 of no change',)
    """

    max_drop: float = 0.02
    min_rows: int = 50

    name: ClassVar[str] = "performance"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    statistical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"max_drop must be in [0, 1), got {self.max_drop}")
        if self.min_rows < 10:
            raise ValueError(f"min_rows must be at least 10 to tell a fall from chance, got {self.min_rows}")

    def check(self, reference: Sample, current: Sample, alpha: float) -> Finding:
        """Compare accuracies; alarm with probability ``alpha`` at most when the true one has not changed."""
        before, now = _hits(reference), _hits(current)
        scores = {"n": float(now.n), "reference_n": float(before.n)}
        scores |= {"accuracy": now.value} if now.n else {}
        scores |= {"reference_accuracy": before.value} if before.n else {}
        for share, sample, where in ((before, reference, "the reference"), (now, current, f"window {current.number}")):
            if share.n < self.min_rows:
                why = "; the champion's output is missing" if sample.probabilities is None else ""
                reason = f"needs {self.min_rows} labelled rows (setting min_rows) in {where}, which has {share.n}{why}"
                return Finding(self.name, current.number, Answer.UNKNOWN, (reason,), scores)
        fall, p = before.value - now.value, chance_of_fall(before, now)
        scores |= {"drop": fall, "p": p}
        if p > alpha or fall <= self.max_drop:
            return Finding(self.name, current.number, Answer.FINE, (), scores)
        reason = (
            f"accuracy fell from {before.value:.3f} ({before.n} rows of the reference) to {now.value:.3f} "
            f"({now.n} labelled rows): by {fall:.3f}, at most {self.max_drop:g} allowed; p {p:.0e} of no change"
        )
        return Finding(self.name, current.number, Answer.WORSE, (reason,), scores)

    def report(self, reference: Sample, current: Sample, path: Path) -> bool:
        """Write nothing: the reason says all."""
        return False


def _hits(sample: Sample) -> Share:
    """Count the rows that the champion gets right among the labelled; an output that is not finite is wrong."""
    if sample.probabilities is None or sample.labels is None:
        return Share(0, 0)
    known = sample.labels >= 0
    output, labels = sample.probabilities[known], sample.labels[known]
    right = (output.argmax(axis=1) == labels) & np.isfinite(output).all(axis=1)
    return Share(int(right.sum()), len(labels))
