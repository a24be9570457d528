"""A CNN that a plain JSON description builds, block by block: what a search over kinds of blocks gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from torch import Tensor, nn

__all__ = ["BLOCKS", "Block", "BlockNet", "Conv", "Kind", "Stage", "cost", "planned"]

Kind = Literal["plain", "residual", "separable", "inverted"]
BLOCKS: tuple[str, ...] = get_args(Kind)
STEM_KERNEL = 3


@dataclass(frozen=True)
class Conv:
    """A convolution with its batch norm.

    Parameters
    ----------
    before, after
        Channels that it reads and gives.
    kernel, stride
        Of both axes.
    depthwise
        Whether each channel is convolved alone.
    """

    before: int
    after: int
    kernel: int
    stride: int = 1
    depthwise: bool = False


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind at one resolution.

    Parameters
    ----------
    block
        ``plain``, a convolution; ``residual``, two beside a shortcut (He et al. 2015); ``separable``, a depthwise
        and a pointwise one (Howard et al. 2017); ``inverted``, a pointwise one that widens, a depthwise and
        one that narrows, beside a shortcut (Sandler et al. 2018).
    kernel
        3 or 5, of the convolutions that are not pointwise.
    width, depth
        Channels of each block, and number of blocks.
    stride
        Of the first block.
    expansion
        By which ``inverted`` widens.
    """

    block: Kind
    kernel: int
    width: int
    depth: int
    stride: int
    expansion: int = 2

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}")
        for name in ("kernel", "width", "depth", "stride", "expansion"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a stage must be a whole number of at least 1, got {value!r}")
        if not self.kernel % 2:
            raise ValueError(f"kernel of a stage must be odd, got {self.kernel}")

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> Stage:
        """Read what ``asdict`` gave."""
        known = [f.name for f in fields(cls)]
        for name in described:
            if name not in known:
                raise ValueError(f"a stage has no {name!r}; it has {', '.join(known)}")
        return cls(**described)

    def each(self, before: int) -> Iterator[tuple[list[Conv], Conv | None, bool]]:
        """Yield for each block its convolutions, that of its shortcut, and whether it has a shortcut at all."""
        for at in range(self.depth):
            stride = self.stride if at == 0 else 1
            yield planned(self, before, stride)
            before = self.width


def planned(stage: Stage, before: int, stride: int) -> tuple[list[Conv], Conv | None, bool]:
    """Return what one block of a stage is made of: its convolutions, its shortcut's, whether it has a shortcut."""
    width, kernel = stage.width, stage.kernel
    same = stride == 1 and before == width
    if stage.block == "plain":
        return [Conv(before, width, kernel, stride)], None, False
    if stage.block == "residual":
        shortcut = None if same else Conv(before, width, 1, stride)
        return [Conv(before, width, kernel, stride), Conv(width, width, kernel)], shortcut, True
    if stage.block == "separable":
        return [Conv(before, before, kernel, stride, depthwise=True), Conv(before, width, 1)], None, False
    inner = before * stage.expansion
    body = [Conv(before, inner, 1), Conv(inner, inner, kernel, stride, depthwise=True), Conv(inner, width, 1)]
    return body, None, same


def _normed(conv: Conv) -> list[nn.Module]:
    groups = conv.before if conv.depthwise else 1
    layer = nn.Conv2d(conv.before, conv.after, conv.kernel, conv.stride, conv.kernel // 2, groups=groups, bias=False)
    # He et al. 2015, by what one channel reads: steadier over few epochs than torch's default.
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return [layer, nn.BatchNorm2d(conv.after)]


class Block(nn.Module):
    """One block of a stage; ``before`` is what it reads, ``stride`` divides height and width."""

    def __init__(self, stage: Stage, before: int, stride: int) -> None:
        super().__init__()
        convs, shortcut, self.adds = planned(stage, before, stride)
        layers: list[nn.Module] = []
        for conv in convs[:-1]:
            layers += [*_normed(conv), nn.ReLU()]
        self.body = nn.Sequential(*layers, *_normed(convs[-1]))
        self.shortcut: nn.Module = nn.Sequential(*_normed(shortcut)) if shortcut else nn.Identity()
        # What an inverted residual gives stays linear: rectifying few channels loses too much.
        self.last: nn.Module = nn.Identity() if stage.block == "inverted" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[rows, before, H, W]`` to ``[rows, width, H / stride, W / stride]``."""
        inner = self.body(x)
        out: Tensor = self.last(inner + self.shortcut(x) if self.adds else inner)
        return out


class BlockNet(nn.Module):
    """A CNN as a description has it: a stem of one convolution, stages of blocks, a mean, a linear layer.

    Parameters
    ----------
    outputs
        Number of classes, or 1 for a regression.
    shape
        Of an image, channels first.
    stem
        ``{width, stride}`` of the first convolution.
    stages
        Descriptions that :class:`Stage` reads.

    Raises
    ------
    ValueError
        For a description that is none.

    Examples
    --------
    >>> import torch
    >>> stage = {"block": "inverted", "kernel": 3, "width": 8, "depth": 2, "stride": 2}
    >>> BlockNet(3, (1, 8, 8), {"width": 8, "stride": 1}, [stage]).eval()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, outputs: int, shape: Sequence[int], stem: Mapping[str, int], stages: Sequence[Mapping[str, Any]]
    ) -> None:
        super().__init__()
        read = [Stage.read(described) for described in stages]
        before = stem["width"]
        self.stem = nn.Sequential(*_normed(Conv(shape[0], before, STEM_KERNEL, stem["stride"])), nn.ReLU())
        built: list[nn.Module] = []
        for stage in read:
            blocks = [
                Block(stage, before if at == 0 else stage.width, stage.stride if at == 0 else 1)
                for at in range(stage.depth)
            ]
            built.append(nn.Sequential(*blocks))
            before = stage.width
        self.stages = nn.Sequential(*built)
        self.head = nn.Linear(before, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[rows, channels, H, W]`` to outputs ``[rows, outputs]``."""
        outputs: Tensor = self.head(self.stages(self.stem(image)).mean(dim=(2, 3)))
        return outputs


def cost(
    outputs: int, shape: Sequence[int], stem: Mapping[str, int], stages: Sequence[Stage], depthwise: float = 1.0
) -> float:
    """Return the multiply-adds of one row, those of depthwise convolutions counted ``depthwise`` times.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> import torch
    >>> from trimtab_torch.layers import multiply_adds
    >>> stage = Stage("inverted", 5, 8, 2, 2)
    >>> stem = {"width": 8, "stride": 1}
    >>> network = BlockNet(3, (1, 9, 9), stem, [asdict(stage)]).eval()
    >>> multiply_adds(network, [torch.zeros(2, 1, 9, 9)])[""] == cost(3, (1, 9, 9), stem, [stage])
    True
    """
    _, height, width = shape
    convs = [Conv(shape[0], stem["width"], STEM_KERNEL, stem["stride"])]
    before = stem["width"]
    total = 0.0
    for stage in stages:
        for body, shortcut, _ in stage.each(before):
            convs += body
            if shortcut:  # beside the block: it ends where the block does, and begins where that began
                ends = (-(-height // _stride(convs)), -(-width // _stride(convs)))
                total += ends[0] * ends[1] * shortcut.before * shortcut.after
        before = stage.width
    for conv in convs:
        height, width = -(-height // conv.stride), -(-width // conv.stride)
        each = conv.kernel**2 * (depthwise if conv.depthwise else conv.before)
        total += height * width * conv.after * each
    return total + before * outputs


def _stride(convs: Sequence[Conv]) -> int:
    product = 1
    for conv in convs:
        product *= conv.stride
    return product
