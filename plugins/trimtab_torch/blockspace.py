"""The networks that a search over kinds of blocks may try: drawn, changed, and held to a budget."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trimtab_torch.blocks import Kind, Stage, cost
from trimtab_torch.skeleton import Skeleton

__all__ = ["BlockSpace", "Genome"]

DEEPER, WIDER = 1.2, 1.1
"""By which depth and width grow with each step of the compound scaling (Tan & Le 2019)."""
SIZES = 60
"""Quarter steps that are looked through, up and down."""
WIDEST = 2
"""A stage is at most so many times as wide as the parent's."""
LOOKS: Mapping[Kind, int] = {"plain": 1, "residual": 2, "separable": 1, "inverted": 1}
"""Convolutions of a block that look beyond one pixel."""

Genome = tuple[Stage, ...]


@dataclass(frozen=True)
class BlockSpace:
    """Networks at a parent's resolutions.

    Parameters
    ----------
    skeleton
        Of the parent.
    outputs, shape
        Of the network, and of an image.
    blocks, kernels, round_to, depthwise_cost
        As ``search.block`` has them.
    share, most
        The budget, as a share of the parent's multiply-adds, and as their number.
    """

    skeleton: Skeleton
    outputs: int
    shape: Sequence[int]
    blocks: Sequence[Kind]
    kernels: Sequence[int]
    round_to: int
    depthwise_cost: float
    share: float
    most: float

    @property
    def stem(self) -> dict[str, int]:
        """The first convolution: narrower than the parent's, by as much as all widths must be for the budget."""
        width = self.skeleton.stem_width * min(1.0, self.share**0.5)
        return {"width": self._whole(width), "stride": self.skeleton.stem_stride}

    def _whole(self, width: float) -> int:
        return max(self.round_to, self.round_to * round(width / self.round_to))

    def cost(self, genome: Sequence[Stage]) -> float:
        """Return what counts against the budget."""
        return cost(self.outputs, self.shape, self.stem, genome, depthwise=self.depthwise_cost)

    @property
    def least(self) -> float:
        """What the smallest network costs."""
        return min(self.cost(genome) for genome in self._family(-SIZES).values())

    def families(self) -> list[Genome]:
        """Return, for each kind of block and kernel, the largest network of its family that the budget allows."""
        found: dict[tuple[Kind, int], Genome] = {}
        for step in range(SIZES, -SIZES - 1, -1):
            for build, genome in self._family(step / 4).items():
                if build not in found and self.cost(genome) <= self.most:
                    found[build] = genome
        return list(found.values())

    def _family(self, step: float) -> dict[tuple[Kind, int], Genome]:
        """Return a network of each kind and kernel, after so many steps of the compound scaling."""
        return {
            (kind, kernel): tuple(
                Stage(
                    kind,
                    kernel,
                    min(self._whole(level.width * WIDER**step), self._widest(at)),
                    max(1, round(level.depth / LOOKS[kind] * DEEPER**step)),
                    level.stride,
                )
                for at, level in enumerate(self.skeleton.levels)
            )
            for kind in self.blocks
            for kernel in self.kernels
        }

    def _widest(self, at: int) -> int:
        return max(self.round_to, WIDEST * self.skeleton.levels[at].width // self.round_to * self.round_to)

    @staticmethod
    def kind(genome: Genome) -> Kind:
        """Return the kind of block that most stages are of; the earliest such."""
        kinds = [stage.block for stage in genome]
        return max(kinds, key=kinds.count)

    def draw(self, dice: random.Random) -> Genome:
        """Return any network that spends the budget."""
        return self._spent(tuple(self._any(dice, at) for at in range(len(self.skeleton.levels))), dice)

    def mutate(self, genome: Genome, dice: random.Random) -> Genome:
        """Change one thing of one stage, and other widths as the budget then asks or allows."""
        at = dice.randrange(len(genome))
        other, one = self._any(dice, at), genome[at]
        changed = dice.choice(
            (
                replace(one, block=other.block),
                replace(one, kernel=other.kernel),
                replace(one, width=other.width),
                replace(one, depth=other.depth),
            )
        )
        return self._spent((*genome[:at], changed, *genome[at + 1 :]), dice)

    def _any(self, dice: random.Random, at: int) -> Stage:
        level = self.skeleton.levels[at]
        widths = range(self.round_to, self._widest(at) + 1, self.round_to)
        kind, kernel = dice.choice(self.blocks), dice.choice(self.kernels)
        return Stage(kind, kernel, dice.choice(widths), dice.randint(1, level.depth + 1), level.stride)

    def _spent(self, genome: Genome, dice: random.Random) -> Genome:
        """Make stages by lot smaller until the budget holds, then wider where it allows."""
        while self.cost(genome) > self.most:
            genome = self._smaller(genome, dice.randrange(len(genome)))
        wide = list(range(len(genome)))
        while wide:
            at = dice.choice(wide)
            stage = genome[at]
            wider = replace(stage, width=min(self._widest(at), stage.width + self.round_to))
            grown = (*genome[:at], wider, *genome[at + 1 :])
            if wider == stage or self.cost(grown) > self.most:
                wide.remove(at)
            else:
                genome = grown
        return genome

    def _smaller(self, genome: Genome, at: int) -> Genome:
        """Make one stage narrower; one that cannot be, shallower; one that is neither, of the cheapest blocks."""
        stage = genome[at]
        if stage.width > self.round_to:
            options = [replace(stage, width=max(self.round_to, stage.width - self.round_to))]
        elif stage.depth > 1:
            options = [replace(stage, depth=stage.depth - 1)]
        else:
            options = [replace(stage, block=b, kernel=k) for b in self.blocks for k in self.kernels]
        changed = [(*genome[:at], option, *genome[at + 1 :]) for option in options]
        return min(changed, key=self.cost)
