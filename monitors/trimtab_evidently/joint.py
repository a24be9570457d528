"""What no single column shows: correlations, trees that tell the samples apart, kernels, and a tail that grows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu, norm, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from trimtab_evidently.scores import Score
from trimtab_evidently.sketch import NULL, Floats

__all__ = ["Correlated", "Ranks", "correlation", "correlations", "kernel", "separation", "strongest", "tail"]

Places = npt.NDArray[np.intp]

TINY = 1e-12
MOST = 0.999
FEWEST_OTHERS = 50
PERMUTATIONS = 3999
FIRST = 399
HOPELESS = 0.1
WIDTHS = (1.0, 0.25)
TREES = 60
LEAVES = 8
TAIL = 0.3
STEPS = 12
DEALS = 9999


@dataclass(frozen=True)
class Ranks:
    """A column's ranks.

    Parameters
    ----------
    values
        That are ranked ``[rows]``; NaN has no rank.
    score
        With mean 0 and variance 1 over the rows that have a value, 0 where there is none ``[rows]``.
    order
        Rows from the lowest value to the highest ``[rows]``; those without a value are last.
    below, above
        How many values are less than each row's, and how many are at most that ``[rows]``.
    sd
        Of the ranks, as shares of the rows; 0 where too few rows have another value than the most frequent.
    """

    values: Floats
    score: Floats
    order: Places
    below: Places
    above: Places
    sd: float

    @classmethod
    def of(cls, values: Floats) -> Ranks:
        """Rank values ``[rows]``."""
        n, have = len(values), ~np.isnan(values)
        order = np.argsort(values, kind="stable")
        sorted_, places = values[order][: have.sum()], np.where(have, values, np.inf)
        below, above = (np.searchsorted(sorted_, places, side) for side in ("left", "right"))
        ranks = (below + above) / 2 / max(1, n)
        apart = np.where(have, ranks - (ranks[have].mean() if have.any() else 0.0), 0.0)
        others = int(have.sum()) - int((above - below)[have].max(initial=0))
        sd = math.sqrt(float((apart[have] ** 2).mean())) if others >= FEWEST_OTHERS else 0.0
        return cls(values, apart / sd if sd else apart, order, below, above, sd)

    def where(self, rows: npt.NDArray[np.bool_]) -> Ranks:
        """Rank some of the rows among themselves."""
        return self if rows.all() else Ranks.of(self.values[rows])

    def above_each(self, other: Floats) -> Floats:
        """Return the mean of another column's scores over the rows that rank above each row, ties by half."""
        sums = np.concatenate([[0.0], np.cumsum(other[self.order])])
        return np.asarray((sums[-1] - (sums[self.below] + sums[self.above]) / 2) / len(other) / self.sd)


class Correlated(NamedTuple):
    """Rank correlation of two columns in the reference and in the window, and how the two compare."""

    before: float
    now: float
    score: Score


def correlation(one: Ranks, other: Ranks) -> tuple[float, float]:
    """Return the rank correlation (Spearman) of two columns, and the variance of a row's influence on it.

    The influence (Croux and Dehon 2010) counts that a row moves the other rows' ranks, and holds with
    ties and for dependence of any shape.
    """
    r = float((one.score * other.score).mean())
    both = one.score * other.score + one.above_each(other.score) + other.above_each(one.score)
    own = sum(x.score**2 + 2 * x.above_each(x.score) for x in (one, other))
    return r, float((both - r / 2 * own).var())


def correlations(
    reference: Sequence[Ranks], current: Sequence[Ranks], pairs: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Correlated]:
    """Compare the rank correlations of pairs of columns.

    The effect is the difference of the two correlations. Its error follows from both samples together;
    the test is on Fisher's scale, where the error of a strong correlation is as even as that of a weak
    one.

    Parameters
    ----------
    reference, current
        Ranks by column.
    pairs
        To compare; one of a column that has, in either sample, fewer than 50 rows with another value than
        its most frequent is left out: chance alone makes too much of those.
    """
    found: dict[tuple[int, int], Correlated] = {}
    for i, j in pairs:
        before, now = _complete(reference[i], reference[j]), _complete(current[i], current[j])
        if all(x.sd for x in (*before, *now)):
            found[i, j] = _compare(before, now)
    return found


def _complete(one: Ranks, other: Ranks) -> tuple[Ranks, Ranks]:
    """Rank both columns over the rows that have a value in each."""
    both = ~(np.isnan(one.values) | np.isnan(other.values))
    return one.where(both), other.where(both)


def _compare(before: tuple[Ranks, Ranks], now: tuple[Ranks, Ranks]) -> Correlated:
    n, m = len(before[0].score), len(now[0].score)
    (r, spread_r), (s, spread_s) = correlation(*before), correlation(*now)
    error = math.sqrt((n * spread_r + m * spread_s) / (n + m) * (1 / n + 1 / m)) or TINY
    pooled = (n * r + m * s) / (n + m)
    straight = [math.atanh(min(MOST, max(-MOST, v))) for v in (r, s)]
    z = abs(straight[0] - straight[1]) * (1 - min(MOST, abs(pooled)) ** 2) / error
    score = Score(abs(r - s), float(2 * norm.sf(z)), float(norm.isf((1 - NULL) / 2)) * error)
    return Correlated(r, s, score)


def strongest(ranks: Sequence[Ranks], most: int) -> list[tuple[int, int]]:
    """Return the pairs of columns whose correlation is strongest, the strongest first."""
    scores = np.stack([x.score for x in ranks], axis=1)
    r = np.abs(scores.T @ scores)
    pairs = zip(*(side.tolist() for side in np.triu_indices(len(ranks), 1)), strict=True)
    return sorted(pairs, key=lambda pair: -r[pair])[:most]


