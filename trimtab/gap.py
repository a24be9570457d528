"""By how much a segment is behind all rows, and how a challenger changes that beside the champion."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trimtab.benchmark import Change, compare
from trimtab.intervals import Interval, bootstrap
from trimtab.metric import Accuracy, Answers, Floats, Metric, score, weighed
from trimtab.window import arrived

__all__ = ["behind", "compare_gap"]

Mask = npt.NDArray[np.bool_]


def behind(metric: Metric, segment: float, whole: float) -> float:
    """Return by how much a segment is behind all rows: a difference, or a multiple where the metric is relative.

    Examples
    --------
    >>> from trimtab.metric import Rmse
    >>> f"{behind(Accuracy(), 0.8, 0.9):.2f} {behind(Rmse(), 3.0, 2.0):.2f}"
    '0.10 1.50'
    """
    return float(_behind(metric, np.array([segment]), np.array([whole]))[0])


def compare_gap(metric: Metric, challenger: Answers, other: Answers, inside: Mask, confidence: float) -> Change:
    """Compare by how much a segment is behind all rows with one model and with another; a gain where that fell.

    Accuracy is a mean over rows: the gap to all rows is the gap to the rest of them, times the rest's share. The
    difference of segment and rest, which have no row in common, has the interval of Zou (2007), from those of the two
    paired proportions. Groups with rows on both sides may correlate them: as strongly as the shares of rows in such
    groups allow, and in the worse direction. Of any other metric the gap itself is bootstrapped over groups, in which
    both models meet the same draws.

    Parameters
    ----------
    challenger, other
        Their answers on the same rows, in the same order.
    inside
        The segment's rows (bool ``[rows]``).
    confidence
        Of the interval.

    Returns
    -------
    Change
        Of what :func:`behind` gives. Its rows are the segment's.

    Examples
    --------
    >>> said = np.eye(2, dtype=np.float32)
    >>> def answers(right: int) -> Answers:
    ...     wrong = (np.arange(200) % 100 >= right).astype(int)
    ...     return Answers(said[wrong], np.zeros(200, np.int64), np.arange(200, dtype=np.uint64))
    >>> best, rest = answers(95), answers(90)
    >>> first = np.arange(200) < 100
    >>> better_there = Answers(np.where(first[:, None], best.outputs, rest.outputs), rest.labels, rest.groups)
    >>> f"{compare_gap(Accuracy(), better_there, rest, first, 0.95).gain:.3f}"
    '0.025 (-0.004 to 0.053)'
    """
    known = arrived(other.labels)
    new, old, inside = challenger.take(known), other.take(known), inside[known]
    before, after = (behind(metric, score(metric, a.take(inside)), score(metric, a)) for a in (old, new))
    interval = _beside_the_rest if isinstance(metric, Accuracy) else _resampled
    gain = interval(metric, new, old, inside, confidence)
    return Change(before, after, gain, int(inside.sum()), confidence, larger_is_better=False, relative=metric.relative)


def _beside_the_rest(metric: Metric, new: Answers, old: Answers, inside: Mask, confidence: float) -> Interval:
    if not inside.any():
        return Interval(math.nan, math.nan, math.nan)
    if inside.all():
        return Interval(0.0, 0.0, 0.0)
    a, b = (compare(metric, new.take(rows), old.take(rows), confidence).gain for rows in (inside, ~inside))
    share = float((~inside).mean())
    value = a.value - b.value
    correlation = _most_correlated(old.groups[inside], old.groups[~inside])

    def width(one: float, other: float) -> float:
        return math.sqrt(one**2 + other**2 + 2 * correlation * one * other)

    low = value - width(a.value - a.low, b.high - b.value)
    high = value + width(a.high - a.value, b.value - b.low)
    return Interval(share * value, share * low, share * high)


def _most_correlated(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> float:
    """Return how strongly means over two sets of rows can correlate by the groups that have rows in both."""
    return math.sqrt(np.isin(one, other).mean() * np.isin(other, one).mean())


def _resampled(metric: Metric, new: Answers, old: Answers, inside: Mask, confidence: float) -> Interval:
    figures = [(weighed(metric, answers), weighed(metric, answers.take(inside))) for answers in (new, old)]

    def fall(weights: Floats) -> Floats:
        after, before = (_behind(metric, part(weights[:, inside]), whole(weights)) for whole, part in figures)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = 1 - after / before if metric.relative else before - after
        return np.where(after == before, 0.0, gain)

    value = float(fall(np.ones((1, len(old))))[0])
    low, high = bootstrap(fall, old.groups, confidence)
    # Percentiles cannot leave the range of a segment's own few groups, however many there are elsewhere.
    if 2.0 ** (1 - len(np.unique(old.groups[inside]))) > 1 - confidence:
        low = high = math.nan
    return Interval(value, low, high)


def _behind(metric: Metric, segment: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric.relative:
            return np.where(whole == 0, np.nan, segment / whole)
        return whole - segment if metric.larger_is_better else segment - whole
