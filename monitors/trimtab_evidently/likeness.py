"""How much like the reference a window's rows are: the ratio of their densities, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression
from threadpoolctl import threadpool_limits

from trimtab.monitor import Sample
from trimtab_evidently.columns import Columns
from trimtab_evidently.sketch import Floats, LevelLens

__all__ = ["FOLDS", "coded", "density_ratio"]

Folds = npt.NDArray[np.intp]

FOLDS = 5
TREES = 30
LEAVES = 8


def coded(reference: Sample, current: Sample) -> tuple[Floats, Floats]:
    """Return both samples as trees read them ``[rows, columns]``, NaN where a value is missing.

    Features, statistics of tensors, what the champion says and, where there are tensors, its embedding.
    """
    before, now = Columns.of(reference), Columns.of(current)
    sides: tuple[list[Floats], list[Floats]] = ([], [])
    for name in (n for n in before.values if n in now.values):
        kind, values = before.kinds[name], (before.values[name], now.values[name])
        lens = None if kind == "numbers" else LevelLens.cut(values[0], kind == "codes")
        for side, column in zip(sides, values, strict=True):
            side.append(_finite(column) if lens is None else lens.code(column))
    inner, seen = reference.embedding, current.embedding
    if inner is not None and seen is not None and any(c.dtype == "tensor" for c in reference.schema.columns):
        for side, embedding in zip(sides, (inner, seen), strict=True):
            side.extend(_finite(values) for values in embedding.T)
    return np.stack(sides[0], axis=1), np.stack(sides[1], axis=1)


def _finite(values: npt.NDArray[Any] | pd.Series[float]) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def density_ratio(
    reference: Floats, current: Floats, reference_folds: Folds, current_folds: Folds
) -> tuple[Floats, Floats]:
    """Return how much denser the window is than the reference, at each row of either.

    Trees learn to tell the samples apart and score the rows of the fold that was held back. The scores
    are made honest by isotonic regression: among rows whose scores it holds for equal, the ratio is that
    of the shares of both samples. At the window's rows the reference has one row more in it, so that a few
    that stand alone by chance are nothing unheard of, and many are.

    Parameters
    ----------
    reference, current
        ``[rows, columns]``; NaN where missing.
    reference_folds, current_folds
        Fold of each row, 0 to 4 ``[rows]``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> before, now = rng.normal(0, 1, (1000, 1)), rng.normal(1, 1, (1000, 1))
    >>> folds = np.arange(1000) % FOLDS
    >>> at_before, at_now = density_ratio(before, now, folds, folds)
    >>> bool(at_before[before[:, 0] < -0.5].mean() < 0.5 < 2 < at_now[now[:, 0] > 1.5].mean())
    True
    """
    x, y = np.concatenate([reference, current]), np.repeat([0, 1], [len(reference), len(current)])
    folds = np.concatenate([reference_folds, current_folds])
    scores = np.zeros(len(x))
    for fold in range(FOLDS):
        learn, held_back = folds != fold, folds == fold
        told = ~np.isnan(x[learn]).all(axis=0)
        trees = HistGradientBoostingClassifier(
            max_iter=TREES, max_leaf_nodes=LEAVES, early_stopping=False, random_state=0
        )
        with threadpool_limits(1):  # as in the drift monitor: so few rows are not worth threads
            scores[held_back] = trees.fit(x[learn][:, told], y[learn]).decision_function(x[held_back][:, told])
    _, block = np.unique(IsotonicRegression().fit(scores, y).predict(scores), return_inverse=True)
    before, now = np.bincount(block, weights=1 - y), np.bincount(block, weights=y)
    at_before, at_now = np.split(block, [len(reference)])
    share = now / len(current) * len(reference)
    return share[at_before] / before[at_before], share[at_now] / (before[at_now] + 1)
