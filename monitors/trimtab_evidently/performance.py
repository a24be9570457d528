"""Did the champion get worse? Its quality on a window's labels beside that on the reference, at once and over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trimtab.metric import Accuracy, Answers, Metric, score, utility
from trimtab.monitor import Answer, Case, Finding, OnDraw, Sample
from trimtab.window import Task, arrived
from trimtab_evidently.edetector import evidence, limit, per_group, wealth
from trimtab_evidently.fall import absolute_errors, chance, risen, wrong

__all__ = ["Performance"]

WEALTH = "wealth"


@dataclass(frozen=True)
class Losses:
    """Losses of both samples on one scale from 0 to 1, by independent groups of rows.

    Parameters
    ----------
    before, now
        One a group, float64 ``[groups]``.
    tolerance
        Rise of the mean that is put up with.
    words
        What a loss is.
    """

    before: npt.NDArray[np.float64]
    now: npt.NDArray[np.float64]
    tolerance: float
    words: str


@dataclass(frozen=True)
class Performance(OnDraw):
    """Find a champion that got worse, as soon as labels arrive.

    Quality is the project's ``model.metric``. A window is ``worse`` for one of two reasons:

    - *at once*: quality on its labels is lower than on the reference by more than the limit, and by more
      than chance (a one-sided p-value of at most half of alpha);
    - *over time*: losses of this window and the ones before it, since the last round, are above what the
      reference promises by more than the limit, with so much evidence that it would come once in 2 / alpha
      quiet windows at the most. That finds what is too slow for any window alone.

    Parameters
    ----------
    max_drop
        Fall of quality that is put up with, as a fraction (0.02 = two points of accuracy).
    max_rise
        Rise of the error of a regression that is put up with, as a fraction of the reference's.
    min_rows
        Fewest labelled rows of the window and of the reference to judge a window by itself. What adds up
        over time takes every label.

    Notes
    -----
    At once: accuracy is compared by Fisher's exact test, the errors of a regression by that of Mann and
    Whitney, any other metric through a bootstrap. Intervals from Wilson's do not keep alpha: with 50 labels
    against a reference of 800 at accuracy 0.98 they alarm in 7.1 % of quiet windows at 5 %.

    Over time: an e-detector (Shin, Ramdas and Rinaldo 2022) on wrong answers; where the metric is not
    accuracy, on wrong answers that weigh the more the rarer their class; in a regression on the ranks of
    absolute errors among the reference's. It is computed anew from the windows' own figures, in their
    order, whenever labels come: late ones, and such as come out of order, lead to what they would have led
    to at once.

    Rows of one group (``data.group``, ``data.block``) count as far as they differ.

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
    >>> case = case_of(Performance(), sample(980, 1000, 0), sample(600, 1000, 7), 0.05)
    >>> Performance().check(case).reasons[0]
    'accuracy fell from 0.980 (1000 rows of the reference) to 0.600 (1000 labelled rows): by 0.380,
    at most 0.02 allowed; p 3e-113 of no change'
    """

    max_drop: float = 0.02
    max_rise: float = 0.1
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
        before, now = _answers(case.reference), _answers(case.current)
        name, task, number = case.metric.name, case.current.schema.task, case.current.number
        scores = {"n": float(len(now)), "reference_n": float(len(before))}
        values = [score(case.metric, a) if len(a) else math.nan for a in (before, now)]
        named = zip((f"reference_{name}", name), values, strict=True)
        scores |= {key: value for key, value in named if math.isfinite(value)}
        losses = self._losses(case.metric, task, before, now)
        kept = [] if losses is None else wealth(losses.now, limit(losses.before, losses.tolerance)).tolist()
        over_time = [] if losses is None else self._over_time(case, kept, losses.words, scores)
        few = self._too_few(case, before, now) or _undetermined(name, *values)
        at_once = [] if few else list(self._at_once(case, before, now, values, scores))
        reasons = [*at_once, *over_time]
        answer = Answer.WORSE if reasons else Answer.UNKNOWN if few else Answer.FINE
        alarms = (name,) if reasons else ()
        told = tuple(reasons or ([few] if few else []))
        return Finding(self.name, number, answer, told, scores, {WEALTH: kept} if kept else {}, alarms)

    def _at_once(
        self, case: Case, before: Answers, now: Answers, values: Sequence[float], scores: dict[str, float]
    ) -> Iterator[str]:
        """Word how much quality fell on this window, where it did beyond chance and the limit."""
        metric, task = case.metric, case.current.schema.task
        fall = utility(metric, values[0]) - utility(metric, values[1])
        if metric.relative:
            fall = -risen(-fall) if metric.larger_is_better else risen(fall)
        allowed, p = self.max_rise if metric.relative else self.max_drop, chance(metric, task, before, now)
        scores |= {"rise" if metric.relative else "drop": fall, "p": p}
        if p <= case.alpha / 2 and fall > allowed:
            label = f" of {case.current.schema.label!r}" if task == "regression" else ""
            figure = ".4g" if metric.relative else ".3f"
            yield (
                f"{metric.name}{label} {'fell' if metric.larger_is_better else 'rose'} from {values[0]:{figure}} "
                f"({len(before)} rows of the reference) to {values[1]:{figure}} ({len(now)} labelled rows): "
                f"by {fall:{'.1%' if metric.relative else '.3f'}}, "
                f"at most {allowed:{'.1%' if metric.relative else 'g'}} allowed; p {p:.0e} of no change"
            )

    def _over_time(self, case: Case, kept: Sequence[float], words: str, scores: dict[str, float]) -> list[str]:
        """Word what the windows since the last round say together, where it is enough."""
        windows = [*((f.window, f.kept[WEALTH]) for f in case.past if WEALTH in f.kept), (case.current.number, kept)]
        asked = 2 / case.alpha
        found = evidence([won for _, won in windows], asked)
        scores["run"] = found.run
        if found.run < asked:
            return []
        return [
            f"{words} since window {windows[found.since][0]} are above what the reference promises and the limit "
            f"allows, with evidence that comes once in {found.run:,.0f} quiet windows; {asked:,.0f} were asked for"
        ]

    def _losses(self, metric: Metric, task: Task, before: Answers, now: Answers) -> Losses | None:
        """Return losses from 0 to 1 whose mean does not change where nothing does; None where rows are too few."""
        if len(before) < self.min_rows or not len(now):
            return None
        if task == "regression":
            known, words = np.sort(absolute_errors(before)), "absolute errors"
            one, other, grown = (_rank(known, e) for e in (known, absolute_errors(now), known * (1 + self.max_rise)))
            one, tolerance = _rank(known, absolute_errors(before)), float(grown.mean() - one.mean())
        else:
            one, other, tolerance, words = wrong(before), wrong(now), self.max_drop, "wrong answers"
            if not isinstance(metric, Accuracy):
                weights, words = _rarity(before), "wrong answers, weighed by the rarity of their class,"
                tolerance *= float(weights[before.labels].mean())
                one, other = one * weights[before.labels], other * weights[now.labels]
        return Losses(per_group(one, before.groups), per_group(other, now.groups), tolerance, words)

    def _too_few(self, case: Case, before: Answers, now: Answers) -> str | None:
        """Say which sample has too few labelled rows, or None."""
        sides = ((case.reference, before, "the reference"), (case.current, now, f"window {case.current.number}"))
        for sample, answers, where in sides:
            if len(answers) < self.min_rows:
                why = "; the champion's output is missing" if sample.outputs is None else ""
                return (
                    f"needs {self.min_rows} labelled rows (setting min_rows) in {where}, which has {len(answers)}{why}"
                )
        return None


def _answers(sample: Sample) -> Answers:
    """Return the champion's answers on the rows whose label has arrived; none where it gave none."""
    outputs, labels = sample.outputs, sample.labels
    if outputs is None or labels is None:
        return Answers(np.zeros((0, 1), np.float32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    groups = np.arange(len(sample), dtype=np.uint64) if sample.groups is None else sample.groups
    return Answers(outputs, labels, groups).take(arrived(labels))


def _undetermined(name: str, before: float, now: float) -> str | None:
    """Say which rows do not determine the metric, or None."""
    for value, where in ((before, "reference"), (now, "window")):
        if math.isnan(value):
            return f"the labelled rows of the {where} do not determine {name}"
    return None


def _rank(known: npt.NDArray[np.float64], errors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the share of known errors that are smaller, those that are equal counted half."""
    below, up_to = (np.searchsorted(known, errors, side=side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(known)))


def _rarity(answers: Answers) -> npt.NDArray[np.float64]:
    """Return a weight from 0 to 1 for each class, the larger the rarer it is in the reference."""
    counts = np.bincount(answers.labels.astype(np.int64), minlength=answers.outputs.shape[1])
    rarest = counts[counts > 0].min()
    return np.asarray(rarest / np.maximum(counts, rarest))
