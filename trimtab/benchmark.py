"""The Scores of one model on one target, and how the quality of two models differs on the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trimtab.energy import Energy
from trimtab.intervals import Interval, bootstrap, paired_difference, rows_needed
from trimtab.metric import Accuracy, Answers, Floats, Metric, quality, score, spread, utility, weighed
from trimtab.timing import Latency
from trimtab.window import arrived

__all__ = ["CONFIDENCE", "Change", "Quality", "Scores", "compare"]

CONFIDENCE = 0.95
"""Of the interval that a model's quality is told with; the gate's own are of paired differences."""


@dataclass(frozen=True)
class Quality:
    """A model's quality in figures, by the project's metric.

    Parameters
    ----------
    metric
        Its name.
    judged
        On the judge rows, with its interval at :data:`CONFIDENCE`.
    searched, search_rows
        On the search rows, and their number; NaN without any.
    golden
        On the golden rows; None where the project names none.
    utility, error
        On search and judge rows together, on a scale on which more is better and differences mean what
        the gate's margins mean (:func:`trimtab.metric.utility`), and about its standard error.
        Candidates are ranked by it, after the gate: the gate's intervals hold for all candidates of a
        round at once, so that ranking by the same rows takes nothing from them.
    """

    metric: str
    judged: Interval
    searched: float
    search_rows: int
    golden: float | None
    utility: float
    error: float

    @classmethod
    def of(cls, metric: Metric, judged: Answers, searched: Answers, golden: Answers | None = None) -> Quality:
        """Take a metric of a model's answers on judge, search and golden rows."""
        both = Answers.join([judged, searched]) if len(searched) else judged
        interval = quality(metric, judged, CONFIDENCE)
        shrunk = (len(judged) / len(both)) ** 0.5 if len(both) else 1.0
        return cls(
            metric=metric.name,
            judged=interval,
            searched=score(metric, searched),
            search_rows=len(searched),
            golden=None if golden is None else score(metric, golden),
            utility=utility(metric, score(metric, both)),
            error=spread(metric, interval, CONFIDENCE) * shrunk,
        )


@dataclass(frozen=True)
class Scores:
    """What a benchmark says of one model.

    Parameters
    ----------
    judged
        Its answers on the judge rows.
    quality
        In figures.
    latency
        Beside the champion.
    size_bytes
        On disk, of what serves.
    golden
        Its answers on the golden rows; None where the project names none.
    parameters, multiply_adds
        Number of weights, and of multiplications with addition for one row, where known.
    peak_mb
        Memory that loading and calling it take at most, in megabytes (10^6 bytes), where measured.
    """

    judged: Answers
    quality: Quality
    latency: Latency
    size_bytes: int
    golden: Answers | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    peak_mb: float | None = None

    @property
    def energy(self) -> Energy | None:
        """Of its calls, where measured."""
        return self.latency.energy


@dataclass(frozen=True)
class Change:
    """How a challenger's quality differs from another model's on the same rows.

    Parameters
    ----------
    before, after
        The metric of the other model and of the challenger.
    gain
        The paired difference with its interval, positive where the challenger is better: a fraction of
        ``before`` where the metric is relative, else in the metric's own units.
    rows
        Number of labelled rows.
    level
        Confidence of the interval.
    larger_is_better, relative
        As the metric says.
    """

    before: float
    after: float
    gain: Interval
    rows: int
    level: float
    larger_is_better: bool
    relative: bool

    def worded(self, amount: float) -> str:
        """Word an amount of gain or loss."""
        return f"{100 * amount:.1f} %" if self.relative else f"{amount:.3f}"

    def said(self, name: str) -> str:
        """Word the change, as "accuracy rose by 0.030 (0.024 to 0.036), from 0.900 to 0.930, on 900 rows"."""
        better = self.gain.value >= 0
        value, low, high = self.gain.value, self.gain.low, self.gain.high
        if not better:
            value, low, high = -value, -high, -low
        verb = "rose" if better is self.larger_is_better else "fell"
        bounds = f"{self.worded(low).removesuffix(' %')} to {self.worded(high)}"
        values = f"from {_figure(self.before, self.relative)} to {_figure(self.after, self.relative)}"
        return f"{name} {verb} by {self.worded(value)} ({bounds}), {values}, on {self.rows} rows"

    def wants(self, margin: float) -> str:
        """Say how many rows like these would decide a margin, if what was seen is the truth."""
        left = margin + min(0.0, self.gain.value)
        if left <= 0:
            return "and more rows like these would refuse it"
        error = (self.gain.high - self.gain.low) / (2 * float(stats.norm.ppf(0.5 + self.level / 2)))
        if not math.isfinite(error):
            return "needs rows of more groups"
        return f"needs {max(rows_needed(error**2 * self.rows, left, self.level), self.rows + 1)} rows"


def _figure(value: float, relative: bool) -> str:
    return f"{value:.4g}" if relative else f"{value:.3f}"


def compare(metric: Metric, challenger: Answers, other: Answers, confidence: float) -> Change:
    """Compare two models on the rows whose labels have arrived.

    Accuracy by the interval of Bonett and Price for paired proportions, any other metric by a bootstrap
    over groups in which both models meet the same draws.

    Parameters
    ----------
    challenger, other
        Their answers on the same rows, in the same order.
    confidence
        Of the interval.
    """
    known = arrived(other.labels)
    new, old = challenger.take(known), other.take(known)
    after, before = score(metric, new), score(metric, old)
    if not len(old):
        gain = Interval(math.nan, math.nan, math.nan)
    elif isinstance(metric, Accuracy):
        now, then = (metric.values(answers.outputs, answers.labels) for answers in (new, old))
        gain = paired_difference(now, then, old.groups, confidence)
    else:
        gain = _resampled(metric, new, old, confidence)
    return Change(before, after, gain, len(old), confidence, metric.larger_is_better, metric.relative)


def _resampled(metric: Metric, new: Answers, old: Answers, confidence: float) -> Interval:
    of_new, of_old = weighed(metric, new), weighed(metric, old)
    value = float(_gain(metric, of_new(np.ones((1, len(old)))), of_old(np.ones((1, len(old)))))[0])
    return Interval(value, *bootstrap(lambda w: _gain(metric, of_new(w), of_old(w)), old.groups, confidence))


def _gain(metric: Metric, new: Floats, old: Floats) -> Floats:
    """Return how much better the new figures are; nothing where both are the same."""
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = new - old if metric.larger_is_better else old - new
        gain = difference / np.abs(old) if metric.relative else difference
    gain = np.where(np.isinf(old) & np.isfinite(new), 1.0, gain)  # out of no number a number: all of the error is gone
    return np.where(new == old, 0.0, gain)
