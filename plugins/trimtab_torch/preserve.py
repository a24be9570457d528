"""What pruning and weight sharing left in a layer's weights, and how training keeps it: zeros, and shared values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Preserved", "distinct"]

SPARSE = 0.1
"""Share of zeros from which a layer counts as pruned: training alone leaves none."""
SHARED = 255
"""Most values that a layer's weights may share: beyond that 8 bits have no name for each."""
MEMBERS = 4
"""Weights to a value, on average, from which a layer counts as clustered: unshared weights hardly ever meet."""


def distinct(values: Tensor) -> int:
    """Return how many values there are beside zero.

    Examples
    --------
    >>> distinct(torch.tensor([0.5, 0.0, -0.5, 0.5]))
    2
    """
    found = torch.unique(values)
    return int((found != 0).sum())


class Preserved(nn.Module):
    """Holds a layer's weights to the zeros and to the shared values that they had.

    A zero stays one. Weights that shared a value share one ever after: the mean of what training
    makes of them, so that each moves by the mean of their gradients (as TensorFlow Model
    Optimization's cluster-preserving training does).

    Parameters
    ----------
    weight
        As it comes, any shape.

    Examples
    --------
    >>> came = torch.tensor([[0.5, 0.0, -0.5, 0.5], [0.0, -0.5, 0.5, 0.5]])
    >>> preserved = Preserved(came)
    >>> preserved.sparse, preserved.clustered
    (True, False)
    >>> preserved(came + torch.tensor([[0.1, 0.1, 0.0, 0.3]])).tolist()[0][1]
    0.0
    """

    zero: Tensor | None
    member: Tensor | None
    count: Tensor | None

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, member = torch.unique(weight.detach(), return_inverse=True)
        zero = weight.detach() == 0
        self.sparse = float(zero.float().mean()) >= SPARSE
        known = int((values != 0).sum())
        self.clustered = 0 < known <= SHARED and known * MEMBERS <= int((~zero).sum())
        self.register_buffer("zero", zero if self.sparse or self.clustered else None)
        self.register_buffer("member", member.flatten() if self.clustered else None)
        count = torch.bincount(member.flatten()).float() if self.clustered else None
        self.register_buffer("count", count)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights as the layer may use them."""
        if self.member is not None and self.count is not None:
            sums = torch.zeros_like(self.count).index_add(0, self.member, weight.flatten())
            weight = (sums / self.count)[self.member].view(weight.shape)
        return weight if self.zero is None else weight.masked_fill(self.zero, 0.0)
