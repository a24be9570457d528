"""The gate: a pure judgement of a challenger beside champion and anchor, with reasons in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from trimtab.benchmark import Scores
from trimtab.intervals import Interval, design_effect

__all__ = ["Gate", "Outcome", "Verdict", "paired_difference", "rows_needed"]


class Outcome(StrEnum):
    """What may become of a challenger."""

    PASSED = "passed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """The gate's answer.

    Parameters
    ----------
    outcome
        Only ``passed`` may be promoted.
    reasons
        Every rule that spoke, the decisive ones first.
    gains
        Objectives in which the challenger is superior.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    gains: tuple[str, ...] = ()


class Gate(BaseModel):
    """Superior in one objective, non-inferior in all others.

    Quality is compared row by row on the same judge rows, speed pair by pair in the same process,
    size in bytes. Superior: the interval of the paired difference excludes no change (and, for speed
    and size, ``min_gain``). Non-inferior: the interval's bound lies within the margin. What the rows
    cannot decide is *unknown*, and unknown never promotes.

    Parameters
    ----------
    max_quality_drop
        Largest loss of quality against the champion, as a fraction (0.01 = one point).
    max_slowdown
        Largest rise of the median latency, as a fraction of the champion's.
    max_growth
        Largest rise of the size on disk, as a fraction of the champion's.
    max_total_drop
        Largest loss of quality against the anchor on the same rows.
    keep
        Largest loss on the golden rows against the champion, where the project names some.
    min_gain
        Smallest rise in speed or fall in size that counts as a gain, as a fraction: without it a
        difference of no use to anybody would move the champion.
    confidence
        Of each interval; divided among the candidates of a round by Bonferroni.

    Examples
    --------
    >>> from trimtab.timing import Latency
    >>> same = Latency(1.0, 1.0, Interval(1.0, 1.0, 1.0), False)
    >>> champion = Scores(np.ones(400), np.arange(400, dtype=np.uint64), same, 100, 1.0)
    >>> worse = Scores(np.r_[np.zeros(40), np.ones(360)], champion.groups, champion.latency, 100, 0.9)
    >>> Gate().judge(worse, champion, champion).reasons[0]
    'quality fell by 0.100 (0.069 to 0.130) on 400 rows, at most 0.010 allowed'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_quality_drop: float = Field(default=0.01, ge=0, lt=1)
    max_slowdown: float = Field(default=0.05, ge=0)
    max_growth: float = Field(default=0.05, ge=0)
    max_total_drop: float = Field(default=0.02, ge=0, lt=1)
    keep: float = Field(default=0.02, ge=0, lt=1)
    min_gain: float = Field(default=0.05, ge=0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    def level(self, comparisons: int) -> float:
        """Return the confidence of one interval when ``comparisons`` candidates are judged."""
        return 1 - (1 - self.confidence) / max(1, comparisons)

    def judge(
        self, challenger: Scores, champion: Scores, anchor: Scores, comparisons: int = 1, repair: bool = False
    ) -> Verdict:
        """Judge a challenger.

        Parameters
        ----------
        challenger, champion, anchor
            Their scores on the same judge rows, in the same order. The challenger's speed-up was
            measured beside the champion at :meth:`level`'s confidence.
        comparisons
            Number of candidates judged in this round.
        repair
            Whether the round was opened because the champion is worse: then nothing but a proven
            rise of quality will do, however fast or small the challenger is.
        """
        level = self.level(comparisons)
        quality = _quality("quality", challenger.judged, champion.judged, champion.groups, self.max_quality_drop, level)
        total = _quality(
            "quality against the anchor", challenger.judged, anchor.judged, champion.groups, self.max_total_drop, level
        )
        rulings = [
            _repairs(quality) if repair else quality,
            _erodes_not(total, quality),
            self._speed(challenger),
            self._size(challenger, champion),
        ]
        if len(champion.golden):
            golden = challenger.golden, champion.golden, champion.golden_groups
            rulings.append(replace(_quality("quality on the golden rows", *golden, self.keep, level), gain=None))
        return _conclude(rulings)

    def _speed(self, challenger: Scores) -> Ruling:
        speedup, floor = challenger.latency.speedup, 1 / (1 + self.max_slowdown)
        said = f"speed {speedup:.2f} times the champion's"
        if not all(math.isfinite(v) for v in (speedup.value, speedup.low, speedup.high)):
            return Ruling(Outcome.UNKNOWN, f"{said}: not a number")
        if speedup.high < floor:
            return Ruling(Outcome.REJECTED, f"{said}, at least {floor:.2f} required")
        if speedup.low < floor:
            why = "the machine was contended: measure again" if challenger.latency.contended else "measure again"
            return Ruling(Outcome.UNKNOWN, f"{said}, the interval reaches below {floor:.2f}: {why}")
        gained = speedup.low > 1 + self.min_gain and not challenger.latency.contended
        return Ruling(Outcome.PASSED, said, "speed" if gained else None)

    def _size(self, challenger: Scores, champion: Scores) -> Ruling:
        ratio = challenger.size_bytes / champion.size_bytes
        said = f"size {challenger.size_bytes / 1e3:.0f} kB, {ratio:.2f} of the champion's"
        if not ratio <= 1 + self.max_growth:
            return Ruling(Outcome.REJECTED, f"{said}, at most {1 + self.max_growth:.2f} allowed")
        return Ruling(Outcome.PASSED, said, "size" if ratio < 1 - self.min_gain else None)


@dataclass(frozen=True)
class Ruling:
    """One objective's answer: its reason, the objective where it is a gain, and the bare measurement in words."""

    outcome: Outcome
    reason: str
    gain: str | None = None
    said: str = ""


