"""Is a model worse on some labelled rows than on others? One-sided p-values, for every metric, for rows in groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom, mannwhitneyu, norm, rankdata, t

from trimtab.intervals import design_effect
from trimtab.metric import Accuracy, Answers, Metric, quality, spread, utility
from trimtab.window import Task

__all__ = ["Share", "absolute_errors", "chance", "chance_of_fall", "chance_of_rise", "risen", "wrong"]

CONFIDENCE = 0.95
"""Of the interval from which a figure's standard error is read."""

MOST_RISEN = 700.0
"""Logarithm of what a float holds, about."""

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Share:
    """``hits`` of ``n`` rows."""

    hits: int
    n: int


def chance_of_fall(before: Share, now: Share) -> float:
    """Return Fisher's exact one-sided p-value: how likely so few hits in ``now`` are if nothing changed.

    Examples
    --------
    >>> chance_of_fall(Share(8, 10), Share(3, 10))  # (C(11,3) C(9,7) + C(11,2) C(9,8) + C(11,1)) / C(20,10)
    0.0348...
    """
    return float(hypergeom.cdf(now.hits, before.n + now.n, before.hits + now.hits, now.n))


def chance_of_rise(before: Floats, now: Floats, groups: tuple[Groups, Groups]) -> float:
    """Return how likely so much larger a mean is if nothing changed, where rows come in groups that are alike.

    Welch's test, each variance times the design effect of its groups (Kish 1965), with as many degrees of
    freedom as there are groups.

    Parameters
    ----------
    before, now
        One value a row.
    groups
        Of the rows of both.

    Examples
    --------
    >>> days = np.repeat(np.arange(30, dtype=np.uint64), 50)
    >>> quiet = np.repeat(np.linspace(-1, 1, 30), 50)
    >>> alone = np.arange(1500, dtype=np.uint64)
    >>> round(chance_of_rise(quiet, quiet + 0.2, (days, days)), 2)
    0.1
    >>> chance_of_rise(quiet, quiet + 0.2, (alone, alone)) < 1e-6
    True
    """
    errors: list[tuple[float, int]] = []
    for values, group in zip((before, now), groups, strict=True):
        variance = design_effect(values, group) * float(values.var(ddof=1)) / len(values)
        errors.append((variance, max(1, len(np.unique(group)) - 1)))
    whole = sum(v for v, _ in errors)
    rise = float(now.mean() - before.mean())
    if whole == 0:
        return 0.0 if rise > 0 else 1.0
    freedom = whole**2 / sum(v**2 / df for v, df in errors)
    return float(t.sf(rise / math.sqrt(whole), freedom))


def risen(fall: float) -> float:
    """Return the share by which an error rose, of the fall of its utility; infinite where it was next to none.

    Examples
    --------
    >>> round(risen(math.log(1.25)), 3), risen(math.log(10.0) - math.log(2.3e-308))
    (0.25, inf)
    """
    return math.expm1(fall) if fall < MOST_RISEN else math.inf


def wrong(answers: Answers) -> Floats:
    """Return 1 for each row whose most probable class is not its label, or whose output is not finite."""
    return 1.0 - Accuracy().values(answers.outputs, answers.labels)


def absolute_errors(answers: Answers) -> Floats:
    """Return the absolute error of each row's prediction; infinite where it is not finite."""
    errors = np.abs(answers.outputs[:, 0].astype(np.float64) - answers.labels)
    return np.where(np.isfinite(errors), errors, np.inf)


def chance(metric: Metric, task: Task, before: Answers, now: Answers) -> float:
    """Return the one-sided p-value of no change in quality.

    Of accuracy by Fisher's exact test, of the errors of a regression by that of Mann and Whitney, which
    asks for nothing of their distribution; where rows come in groups, of shares and of ranks by
    :func:`chance_of_rise`. Of any other metric by the normal approximation, with standard errors from a
    bootstrap over groups.
    """
    together = any(len(np.unique(a.groups)) < len(a) for a in (before, now))
    groups = (before.groups, now.groups)
    if isinstance(metric, Accuracy):
        misses = wrong(before), wrong(now)
        if together:
            return chance_of_rise(*misses, groups)
        return chance_of_fall(*(Share(len(m) - round(m.sum()), len(m)) for m in misses))
    if task == "regression":
        errors = absolute_errors(before), absolute_errors(now)
        if together:
            ranks = rankdata(np.concatenate(errors))
            return chance_of_rise(ranks[: len(before)], ranks[len(before) :], groups)
        return float(mannwhitneyu(errors[1], errors[0], alternative="greater").pvalue)
    bounds = [quality(metric, a, CONFIDENCE) for a in (before, now)]
    error = math.hypot(*(spread(metric, b, CONFIDENCE) for b in bounds))
    fall = utility(metric, bounds[0].value) - utility(metric, bounds[1].value)
    return float(norm.sf(fall / error)) if 0 < error < math.inf else float(fall <= 0) if error == 0 else 1.0
