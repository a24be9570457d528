"""How good is the champion on rows that nobody has labelled yet? An estimate, and when there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from trimtab.metric import Metric, Rmse, utility
from trimtab.monitor import Answer, Case, Finding, OnDraw, Sample
from trimtab.window import Labels, arrived
from trimtab_evidently.expected import Guess, Outputs, by_loss, by_probability
from trimtab_evidently.fall import risen
from trimtab_evidently.likeness import FOLDS, Folds, coded, density_ratio
from trimtab_evidently.sketch import Floats

__all__ = ["Estimate"]

BLOCKS = 20
SPARSE = 20.0


@dataclass(frozen=True)
class Side:
    """Rows of one sample, thinned.

    Parameters
    ----------
    inputs
        As trees read them ``[rows, columns]``.
    outputs
        Of the champion ``[rows, k]``.
    blocks
        Which of 20 blocks each row is in, rows of one group in the same ``[rows]``.
    """

    inputs: Floats
    outputs: Outputs
    blocks: Folds

    @property
    def folds(self) -> Folds:
        """Fold of each row."""
        return self.blocks % FOLDS

    @property
    def weightings(self) -> Floats:
        """All rows, then those without each of the blocks (float64 ``[21, rows]``)."""
        return np.asarray(self.blocks != np.arange(-1, BLOCKS)[:, None], dtype=np.float64)


@dataclass(frozen=True)
class Estimated:
    """A metric on the reference, and what it is estimated to be on a window.

    Parameters
    ----------
    before, now
        The metric itself.
    fall
        On the scale on which margins are counted (:func:`trimtab.metric.utility`).
    error
        Standard error of the fall.
    p
        Of no fall, one-sided.
    """

    before: float
    now: float
    fall: float
    error: float
    p: float


@dataclass(frozen=True)
class Estimate(OnDraw):
    """Estimate the champion's quality on a window without labels; it is *worse* when the estimate fell.

    A classifier's own probabilities, calibrated on the labelled reference, say how likely each row's
    answer is to be right (confidence-based performance estimation). Of a regression trees learn on the
    reference how large a row's error is (direct loss estimation). The metric is the project's. ``worse``
    needs both: the fall is beyond chance (a one-sided p-value of at most alpha) and larger than the limit.

    It assumes that the relation between inputs and label is that of the reference. When that changes
    (concept shift), the estimate stays as it was: only labels, and the monitor ``performance``, tell. It is
    *unknown* where the window holds too many rows of which the reference has no like.

    Parameters
    ----------
    max_drop
        Fall of the estimate that is put up with, in the metric's own units (0.02 = two points).
    max_rise
        The same for a metric in the label's units, such as an error: as a fraction of the reference's.
    max_unseen
        Largest share of the window's rows that may lie where the reference has almost no rows: less than one
        twentieth of what the window has there. Of those rows nothing is known, so that 0.04 of them can
        make the estimate wrong by 0.02 where the champion is right on half as many of them as it seems.
    min_rows
        Fewest labelled rows of the reference, and rows of the window, to estimate from; rows of one
        group count as one.
    rows
        Most rows of the window that are looked at.

    Notes
    -----
    Calibration that holds on the whole of the reference need not hold where a window's rows lie. So what the
    method was off on the reference is added, each row weighted by how much denser the window is there:
    the estimate is right when either the calibration or these weights are (doubly robust, Bang and Robins
    2005; probabilities adapted to the window's density, Białek et al. 2024). Calibration and weights of a row
    come from folds that it is not in. The standard error is that of a jackknife over 20 blocks of rows of
    the reference and 20 of the window (delete-a-group jackknife, Kott 2001), the p-value Student's; the
    weights and the calibration are not computed anew for each.

    Examples
    --------
    A champion that is sure of what is far from 0, and a window with more rows near 0:

    >>> import pandas as pd
    >>> from trimtab.monitor import case_of
    >>> from trimtab.window import Feature, Schema
    >>> def sample(spread: float, rows: int, number: int) -> Sample:
    ...     rng = np.random.default_rng(number)
    ...     frame = pd.DataFrame({"x": rng.uniform(-spread, spread, rows)})
    ...     chance = 1 / (1 + np.exp(-frame["x"].to_numpy()))
    ...     output = np.stack([1 - chance, chance], axis=1).astype(np.float32)
    ...     labels = (rng.random(rows) < chance).astype(np.int64)
    ...     schema = Schema.freeze({"x": Feature()}, frame)
    ...     return Sample(schema, frame, number, probabilities=output, labels=labels)
    >>> case = case_of(Estimate(), sample(4, 2000, 0), sample(2, 1000, 1), 0.05)
    >>> Estimate().check(case).reasons
    ('accuracy is estimated, without labels, to have fallen from 0.829 (2000 labelled rows of the reference) to 0.706
    (1000 rows): by 0.123, standard error 0.011, at most 0.02 allowed; p 2e-11 of no fall. It cannot see a changed
    relation to the label',)
    """

    max_drop: float = 0.02
    max_rise: float = 0.1
    max_unseen: float = 0.04
    min_rows: int = 100
    rows: int = 5000

    name: ClassVar[str] = "estimate"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"max_drop must be in [0, 1), got {self.max_drop}")
        if not 0 <= self.max_rise < math.inf:
            raise ValueError(f"max_rise must be a fraction of at least 0, got {self.max_rise}")
        if not 0 <= self.max_unseen <= 1:
            raise ValueError(f"max_unseen must be a share in [0, 1], got {self.max_unseen}")
        if self.min_rows < BLOCKS * 2:
            raise ValueError(f"min_rows must be at least {BLOCKS * 2} to know how sure it is, got {self.min_rows}")
        if self.rows < self.min_rows:
            raise ValueError(f"rows must be at least min_rows, {self.min_rows}, got {self.rows}")

    def check(self, case: Case) -> Finding:
        """Estimate; alarm with probability ``case.alpha`` at most when the rows are drawn as the reference's were."""
        metric, number = case.metric, case.current.number
        labels = _labels(case.labelled)
        labelled, current = case.labelled.take(arrived(labels)), _thinned(case.current, self.rows)
        if why := self._too_little(labelled, case.current):
            return self._unknown(case, why, {})
        before, now = map(_side, (labelled, current), coded(labelled, current))
        at_before, at_now = density_ratio(before.inputs, now.inputs, before.folds, now.folds)
        unseen = float((at_now > SPARSE).mean())
        scores = {"unseen": unseen, "n": float(len(now.outputs)), "reference_n": float(len(before.outputs))}
        if unseen > self.max_unseen:
            why = (
                f"{unseen:.1%} of the rows of window {number} lie where the reference has almost none, at most "
                f"{self.max_unseen:.1%} allowed (setting max_unseen)"
            )
            return self._unknown(case, why, scores)
        found = _estimate(metric, before, labels[arrived(labels)], now, np.minimum(at_before, SPARSE))
        if not all(map(math.isfinite, (found.before, found.now, found.error))):
            return self._unknown(case, "the labelled rows do not determine it", scores)
        key, limit = ("rise", self.max_rise) if metric.relative else ("drop", self.max_drop)
        size = risen(found.fall) if metric.relative else found.fall
        scores |= {metric.name: found.now, f"reference_{metric.name}": found.before, f"{metric.name}.p": found.p}
        scores |= {key: size, "standard_error": found.error}
        told: dict[str, Any] = {
            "scores": scores,
            "limits": {key: limit, f"{metric.name}.p": case.alpha},
            "p": found.p if size > limit else None,
            "estimated": True,
        }
        if found.p > case.alpha or size <= limit:
            return Finding(self.name, number, Answer.FINE, **told)
        reason = self._reason(metric, found, scores)
        return Finding(self.name, number, Answer.WORSE, (reason,), alarms=(metric.name,), **told)

    def _reason(self, metric: Metric, found: Estimated, scores: dict[str, float]) -> str:
        verb = "fallen" if metric.larger_is_better else "risen"
        by = f"{scores['rise']:.1%}" if metric.relative else f"{scores['drop']:.3f}"
        limit = f"{self.max_rise:.1%}" if metric.relative else f"{self.max_drop:g}"
        form = ".4g" if metric.relative else ".3f"
        return (
            f"{metric.name} is estimated, without labels, to have {verb} from {found.before:{form}} "
            f"({scores['reference_n']:.0f} labelled rows of the reference) to {found.now:{form}} "
            f"({scores['n']:.0f} rows): by {by}, standard error {found.error:.3f}, at most {limit} allowed; p "
            f"{found.p:.0e} of no fall. It cannot see a changed relation to the label"
        )

    def _unknown(self, case: Case, why: str, scores: dict[str, float]) -> Finding:
        reason = f"{case.metric.name} cannot be estimated without labels: {why}"
        return Finding(self.name, case.current.number, Answer.UNKNOWN, (reason,), scores, estimated=True)

    def _too_little(self, labelled: Sample, current: Sample) -> str | None:
        """Say what an estimate lacks, or None."""
        window, rows = f"window {current.number}", "rows (setting min_rows)"
        for sample, where in ((labelled, "the reference"), (current, window)):
            if sample.outputs is None:
                return f"the champion gives no {_wanted(sample)} in {where}"
            broken = int((~np.isfinite(sample.outputs).all(axis=1)).sum())
            if broken and sample.schema.task == "regression":
                return f"the champion's predictions are not finite in {broken} rows of {where}"
        for sample, what in ((labelled, f"labelled {rows} in the reference"), (current, f"{rows} in {window}")):
            count = len(np.unique(_groups(sample)))
            if count < self.min_rows:
                return f"needs {self.min_rows} {what}, which has {count}"
        return None


def _wanted(sample: Sample) -> str:
    return "predictions" if sample.schema.task == "regression" else "probabilities"


def _groups(sample: Sample) -> npt.NDArray[np.uint64]:
    """Return the group of each row; its own where there are none."""
    return np.arange(len(sample), dtype=np.uint64) if sample.groups is None else sample.groups


def _labels(sample: Sample) -> Labels:
    """Return the labels, all of them missing where there are none."""
    return np.full(len(sample), -1) if sample.labels is None else sample.labels


def _thinned(sample: Sample, most: int) -> Sample:
    """Return at most so many rows, drawn without replacement, always the same."""
    return sample.take(np.sort(np.random.default_rng(len(sample)).permutation(len(sample))[:most]))


def _side(sample: Sample, inputs: Floats) -> Side:
    return Side(inputs, np.asarray(sample.outputs, dtype=np.float32), _blocks(_groups(sample)))


def _blocks(groups: npt.NDArray[np.uint64]) -> Folds:
    """Deal groups of rows into blocks, always the same way."""
    codes = np.unique(groups, return_inverse=True)[1]
    return np.asarray(np.random.default_rng(len(codes)).permutation(int(codes.max()) + 1)[codes] % BLOCKS)


def _estimate(metric: Metric, before: Side, labels: Labels, now: Side, ratio: Floats) -> Estimated:
    """Estimate a metric on the window from its guessed labels, and from what guesses were off on the reference."""
    if metric.task == "regression":
        inputs, squared = (before.inputs, now.inputs), isinstance(metric, Rmse)
        guesses = by_loss(before.outputs, labels, before.folds, now.outputs, inputs, squared)
    else:
        guesses = by_probability(before.outputs, labels, before.folds, now.outputs)
    sure, rows = Guess.sure(labels), before.weightings

    def useful(guess: Guess, outputs: Outputs, weights: Floats) -> Floats:
        return np.array([utility(metric, v) for v in guess.figures(metric, outputs, weights).tolist()])

    known = useful(sure, before.outputs, rows)
    guessed = useful(guesses[1], now.outputs, now.weightings)
    with np.errstate(invalid="ignore"):  # what the rows do not determine is infinite, and comes out as NaN
        off = useful(sure, before.outputs, rows * ratio) - useful(guesses[0], before.outputs, rows * ratio)
        sides = known - off, guessed
        fall = float(sides[0][0] - sides[1][0])
        error, p = _tested(fall, [_jackknife(side[1:]) for side in sides])
    at_first = float(known[0])
    return Estimated(_valued(metric, at_first), _valued(metric, at_first - fall), fall, error, p)


def _jackknife(left_out: Floats) -> float:
    """Return the variance of a figure, from what it is without each block."""
    return float((len(left_out) - 1) * left_out.var())


def _tested(fall: float, variances: list[float]) -> tuple[float, float]:
    """Return the standard error of a fall and its one-sided p-value (degrees of freedom of Welch 1947)."""
    total = sum(variances)
    if not total > 0:
        return math.sqrt(max(total, 0.0)), float(fall <= 0)
    freedom = total**2 / sum(v**2 / (BLOCKS - 1) for v in variances)
    return math.sqrt(total), float(t.sf(fall / math.sqrt(total), freedom))


def _valued(metric: Metric, useful: float) -> float:
    """Return the metric's value of a utility; a share stays one."""
    value = useful if metric.larger_is_better else -useful
    return math.exp(value) if metric.relative else min(1.0, max(0.0, value))
