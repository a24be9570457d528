"""Batch norms go into the layers before them, as an exporter does, so that what is stored is what is served."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from trimtab_torch.structure import Fold

__all__ = ["fold"]

TOLERANCE = 1e-4
"""Of the largest output; what folding changes by rounding."""


def fold(network: nn.Module, examples: Sequence[Tensor]) -> tuple[nn.Module, tuple[Fold, ...]]:
    """Return a copy of the network with each batch norm folded that follows a convolution or linear layer.

    Norms stay that normalise another axis than the layer's outputs, or follow a grouped transposed convolution or
    a layer that computes its weight (a parametrization).

    Parameters
    ----------
    network
        In eval mode.
    examples
        Its arguments; the copy must give on noise of their shape what the network gives.

    Returns
    -------
    tuple
        The copy, and what was done to it.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU()).eval()
    >>> fold(network, [torch.zeros(2, 2)])[1]
    (Fold(layer='0', norm='1'),)
    """
    noise = _noise(examples)
    with torch.inference_mode():
        expected = network(*noise)
    folded, edits = copy.deepcopy(network), []
    for edit in _pairs(network, examples):
        trial = copy.deepcopy(folded)
        _merge(trial, edit)
        with torch.inference_mode():
            found = trial(*noise)
        if torch.allclose(found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max().clamp_min(1))):
            folded = trial
            edits.append(edit)
    return folded, tuple(edits)


def _noise(examples: Sequence[Tensor]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(e.shape, generator=draws) if e.is_floating_point() else e for e in examples]


def _pairs(network: nn.Module, examples: Sequence[Tensor]) -> list[Fold]:
    """Return the norms whose input is what a layer gave, each of which runs once."""
    gave: dict[int, str] = {}
    kept: list[Tensor] = []  # alive, so that no other tensor takes its place in memory
    ran: list[str] = []
    pairs: list[Fold] = []

    def leave(name: str) -> None:
        ran.append(name)

    def after_layer(name: str, output: Tensor) -> None:
        leave(name)
        kept.append(output)
        gave[id(output)] = name

    def before_norm(name: str, given: Tensor) -> None:
        leave(name)
        layer = gave.get(id(given))
        if layer is not None and _folds(network.get_submodule(layer), given):
            pairs.append(Fold(layer, name))

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            hooks.append(module.register_forward_hook(lambda _m, _i, out, name=name: after_layer(name, out)))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda _m, given, name=name: before_norm(name, given[0])))
    try:
        with torch.inference_mode():
            network(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if ran.count(pair.layer) == ran.count(pair.norm) == 1]


def _folds(layer: nn.Module, given: Tensor) -> bool:
    """Return whether the layer has a factor of its own weight for each channel that a norm behind it looks at."""
    if not isinstance(layer.weight, nn.Parameter):
        return False
    if isinstance(layer, nn.Linear):
        return given.dim() == 2  # of a sequence, batch norm's channels are the positions
    return not (getattr(layer, "transposed", False) and layer.groups != 1)


def _merge(network: nn.Module, edit: Fold) -> None:
    modules: Mapping[str, nn.Module] = dict(network.named_modules())
    layer, norm = modules[edit.layer], modules[edit.norm]
    mean, variance = norm.running_mean, norm.running_var
    one = torch.ones_like(variance) if norm.weight is None else norm.weight
    none = torch.zeros_like(mean) if norm.bias is None else norm.bias
    given = (layer.weight, layer.bias, mean, variance, norm.eps, one, none)
    if isinstance(layer, nn.Linear):
        weight, bias = fuse_linear_bn_weights(*given)  # type: ignore[arg-type]
    else:
        weight, bias = fuse_conv_bn_weights(*given, transpose=bool(getattr(layer, "transposed", False)))  # type: ignore[arg-type]
    edit.apply(network)
    with torch.no_grad():
        layer.weight.copy_(weight)  # type: ignore[operator]
        layer.bias.copy_(bias)  # type: ignore[operator]
