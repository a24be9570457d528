"""Rulings: what one rule of the gate says of a change of quality, on all rows, in each segment, and between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from trimtab.benchmark import Change
from trimtab.intervals import Interval
from trimtab.metric import Metric, utility

__all__ = ["Outcome", "Ruling", "on_gaps", "on_quality", "on_segments"]


class Outcome(StrEnum):
    """What may become of a challenger."""

    PASSED = "passed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Ruling:
    """One rule's answer: its reason, what is gained if anything, and the bare measurement in words."""

    outcome: Outcome
    reason: str
    gain: str | None = None
    said: str = ""


def on_quality(name: str, change: Change, margin: float) -> Ruling:
    """Judge a change of quality by a margin."""
    if change.rows == 0:
        return Ruling(Outcome.UNKNOWN, f"{name}: no rows to judge on")
    if math.isinf(change.after) and math.isfinite(change.before):
        return Ruling(Outcome.REJECTED, f"{name}: some outputs are not finite numbers")
    if not math.isfinite(change.gain.value):
        return Ruling(Outcome.UNKNOWN, f"{name}: not a number on these {change.rows} rows")
    said = change.said(name)
    if change.gain.high < -margin:
        return Ruling(Outcome.REJECTED, f"{said}; at most {change.worded(margin)} allowed", said=said)
    if not change.gain.low >= -margin:
        why = f"cannot decide a margin of {change.worded(margin)}, {change.wants(margin)}"
        return Ruling(Outcome.UNKNOWN, f"{said}: {why}", said=said)
    return Ruling(Outcome.PASSED, said, "quality" if change.gain.low > 0 else None, said)


def on_segments(metric: Metric, changes: Mapping[str, Change], margin: float) -> list[Ruling]:
    """Judge quality in every segment; those that hold are told together."""
    rulings = [replace(on_quality(f"{metric.name} where {n}", c, margin), gain=None) for n, c in changes.items()]
    held = Ruling(Outcome.PASSED, f"{metric.name} held in each of {len(changes)} segments")
    return [r for r in rulings if r.outcome is not Outcome.PASSED] or [held]


def on_gaps(metric: Metric, changes: Mapping[str, Change], whole: Change, margin: float) -> list[Ruling]:
    """Judge by how much more each segment is behind all rows; a proven rise where the champion is behind is a gain."""
    rulings = []
    for name, change in changes.items():
        gap = _gap(change, whole)
        if _behind(metric, change.after, whole.after):
            allowed = _allowed(metric, change, whole, margin)
            rulings.append(replace(on_quality(f"{metric.name} gap where {name}", gap, allowed), gain=None))
        if _behind(metric, change.before, whole.before) and change.gain.low > 0 and gap.gain.value > 0:
            said = change.said(f"{metric.name} where {name}")
            rulings.append(Ruling(Outcome.PASSED, f"{said}, where the champion is behind", f"quality where {name}"))
    held = Ruling(Outcome.PASSED, f"no gap in {metric.name} widened in {len(changes)} segments")
    return [r for r in rulings if r.outcome is not Outcome.PASSED or r.gain] or [held]


def _behind(metric: Metric, segment: float, whole: float) -> bool:
    return utility(metric, segment) < utility(metric, whole)


def _allowed(metric: Metric, segment: Change, whole: Change, margin: float) -> float:
    """Return how far a gap may rise: where the champion is ahead, losing that lead, others rising, opens none."""
    lead = _apart(segment.before, whole.before, segment)
    if _behind(metric, segment.before, whole.before) or not math.isfinite(lead):
        return margin
    if segment.relative:
        return (1 + margin) / lead - 1 if lead > 0 else margin
    return margin - lead


def _gap(segment: Change, whole: Change) -> Change:
    """Return how the gap between a segment and all rows changed; a gain where it became smaller.

    The interval of a difference follows from those of its two parts (Zou and Donner 2008), taken as independent:
    they share the segment's rows, so that it comes out too wide rather than too narrow. Of a relative metric it is
    the difference of logarithms: the gap is a multiple.
    """
    a, b = (_logarithms(c.gain) if segment.relative else c.gain for c in (segment, whole))
    low = a.value - b.value - math.hypot(a.value - a.low, b.high - b.value)
    high = a.value - b.value + math.hypot(a.high - a.value, b.value - b.low)
    before, after = (_apart(getattr(segment, when), getattr(whole, when), segment) for when in ("before", "after"))
    interval = Interval(a.value - b.value, low, high)
    gain = _fractions(interval) if segment.relative else interval
    return replace(segment, before=before, after=after, gain=gain, larger_is_better=False)


def _logarithms(gain: Interval) -> Interval:
    """Return by how much an error's logarithm fell, where the error fell by these fractions."""
    parts = (math.inf if part >= 1 else -math.log1p(-part) for part in (gain.value, gain.low, gain.high))
    return Interval(*parts)


def _fractions(fall: Interval) -> Interval:
    """Return what :func:`_logarithms` was given."""
    with np.errstate(over="ignore"):
        return Interval(*(float(-np.expm1(-part)) for part in (fall.value, fall.low, fall.high)))


def _apart(segment: float, whole: float, change: Change) -> float:
    """Return by how much a segment is behind all rows: as a multiple where the metric is relative."""
    if change.relative:
        return segment / whole if whole else math.nan
    return whole - segment if change.larger_is_better else segment - whole
