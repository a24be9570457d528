"""Layers as they serve in 8 bits: in an exported graph the operators that runtimes know for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["LEVELS", "Integer", "Rounded", "Stored"]

LEVELS = 255
"""The highest of unsigned 8 bits."""


class Rounded(nn.Module):
    """Unsigned 8-bit levels as they serve; in an exported graph ``QuantizeLinear`` and ``DequantizeLinear``."""

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor as the levels hold it."""
        if not torch.onnx.is_in_onnx_export():
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero.to(torch.int32), 0, LEVELS)
        levels = torch.onnx.ops.symbolic("QuantizeLinear", (x, self.scale, self.zero), dtype=torch.uint8, shape=x.shape)
        return _dequantized(levels, self.scale, self.zero, None)


class Stored(nn.Module):
    """Whole numbers that stand for constants; in an exported graph ``DequantizeLinear``.

    Parameters
    ----------
    levels
        Whole numbers.
    scale
        What one is worth: of all, or ``[channels]`` along ``axis``.
    axis
        Of the channels.
    """

    levels: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, levels: Tensor, scale: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis if scale.dim() else None
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros_like(scale, dtype=levels.dtype))

    def forward(self) -> Tensor:
        """Return the constants, float32."""
        if torch.onnx.is_in_onnx_export():
            return _dequantized(self.levels, self.scale, self.zero, self.axis)
        shape = [-1 if at == self.axis else 1 for at in range(self.levels.dim())]
        return self.levels.float() * self.scale.view(shape)


class Integer(nn.Module):
    """A layer with signed 8-bit weights as it serves.

    Parameters
    ----------
    call
        Maps input, weight and bias to the output; None: a product of matrices, for which the weight lies transposed.
    weight
        Of the layer.
    bias
        Float32 ``[channels]`` where the layer gives levels, for then runtimes round it themselves; else in
        whole numbers, or onnxruntime would compute the layer in float. None where there is none.
    """

    bias: Tensor | None

    def __init__(self, call: Callable[..., Tensor] | None, weight: Stored, bias: Tensor | Stored | None) -> None:
        super().__init__()
        self.call, self.weight = call, weight
        self.whole = bias if isinstance(bias, Stored) else None
        self.register_buffer("bias", None if isinstance(bias, Stored) else bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute with the weights that the levels stand for."""
        weight, bias = self.weight(), self.bias if self.whole is None else self.whole()
        if self.call is not None:
            return self.call(x, weight, bias)
        y = torch.matmul(x, weight)
        return y if bias is None else y + bias


def _dequantized(levels: Tensor, scale: Tensor, zero: Tensor, axis: int | None) -> Tensor:
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (levels, scale, zero),
        {} if axis is None else {"axis": axis},
        dtype=torch.float32,
        shape=levels.shape,
    )