def _conclude(rulings: Sequence[Ruling]) -> Verdict:
    gains = tuple(r.gain for r in rulings if r.gain)
    for outcome in (Outcome.REJECTED, Outcome.UNKNOWN):
        decisive = [r.reason for r in rulings if r.outcome is outcome]
        if decisive:
            return Verdict(outcome, (*decisive, *(r.reason for r in rulings if r.outcome is not outcome)), gains)
    reasons = tuple(r.reason for r in rulings)
    if not gains:
        return Verdict(Outcome.REJECTED, ("no proven gain in quality, speed or size", *reasons))
    return Verdict(Outcome.PASSED, (f"superior in {' and '.join(gains)}", *reasons), gains)


def _quality(
    name: str,
    challenger: npt.NDArray[np.float64],
    champion: npt.NDArray[np.float64],
    groups: npt.NDArray[np.uint64],
    margin: float,
    level: float,
) -> Ruling:
    if len(champion) == 0:
        return Ruling(Outcome.UNKNOWN, f"{name}: no rows to judge on")
    change = paired_difference(challenger, champion, groups, level)
    said = _change(name, change, len(champion))
    if not math.isfinite(change.value):
        return Ruling(Outcome.UNKNOWN, f"{name}: not a number")
    if change.high < -margin:
        return Ruling(Outcome.REJECTED, f"{said}, at most {margin:.3f} allowed", said=said)
    if change.low < -margin:
        why = f"cannot decide a margin of {margin:.3f}, {_wants(challenger, champion, groups, margin, level)}"
        return Ruling(Outcome.UNKNOWN, f"{said}: {why}", said=said)
    return Ruling(Outcome.PASSED, said, name if change.low > 0 else None, said)


def _wants(
    challenger: npt.NDArray[np.float64],
    champion: npt.NDArray[np.float64],
    groups: npt.NDArray[np.uint64],
    margin: float,
    level: float,
) -> str:
    """Say how many rows like these would decide, if what was seen is the truth."""
    left = margin + min(0.0, float((challenger - champion).mean()))
    if left <= 0:
        return "and more rows like these would refuse it"
    effect = design_effect(challenger - champion, groups)
    needed = math.ceil(effect * rows_needed(disagreement(challenger, champion), left, level))
    return f"needs {max(needed, len(champion) + 1)} rows"


def _repairs(quality: Ruling) -> Ruling:
    """Demand a proven rise where the champion is known to be worse."""
    measured = bool(quality.said) and quality.outcome is not Outcome.REJECTED
    if measured and quality.gain is None:
        return Ruling(Outcome.REJECTED, f"{quality.said}: no proven rise, which is what the round was opened for")
    return quality


def _erodes_not(total: Ruling, quality: Ruling) -> Ruling:
    """Guard against many small losses that add up; a challenger proven better than the champion adds none."""
    if total.outcome is Outcome.UNKNOWN and total.said and quality.gain is not None:
        return Ruling(Outcome.PASSED, f"{total.said}: undecided, but proven better than the champion")
    return replace(total, gain=None)


def _change(name: str, change: Interval, rows: int) -> str:
    if change.value < 0:
        flipped = Interval(-change.value, -change.high, -change.low)
        return f"{name} fell by {flipped:.3f} on {rows} rows"
    return f"{name} rose by {change:.3f} on {rows} rows"


def paired_difference(
    challenger: npt.NDArray[np.float64],
    champion: npt.NDArray[np.float64],
    groups: npt.NDArray[np.uint64],
    confidence: float,
) -> Interval:
    """Return the difference of two shares of right predictions on the same rows, with its interval.

    Bonett and Price (2012): an adjusted Wald interval for paired proportions, which keeps its
    coverage where few rows disagree. Rows of one group are not independent: counts are divided by
    the design effect (Kish 1965) of the groups.

    Parameters
    ----------
    challenger, champion
        1 where right, else 0 (float64 ``[rows]``).
    groups
        Group of each row (uint64 ``[rows]``).

    Examples
    --------
    >>> a, b = np.array([1.0, 1, 1, 1]), np.array([1.0, 1, 0, 0])
    >>> f"{paired_difference(a, b, np.arange(4, dtype=np.uint64), 0.95):.2f}"
    '0.50 (-0.26 to 0.93)'
    """
    difference = challenger - champion
    effect = design_effect(difference, groups)
    n = len(difference) / effect
    better, worse = float((difference > 0).sum()) / effect, float((difference < 0).sum()) / effect
    p_better, p_worse = (better + 1) / (n + 2), (worse + 1) / (n + 2)
    spread = stats.norm.ppf(0.5 + confidence / 2) * math.sqrt(
        (p_better + p_worse - (p_better - p_worse) ** 2) / (n + 2)
    )
    middle = p_better - p_worse
    return Interval(float(difference.mean()), max(-1.0, middle - spread), min(1.0, middle + spread))


def disagreement(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Return the share of rows on which exactly one of two models is right."""
    return float((a != b).mean())


def rows_needed(disagreeing: float, margin: float, confidence: float, power: float = 0.8) -> int:
    """Return the judge rows that a non-inferiority margin needs when the two models are equally good.

    The normal approximation for paired proportions (Nam 1997): ``(z_a + z_b)^2 * d / margin^2``
    with ``d`` the share of rows on which the two disagree.

    Examples
    --------
    >>> rows_needed(0.02, 0.01, 0.95)
    1570
    """
    if margin <= 0:
        return 10**9
    z = float(stats.norm.ppf(0.5 + confidence / 2) + stats.norm.ppf(power))
    return math.ceil(z**2 * max(disagreeing, 1e-3) / margin**2)
