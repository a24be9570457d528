"""Views of a batch of images, drawn from a seeded generator: mirrored, and moved by a few pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.errors import PluginError
from trimtab_torch.settings import Settings

__all__ = ["View", "pick", "require_images"]


@dataclass(frozen=True)
class View:
    """How each image of a batch is looked at; all images of one row alike.

    Parameters
    ----------
    flipped
        Which are mirrored left to right, bool ``[rows]``; None: none.
    moved
        Where in the padded image each begins (down, right), int64 ``[rows, 2]``, 0 to ``2 * shift``;
        None: not moved.
    shift
        Pixels of zero that pad each side.
    """

    flipped: Tensor | None = None
    moved: Tensor | None = None
    shift: int = 0

    @classmethod
    def draw(cls, settings: Settings, rows: int, generator: torch.Generator) -> View:
        """Draw a view for each of ``rows`` rows."""
        flipped = torch.rand(rows, generator=generator) < 0.5 if settings.flip else None
        moved = torch.randint(2 * settings.shift + 1, (rows, 2), generator=generator) if settings.shift else None
        return cls(flipped, moved, settings.shift)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images ``[rows, C, H, W]`` as this view shows them.

        Examples
        --------
        >>> image = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> View(flipped=torch.tensor([True]))(image).tolist()
        [[[[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]]]
        >>> View(moved=torch.tensor([[2, 1]]), shift=1)(image).tolist()
        [[[[3.0, 4.0, 5.0], [0.0, 0.0, 0.0]]]]
        """
        if self.flipped is not None:
            images = torch.where(self.flipped.to(images.device)[:, None, None, None], images.flip(3), images)
        if self.moved is not None:
            images = self._crop(images, self.moved.to(images.device))
        return images

    def _crop(self, images: Tensor, begins: Tensor) -> Tensor:
        rows, _, height, width = images.shape
        device = images.device
        down = begins[:, 0, None] + torch.arange(height, device=device)
        right = begins[:, 1, None] + torch.arange(width, device=device)
        # With the channels last one index serves all of them, and the result needs no other layout.
        padded = functional.pad(images, [self.shift] * 4).permute(0, 2, 3, 1)
        at = torch.arange(rows, device=device)[:, None, None]
        return padded[at, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def pick(parts: Sequence[Tensor], index: Tensor, view: View) -> list[Tensor]:
    """Return a batch of a network's arguments, its images as the view shows them and with the channels last."""
    picked = [part[index] for part in parts]
    return [view(p).contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p for p in picked]


def require_images(parts: Sequence[Tensor], settings: Settings, where: str) -> None:
    """Raise a PluginError when images are to be augmented and there are none, or they are smaller than the shift."""
    if not settings.augments:
        return
    images = [p for p in parts if p.dim() == 4]
    if not images:
        raise PluginError(
            f"{where}: flip and shift alter image tensors [channels, height, width], and the features have none; "
            "leave them out"
        )
    smallest = min(min(image.shape[2:]) for image in images)
    if settings.shift >= smallest:
        raise PluginError(
            f"{where}: shift {settings.shift} moves an image of {smallest} pixels out of sight; "
            f"set shift below {smallest}"
        )
