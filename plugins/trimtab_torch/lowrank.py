"""A layer's weight as a matrix, its best factors of a rank, and what computing with them costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab_torch.structure import LowRank, Scheme

__all__ = ["Split"]


@dataclass(frozen=True)
class Split:
    """One layer's factors.

    Parameters
    ----------
    edit
        What is done to the layer.
    full
        The weight's rank, were it full.
    energy
        Share of the weight's squares that the factors keep.
    cost
        Multiply-adds of the two, as a share of the layer's.
    weights
        Of the two, shaped as theirs are.
    """

    edit: LowRank
    full: int
    energy: float
    cost: float
    weights: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, name: str, layer: Any, scheme: Scheme, by: str, keep: float, round_to: int) -> Split:
        """Decompose a layer's weight.

        Parameters
        ----------
        by, keep, round_to
            What decides the rank: as :class:`trimtab_torch.factorize.Factorize` has it (``rank``, ``keep``,
            ``round_to``).

        Examples
        --------
        >>> layer = nn.Linear(32, 32)
        >>> split = Split.of("hidden", layer, "matrix", "share", 0.25, 8)
        >>> split.edit.rank, split.full, split.cost
        (8, 32, 0.5)
        """
        u, s, v = torch.linalg.svd(_matrix(layer.weight.detach().double(), scheme), full_matrices=False)
        squares = s.square().cumsum(0) / s.square().sum().clamp_min(torch.finfo(s.dtype).tiny)
        wanted = int((squares < keep).sum()) + 1 if by == "energy" else math.ceil(keep * len(s))
        rank = min(len(s), round_to * math.ceil(wanted / round_to))
        root = s[:rank].sqrt()
        edit = LowRank(name, rank, scheme)
        weights = _factors((u[:, :rank] * root, root[:, None] * v[:rank]), layer, scheme)
        return cls(edit, len(s), float(squares[rank - 1]), _cost(layer, weights), weights)

    def pair(self, layer: nn.Module) -> nn.Sequential:
        """Return the two layers in place of ``layer``, with their weights and its bias."""
        pair: Any = self.edit.pair(layer)
        with torch.no_grad():
            for part, weight in zip(pair, self.weights, strict=True):
                part.weight.copy_(weight)
            if layer.bias is not None:
                pair[1].bias.copy_(layer.bias)
        whole: nn.Sequential = pair.train(layer.training)
        return whole

    def product(self) -> Tensor:
        """Return the weight of one layer that does what the two do."""
        first, second = self.weights
        if self.edit.scheme == "spatial":
            product: Tensor = torch.einsum("orw,rih->oihw", second[:, :, 0], first[..., 0])
        else:
            product = torch.tensordot(second.flatten(1), first, dims=1)
        return product


def _matrix(weight: Tensor, scheme: Scheme) -> Tensor:
    """Return what is decomposed, ``[outputs, inputs]``; of ``spatial``, ``[outputs and columns, inputs and rows]``."""
    if scheme == "spatial":
        out, into, height, width = weight.shape
        return weight.permute(0, 3, 1, 2).reshape(out * width, into * height)
    return weight.flatten(1)


def _factors(factors: tuple[Tensor, Tensor], layer: Any, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Return the weights of the first and of the second layer."""
    left, right = factors
    rank, shape = right.shape[0], layer.weight.shape
    if scheme == "matrix":
        first, second = right, left
    elif scheme == "channel":
        first, second = right.view(rank, *shape[1:]), left.view(*left.shape, *(1 for _ in shape[2:]))
    else:
        out, into, height, width = shape
        first = right.view(rank, into, height, 1)
        second = left.view(out, width, rank).permute(0, 2, 1).reshape(out, rank, 1, width)
    return first.float().contiguous(), second.float().contiguous()


def _cost(layer: Any, weights: tuple[Tensor, Tensor]) -> float:
    """Return what the two cost as a share of the whole; a column runs at every place of a row that strides."""
    first, second = weights
    places = layer.stride[1] if first.shape[2:] != layer.weight.shape[2:] else 1
    return (first.numel() * places + second.numel()) / float(layer.weight.numel())
