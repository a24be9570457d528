"""Rulings: what one rule of the gate says of a change of quality, on all rows, in each segment, and between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from trimtab.benchmark import Change
from trimtab.gap import behind
from trimtab.metric import Metric, utility

__all__ = ["Outcome", "Ruling", "lags", "on_gaps", "on_quality", "on_segments"]


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
    rulings = [_in_segment(f"{metric.name} where {n}", c, margin) for n, c in changes.items()]
    held = Ruling(Outcome.PASSED, f"{metric.name} held in each of {len(changes)} segments")
    return [r for r in rulings if r.outcome is not Outcome.PASSED] or [held]


def lags(metric: Metric, segment: Change, whole: Change) -> bool:
    """Tell whether a segment is behind all rows, with either of the two models."""
    return any(_is_behind(metric, getattr(segment, at), getattr(whole, at)) for at in ("before", "after"))


def on_gaps(
    metric: Metric, changes: Mapping[str, Change], gaps: Mapping[str, Change], whole: Change, margin: float
) -> list[Ruling]:
    """Judge by how much more each segment is behind all rows; a proven rise where the champion is behind is a gain.

    Parameters
    ----------
    changes
        Of quality, by segment.
    gaps
        By how much segments are behind all rows, of those that :func:`lags` names.
    whole
        Change of quality on all rows.
    margin
        Largest rise of a gap.
    """
    rulings = []
    for name, change in changes.items():
        if _is_behind(metric, change.after, whole.after):
            allowed = _allowed(metric, change, whole, margin)
            rulings.append(_in_segment(f"{metric.name} gap where {name}", gaps[name], allowed))
        if _is_behind(metric, change.before, whole.before) and change.gain.low > 0 and gaps[name].gain.value > 0:
            said = change.said(f"{metric.name} where {name}")
            rulings.append(Ruling(Outcome.PASSED, f"{said}, where the champion is behind", f"quality where {name}"))
    held = Ruling(Outcome.PASSED, f"no gap in {metric.name} widened in {len(changes)} segments")
    return [r for r in rulings if r.outcome is not Outcome.PASSED or r.gain] or [held]


def _in_segment(name: str, change: Change, margin: float) -> Ruling:
    """Judge a segment, of which a mere hold is no gain; say how not to be stopped by one that stays small."""
    ruling = replace(on_quality(name, change, margin), gain=None)
    lost = change.gain.value < -margin  # more rows would show it, and must not be looked away from
    if ruling.outcome is not Outcome.UNKNOWN or lost or not change.rows:
        return ruling
    return replace(ruling, reason=f"{ruling.reason}, or gate.min_segment_rows above {change.rows}")


def _is_behind(metric: Metric, segment: float, whole: float) -> bool:
    return utility(metric, segment) < utility(metric, whole)


def _allowed(metric: Metric, segment: Change, whole: Change, margin: float) -> float:
    """Return how far a gap may rise: where the champion is ahead, losing that lead, others rising, opens none."""
    lead = behind(metric, segment.before, whole.before)
    if _is_behind(metric, segment.before, whole.before) or not math.isfinite(lead):
        return margin
    if segment.relative:
        return (1 + margin) / lead - 1 if lead > 0 else margin
    return margin - lead
