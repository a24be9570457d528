"""Two networks to begin with, so that a project of images or of a table needs no code of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Mlp", "SmallResNet"]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2015); ``stride`` divides height and width."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[rows, channels, H, W]`` to ``[rows, width, H / stride, W / stride]``."""
        inner = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))
        return out


class SmallResNet(nn.Module):
    """A residual CNN for small images: a stem of stride 2, then one block a stage, or more.

    Parameters
    ----------
    outputs
        Number of classes, or 1 for a regression.
    channels
        Of the image: 1 for grey, 3 for colour.
    widths
        Channels of each stage; every stage but the first halves height and width.
    blocks
        Residual blocks of each stage, at least one; weights of those that two depths share have the same names.

    Examples
    --------
    >>> sum(p.numel() for p in SmallResNet().parameters())
    308074
    """

    def __init__(
        self,
        outputs: int = 10,
        channels: int = 1,
        widths: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if blocks is not None and (len(blocks) != len(widths) or min(blocks) < 1):
            raise ValueError(
                f"blocks must be {len(widths)} numbers of 1 or more, one for each width, got {list(blocks)}"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        before = [widths[0], *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                ResidualBlock(a, b, stride=1 if stage == 0 else 2)
                for stage, (a, b) in enumerate(zip(before, widths, strict=True))
            )
        )
        depths = blocks if blocks is not None else [1] * len(widths)
        self.deeper = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, width, stride=1) for _ in range(depth - 1)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015: steadier over few epochs than torch's default
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[rows, channels, H, W]`` to outputs ``[rows, outputs]``."""
        hidden = self.stem(image)
        for stage, deeper in zip(self.stages, self.deeper, strict=True):
            hidden = deeper(stage(hidden))
        outputs: Tensor = self.head(self.pool(hidden).flatten(1))
        return outputs


class Mlp(nn.Module):
    """A multi-layer perceptron for tables.

    Parameters
    ----------
    inputs
        Width of the preprocessed table; filled in from the schema where the project does not set it.
    outputs
        Number of classes, or 1 for a regression; likewise.
    hidden
        Width of each hidden layer.
    dropout
        Share of hidden units left out in training, 0 <= dropout < 1.
    norm
        Whether batch norm follows each hidden layer. It folds into the layer on export and costs
        nothing there; with it ``recalibrate`` works on a table too.

    Examples
    --------
    >>> import torch
    >>> Mlp(inputs=5, outputs=3).eval()(torch.zeros(2, 5)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        before = [inputs, *hidden[:-1]]
        layers: list[nn.Module] = []
        for a, b in zip(before, hidden, strict=True) if hidden else ():
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden[-1] if hidden else inputs, outputs)

    def forward(self, table: Tensor) -> Tensor:
        """Map a table ``[rows, inputs]`` to outputs ``[rows, outputs]``."""
        outputs: Tensor = self.head(self.body(table))
        return outputs
