"""What a search over kinds of blocks takes from the parent: its resolutions, how wide and deep it is, and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.errors import PluginError
from trimtab_torch.depths import inherit
from trimtab_torch.layers import executed

__all__ = ["Level", "Skeleton", "carry_over"]


@dataclass(frozen=True)
class Level:
    """What of a network works at one resolution.

    Parameters
    ----------
    stride
        From the level before.
    width
        Channels of its widest convolution.
    depth
        Number of its convolutions that look beyond one pixel.
    """

    stride: int
    width: int
    depth: int


@dataclass(frozen=True)
class Skeleton:
    """A CNN's first convolution and what follows it, level by level.

    Parameters
    ----------
    stem_width, stem_stride
        Of the first convolution.
    levels
        Of those after it.
    """

    stem_width: int
    stem_stride: int
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, network: nn.Module, examples: Sequence[Tensor]) -> Skeleton:
        """Read it off the convolutions that run.

        Raises
        ------
        PluginError
            When there are fewer than two.
        """
        runs = [run for run in _runs(network, examples) if isinstance(run.layer, nn.Conv2d)]
        if len(runs) < 2:
            raise PluginError(
                f"search.block: the network runs {len(runs)} convolutions, and needs at least 2, a stem and what "
                "follows it; leave search.block out of optimize.techniques"
            )
        stem, rest = runs[0], runs[1:]
        sizes = sorted({run.size for run in rest}, reverse=True)
        levels, before = [], stem.size
        for size in sizes:
            here = [run.layer for run in rest if run.size == size and isinstance(run.layer, nn.Conv2d)]
            wide = max(layer.out_channels for layer in here)
            deep = sum(layer.kernel_size[0] > 1 for layer in here)
            levels.append(Level(max(1, round(before / size)), wide, max(1, deep)))
            before = size
        return cls(runs[0].width, max(1, round(examples[0].shape[-1] / stem.size)), tuple(levels))


@dataclass(frozen=True)
class _Run:
    """A layer of a network that ran.

    Parameters
    ----------
    layer
        A convolution, batch norm or linear layer.
    size
        Width of the image that it gives; 0 of none.
    """

    layer: nn.Module
    size: int

    @property
    def width(self) -> int:
        """Channels that it gives."""
        return int(self.layer.out_channels) if isinstance(self.layer, nn.Conv2d) else 0

    @property
    def kind(self) -> tuple[object, ...]:
        """What another layer must share to take over its weights."""
        if isinstance(self.layer, nn.Conv2d):
            return "conv", self.size, self.layer.kernel_size, self.layer.groups > 1
        return type(self.layer).__name__, self.size


Pair = tuple[nn.Module, nn.Module | None, tuple[object, ...]]
"""A layer, the batch norm right behind it, and what another layer must share to take over its weights."""


def _runs(network: nn.Module, examples: Sequence[Tensor]) -> list[_Run]:
    """Return what runs, in order."""
    found: list[_Run] = []

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        found.append(_Run(module, output.shape[-1] if output.dim() == 4 else 0))

    hooks = [
        m.register_forward_hook(note)
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    try:
        with torch.inference_mode():
            network(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def carry_over(source: nn.Module, target: nn.Module, examples: Sequence[Tensor]) -> int:
    """Copy weights into ``target``, in place, and return how many layers got some.

    The first convolution of ``target`` that has some kernel at some resolution takes over those of the
    first such of ``source``, with the batch norm behind it, and so on; of channels the first ones, as
    far as both have them. The last linear layer likewise.

    Examples
    --------
    >>> old, new = nn.Sequential(nn.Conv2d(1, 8, 3)), nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> carry_over(old, new, [torch.zeros(1, 1, 8, 8)]), torch.equal(new[0].weight, old[0].weight[:4])
    (1, True)
    """
    waiting: dict[tuple[object, ...], list[tuple[nn.Module, nn.Module | None]]] = {}
    for layer, norm, kind in _paired(source, examples):
        waiting.setdefault(kind, []).append((layer, norm))
    count = 0
    for layer, norm, kind in _paired(target, examples):
        if waiting.get(kind):
            old, old_norm = waiting[kind].pop(0)
            inherit(old, layer)
            if norm is not None and old_norm is not None:
                inherit(old_norm, norm)
            count += 1
    return count


def _paired(
    network: nn.Module, examples: Sequence[Tensor]
) -> list[tuple[nn.Module, nn.Module | None, tuple[object, ...]]]:
    """Return convolutions and the last layer that run, each with the batch norm right behind it."""
    runs = _runs(network, examples)
    last = list(executed(network, examples).values())[-1:]
    found: list[Pair] = []
    for at, run in enumerate(runs):
        if isinstance(run.layer, nn.Conv2d) or run.layer in last:
            after = runs[at + 1].layer if at + 1 < len(runs) else None
            found.append((run.layer, after if isinstance(after, nn.BatchNorm2d) else None, run.kind))
    return found
