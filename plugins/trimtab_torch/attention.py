"""Self-attention that techniques can change: heads can go, and it can look at a neighbourhood instead of everything."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Attention", "EncoderLayer", "split"]

FAR = -1e30
"""Added to scores of positions that are not looked at; finite, so that no row of zeros divides by zero."""


class Attention(nn.Module):
    """Multi-head self-attention over a sequence (Vaswani et al. 2017).

    Use it in a network of your own where ``prune.head`` or ``attention.local`` is to be tried: heads of
    ``nn.MultiheadAttention`` cannot be taken out. ``heads`` and ``window`` are part of a model's spec, so
    that what a technique made of them is rebuilt from files without a pickle.

    Parameters
    ----------
    width
        Features of each position; of input and output.
    heads
        Number of heads.
    head_width
        Features of each head; None: ``width / heads``.
    window
        Positions to either side that a position sees (Beltagy et al. 2020). Sequences are then worked on in
        blocks of so many positions, each beside its two neighbours, so that work and memory grow with the
        length, not with its square. 0: every position sees all.

    Examples
    --------
    >>> attention = Attention(16, 4)
    >>> attention(torch.zeros(2, 10, 16)).shape
    torch.Size([2, 10, 16])
    >>> Attention(16, 3)
    Traceback (most recent call last):
    ...
    ValueError: width 16 is no multiple of heads 3; give head_width
    """

    def __init__(self, width: int, heads: int, head_width: int | None = None, window: int = 0) -> None:
        super().__init__()
        if heads < 1 or window < 0:
            raise ValueError(f"heads must be at least 1 and window 0 or more, got {heads} and {window}")
        if head_width is None and width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}; give head_width")
        self.heads, self.window = heads, window
        self.head_width = head_width or width // heads
        inner = heads * self.head_width
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map ``[rows, length, width]`` to the same shape."""
        query, key, value = (
            split(layer(sequence), -1, self.heads, self.head_width).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        query = query * self.head_width**-0.5
        seen = self._near(query, key, value) if self.window else _weighed(query @ key.transpose(-2, -1), value)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out

    def _near(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what each position makes of its neighbourhood: queries, keys and values."""
        length, size = query.shape[2], self.window
        blocks = -(-length // size)
        pad = blocks * size - length
        query = split(functional.pad(query, (0, 0, 0, pad)), 2, blocks, size)
        near_key, near_value = (
            _beside(functional.pad(part, (0, 0, size, size + pad)), blocks, size) for part in (key, value)
        )
        band, inside = self._masks(length, blocks, size, query)
        # Two small masks instead of one: an exported graph stores them.
        scores = query @ near_key.transpose(-2, -1) + band + inside
        return _weighed(scores, near_value).flatten(2, 3)[:, :, :length]

    def _masks(self, length: int, blocks: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to scores: where positions are far ``[size, 3 * size]``, where there are none."""
        here, beside = (torch.arange(count, device=like.device) for count in (size, 3 * size))
        near = (here[:, None] + size - beside).abs() <= size
        there = beside + (torch.arange(blocks, device=like.device)[:, None, None] - 1) * size
        inside = (there >= 0) & (there < length)
        return _mask(near, like), _mask(inside, like)


def _mask(sees: Tensor, like: Tensor) -> Tensor:
    return torch.where(sees, 0.0, FAR).to(like.dtype)


def split(values: Tensor, axis: int, count: int, size: int) -> Tensor:
    """Return an axis as two, of ``count`` and of ``size``; a length that is not their product raises."""
    parts: Tensor = values.unflatten(axis, (count, size))  # type: ignore[no-untyped-call]
    return parts


def _weighed(scores: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1) @ value


def _beside(padded: Tensor, blocks: int, size: int) -> Tensor:
    """Return each block with its neighbours, ``[rows, heads, blocks, 3 * size, head_width]``."""
    parts = [split(padded[:, :, shift * size : (shift + blocks) * size], 2, blocks, size) for shift in range(3)]
    return torch.cat(parts, dim=3)


class EncoderLayer(nn.Module):
    """A layer of a transformer encoder with this attention; norms come first (Xiong et al. 2020).

    Parameters
    ----------
    width, heads, window
        As :class:`Attention` has them.
    hidden
        Width between the two linear layers.

    Examples
    --------
    >>> EncoderLayer(16, 4, 32)(torch.zeros(2, 10, 16)).shape
    torch.Size([2, 10, 16])
    """

    def __init__(self, width: int, heads: int, hidden: int, window: int = 0) -> None:
        super().__init__()
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, window=window)
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map ``[rows, length, width]`` to the same shape."""
        sequence = sequence + self.attention(self.before_attention(sequence))
        out: Tensor = sequence + self.narrow(torch.relu(self.widen(self.before_hidden(sequence))))
        return out
