"""Two sketches of a column as a page draws them: a few bins, or a few levels, that both share."""

from __future__ import annotations

import numpy as np

from trimtab.monitor import Figure
from trimtab_evidently.pair import changed
from trimtab_evidently.scores import Sketch
from trimtab_evidently.sketch import Floats, LevelSketch, NumberSketch

__all__ = ["figure"]

BINS = 40
LEVELS = 6
TAIL = 0.005
OTHERS = "all others"


def figure(name: str, before: Sketch, now: Sketch) -> Figure:
    """Draw a column.

    Numbers in at most 40 bins between the 0.5 % and the 99.5 % quantile of both sides together; whole numbers
    in bins that hold as many of them each. Of levels the 6 with the largest share on either side, and all
    others as one.

    Parameters
    ----------
    before, now
        Sketches of the reference and of a window through one lens.

    Examples
    --------
    >>> from trimtab_evidently.sketch import NumberLens
    >>> lens = NumberLens.cut(np.array([1.0, 1.0, 2.0, 4.0]))
    >>> drawn = figure("a", lens.look(np.array([1.0, 1.0, 2.0, 4.0])), lens.look(np.array([4.0, np.nan])))
    >>> drawn.edges.tolist(), drawn.before.tolist(), drawn.now.tolist(), drawn.missing
    ([0.5, 1.5, 2.5, 3.5, 4.5], [0.5, 0.25, 0.0, 0.25], [0.0, 0.0, 0.0, 1.0], (0.0, 0.5))
    """
    missing = _missing(before), _missing(now)
    words = changed(before, now) if before.n and now.n else "no values on one side"
    if isinstance(before, NumberSketch) and isinstance(now, NumberSketch):
        edges = _edges(before, now)
        return Figure(name, _binned(before, edges), _binned(now, edges), edges, missing=missing, words=words)
    if isinstance(before, LevelSketch) and isinstance(now, LevelSketch):
        levels, old, new = _levels(before, now)
        return Figure(name, old, new, levels=levels, missing=missing, words=words)
    raise TypeError(f"a {type(before).__name__} cannot be drawn with a {type(now).__name__}")


def _missing(sketch: Sketch) -> float:
    return 1 - sketch.n / sketch.rows if sketch.rows else 0.0


def _edges(before: NumberSketch, now: NumberSketch) -> Floats:
    sides = [s.atoms for s in (before, now) if s.n]
    if not sides:
        return np.array([0.0, 1.0])
    values = np.concatenate([places for places, _ in sides])
    weights = np.concatenate([counts / counts.sum() for _, counts in sides])
    order = np.argsort(values, kind="stable")
    values, below = values[order], np.cumsum(weights[order]) / len(sides)
    last = len(values) - 1
    low = float(values[np.searchsorted(below, TAIL)])
    high = float(values[min(last, int(np.searchsorted(below, 1 - TAIL)))])
    shown = values[(values >= low) & (values <= high)]
    if (shown == np.rint(shown)).all():
        step = max(1.0, np.ceil((high - low + 1) / BINS))
        return np.arange(low - 0.5, high + 0.5 + step, step)[: int(np.ceil((high - low + 1) / step)) + 1]
    if low == high:
        half = abs(low) / 2 or 0.5
        return np.array([low - half, low + half])
    return np.linspace(low, high, BINS + 1)


def _binned(sketch: NumberSketch, edges: Floats) -> Floats:
    values, counts = sketch.atoms
    found, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=counts)
    return np.asarray(found / max(1, sketch.n), dtype=np.float64)


def _levels(before: LevelSketch, now: LevelSketch) -> tuple[tuple[str, ...], Floats, Floats]:
    sides = [{level: n / s.n for level, n in s.counted.items()} if s.n else {} for s in (before, now)]
    largest = {level: max(side.get(level, 0.0) for side in sides) for level in {**sides[0], **sides[1]}}
    levels = sorted(largest, key=lambda level: (-sides[0].get(level, 0.0), -largest[level], level))
    if len(levels) > LEVELS:
        chosen = set(sorted(largest, key=lambda level: (-largest[level], level))[:LEVELS])
        levels = [level for level in levels if level in chosen]
    shares = np.array([[side.get(level, 0.0) for level in levels] for side in sides]).reshape(2, len(levels))
    rest = np.array([max(0.0, 1 - row.sum()) if side else 0.0 for side, row in zip(sides, shares, strict=True)])
    if (rest > 1e-9).any():
        levels, shares = [*levels, OTHERS], np.concatenate([shares, rest[:, None]], axis=1)
    return tuple(levels), shares[0], shares[1]
