"""What pulls a network's channels to zero while it trains: proximal steps on all weights of a channel at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from trimtab_torch.groups import Group, traced
from trimtab_torch.training import one_cycle

__all__ = ["Member", "Penalty", "Pull", "members", "norms"]

Pull = Literal["group_lasso", "l1", "l2"]


@dataclass(frozen=True)
class Member:
    """Weights of a group's channels.

    Parameters
    ----------
    layer
        Whose they are.
    weight
        All of that layer.
    axis
        Along which the channels lie.
    at
        Their places there, int64.
    channels
        For each place the group's channel, int64; after a flatten one channel has several.
    """

    layer: str
    weight: nn.Parameter
    axis: int
    at: Tensor
    channels: Tensor

    def read(self) -> Tensor:
        """Return the weights ``[places, rest]``."""
        return self.weight.movedim(self.axis, 0)[self.at.to(self.weight.device)].reshape(len(self.at), -1)

    def write(self, values: Tensor) -> None:
        """Put weights ``[places, rest]`` back."""
        moved, at = self.weight.movedim(self.axis, 0), self.at.to(self.weight.device)
        moved[at] = values.view(len(at), *moved.shape[1:])


def members(network: nn.Module, examples: Sequence[Tensor], groups: Mapping[str, Group]) -> dict[str, list[Member]]:
    """Return by group the weights of the network that write, scale and read its channels.

    Biases are left out, and what reads through a grouped convolution, whose channels lie in no one axis.
    """
    copied, graph = traced(network, examples)
    modules, own = dict(copied.named_modules()), dict(network.named_modules())
    names = {module: name for name, module in modules.items()}
    found: dict[str, list[Member]] = {}
    for name, group in groups.items():
        layer = modules[name]
        items = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, range(group.width))
        found[name] = []
        for item in items:
            target, writes = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
            axis = _axis(target, writes)
            if axis is not None:
                place, weight = names[target], own[names[target]].weight
                at, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
                found[name].append(Member(place, weight, axis, at, channels))
    return found


def _axis(module: object, writes: bool) -> int | None:
    """Return along which axis of a module's weight the channels lie, or None where there is no such."""
    if isinstance(module, _NormBase | nn.GroupNorm):
        return None if module.weight is None else 0
    if isinstance(module, nn.Linear):
        return 0 if writes else 1
    if isinstance(module, _ConvNd):
        if module.groups > 1 and (module.transposed or not writes):
            return None
        return int(writes) if module.transposed else int(not writes)
    return None


def norms(group: Group, members: Sequence[Member]) -> Tensor:
    """Return the l2 norm of each place's weights, float32 ``[places]``, over all blocks."""
    squares = torch.zeros(group.width, device=members[0].weight.device)
    for member in members:
        squares.index_add_(0, member.channels.to(squares.device), member.read().square().sum(dim=1))
    return squares.view(group.blocks, group.places).sum(dim=0).sqrt()


@dataclass(frozen=True)
class Penalty:
    """A proximal step after each step of training (Parikh and Boyd 2014), larger where the learning rate is.

    ``group_lasso`` shortens all weights of a channel together by a constant length (Yuan and Lin 2006), so
    that whole channels become exactly zero; ``l1`` takes a constant from each weight's size, ``l2`` a share
    of it. A weight between two groups is pulled by either, one after the other.

    Parameters
    ----------
    pull
        Which.
    strength
        What all steps together take, were it not for the loss: of the mean channel's length
        (``group_lasso``) or the mean weight's size (``l1``) as it was before, 1 takes all; with ``l2`` the
        logarithm of what each weight is divided by.
    groups, members
        By name.
    stay
        How many channels of each group are left in any case: its largest, at each step, are not pulled.
    sizes
        That mean by group.
    """

    pull: Pull
    strength: float
    groups: Mapping[str, Group]
    members: Mapping[str, Sequence[Member]]
    stay: Mapping[str, int]
    sizes: Mapping[str, float]

    @classmethod
    @torch.no_grad()
    def on(
        cls,
        pull: Pull,
        strength: float,
        groups: Mapping[str, Group],
        members: Mapping[str, Sequence[Member]],
        stay: Mapping[str, int],
    ) -> Penalty:
        """Measure the weights as they are, before training."""
        if pull == "group_lasso":
            sizes = {name: float(norms(group, members[name]).mean()) for name, group in groups.items()}
        else:
            sizes = {n: float(torch.cat([m.read().flatten() for m in members[n]]).abs().mean()) for n in groups}
        return cls(pull, strength, groups, members, stay, sizes)

    def __call__(self, done: int, steps: int) -> None:
        """Pull once."""
        share = self.strength * one_cycle(done - 1, steps) / _cycle(steps)
        for name, group in self.groups.items():
            amount, length = share * self.sizes[name], norms(group, self.members[name])
            factor = torch.full_like(length, math.exp(-share))
            if self.pull == "group_lasso":
                factor = (1 - amount / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_min(0)
            largest = length.topk(self.stay[name] // group.blocks).indices
            factor[largest] = 1
            for member in self.members[name]:
                values, at = member.read(), member.channels.to(length.device)
                if self.pull == "l1":
                    pulled = values.sign() * (values.abs() - amount).clamp_min(0)
                    values = torch.where((factor < 1).repeat(group.blocks)[at][:, None], pulled, values)
                else:
                    values = values * factor.repeat(group.blocks)[at][:, None]
                member.write(values)


@functools.cache
def _cycle(steps: int) -> float:
    """Return the sum of the learning rate's factors over all steps."""
    return sum(one_cycle(step, steps) for step in range(steps))
