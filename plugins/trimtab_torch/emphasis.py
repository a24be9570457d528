"""How much each row counts in training: as a weight of its loss, or as how often it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Emphasis", "balance"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Emphasis:
    """Weights of rows.

    Parameters
    ----------
    weights
        Above 0, float32 ``[rows]``, with the mean 1.
    sampled
        Whether rows are drawn by their weights, with replacement, and then all count alike; else every row
        comes once an epoch, and its loss is weighted.
    """

    weights: Tensor
    sampled: bool = False

    def draw(self, draws: torch.Generator) -> Tensor | None:
        """Return the rows of an epoch, int64 ``[rows]``; None where each comes once."""
        if not self.sampled:
            return None
        return torch.multinomial(self.weights, len(self.weights), replacement=True, generator=draws)

    def of(self, batch: Tensor) -> Tensor | None:
        """Return the weights of a batch's losses; None where they count alike."""
        return None if self.sampled else self.weights[batch]


def balance(columns: Sequence[npt.NDArray[np.generic]], strength: float, beta: float = 1.0) -> Floats:
    """Return a weight for each row by how rare what it belongs to is, with the mean 1.

    Of one column a row's weight is ``(1 / n) ** strength``, where ``n`` is the number of rows of its value, or
    their effective number ``(1 - beta ** n) / (1 - beta)`` (Cui et al. 2019). Those of several columns are
    multiplied: where the columns are independent of each other, each comes out balanced, and no row is weighted
    by a cell of few rows.

    Parameters
    ----------
    columns
        What each row belongs to, ``[rows]`` each.
    strength
        0: no row counts more than another; 1: all values of a column count alike.
    beta
        0 < beta <= 1; 1: the plain number of rows.

    Examples
    --------
    >>> balance([np.array(["a", "a", "a", "b"])], strength=1.0).round(2).tolist()
    [0.67, 0.67, 0.67, 2.0]
    """
    weights: Floats = np.ones(len(columns[0]))
    for column in columns:
        codes, counts = np.unique(column, return_inverse=True, return_counts=True)[1:]
        effective = counts if beta == 1 else (1 - beta**counts) / (1 - beta)
        weights *= (1.0 / effective[codes]) ** strength
    return weights / float(weights.mean())
