"""The weights that sparsity and sharing are about: those of convolutions and linear layers, counted."""

from __future__ import annotations

import zlib

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trimtab.errors import PluginError

__all__ = ["distinct", "require_weights", "sparsity_of", "weights_of", "zeros", "zipped"]


def weights_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by the layer's name, each tensor once.

    A weight that the layer computes from others (a parametrization, such as weight norm) is left out: what is
    written into it is gone at the next call.

    Examples
    --------
    >>> list(weights_of(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))))
    ['0', '2']
    """
    seen: set[int] = set()
    found: dict[str, nn.Parameter] = {}
    for name, module in network.named_modules():
        weight = module.weight if isinstance(module, _ConvNd | nn.Linear) else None
        if isinstance(weight, nn.Parameter) and id(weight) not in seen:
            seen.add(id(weight))
            found[name] = weight
    return found


def require_weights(network: nn.Module, where: str) -> dict[str, nn.Parameter]:
    """Return the same, or raise a PluginError that names the technique where there is none."""
    weights = weights_of(network)
    if not weights:
        raise PluginError(
            f"{where} finds no convolution or linear layer with a weight of its own; "
            f"leave {where} out of optimize.techniques"
        )
    return weights


def zeros(weight: Tensor) -> int:
    """Return how many numbers are exactly zero."""
    return int((weight == 0).sum())


def sparsity_of(network: nn.Module) -> dict[str, object]:
    """Return, for the facts, the zeros of each layer with its number of weights, and their share of all."""
    counts = {name: [zeros(weight), weight.numel()] for name, weight in weights_of(network).items()}
    total = sum(count for _, count in counts.values())
    return {"zeros": counts, "sparsity": round(sum(z for z, _ in counts.values()) / max(total, 1), 6)}


def distinct(weight: Tensor) -> int:
    """Return how many different numbers there are, zero among them."""
    return len(torch.unique(weight.detach()))


def zipped(network: nn.Module) -> int:
    """Return the bytes of the network's tensors as safetensors, deflated as in a zip file."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return len(zlib.compress(safetensors.torch.save(tensors), 9))
