"""A parent at one of the depths that its factory can build: what can be narrowed there, and what that costs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trimtab_torch.allocation import Cost, by_share, unit_of
from trimtab_torch.evidence import Evidence
from trimtab_torch.groups import Group, cut, find
from trimtab_torch.importance import Importance, scores
from trimtab_torch.sensitivity import least
from trimtab_torch.spec import FloatModel

__all__ = ["Depth", "Widths", "inherit"]

STEPS = 30
"""Halvings by which the width of the family's member that fits the budget is found."""


Widths = tuple[int, ...]
"""Of each group, in their order."""


@dataclass(frozen=True)
class Depth:
    """The parent at one choice of the factory's arguments, before anything is narrowed.

    Parameters
    ----------
    arguments
        That were chosen; none: the parent itself.
    model
        With the weights that it inherits.
    groups, cost, ranks
        What can be narrowed, what that saves, and in which order channels go.
    round_to
        What widths are multiples of.
    """

    arguments: Mapping[str, Any]
    model: FloatModel
    groups: Mapping[str, Group]
    cost: Cost
    ranks: Mapping[str, Tensor]
    round_to: int

    @classmethod
    def of(
        cls, arguments: Mapping[str, Any], model: FloatModel, importance: Importance, seen: Evidence, round_to: int
    ) -> Depth:
        """Look at a network; ``seen`` are rows to rank channels on."""
        network, examples = model.network, model.examples()
        groups, _ = find(network, examples)
        # No group, nothing to rank: the search then refuses, and says so.
        ranks = scores(importance, network, examples, groups, seen.losses) if groups else {}
        return cls(arguments, model, groups, Cost.of(network, examples, groups), ranks, round_to)

    def possible(self, name: str) -> list[int]:
        """Return the widths that a group may have, from the narrowest."""
        group = self.groups[name]
        unit = unit_of(group, self.round_to)
        return [*range(unit, group.width, unit), group.width]

    @property
    def least(self) -> float:
        """Multiply-adds where every group is as narrow as can be."""
        return self.cost({name: self.possible(name)[0] for name in self.groups})

    def even(self, most: float) -> Widths:
        """Return the widths where all groups lose the same share, the smallest that the budget allows."""
        low, high = 0.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            fits = self.cost(by_share(self.groups, middle, self.round_to)) <= most
            low, high = (low, middle) if fits else (middle, high)
        return tuple(by_share(self.groups, high, self.round_to)[name] for name in self.groups)

    def any(self, most: float, dice: random.Random) -> Widths:
        """Return widths by lot that spend the budget."""
        return self._spent({name: dice.choice(self.possible(name)) for name in self.groups}, most, dice)

    def changed(self, widths: Widths, most: float, dice: random.Random) -> Widths:
        """Give one group another width by lot, and others what the budget then asks or allows."""
        kept = self.named(widths)
        name = dice.choice(list(kept))
        kept[name] = dice.choice(self.possible(name))
        return self._spent(kept, most, dice, spare=name)

    def _spent(self, kept: dict[str, int], most: float, dice: random.Random, spare: str = "") -> Widths:
        """Narrow groups by lot until the budget holds (``spare`` last), then widen what still fits."""
        while self.cost(kept) > most:
            wide = [name for name in kept if kept[name] > self.possible(name)[0]]
            name = dice.choice([n for n in wide if n != spare] or wide)
            kept[name] = max(width for width in self.possible(name) if width < kept[name])
        names = list(kept)
        while names:
            name = dice.choice(names)
            wider = {**kept, name: min((w for w in self.possible(name) if w > kept[name]), default=kept[name])}
            if wider == kept or self.cost(wider) > most:
                names.remove(name)
            else:
                kept = wider
        return tuple(kept[name] for name in self.groups)

    def named(self, widths: Widths) -> dict[str, int]:
        """Return widths by group."""
        return dict(zip(self.groups, widths, strict=True))

    def narrowed(self, widths: Widths) -> FloatModel:
        """Return the model with groups as wide as said."""
        kept = self.named(widths)
        removed = {n: least(g, self.ranks[n], kept[n]) for n, g in self.groups.items() if kept[n] < g.width}
        return replace(self.model, network=cut(self.model.network, self.model.examples(), removed))


def inherit(source: nn.Module, target: nn.Module) -> int:
    """Copy into ``target``, in place, what of ``source`` has the same name, as far as shapes overlap; count tensors.

    Examples
    --------
    >>> wide, narrow = nn.Linear(3, 2), nn.Linear(2, 2)
    >>> inherit(wide, narrow), torch.equal(narrow.weight, wide.weight[:, :2])
    (2, True)
    """
    known, count = source.state_dict(), 0
    with torch.no_grad():
        for name, value in target.state_dict().items():
            old = known.get(name)
            if old is not None and old.dim() == value.dim():
                box = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, value.shape, strict=True))
                value[box] = old[box]
                count += 1
    return count
