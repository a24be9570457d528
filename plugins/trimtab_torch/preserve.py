"""What pruning and weight sharing left in a network's weights, and how training keeps it: zeros, and shared values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab_torch.weights import weights_of, zeros

__all__ = ["Kept", "Preserved"]

PRUNED = 0.1
"""Share of exact zeros from which a layer counts as pruned: training alone leaves hardly one."""
SHARED = 256
"""Most values of a layer that counts as clustered, zero among them: as many as 8 bits can number."""
TOGETHER = 2
"""Weights to a value beside zero, on average, from which a layer counts as clustered: others hardly ever meet."""


class Preserved(nn.Module):
    """Holds a layer's weights to the zeros and to the shared values that they had.

    A layer of which a tenth is zero is pruned, one of at most 256 values, each beside zero twice or more on
    average, is clustered. In either a zero stays one. Weights that shared a value share one ever after: the
    mean of what training makes of them, so that each moves by the mean of their gradients (as TensorFlow
    Model Optimization's cluster-preserving training does).

    Parameters
    ----------
    weight
        As it comes, any shape.
    clustered
        Whether the layer is known to be clustered, however few its weights.

    Examples
    --------
    >>> came = torch.tensor([[0.5, 0.0, -0.5, 0.5], [0.0, -0.5, 0.5, 0.5]])
    >>> preserved = Preserved(came)
    >>> preserved.sparse, preserved.clustered
    (True, True)
    >>> preserved(came + torch.tensor([[0.1, 0.1, 0.0, 0.3], [0.0, 0.2, 0.0, 0.0]])).unique().tolist()
    [-0.4000000059604645, 0.0, 0.6000000238418579]
    """

    zero: Tensor | None
    member: Tensor | None
    count: Tensor | None

    def __init__(self, weight: Tensor, clustered: bool = False) -> None:
        super().__init__()
        values, member, count = torch.unique(weight.detach(), return_inverse=True, return_counts=True)
        zero, beside = weight.detach() == 0, int((values != 0).sum())
        self.sparse = zeros(weight) >= PRUNED * weight.numel()
        shares = len(values) <= SHARED and 0 < TOGETHER * beside <= weight.numel() - zeros(weight)
        self.clustered = clustered or shares
        held = bool(zero.any()) and (self.sparse or self.clustered)
        self.register_buffer("zero", zero if held else None)
        self.register_buffer("member", member.flatten() if self.clustered else None)
        self.register_buffer("count", count.double() if self.clustered else None)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights as the layer may use them; what did not move is the same to the last bit."""
        if self.member is not None and self.count is not None:
            # In float32 the sum of a million equal weights is a percent off.
            sums = torch.zeros_like(self.count).index_add(0, self.member, weight.flatten().double())
            weight = (sums / self.count).to(weight.dtype)[self.member].view(weight.shape)
        return weight if self.zero is None else weight.masked_fill(self.zero, 0.0)


@dataclass(frozen=True)
class Kept:
    """Holds all layers of a network to what pruning and clustering left in them, while something trains it.

    To be called after each step (``after_step`` of :func:`trimtab_torch.training.fit`).

    Parameters
    ----------
    weights
        By layer.
    forms
        What the weights of a layer are held to, for layers that are pruned or clustered.

    Examples
    --------
    >>> layer = nn.Linear(10, 2)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.0, 1.0] * 5, [0.0, 2.0] * 5]))
    >>> kept = Kept.of(layer)
    >>> with torch.no_grad():
    ...     _ = layer.weight.add_(torch.rand(2, 10))
    ...     kept(1, 1)
    >>> zeros(layer.weight), len(layer.weight.unique())
    (10, 3)
    """

    weights: Mapping[str, nn.Parameter]
    forms: Mapping[str, Preserved]

    @classmethod
    def of(cls, network: nn.Module, clustered: Collection[str] = ()) -> Kept:
        """Find what is pruned or clustered in a network.

        Parameters
        ----------
        clustered
            Layers that are known to be clustered, however few their weights.
        """
        weights = weights_of(network)
        forms = {name: Preserved(weight, name in clustered) for name, weight in weights.items()}
        return cls(weights, {name: form for name, form in forms.items() if form.sparse or form.clustered})

    def __call__(self, _done: int, _steps: int) -> None:
        """Bring the weights back into their form, in place."""
        for name, form in self.forms.items():
            weight = self.weights[name]
            weight.copy_(form.to(weight.device)(weight))
