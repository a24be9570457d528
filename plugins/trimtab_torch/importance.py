"""How much each channel of a group matters: by its weights, by its batch norm, or by the loss it carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trimtab_torch.groups import Group, traced

__all__ = ["IMPORTANCES", "Importance", "Losses", "scores"]

Importance = Literal["l1", "l2", "median", "bn_scale", "taylor"]
IMPORTANCES: tuple[str, ...] = get_args(Importance)

TINY = 1e-12
WRITES = (
    torch_pruning.prune_conv_out_channels,
    torch_pruning.prune_linear_out_channels,
    torch_pruning.prune_depthwise_conv_out_channels,
)

Losses = Callable[[nn.Module], Iterable[Tensor]]
"""Gives a network's loss summed over the rows of each batch, one batch after the other."""


def scores(
    importance: Importance,
    network: nn.Module,
    examples: Sequence[Tensor],
    groups: Mapping[str, Group],
    losses: Losses,
) -> dict[str, Tensor]:
    """Return how much each place of each group matters, float32 ``[places]`` by group; the mean over its blocks.

    All but ``taylor`` are in units of the group's mean, so that groups compare; ``taylor`` is in units of
    the squared loss of one row.

    Parameters
    ----------
    importance
        ``l1``, ``l2``: norm of all weights that write and read a channel. ``median``: distance from the
        other channels (He et al. 2019). ``bn_scale``: size of the batch norm's factor (Liu et al. 2017);
        the l2 norm where a group has none. ``taylor``: the square, averaged over rows, of the first-order
        estimate of what the loss changes by when nobody reads the channel (Molchanov et al. 2019, with
        the gates where the channels are read).
    losses
        Called for ``taylor`` alone.
    """
    if importance == "taylor":
        found = _taylor(network, groups, losses)
    else:
        found = _from_weights(importance, network, examples, groups)
    return {name: found[name].view(group.blocks, group.places).mean(dim=0) for name, group in groups.items()}


def _from_weights(
    importance: Importance, network: nn.Module, examples: Sequence[Tensor], groups: Mapping[str, Group]
) -> dict[str, Tensor]:
    copied, graph = traced(network, examples)
    modules = dict(copied.named_modules())
    score = _scorer(importance)
    found: dict[str, Tensor] = {}
    for name, group in groups.items():
        layer = modules[name]
        out = graph.get_pruner_of_module(layer).prune_out_channels
        found[name] = score(graph.get_pruning_group(layer, out, list(range(group.width)))).detach()
    return found


def _scorer(importance: Importance) -> Callable[[Any], Tensor]:
    """Return what scores a full group of Torch-Pruning's."""
    norm = torch_pruning.importance.GroupMagnitudeImportance(p=1 if importance == "l1" else 2)
    if importance == "median":
        return _distances
    if importance != "bn_scale":
        return norm  # type: ignore[no-any-return]
    scale = torch_pruning.importance.BNScaleImportance()

    def of_scale(group: Any) -> Tensor:
        found = scale(group)
        return norm(group) if found is None else found  # type: ignore[no-any-return]

    return of_scale


def _distances(group: Any) -> Tensor:
    """Return each channel's summed distance from the others, in units of its mean, averaged over the writers.

    Torch-Pruning has this too, but fails where a grouped convolution reads the channels.
    """
    total = torch.zeros(len(group[0].idxs))
    for item in group.items:
        layer = item.dep.target.module
        if isinstance(layer, _ConvNd | nn.Linear) and item.dep.handler in WRITES:
            weight = layer.weight.transpose(0, 1) if getattr(layer, "transposed", False) else layer.weight
            filters = weight.detach()[item.idxs].flatten(1)
            apart = torch.cdist(filters, filters).sum(dim=1)
            total.index_add_(0, torch.tensor(item.root_idxs), apart / apart.mean().clamp_min(TINY))
    return total


def _taylor(network: nn.Module, groups: Mapping[str, Group], losses: Losses) -> dict[str, Tensor]:
    modules = dict(network.named_modules())
    read: dict[str, list[Tensor]] = {reader.layer: [] for group in groups.values() for reader in group.readers}
    hooks = [modules[name].register_forward_pre_hook(_gate(seen)) for name, seen in read.items()]
    squares = {name: torch.zeros(group.width) for name, group in groups.items()}
    rows = 0
    try:
        with torch.enable_grad():
            for loss in losses(network):
                carried = _carried(read, loss, modules)
                for name, group in groups.items():
                    squares[name] += _effect(group, carried).square().sum(dim=0)
                rows += len(next(iter(carried.values())))
                for seen in read.values():
                    seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: square / max(rows, 1) for name, square in squares.items()}


def _gate(seen: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return a hook that keeps what a layer reads, as something that has a gradient of this reading alone."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = inputs[0].clone() if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
        seen.append(value)
        return (value, *inputs[1:])

    return hook


def _carried(read: Mapping[str, list[Tensor]], loss: Tensor, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return, by layer, what the loss loses at first order without each of its inputs, ``[rows, inputs]``."""
    values = [value for seen in read.values() for value in seen]  # of which some may lead nowhere
    slopes = iter(torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True))
    carried: dict[str, Tensor] = {}
    for name, seen in read.items():
        parts = [_by_channel(value.detach() * next(slopes), modules[name]) for value in seen]
        carried[name] = torch.stack(parts).sum(dim=0)
    return carried


def _by_channel(product: Tensor, layer: nn.Module) -> Tensor:
    """Sum over all but rows and channels."""
    if isinstance(layer, _ConvNd):
        return product.flatten(2).sum(dim=2)
    return product.flatten(1, -2).sum(dim=1) if product.dim() > 2 else product


def _effect(group: Group, carried: Mapping[str, Tensor]) -> Tensor:
    """Return what the loss loses without each of the group's channels, ``[rows, width]``."""
    rows = len(next(iter(carried.values())))
    effect = torch.zeros(rows, group.width)
    for reader in group.readers:
        effect.index_add_(1, torch.tensor(reader.channels), carried[reader.layer][:, list(reader.columns)])
    return effect
