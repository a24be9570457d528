"""How far two sketches of one lens are apart, how likely that is by chance, and how far chance alone takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, chi2_contingency, fisher_exact, kstwobign, wasserstein_distance

from trimtab_evidently.sketch import NULL, Floats, LevelSketch, NumberSketch

__all__ = ["Score", "compare", "ks_chance", "levels", "missing", "numbers", "rank_chance"]

Sketch = NumberSketch | LevelSketch

FEWEST_EXPECTED = 5.0
FEWEST_OTHERS = 50.0


@dataclass(frozen=True)
class Score:
    """One statistic beside the reference.

    Parameters
    ----------
    effect
        Size of the change, whatever the number of rows.
    p
        How likely so much is where nothing changed, unadjusted.
    chance
        The 99 % quantile of the effect where nothing changed, for these numbers of rows.
    """

    effect: float
    p: float
    chance: float


ALONE = (1.0, 1.0)
"""How much a row of the reference and of the window counts where each stands alone."""


def compare(reference: Sketch, current: Sketch, worth: tuple[float, float] = ALONE) -> Score:
    """Compare two sketches of one lens, of whichever kind.

    Parameters
    ----------
    worth
        What a row of either counts for: groups a row, where rows that belong together are alike.
    """
    if isinstance(reference, NumberSketch) and isinstance(current, NumberSketch):
        return numbers(reference, current, worth)
    if isinstance(reference, LevelSketch) and isinstance(current, LevelSketch):
        return levels(reference, current, worth)
    raise TypeError(f"a {type(reference).__name__} cannot be compared with a {type(current).__name__}")


def numbers(reference: NumberSketch, current: NumberSketch, worth: tuple[float, float] = ALONE) -> Score:
    """Compare the values of a numeric column.

    The effect is the distance of Wasserstein in standard deviations of the reference (of both together,
    where the reference is constant). p is twice the smaller of two. That of Kolmogorov and Smirnov, from
    the distance between the distributions at the lens's edges, which is never more than the full one,
    misses no kind of change; that of ranks finds another place or scale in fewer rows. Where too few
    values differ for ranks, the first stands alone.
    """
    (x, w), (y, v) = reference.atoms, current.atoms
    distance = float(wasserstein_distance(x, y, w, v))
    scale = reference.sd or (reference + current).sd or 1.0
    below = [np.cumsum(s.counts) / s.n for s in (reference, current)]
    effective = _effective(reference.n * worth[0], current.n * worth[1])
    p_values = [ks_chance(float(np.abs(below[0] - below[1]).max()), effective)]
    counts: Floats = np.stack([reference.counts, current.counts], axis=1).astype(np.float64)
    if _others(counts) >= FEWEST_OTHERS:
        p_values.append(rank_chance(counts, effective))
    p = min(1.0, len(p_values) * min(p_values))
    return Score(distance / scale, p, reference.lens.chance / scale / math.sqrt(effective))


def ks_chance(gap: float, effective: float) -> float:
    """Return the p-value of the largest distance between two distributions (Kolmogorov and Smirnov).

    By the limit for many values, which errs on the side of no alarm where they are few.

    Parameters
    ----------
    effective
        ``n m / (n + m)`` of samples of n and m values.

    Examples
    --------
    >>> round(ks_chance(0.1, 500.0), 6)
    9.1e-05
    """
    return float(kstwobign.sf(gap * math.sqrt(effective)))


def rank_chance(counts: Floats, effective: float) -> float:
    """Return the p-value of a change in place or scale: of the mean rank and the mean squared rank together.

    Both samples are ranked as one, from -1 to 1, values of one bin alike. The mean rank is Wilcoxon's statistic,
    the mean squared one Mood's of scale; both are taken together, as Lepage (1971) takes Wilcoxon's with that of
    Ansari and Bradley, with the variances that they have over all ways to deal these ranks. Tails, however heavy,
    say no more than their ranks do.

    Parameters
    ----------
    counts
        Of the values in ascending bins, ``[bins, 2]``.
    effective
        ``n m / (n + m)`` of samples of n and m values.

    Examples
    --------
    >>> counts = np.array([[20.0, 35.0], [30.0, 15.0], [30.0, 15.0], [20.0, 35.0]])
    >>> round(rank_chance(counts, 50.0), 5)  # no other place, but farther out
    0.00012
    """
    n, m = counts.sum(axis=0).tolist()
    both = counts.sum(axis=1)
    rank = (2 * np.cumsum(both) - both) / (n + m) - 1
    score = np.stack([rank, rank**2])
    score -= (score @ both / (n + m))[:, None]
    variance = (score * both) @ score.T / (n + m - 1)
    apart = score @ (counts[:, 0] / n - counts[:, 1] / m)
    freedom = np.linalg.matrix_rank(variance, hermitian=True)  # 1 where there are two values
    distance = float(apart @ np.linalg.pinv(variance, hermitian=True) @ apart)
    return float(chi2.sf(effective * distance, freedom))


def _others(counts: Floats) -> float:
    """Return how many values other than the most frequent are expected in the smaller sample."""
    both, sizes = counts.sum(axis=1), counts.sum(axis=0)
    return float((1 - both.max() / both.sum()) * sizes.min())


def levels(reference: LevelSketch, current: LevelSketch, worth: tuple[float, float] = ALONE) -> Score:
    """Compare the values of a categorical column: the distance of Jensen and Shannon, and the chi-square test.

    Rare levels, and those that the lens does not have, count as one.
    """
    pair = (reference, current)
    counts: Floats = np.stack([s.counts for s in pair], axis=1).astype(np.float64)
    return _tables(counts * worth, np.array([s.other for s in pair], dtype=np.float64) * worth)


def missing(reference: Sketch, current: Sketch, worth: tuple[float, float] = ALONE) -> Score:
    """Compare the shares of values that are missing or infinite in the same way."""
    pair = (reference, current)
    return _tables(np.array([[s.n for s in pair], [s.rows - s.n for s in pair]]) * worth, np.zeros(2))


def _tables(counts: Floats, others: Floats) -> Score:
    """Compare two columns of counts ``[levels, 2]``, and of those that are rare in any case ``[2]``."""
    common, rest = _common(counts, others)
    table = np.concatenate([common, rest[None]]) if rest.sum() else common
    if len(table) < 2:
        return Score(0.0, 1.0, 0.0)
    n, m = table.sum(axis=0).tolist()
    # a quadratic form in the difference of shares, which is chi-square by chance alone
    chance = math.sqrt(float(chi2.ppf(NULL, len(table) - 1)) / _effective(n, m) / 8)
    return Score(float(jensenshannon(table[:, 0], table[:, 1])), _no_change(common, rest), chance)


def _common(counts: Floats, others: Floats) -> tuple[Floats, Floats]:
    """Return the levels of which at least 5 rows are expected in either sample, and all others as one."""
    whole = counts.sum(axis=0) + others
    share = whole.min() / max(whole.sum(), 1.0)
    common = counts.sum(axis=1) * share >= FEWEST_EXPECTED
    return counts[common], counts[~common].sum(axis=0) + others


def _no_change(common: Floats, rest: Floats) -> float:
    """Return the p-value of no change.

    Where so few rows are rare that the chi-square test is not exact enough for them, they are compared
    with all others by Fisher's test, and twice the smaller p-value is the answer.
    """
    whole = common.sum(axis=0) + rest
    few = rest.sum() * whole.min() / whole.sum() < FEWEST_EXPECTED
    table = common if few else np.concatenate([common, rest[None]])
    p_values = [float(chi2_contingency(table, correction=True).pvalue)] if len(table) > 1 else []
    if few and rest.sum():
        p_values.append(float(fisher_exact(np.rint([common.sum(axis=0), rest]).astype(np.int64)).pvalue))
    return min(1.0, len(p_values) * min(p_values))


def _effective(n: float, m: float) -> float:
    return n * m / (n + m)
