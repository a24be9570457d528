"""The weights that sparsity and sharing are about: those of convolutions and linear layers, counted and kept."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["Kept", "distinct", "means", "sparsity_of", "weights_of", "zeros", "zipped"]

PRUNED = 0.1
"""A layer is taken for pruned from this share of exact zeros on; training alone leaves hardly one."""
SHARED = 256
"""A layer is taken for clustered up to this many distinct values, where it has at least twice as many weights."""


def weights_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by the layer's name, each tensor once.

    Examples
    --------
    >>> list(weights_of(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))))
    ['0', '2']
    """
    seen: set[int] = set()
    found: dict[str, nn.Parameter] = {}
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd | nn.Linear) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            found[name] = cast("nn.Parameter", module.weight)
    return found


def zeros(weight: Tensor) -> int:
    """Return how many numbers are exactly zero."""
    return int((weight == 0).sum())


def sparsity_of(network: nn.Module) -> dict[str, object]:
    """Return, for the facts, the zeros of each layer with its number of weights, and their share of all."""
    counts = {name: [zeros(weight), weight.numel()] for name, weight in weights_of(network).items()}
    total = sum(count for _, count in counts.values())
    return {"zeros": counts, "sparsity": round(sum(z for z, _ in counts.values()) / max(total, 1), 6)}


def distinct(weight: Tensor) -> int:
    """Return how many different numbers there are."""
    return len(torch.unique(weight.detach()))


def zipped(network: nn.Module) -> int:
    """Return the bytes of the network's tensors as safetensors, deflated as in a zip file."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return len(zlib.compress(safetensors.torch.save(tensors), 9))


def means(weight: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Return the mean of each cluster's weights, float32 ``[clusters]``; 0 where a cluster has none.

    Parameters
    ----------
    labels
        The cluster of each weight, int64 and flat.
    """
    sums = torch.zeros(clusters, dtype=torch.float64, device=weight.device)
    sums.index_add_(0, labels, weight.detach().flatten().double())
    return (sums / torch.bincount(labels, minlength=clusters).clamp_min(1)).float()


@dataclass(frozen=True)
class Kept:
    """Holds weights in the form that pruning or clustering gave them while something trains the network.

    To be called after each step (``after_step`` of :func:`trimtab_torch.training.fit`). What was zero is
    zero again; weights that were equal become their mean, which is as if the mean of their gradients had
    moved them.

    Parameters
    ----------
    weights
        By layer.
    masks
        1 where a weight may move, 0 where it stays zero, by layer; shaped as the weight.
    labels
        The cluster of each weight, by layer, flat.

    Examples
    --------
    >>> layer = nn.Linear(10, 2)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.0, 1.0] * 5, [0.0, 2.0] * 5]))
    >>> kept = Kept.of(layer)
    >>> with torch.no_grad():
    ...     _ = layer.weight.add_(torch.rand(2, 10))
    ...     kept(1, 1)
    >>> zeros(layer.weight), distinct(layer.weight)
    (10, 3)
    """

    weights: Mapping[str, nn.Parameter]
    masks: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, clustered: Collection[str] = ()) -> Kept:
        """Find what is pruned or clustered in a network: layers with a tenth of zeros, or with few distinct values.

        Parameters
        ----------
        clustered
            Layers that are clustered, however few their weights, and whose zeros stay, however few.
        """
        weights = weights_of(network)
        masks, labels = {}, {}
        for name, weight in weights.items():
            count, (book, at) = weight.numel(), torch.unique(weight.detach(), return_inverse=True)
            if (PRUNED * count if name not in clustered else 1) <= zeros(weight) < count:
                masks[name] = (weight.detach() != 0).float()
            if name in clustered or 2 <= len(book) <= min(SHARED, count // 2):
                labels[name] = at.flatten()
        return cls(weights, masks, labels)

    def __call__(self, _done: int, _steps: int) -> None:
        """Bring the weights back into their form, in place."""
        for name, labels in self.labels.items():
            weight = self.weights[name]
            at = labels.to(weight.device)
            weight.copy_(means(weight, at, int(at.max()) + 1)[at].view(weight.shape))
        for name, mask in self.masks.items():
            weight = self.weights[name]
            weight.mul_(mask.to(weight.device))
