"""Did losses rise, however slowly? Evidence that adds up over windows, with a promised time between false alarms.

A gambler bets in every window that the mean loss is above a limit. Where it is not, no way of betting is
expected to gain. One gambler starts anew at each window, and what all of them hold together is an e-detector
(Shin, Ramdas and Rinaldo 2022, after Shiryaev and Roberts): if it is to reach A, then without a change not
before A windows on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import beta, t

__all__ = ["BETS", "Evidence", "evidence", "limit", "per_group", "wealth"]

BETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Shares of the capital that are laid: small ones gain by small changes, large ones by large."""
CONFIDENCE = 0.99
"""That the reference's mean loss is below the limit."""

Floats = npt.NDArray[np.float64]


def per_group(losses: Floats, groups: npt.NDArray[np.uint64]) -> Floats:
    """Return the mean loss of each group of rows, which are not independent; the losses where each is its own.

    Examples
    --------
    >>> per_group(np.array([0.0, 1.0, 1.0]), np.array([7, 7, 8], np.uint64)).tolist()
    [0.5, 1.0]
    """
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    return losses if len(sizes) == len(losses) else np.asarray(np.bincount(codes, weights=losses) / sizes)


def limit(losses: Floats, tolerance: float) -> float:
    """Return what the mean loss may be: the upper bound of the reference's, or its mean and what is put up with.

    Parameters
    ----------
    losses
        Of the reference, each from 0 to 1, independent: Clopper and Pearson's bound where each is 0 or 1,
        Student's otherwise.
    tolerance
        Rise of the mean that is put up with.

    Examples
    --------
    >>> wrong = np.r_[np.ones(20), np.zeros(980)]
    >>> round(limit(wrong, 0.02), 4), round(limit(wrong, 0.01), 4)
    (0.04, 0.0329)
    """
    n, mean = len(losses), float(losses.mean())
    if bool(np.isin(losses, (0.0, 1.0)).all()):
        wrong = float(losses.sum())
        upper = float(beta.ppf(CONFIDENCE, wrong + 1, n - wrong)) if wrong < n else 1.0
    else:
        upper = mean + float(t.ppf(CONFIDENCE, n - 1) * losses.std(ddof=1) / np.sqrt(n)) if n > 1 else 1.0
    return max(upper, mean + tolerance)


def wealth(losses: Floats, limit: float) -> Floats:
    """Return the logarithm of what each of :data:`BETS` makes of 1 on a window's losses (float64 ``[bets]``).

    Parameters
    ----------
    losses
        Each from 0 to 1, independent.
    limit
        That the mean is not above where nothing changed; from 1 on nothing can be won or lost.

    Examples
    --------
    >>> bool((wealth(np.zeros(100), 0.1) < 0).all()), bool((wealth(np.ones(100), 0.1) > 0).all())
    (True, True)
    """
    if limit >= 1:
        return np.zeros(len(BETS))
    stakes = np.array(BETS)[:, None]
    return np.asarray(np.log1p(stakes * (losses - limit) / limit).sum(axis=1))


@dataclass(frozen=True)
class Evidence:
    """What windows in a row say together.

    Parameters
    ----------
    run
        Quiet windows in which so much is reached once, at the most.
    since
        Place of the window from which on the losses speak most strongly for a rise.
    """

    run: float
    since: int


def evidence(windows: Sequence[Sequence[float]], most: float) -> Evidence:
    """Add up what was won in windows in a row.

    Parameters
    ----------
    windows
        What :func:`wealth` gave, window by window.
    most
        Windows between false alarms that are asked for. No bet counts for more than reaches that alone:
        when the losses fall again it is soon seen.

    Examples
    --------
    >>> quiet, loud = wealth(np.zeros(100), 0.1).tolist(), wealth(np.r_[np.ones(30), np.zeros(70)], 0.1).tolist()
    >>> evidence([quiet] * 9, 100).run < 1, evidence([quiet, quiet, loud], 100).run > 100
    (True, True)
    >>> evidence([quiet, quiet, loud], 100).since
    2
    """
    total = np.full(len(BETS), -np.inf)
    for won in windows:
        total = np.minimum(np.logaddexp(total, 0.0) + np.array(won), np.log(most * len(BETS)))
    from_each = np.cumsum(np.array(windows)[::-1], axis=0)[::-1]
    since = int(np.argmax(logsumexp(from_each, axis=1)))
    return Evidence(float(np.exp(logsumexp(total) - np.log(len(BETS)))), since)
