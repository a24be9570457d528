"""How many channels each group keeps: the same share of each, a share of all, or where it costs the least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trimtab_torch.groups import Group
from trimtab_torch.layers import multiply_adds, width_of

__all__ = ["Cost", "by_share", "cheapest", "levels", "nearest_width", "ranked", "unit_of"]

MOST_LEVELS = 4
"""Widths that are tried of each group, beside the one that every group would get."""


def nearest_width(width: int, ratio: float, unit: int) -> int:
    """Return the multiple of ``unit`` nearest to what is left of ``width`` without ``ratio`` of it.

    It is at least one ``unit``; a width that is no larger stays.

    Examples
    --------
    >>> [nearest_width(width, 0.7, 8) for width in (8, 12, 32, 64, 128)]
    [8, 8, 8, 16, 40]
    """
    if width <= unit:
        return width
    return min(width, max(unit, unit * math.floor(width * (1 - ratio) / unit + 0.5)))


def unit_of(group: Group, round_to: int) -> int:
    """Return what the group's kept channels are a multiple of."""
    return math.lcm(round_to, group.blocks)


def by_share(groups: Mapping[str, Group], ratio: float, round_to: int) -> dict[str, int]:
    """Return the widths that are left when every group loses the same share."""
    return {name: nearest_width(g.width, ratio, unit_of(g, round_to)) for name, g in groups.items()}


def ranked(groups: Mapping[str, Group], scores: Mapping[str, Tensor], ratio: float, round_to: int) -> dict[str, int]:
    """Return the widths that are left when the least important of all groups' channels go.

    Parameters
    ----------
    scores
        Of each place, ``[places]`` by group.
    """
    everything = torch.cat([scores[name].repeat(group.blocks) for name, group in groups.items()])
    count = round(ratio * len(everything))
    threshold = everything.sort().values[count - 1] if count else torch.tensor(-math.inf)
    gone = {name: float((scores[name] <= threshold).float().mean()) for name in groups}
    return {name: nearest_width(g.width, gone[name], unit_of(g, round_to)) for name, g in groups.items()}


def levels(group: Group, ratio: float, round_to: int) -> list[int]:
    """Return the widths to try of a group, from the widest to the narrowest, without its own.

    Examples
    --------
    >>> levels(Group("conv", 64, 1, {}, ()), 0.4, 8)
    [56, 40, 24, 8]
    """
    unit = unit_of(group, round_to)
    possible = list(range(unit, group.width, unit))
    picked = {possible[round(at)] for at in torch.linspace(0, len(possible) - 1, MOST_LEVELS).tolist() if possible}
    plain = nearest_width(group.width, ratio, unit)
    return sorted(picked | ({plain} - {group.width}), reverse=True)


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one row as a function of the groups' widths.

    Parameters
    ----------
    groups
        By name.
    layers
        Multiply-adds of each layer that takes part, at its full width.
    rest
        Multiply-adds of all else.
    reads, writes
        By layer: the share of its input, and of its output, that each group is.
    """

    groups: Mapping[str, Group]
    layers: Mapping[str, float]
    rest: float
    reads: Mapping[str, Mapping[str, float]]
    writes: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, network: nn.Module, examples: Sequence[Tensor], groups: Mapping[str, Group]) -> Cost:
        """Count the network's multiply-adds."""
        counts, modules = multiply_adds(network, examples), dict(network.named_modules())
        reads: dict[str, dict[str, float]] = {}
        writes: dict[str, dict[str, float]] = {}
        for name, group in groups.items():
            for reader in group.readers:
                share = len(reader.columns) / inputs_of(modules[reader.layer])
                reads.setdefault(reader.layer, {})[name] = share
            for layer, count in group.writers.items():
                writes.setdefault(layer, {})[name] = count / width_of(modules[layer])
        layers = {layer: float(counts.get(layer, 0)) for layer in {**reads, **writes}}
        return cls(groups, layers, counts[""] - sum(layers.values()), reads, writes)

    def __call__(self, kept: Mapping[str, int]) -> float:
        """Return the multiply-adds at these widths."""
        gone = {name: 1 - kept[name] / group.width for name, group in self.groups.items()}
        return self.rest + sum(
            count
            * (1 - sum(share * gone[g] for g, share in self.reads.get(layer, {}).items()))
            * (1 - sum(share * gone[g] for g, share in self.writes.get(layer, {}).items()))
            for layer, count in self.layers.items()
        )


def inputs_of(layer: nn.Module) -> int:
    """Return the number of channels, or features, that a convolution or linear layer reads."""
    return int(layer.in_channels if isinstance(layer, _ConvNd) else layer.in_features)  # type: ignore[arg-type]


def cheapest(table: Mapping[str, Mapping[int, float]], cost: Cost, most: float) -> dict[str, int]:
    """Return widths that cost at most ``most`` multiply-adds, and whose rises of the loss sum up to little.

    Of all single steps the one with the smallest rise for each multiply-add saved is taken, until they
    are few enough; then each group is given back what the others have saved too much.

    Parameters
    ----------
    table
        Rise of the loss by group and width; a group's own width is not in it.
    """
    rises = {name: _monotone(cost.groups[name].width, table.get(name, {})) for name in cost.groups}
    kept = {name: group.width for name, group in cost.groups.items()}
    while cost(kept) > most:
        steps = [(name, width) for name, known in rises.items() for width in known if width < kept[name]]
        if not steps:
            break
        name, width = min(steps, key=lambda step: _price(step, kept, rises, cost))
        kept[name] = width
    return _given_back(kept, rises, cost, most)


def _monotone(width: int, known: Mapping[int, float]) -> dict[int, float]:
    """Return rises that do not fall as the width does: what fewer channels seem to mend is chance."""
    rises, highest = {width: 0.0}, 0.0
    for narrower in sorted(known, reverse=True):
        highest = max(highest, known[narrower])
        rises[narrower] = highest
    return rises


def _price(
    step: tuple[str, int], kept: Mapping[str, int], rises: Mapping[str, Mapping[int, float]], cost: Cost
) -> tuple[float, float]:
    name, width = step
    saved = cost(kept) - cost({**kept, name: width})
    rise = rises[name][width] - rises[name][kept[name]]
    return (rise / saved if saved > 0 else math.inf, -saved)


def _given_back(
    kept: dict[str, int], rises: Mapping[str, Mapping[int, float]], cost: Cost, most: float
) -> dict[str, int]:
    while True:
        better = [
            (rises[name][width] - rises[name][kept[name]], cost({**kept, name: width}), name, width)
            for name, known in rises.items()
            for width in known
            if width > kept[name] and cost({**kept, name: width}) <= most
        ]
        if not better or min(better)[0] >= 0:
            return kept
        kept = {**kept, min(better)[2]: min(better)[3]}
