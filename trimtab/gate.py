"""The gate: a pure judgement of a challenger beside champion and anchor, with reasons in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from trimtab.benchmark import Scores, compare
from trimtab.gap import compare_gap
from trimtab.metric import Answers, Metric
from trimtab.ruling import Outcome, Ruling, lags, on_gaps, on_quality, on_segments
from trimtab.runtime import Target

__all__ = ["Gate", "Outcome", "Verdict"]


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
        What the challenger is superior in: objectives (``quality``, ``speed``, ``size``, ``energy``), and
        constraints of the target that it keeps and the champion breaks (``max_size_mb``).
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    gains: tuple[str, ...] = ()


class Gate(BaseModel):
    """Superior in one objective, non-inferior in all others, and within the target's constraints.

    Quality is compared row by row on the same judge rows, speed pair by pair in the same process,
    size in bytes. Superior: the interval of the paired difference excludes no change (and, for speed
    and size, ``min_gain``). Non-inferior: the interval's bound lies within the margin. What the rows
    cannot decide is *unknown*, and unknown never promotes.

    Parameters
    ----------
    max_quality_drop
        Largest loss of quality against the champion: a fraction of the champion's value where the metric
        is an error in the label's units, else in the metric's own units (0.01 = one point). So are all
        losses of quality here.
    max_slowdown
        Largest rise of the latency of warm calls (the lower quartile of each sitting), as a fraction of the
        champion's.
    max_growth
        Largest rise of the size on disk, as a fraction of the champion's.
    max_energy_rise
        Largest rise of the energy of a call, as a fraction of the champion's; None: energy is no
        objective. It is compared without an interval.
    max_total_drop
        Largest loss of quality against the anchor on the same rows.
    max_segment_drop
        Largest loss of quality in any segment (``data.segments``); None: segments are not judged by it.
    max_gap_rise
        Largest rise of the gap by which quality in any segment is behind that on all rows; None: gaps are
        not judged. With it a proven rise in a segment in which the champion is behind is a gain.
    min_segment_rows
        Fewest judge rows of a segment that is judged. By default every segment is, and one that is too small to
        be decided stops every promotion; segments with fewer rows decide nothing, and the verdict names the largest.
    keep
        Largest loss on the golden rows against the champion, where the project names some.
    min_gain
        Smallest rise in speed or fall in size or energy that counts as a gain, as a fraction: without
        it a difference of no use to anybody would move the champion.
    confidence
        Of each interval; divided among the candidates of a round, and among segments, by Bonferroni.

    Examples
    --------
    >>> from trimtab.benchmark import Quality
    >>> from trimtab.intervals import Interval
    >>> from trimtab.metric import Accuracy
    >>> from trimtab.timing import Latency
    >>> def scores(right: int) -> Scores:
    ...     said = np.eye(2, dtype=np.float32)[(np.arange(400) >= right).astype(int)]
    ...     judged = Answers(said, np.zeros(400, np.int64), np.arange(400, dtype=np.uint64))
    ...     same = Latency(1.0, 1.0, Interval(1.0, 1.0, 1.0), False)
    ...     return Scores(judged, Quality.of(Accuracy(), judged, judged), same, 100)
    >>> Gate().judge(scores(360), scores(400), scores(400), metric=Accuracy()).reasons[0]
    'accuracy fell by 0.100 (0.069 to 0.130), from 1.000 to 0.900, on 400 rows; at most 0.010 allowed'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_quality_drop: float = Field(default=0.01, ge=0, lt=1)
    max_slowdown: float = Field(default=0.05, ge=0)
    max_growth: float = Field(default=0.05, ge=0)
    max_energy_rise: float | None = Field(default=None, ge=0)
    max_total_drop: float = Field(default=0.02, ge=0, lt=1)
    max_segment_drop: float | None = Field(default=None, ge=0, lt=1)
    max_gap_rise: float | None = Field(default=None, ge=0, lt=1)
    min_segment_rows: int = Field(default=1, ge=1)
    keep: float = Field(default=0.02, ge=0, lt=1)
    min_gain: float = Field(default=0.05, ge=0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    def level(self, comparisons: int) -> float:
        """Return the confidence of one interval when ``comparisons`` candidates are judged."""
        return 1 - (1 - self.confidence) / max(1, comparisons)

    def judge(
        self,
        challenger: Scores,
        champion: Scores,
        anchor: Scores,
        *,
        metric: Metric,
        target: Target | None = None,
        comparisons: int = 1,
        repair: bool = False,
    ) -> Verdict:
        """Judge a challenger.

        Parameters
        ----------
        challenger, champion, anchor
            Their scores on the same judge rows, in the same order. The challenger's speed-up was
            measured beside the champion at :meth:`level`'s confidence.
        metric
            What quality means.
        target
            Whose constraints hold, and whose ``max_quality_drop`` goes before the gate's.
        comparisons
            Number of candidates judged in this round.
        repair
            Whether the round was opened because the champion is worse: then nothing but a proven
            rise of quality will do, however fast or small the challenger is; with ``max_gap_rise``
            one in a segment in which the champion is behind will do too.
        """
        level, margin = self.level(comparisons), self._margin(target)
        change = compare(metric, challenger.judged, champion.judged, level)
        quality = on_quality(metric.name, change, margin)
        anchored = _same(champion.judged, anchor.judged)
        against = change if anchored else compare(metric, challenger.judged, anchor.judged, level)
        total = on_quality(f"{metric.name} against the anchor", against, self.max_total_drop)
        apart = self._segments(challenger.judged, champion.judged, metric, comparisons)
        mended = any(ruling.gain for ruling in apart)
        return _conclude(
            [
                _repairs(quality) if repair and not mended else quality,
                _erodes_not(total, quality),
                *self._golden(challenger, champion, metric, level),
                *apart,
                *_constraints(challenger, champion, target),
                self._speed(challenger),
                self._size(challenger, champion),
                *self._energy(challenger, champion),
            ]
        )

    def judge_live(
        self, challenger: Answers, champion: Answers, *, metric: Metric, target: Target | None = None, looks: int = 1
    ) -> Verdict:
        """Judge quality alone, on rows that came after the round: non-inferior will do, its gain was proven before.

        Parameters
        ----------
        challenger, champion
            What both answer on the same labelled rows, in the same order.
        metric
            What quality means.
        target
            Whose ``max_quality_drop`` goes before the gate's.
        looks
            Number of times that the same two are judged, on more and more rows.
        """
        change = compare(metric, challenger, champion, self.level(looks))
        quality = on_quality(metric.name, change, self._margin(target))
        apart = () if challenger.segments is None else self._segments(challenger, champion, metric, looks)
        lost = [r for r in apart if r.outcome is Outcome.REJECTED]  # what few rows of a segment cannot decide is left
        return _decisive([quality, *lost]) or Verdict(Outcome.PASSED, (quality.reason,))

    def _margin(self, target: Target | None) -> float:
        given = None if target is None else target.max_quality_drop
        return self.max_quality_drop if given is None else given

    def _golden(self, challenger: Scores, champion: Scores, metric: Metric, level: float) -> list[Ruling]:
        if champion.golden is None or challenger.golden is None:
            return []
        change = compare(metric, challenger.golden, champion.golden, level)
        return [replace(on_quality(f"{metric.name} on the golden rows", change, self.keep), gain=None)]

    def _segments(self, challenger: Answers, champion: Answers, metric: Metric, comparisons: int) -> list[Ruling]:
        """Judge every segment; those that hold are told together."""
        rules = {"max_segment_drop": self.max_segment_drop, "max_gap_rise": self.max_gap_rise}
        asked = [name for name, margin in rules.items() if margin is not None]
        if not asked:
            return []
        if champion.segments is None:
            return [Ruling(Outcome.UNKNOWN, f"gate.{asked[0]} is set, but data.segments names no column")]
        everywhere = {str(n): (champion.segments == n).any(axis=1) for n in np.unique(champion.segments)}
        rows = {name: inside for name, inside in everywhere.items() if inside.sum() >= self.min_segment_rows}
        if not rows:
            why = f"no segment has {self.min_segment_rows} judge rows (gate.min_segment_rows): lower it"
            return [Ruling(Outcome.UNKNOWN, f"gate.{asked[0]} is set, and {why}")]
        level = self.level(comparisons * len(rows))
        changes = {n: compare(metric, challenger.take(r), champion.take(r), level) for n, r in rows.items()}
        rulings = [] if self.max_segment_drop is None else on_segments(metric, changes, self.max_segment_drop)
        if self.max_gap_rise is not None:
            whole = compare(metric, challenger, champion, level)
            lagging = [name for name, change in changes.items() if lags(metric, change, whole)]
            gaps = {n: compare_gap(metric, challenger, champion, rows[n], level) for n in lagging}
            rulings += on_gaps(metric, changes, gaps, whole, self.max_gap_rise)
        return [*rulings, *self._too_small({n: int(r.sum()) for n, r in everywhere.items() if n not in rows})]

    def _too_small(self, rows: Mapping[str, int]) -> list[Ruling]:
        """Name the segments that are not judged, the largest first."""
        if not rows:
            return []
        said = [f"{name} ({count} rows)" for name, count in sorted(rows.items(), key=lambda item: -item[1])]
        more = f" and {len(said) - NAMED} more" if len(said) > NAMED else ""
        why = f"not judged, having fewer rows than gate.min_segment_rows ({self.min_segment_rows})"
        return [Ruling(Outcome.PASSED, f"{', '.join(said[:NAMED])}{more}: {why}")]

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
        return Ruling(Outcome.PASSED, said, "speed" if speedup.low > 1 + self.min_gain else None)

    def _size(self, challenger: Scores, champion: Scores) -> Ruling:
        ratio = challenger.size_bytes / champion.size_bytes
        said = f"size {challenger.size_bytes / 1e3:.0f} kB, {ratio:.2f} of the champion's"
        return self._cost("size", said, ratio, self.max_growth)

    def _energy(self, challenger: Scores, champion: Scores) -> list[Ruling]:
        if self.max_energy_rise is None:
            return []
        if challenger.energy is None or champion.energy is None:
            why = "energy was not measured; name a meter, or leave gate.max_energy_rise out"
            return [Ruling(Outcome.UNKNOWN, why)]
        joules = challenger.energy.joules_per_1000_rows
        ratio = joules / champion.energy.joules_per_1000_rows
        said = f"energy {joules:.3g} J for 1000 rows, {ratio:.2f} of the champion's"
        ruling = self._cost("energy", said, ratio, self.max_energy_rise)
        return [ruling if ratio < 1 - NOISE else replace(ruling, gain=None)]

    def _cost(self, name: str, said: str, ratio: float, margin: float) -> Ruling:
        if not ratio <= 1 + margin:
            return Ruling(Outcome.REJECTED, f"{said}, at most {1 + margin:.2f} allowed")
        return Ruling(Outcome.PASSED, said, name if ratio < 1 - self.min_gain else None)


def _decisive(rulings: Sequence[Ruling]) -> Verdict | None:
    """Return the verdict where some rule did not pass."""
    gains = tuple(r.gain for r in rulings if r.gain)
    for outcome in (Outcome.REJECTED, Outcome.UNKNOWN):
        decisive = [r.reason for r in rulings if r.outcome is outcome]
        if decisive:
            return Verdict(outcome, (*decisive, *(r.reason for r in rulings if r.outcome is not outcome)), gains)
    return None


def _conclude(rulings: Sequence[Ruling]) -> Verdict:
    if (verdict := _decisive(rulings)) is not None:
        return verdict
    gains, reasons = tuple(r.gain for r in rulings if r.gain), tuple(r.reason for r in rulings)
    if not gains:
        return Verdict(Outcome.REJECTED, ("no proven gain in quality, speed or size", *reasons))
    return Verdict(Outcome.PASSED, (f"superior in {' and '.join(gains)}", *reasons), gains)


def _same(a: Answers, b: Answers) -> bool:
    return np.array_equal(a.outputs, b.outputs, equal_nan=True)


def _repairs(quality: Ruling) -> Ruling:
    """Demand a proven rise where the champion is known to be worse."""
    measured = bool(quality.said) and quality.outcome is not Outcome.REJECTED
    if measured and quality.outcome is Outcome.UNKNOWN:
        return replace(quality, reason=f"{quality.reason}; a proven rise is what the round was opened for")
    if measured and quality.gain is None:
        return Ruling(Outcome.REJECTED, f"{quality.said}: no proven rise, which is what the round was opened for")
    return quality


def _erodes_not(total: Ruling, quality: Ruling) -> Ruling:
    """Guard against many small losses that add up; a challenger proven better than the champion adds none."""
    if total.outcome is Outcome.UNKNOWN and total.said and quality.gain is not None:
        return Ruling(Outcome.PASSED, f"{total.said}: undecided, but proven better than the champion")
    return replace(total, gain=None)


def _constraints(challenger: Scores, champion: Scores, target: Target | None) -> list[Ruling]:
    """Judge the target's bounds; keeping all of them where the champion breaks one is a gain."""
    bounds = {} if target is None else {n: b for n in FIGURES if (b := getattr(target, n)) is not None}
    rulings = [_within(name, bound, challenger) for name, bound in bounds.items()]
    if any(r.outcome is not Outcome.PASSED for r in rulings):
        return rulings
    for name, bound in bounds.items():
        if _within(name, bound, champion).outcome is Outcome.REJECTED and _is_more_than_chance(
            name, challenger, champion
        ):
            rulings.append(Ruling(Outcome.PASSED, f"keeps {name}, which the champion breaks", name))
    return rulings


NAMED = 5
"""Segments that one sentence names."""
NOISE = 0.1
"""What is measured once, without an interval, counts as a gain only where it differs by more than this share."""


def _is_more_than_chance(name: str, challenger: Scores, champion: Scores) -> bool:
    """Tell whether a bound that one keeps and one breaks tells models apart, and not two moments of measuring."""
    if name in ("max_p50_ms", "max_p99_ms"):
        return challenger.latency.speedup.low > 1
    mine, its = _figure(name, challenger), _figure(name, champion)
    return name == "max_size_mb" or (mine is not None and its is not None and mine < (1 - NOISE) * its)


def _within(name: str, bound: float, scores: Scores) -> Ruling:
    what, unit = FIGURES[name]
    value = _figure(name, scores)
    if value is None:
        return Ruling(Outcome.UNKNOWN, f"{what} was not measured, at most {bound:g} allowed ({name})")
    said = f"{what} {value:.3g} {unit}, at most {bound:g} allowed ({name})"
    return Ruling(Outcome.PASSED if value <= bound else Outcome.REJECTED, said)


FIGURES = {
    "max_p50_ms": ("p50", "ms"),
    "max_p99_ms": ("p99", "ms"),
    "max_size_mb": ("size", "MB"),
    "max_peak_mb": ("peak memory", "MB"),
}


def _figure(name: str, scores: Scores) -> float | None:
    return {
        "max_p50_ms": scores.latency.p50_ms,
        "max_p99_ms": scores.latency.p99_ms,
        "max_size_mb": scores.size_bytes / 1e6,
        "max_peak_mb": scores.peak_mb,
    }[name]
