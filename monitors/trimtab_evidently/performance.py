"""Did the champion get worse? Its accuracy, or its errors, on a window's labels beside those on the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom, mannwhitneyu

from trimtab.monitor import Answer, Case, Finding, OnDraw, Sample
from trimtab.window import arrived

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
class Performance(OnDraw):
    """Find a champion that got worse, as soon as labels arrive.

    ``worse`` needs both: the change is beyond chance (a one-sided p-value of at most alpha) and it
    matters (it is larger than the limit). A classifier's accuracy falls: Fisher's exact test. The errors
    of a regression grow: the test of Mann and Whitney.

    Parameters
    ----------
    max_drop
        Fall of accuracy that is put up with, as a fraction (0.02 = two points).
    max_rise
        Rise of the mean error of a regression that is put up with, as a fraction of the reference's.
    error
        What that mean is of: ``absolute`` errors, or ``squared`` ones (the root of their mean).
    min_rows
        Fewest labelled rows of the window and of the reference to judge on.

    Notes
    -----
    Fisher's test keeps alpha for every accuracy and number of rows. Intervals from Wilson's do not: with
    50 labels against a reference of 800 at accuracy 0.98 they alarm in 7.1 % of quiet windows at 5 %.
    Mann and Whitney's asks for nothing of the errors' distribution, which has a long tail as a rule, and
    ranks an output that is not finite behind all others.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.monitor import case_of
    >>> from trimtab.window import Schema
    >>> def sample(right: int, rows: int, number: int) -> Sample:
    ...     said = np.where(np.arange(rows) < right, 0, 1)
    ...     labels = np.zeros(rows, np.int64)
    ...     output = np.eye(2, dtype=np.float32)[said]
    ...     frame = pd.DataFrame(index=range(rows))
    ...     return Sample(Schema(columns=()), frame, number, probabilities=output, labels=labels)
    >>> Performance().check(case_of(Performance(), sample(980, 1000, 0), sample(600, 1000, 7), 0.05)).reasons
    ('accuracy fell from 0.980 (1000 rows of the reference) to 0.600 (1000 labelled rows): by 0.380,
    at most 0.02 allowed; p 3e-113 of no change',)
    """

    max_drop: float = 0.02
    max_rise: float = 0.1
    error: Literal["absolute", "squared"] = "absolute"
    min_rows: int = 50

    name: ClassVar[str] = "performance"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    statistical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"max_drop must be in [0, 1), got {self.max_drop}")
        if not 0 <= self.max_rise < math.inf:
            raise ValueError(f"max_rise must be a fraction of at least 0, got {self.max_rise}")
        if self.min_rows < 10:
            raise ValueError(f"min_rows must be at least 10 to tell a fall from chance, got {self.min_rows}")

    def check(self, case: Case) -> Finding:
        """Compare qualities; alarm with probability ``case.alpha`` at most when the true one has not changed."""
        if case.current.schema.task == "regression":
            return self._compare_errors(case.reference, case.current, case.alpha)
        return self._compare_hits(case.reference, case.current, case.alpha)

    def _compare_hits(self, reference: Sample, current: Sample, alpha: float) -> Finding:
        before, now = _hits(reference), _hits(current)
        scores = {"n": float(now.n), "reference_n": float(before.n)}
        scores |= {"accuracy": now.value} if now.n else {}
        scores |= {"reference_accuracy": before.value} if before.n else {}
        if few := self._too_few((reference, before.n), (current, now.n)):
            return Finding(self.name, current.number, Answer.UNKNOWN, (few,), scores)
        fall, p = before.value - now.value, chance_of_fall(before, now)
        scores |= {"drop": fall, "p": p}
        if p > alpha or fall <= self.max_drop:
            return Finding(self.name, current.number, Answer.FINE, (), scores)
        reason = (
            f"accuracy fell from {before.value:.3f} ({before.n} rows of the reference) to {now.value:.3f} "
            f"({now.n} labelled rows): by {fall:.3f}, at most {self.max_drop:g} allowed; p {p:.0e} of no change"
        )
        return Finding(self.name, current.number, Answer.WORSE, (reason,), scores)

    def _compare_errors(self, reference: Sample, current: Sample, alpha: float) -> Finding:
        before, now = _errors(reference), _errors(current)
        name = "mean_absolute_error" if self.error == "absolute" else "root_mean_squared_error"
        scores = {"n": float(len(now)), "reference_n": float(len(before))}
        scores |= {name: self._mean(now)} if len(now) else {}
        scores |= {f"reference_{name}": self._mean(before)} if len(before) else {}
        if few := self._too_few((reference, len(before)), (current, len(now))):
            return Finding(self.name, current.number, Answer.UNKNOWN, (few,), scores)
        old, new = self._mean(before), self._mean(now)
        rise = new / old - 1 if old else math.inf if new else 0.0
        p = float(mannwhitneyu(now, before, alternative="greater").pvalue)
        scores |= {"rise": rise, "p": p}
        if p > alpha or not rise > self.max_rise:
            return Finding(self.name, current.number, Answer.FINE, (), scores)
        unit = f" of {current.schema.label!r}"
        reason = (
            f"the {name.replace('_', ' ')}{unit} rose from {old:.4g} ({len(before)} rows of the reference) to "
            f"{new:.4g} ({len(now)} labelled rows): by {rise:.1%}, at most {self.max_rise:.1%} allowed; "
            f"p {p:.0e} of no change"
        )
        return Finding(self.name, current.number, Answer.WORSE, (reason,), scores)

    def _too_few(self, reference: tuple[Sample, int], current: tuple[Sample, int]) -> str | None:
        """Say which sample has too few labelled rows, or None."""
        for (sample, rows), where in ((reference, "the reference"), (current, f"window {current[0].number}")):
            if rows < self.min_rows:
                why = "; the champion's output is missing" if sample.outputs is None else ""
                return f"needs {self.min_rows} labelled rows (setting min_rows) in {where}, which has {rows}{why}"
        return None

    def _mean(self, errors: npt.NDArray[np.float64]) -> float:
        return float(errors.mean()) if self.error == "absolute" else math.sqrt(float((errors**2).mean()))


def _hits(sample: Sample) -> Share:
    """Count the rows that the champion gets right among the labelled; an output that is not finite is wrong."""
    if sample.probabilities is None or sample.labels is None:
        return Share(0, 0)
    known = arrived(sample.labels)
    output, labels = sample.probabilities[known], sample.labels[known]
    right = (output.argmax(axis=1) == labels) & np.isfinite(output).all(axis=1)
    return Share(int(right.sum()), len(labels))


def _errors(sample: Sample) -> npt.NDArray[np.float64]:
    """Return the absolute error of each labelled row; infinite where the output is not finite."""
    if sample.predictions is None or sample.labels is None:
        return np.zeros(0)
    known = arrived(sample.labels)
    errors = np.abs(sample.predictions[known, 0].astype(np.float64) - sample.labels[known])
    return np.where(np.isfinite(errors), errors, np.inf)