def separation(reference: Floats, current: Floats, seed: int = 0) -> Score:
    """Tell the two samples apart by boosted trees (Lopez-Paz and Oquab 2017).

    Trees learn on half of the rows and are tried on the other half, then the other way round: each half
    gives an exact p-value (Mann and Whitney), and twice the smaller one is the answer. The effect is how
    far the area under the ROC curve is above one half.

    Parameters
    ----------
    reference, current
        ``[rows, columns]``; NaN where missing.
    """
    x = np.concatenate([reference, current])
    y = np.repeat([0, 1], [len(reference), len(current)])
    fold = np.random.default_rng(seed).permutation(len(x)) % 2
    p, areas = 1.0, []
    for held in (0, 1):
        learn, held_back = fold != held, fold == held
        told = ~np.isnan(x[learn]).all(axis=0)
        trees = HistGradientBoostingClassifier(
            max_iter=TREES, max_leaf_nodes=LEAVES, learning_rate=0.1, early_stopping=False, random_state=seed
        )
        with threadpool_limits(1):  # so few rows are not worth threads, which wait for each other on a busy machine
            score = trees.fit(x[learn][:, told], y[learn]).decision_function(x[held_back][:, told])
        now, before = score[y[held_back] == 1], score[y[held_back] == 0]
        found = mannwhitneyu(now, before, alternative="greater")
        areas.append(float(found.statistic) / (len(now) * len(before)))
        p = min(p, float(found.pvalue))
    n, m = len(reference) / 2, len(current) / 2
    chance = float(norm.isf((1 - NULL) / 2)) * math.sqrt((n + m + 1) / (12 * n * m)) / math.sqrt(2)
    return Score(max(0.0, float(np.mean(areas)) - 0.5), min(1.0, 2 * p), chance)


def kernel(reference: Floats, current: Floats, seed: int = 0) -> Score:
    """Compare two samples of vectors by their maximum mean discrepancy (Gretton et al. 2012).

    The kernel is the mean of two Gaussian ones, as wide as the median squared distance and as a quarter of it:
    the narrow one sees a small cluster that is new (Schrab et al. 2023 on several widths). p is from
    permutations, of which there are fewer where the first ones show that there is nothing to find (Besag and
    Clifford 1991). The effect is the discrepancy in units of the kernel's mean over the reference, so that 1 is
    as far as can be.

    Parameters
    ----------
    reference, current
        ``[rows, width]``, finite.
    """
    x = np.concatenate([reference, current])
    x = (x / (x.std() or 1.0)).astype(np.float32)
    square = (x**2).sum(axis=1)
    apart = np.maximum(square[:, None] + square[None] - 2 * x @ x.T, 0.0)
    width = float(np.median(apart[np.triu_indices(len(x), 1)])) or 1.0
    similar = np.mean([np.exp(-apart / (width * share)) for share in WIDTHS], axis=0)
    np.fill_diagonal(similar, 0.0)
    n, m = len(reference), len(current)
    signs = np.repeat(np.array([1.0 / n, -1.0 / m], dtype=np.float32), [n, m])
    own, rng = float(signs @ similar @ signs), np.random.default_rng(seed)
    found = _permuted(signs, similar, FIRST, rng)
    if float((found >= own).mean()) < HOPELESS:
        found = np.concatenate([found, _permuted(signs, similar, PERMUTATIONS - FIRST, rng)])
    p = (1 + int((found >= own).sum())) / (1 + len(found))
    scale = float(similar[:n, :n].sum()) / (n * (n - 1)) or 1.0
    effect, chance = (math.sqrt(max(0.0, v) / scale) for v in (own, float(np.quantile(found, NULL))))
    return Score(effect, p, chance)


def _permuted(
    signs: npt.NDArray[np.float32], similar: npt.NDArray[np.float32], times: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return the discrepancy of the samples after their rows were dealt anew, as often as asked ``[times]``."""
    dealt = rng.permuted(np.tile(signs, (times, 1)), axis=1)
    return np.asarray(((dealt @ similar) * dealt).sum(axis=1))


def tail(reference: Floats, current: Floats, seed: int = 0) -> Score:
    """Ask whether the window has more of the highest values, by a percentile modified rank test (Gastwirth 1965).

    Of both samples together, what ranks among the upper 30 % scores by its rank there, in twelfths, and all else 0:
    a few rows that are new rank high, and the others would only add noise. The effect is by how much the window's
    mean score exceeds the reference's. p is from dealing the scores anew, exact for any number of rows and with ties.

    Parameters
    ----------
    reference, current
        ``[rows]``, finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> before, now = rng.normal(size=(2, 1000))
    >>> now[:100] += 2
    >>> found = tail(before, now)
    >>> found.p < 0.001 < 0.3 < tail(now, before).p
    True
    """
    n, m = len(reference), len(current)
    places = rankdata(np.concatenate([reference, current])) / (n + m)
    scores = np.ceil(np.maximum(places - (1 - TAIL), 0.0) / TAIL * STEPS).astype(np.int64)
    counts, own = np.bincount(scores), int(scores[n:].sum())
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(counts, m, DEALS, method="marginals")
    sums = dealt @ np.arange(len(counts))
    effect, chance = (
        (of / m - (int(scores.sum()) - of) / n) / STEPS for of in (float(own), float(np.quantile(sums, NULL)))
    )
    return Score(max(0.0, effect), (1 + int((sums >= own).sum())) / (1 + DEALS), chance)
