"""Layers that compute as their 8-bit versions will, while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab_torch.integer import LEVELS, Integer, Rounded, Stored
from trimtab_torch.preserve import Preserved

__all__ = ["Grid", "Norm", "Simulated", "Weighted"]

PEAK = 127
TINY = 1e-12
AVERAGING = 0.01
"""Weight of a batch in the moving averages of ranges, torch's own."""
BIAS = 2.0**30
"""Steps that a bias may span: runtimes keep it in 32 bits."""


class Grid(nn.Module):
    """Rounds one tensor to 256 levels between moving averages of its extremes (Jacob et al. 2018).

    Zero is a level. While it ``watches`` it takes in extremes and lets everything through; while it
    ``moves`` training moves its range.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.watches, self.moves = False, True

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor as the levels hold it."""
        if self.watches or (self.training and self.moves):
            low, high = (extreme.detach().float() for extreme in torch.aminmax(x))
            if self.watches:
                self.low.copy_(torch.minimum(self.low, low))
                self.high.copy_(torch.maximum(self.high, high))
                return x
            self.low.lerp_(low.clamp(max=0.0), AVERAGING)
            self.high.lerp_(high.clamp(min=0.0), AVERAGING)
        return torch.fake_quantize_per_tensor_affine(x, *self.levels(), 0, LEVELS)

    def levels(self) -> tuple[Tensor, Tensor]:
        """Return the distance of two levels, and the level of zero (int32)."""
        scale = ((self.high - self.low) / LEVELS).clamp_min(TINY)
        return scale, (-self.low / scale).round().clamp(0, LEVELS).to(torch.int32)

    def settle(self) -> Rounded:
        """Return what serves."""
        return Rounded(*self.levels())


class Norm(nn.Module):
    """A batch norm behind a weighted layer; ``still``, it no longer looks at batches, as when it serves."""

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        weight: nn.Parameter | None,
        bias: nn.Parameter | None,
        mean: Tensor,
        variance: Tensor,
        momentum: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.momentum, self.eps, self.still = momentum, eps, False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel."""
        batch = self.training and not self.still
        return functional.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, batch, self.momentum, self.eps
        )

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return factor and offset of each channel, as they serve."""
        factor = (self.variance + self.eps).rsqrt()
        factor = factor if self.weight is None else factor * self.weight
        offset = -self.mean * factor
        return factor, offset if self.bias is None else offset + self.bias


class Weighted(nn.Module):
    """A convolution or linear layer whose weights are rounded to 255 levels around zero, a batch norm behind it.

    What is rounded are the weights before the norm's factor: with a step for each channel that is the
    same as rounding what it folds into, and needs no division by a factor that may be zero.

    Parameters
    ----------
    call
        Maps input, weight and bias to the output.
    weight, bias
        Of the layer; channels are the weight's first axis.
    norm
        Behind it, or None.
    per_channel
        Whether each channel has a step of its own. A clustered layer has one in any case, before the
        norm: so a value that weights share stays one value, whatever channels they are of.
    transposed
        Whether the layer multiplies matrices of more than two axes, for which the weight lies transposed.
    """

    def __init__(
        self,
        call: Callable[..., Tensor],
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        norm: Norm | None,
        per_channel: bool,
        transposed: bool,
    ) -> None:
        super().__init__()
        self.call, self.weight, self.bias, self.norm = call, weight, bias, norm
        self.per_channel, self.transposed = per_channel, transposed
        self.preserved = Preserved(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Compute with rounded weights."""
        y = self.call(x, self._rounded(), self.bias)
        return y if self.norm is None else self.norm(y)

    def _rounded(self) -> Tensor:
        weight = self.preserved(self.weight)
        step = self._steps(weight.detach())
        still = torch.zeros_like(step, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, step, still, 0, -PEAK, PEAK)

    def _steps(self, weight: Tensor) -> Tensor:
        """Return the step of each channel, before the norm."""
        peaks = weight.abs().flatten(1).amax(dim=1)
        if self.preserved.clustered:
            peaks = peaks.max().expand_as(peaks).contiguous()
        elif not self.per_channel:
            factor = self._fold()[0].detach().abs().clamp_min(TINY)
            peaks = (peaks * factor).max() / factor
        return (peaks / PEAK).clamp_min(TINY)

    def _fold(self) -> tuple[Tensor, Tensor]:
        """Return what each channel is multiplied by behind the weights, and what is added then."""
        channels = len(self.weight)
        bias = self.weight.new_zeros(channels) if self.bias is None else self.bias
        if self.norm is None:
            return self.weight.new_ones(channels), bias
        factor, offset = self.norm.fold()
        return factor, bias * factor + offset

    @torch.no_grad()
    def settle(self, entering: Tensor, closed: bool) -> Integer:
        """Return the layer that serves: 8-bit weights, the norm folded.

        Parameters
        ----------
        entering
            Distance of two levels of what enters.
        closed
            Whether it gives levels.
        """
        weight = self._rounded()
        shape = (-1, *(1 for _ in weight.shape[1:]))
        step = self._steps(self.preserved(self.weight))
        levels = (weight / step.view(shape)).round()
        factor, offset = self._fold()
        scale = step * factor.abs()
        if not self.per_channel and not self.preserved.clustered:
            scale = scale.max().expand_as(scale)
        # Where hardly anything leaves a channel but its offset, that would not fit into 32 bits of such steps.
        least = (offset.abs() / (entering * BIAS)).clamp_min(TINY)
        levels = levels * torch.where(factor < 0, -1.0, 1.0).view(shape) * (scale / least).clamp(max=1.0).view(shape)
        scale = torch.maximum(scale, least)
        whole = levels.round().to(torch.int8)
        same = bool((scale == scale[0]).all())
        bias = None if self.bias is None and self.norm is None else offset
        scale = scale[0].clone() if same else scale
        if self.transposed:
            return Integer(None, Stored(whole.t().contiguous(), scale, axis=1), bias)
        stored = Stored(whole.contiguous(), scale)
        if bias is None or closed:
            return Integer(self.call, stored, bias)
        unit = entering * scale
        return Integer(self.call, stored, Stored((bias / unit).round().to(torch.int32), unit))


class Simulated(nn.Module):
    """A network under simulated quantization.

    Parameters
    ----------
    network
        With grids and weighted layers in it.
    steps
        Of training, after which ranges and batch norm statistics stand still.
    """

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.network, self.steps, self.taken = network, steps, 0

    def forward(self, *parts: Tensor) -> Tensor:
        """Map the network's arguments to its outputs."""
        if self.training:
            if self.taken == self.steps:
                self._stand_still()
            self.taken += 1
        outputs: Tensor = self.network(*parts)
        return outputs

    def _stand_still(self) -> None:
        for module in self.network.modules():
            if isinstance(module, Grid):
                module.moves = False
            elif isinstance(module, Norm):
                module.still = True

    @torch.no_grad()
    def watch(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """Take the first ranges from rows: the extremes of each tensor."""
        grids = [m for m in self.network.modules() if isinstance(m, Grid)]
        for grid in grids:
            grid.watches = True
        for parts in batches:
            self.network(*parts)
        for grid in grids:
            grid.watches = False
