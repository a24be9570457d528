"""The image benchmark's data and network: 20,000 CIFAR-10 images to learn from, 5,000 that nothing ever sees."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from torch import Tensor, nn

from trimtab_torch.networks import ResidualBlock

SHARED = Path(os.environ.get("TRIMTAB_SHARED", Path(__file__).parents[2] / "shared"))
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)


class ResNet14(nn.Module):
    """Three stages of two residual blocks on 32 x 32 images (He et al. 2015): 309 thousand weights.

    Parameters
    ----------
    classes
        Number of classes.
    widths
        Channels of each stage; every stage but the first halves height and width.
    """

    def __init__(self, classes: int = 10, widths: Sequence[int] = (24, 48, 80)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        before = [widths[0], *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(ResidualBlock(a, b, 1 if stage == 0 else 2), ResidualBlock(b, b, 1))
                for stage, (a, b) in enumerate(zip(before, widths, strict=True))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[rows, 3, 32, 32]`` to logits ``[rows, classes]``."""
        logits: Tensor = self.head(self.pool(self.stages(self.stem(image))).flatten(1))
        return logits


def images(part: str, most: int | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return decoded images in [0, 1] (float32 ``[rows, 3, 32, 32]``) and labels ``[rows]``.

    Parameters
    ----------
    part
        ``train`` (20,000) or ``test`` (5,000).
    most
        Only the first so many.
    """
    frame = pd.read_parquet(SHARED / "data" / f"cifar10_{part}.parquet").head(most or 10**9)
    column = next(c for c in frame if c != "label")
    cells = [cell["bytes"] if isinstance(cell, dict) else cell for cell in frame[column]]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(cell)).convert("RGB")) for cell in cells])
    return (pixels.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32), frame["label"].to_numpy(np.int64)


def frame(part: str, most: int | None = None) -> pd.DataFrame:
    """Return the images as rows of a project: ``image`` (flat), ``label`` (text), ``id``."""
    pixels, labels = images(part, most)
    flat: dict[str, Any] = {"image": list(pixels.reshape(len(pixels), -1))}
    return pd.DataFrame(flat).assign(
        label=[CLASSES[label] for label in labels], id=[f"{part}-{i}" for i in range(len(labels))]
    )
