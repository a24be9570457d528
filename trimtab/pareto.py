"""Comparing candidates in several losses at once: dominance, fronts, and the volume that a front covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Losses", "contributions", "dominates", "front", "hypervolume", "order", "ranks"]

Losses = Sequence[float]


def dominates(a: Losses, b: Losses) -> bool:
    """Tell whether ``a`` is nowhere worse than ``b`` and somewhere better; losses are to be small.

    Examples
    --------
    >>> dominates((1, 2), (1, 3)), dominates((1, 2), (2, 1)), dominates((1, 2), (1, 2))
    (True, False, False)
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Losses]) -> list[int]:
    """Return the places of the points that no other dominates (the Pareto front).

    Examples
    --------
    >>> front([(1, 3), (2, 2), (3, 3), (3, 1)])
    [0, 1, 3]
    """
    return [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]


def ranks(points: Sequence[Losses]) -> list[int]:
    """Return how many fronts lie before each point: 0 on the front, 1 on the front without those, and so on.

    Non-dominated sorting (Deb et al. 2002).
    """
    ranked, left, rank = [0] * len(points), list(range(len(points))), 0
    while left:
        now = {left[i] for i in front([points[i] for i in left])}
        for i in now:
            ranked[i] = rank
        left, rank = [i for i in left if i not in now], rank + 1
    return ranked


def hypervolume(points: Sequence[Losses], reference: Losses) -> float:
    """Return the volume that the points dominate, up to a reference point that is worse than all (Zitzler 1999).

    By slicing along the last loss: exact, and quick for the tens of points of a round.

    Examples
    --------
    >>> hypervolume([(1, 3), (2, 2)], (4, 4))
    5.0
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - min(p[0] for p in inside))
    levels = sorted({p[-1] for p in inside})
    volume = 0.0
    for level, above in zip(levels, [*levels[1:], reference[-1]], strict=True):
        slice_ = [p[:-1] for p in inside if p[-1] <= level]
        volume += (above - level) * hypervolume(slice_, tuple(reference[:-1]))
    return volume


def contributions(points: Sequence[Losses]) -> list[float]:
    """Return the volume that would be lost without each point, every loss scaled to the points' own range.

    The ends of the front count as its best: what is extreme in a loss is kept.
    """
    scaled = _scaled(points)
    reference = (1.1,) * scaled.shape[1]
    whole = hypervolume(scaled.tolist(), reference)
    return [whole - hypervolume(np.delete(scaled, i, axis=0).tolist(), reference) for i in range(len(scaled))]


def order(points: Sequence[Losses]) -> list[int]:
    """Return the places of the points from the best to the worst: by front, within one by contribution.

    Examples
    --------
    >>> order([(3, 3), (1, 3), (2, 2), (3, 1)])[-1]
    0
    """
    if not points:
        return []
    rank = ranks(points)
    gain = [0.0] * len(points)
    for level in set(rank):
        members = [i for i, r in enumerate(rank) if r == level]
        for i, value in zip(members, contributions([points[m] for m in members]), strict=True):
            gain[i] = value
    return sorted(range(len(points)), key=lambda i: (rank[i], -gain[i], i))


def _scaled(points: Sequence[Losses]) -> npt.NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    low, high = array.min(axis=0), array.max(axis=0)
    return np.asarray((array - low) / np.where(high > low, high - low, 1.0))
