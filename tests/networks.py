"""Networks of other kinds than ours, as factories that a project could name: each pins what techniques must cope with.

Every class takes ``classes`` and, where its input is a tensor, ``shape``, which the schema fills in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab_torch.attention import EncoderLayer

__all__ = ["Conv1d", "Encoder", "FlatCnn", "MobileNet", "ResNeXt", "Transformer", "UNet"]


def conv(before: int, after: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and ReLU."""
    layer = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())


class InvertedResidual(nn.Module):
    """Widen, convolve each channel alone, narrow (Sandler et al. 2018)."""

    def __init__(self, before: int, after: int, stride: int, expansion: int = 2) -> None:
        super().__init__()
        inner = before * expansion
        self.widen = conv(before, inner, 1)
        self.depthwise = conv(inner, inner, 3, stride, groups=inner)
        self.narrow = nn.Sequential(nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after))
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + out if self.adds else out


class MobileNet(nn.Module):
    """A depthwise-separable CNN with inverted residuals."""

    example = (3, 16, 16)

    def __init__(self, classes: int = 10, shape: Sequence[int] = example) -> None:
        super().__init__()
        self.stem = conv(shape[0], 16, 3, 2)
        self.blocks = nn.Sequential(
            InvertedResidual(16, 16, 1), InvertedResidual(16, 24, 2), InvertedResidual(24, 24, 1)
        )
        self.head = nn.Linear(24, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(image)).mean(dim=(2, 3)))
        return logits


class AggregatedBlock(nn.Module):
    """A residual block whose middle convolution works in groups (Xie et al. 2017)."""

    def __init__(self, width: int, inner: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(width, inner, 1),
            conv(inner, inner, 3, groups=groups),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class ResNeXt(nn.Module):
    """A ResNet with grouped convolutions, and a group norm."""

    example = (3, 16, 16)

    def __init__(self, classes: int = 10, shape: Sequence[int] = example, groups: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), conv(32, 32)
        )
        self.blocks = nn.Sequential(AggregatedBlock(32, 32, groups), AggregatedBlock(32, 48, groups))
        self.head = nn.Linear(32, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(image)).mean(dim=(2, 3)))
        return logits


class Transformer(nn.Module):
    """A transformer encoder on a sequence ``[length, features]`` with learned positions (Vaswani et al. 2017)."""

    example = (12, 6)

    def __init__(self, classes: int = 10, shape: Sequence[int] = example, width: int = 16, hidden: int = 48) -> None:
        super().__init__()
        length, features = shape
        self.embed = nn.Linear(features, width)
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.1)
        layer = nn.TransformerEncoderLayer(width, 4, hidden, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.neck = nn.Linear(width, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, sequence: Tensor) -> Tensor:
        seen = self.encoder(self.embed(sequence) + self.positions)
        logits: Tensor = self.head(torch.relu(self.neck(seen.mean(dim=1))))
        return logits


class Encoder(nn.Module):
    """A transformer encoder with attention whose heads can go, on a sequence ``[length, features]``."""

    example = (12, 6)

    def __init__(
        self, classes: int = 10, shape: Sequence[int] = example, width: int = 16, heads: int = 4, layers: int = 2
    ) -> None:
        super().__init__()
        length, features = shape
        self.embed = nn.Linear(features, width)
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.1)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, 2 * width) for _ in range(layers)))
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.embed(sequence) + self.positions).mean(dim=1))
        return logits


class Conv1d(nn.Module):
    """A CNN on a signal ``[channels, length]``."""

    example = (2, 64)

    def __init__(self, classes: int = 10, shape: Sequence[int] = example) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(shape[0], 16, 7, stride=2, padding=3),
            nn.BatchNorm1d(16),
            nn.PReLU(16),
            nn.Conv1d(16, 32, 5, stride=2, padding=2),
            nn.InstanceNorm1d(32, affine=True),
            nn.ReLU(),
            nn.Conv1d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, signal: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(signal))
        return logits


class FlatCnn(nn.Module):
    """A CNN that flattens height and width into features before its linear layers."""

    example = (1, 12, 12)

    def __init__(self, classes: int = 10, shape: Sequence[int] = example) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(shape[0], 16, 3, 2), conv(16, 24, 3, 2))
        self.hidden = nn.Linear(24 * -(-shape[1] // 4) * -(-shape[2] // 4), 64)
        self.head = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.hidden(self.body(image).flatten(1))))
        return logits


class UNet(nn.Module):
    """Down, up again by a transposed convolution, and a concatenation with what was before."""

    example = (3, 16, 16)

    def __init__(self, classes: int = 10, shape: Sequence[int] = example) -> None:
        super().__init__()
        self.enter = conv(shape[0], 16)
        self.down = conv(16, 32, 3, 2)
        self.up = nn.ConvTranspose2d(32, 24, 2, stride=2)
        self.merge = conv(16 + 24, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, image: Tensor) -> Tensor:
        first = self.enter(image)
        merged: Tensor = self.merge(torch.cat([first, torch.relu(self.up(self.down(first)))], dim=1))
        logits: Tensor = self.head(merged.mean(dim=(2, 3)))
        return logits
