"""Weights kept in few bits in the file, and unfolded into float when a runtime loads it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from trimtab_onnx.layers import layers_of, with_opset
from trimtab_onnx.sensitivity import WHOLE

__all__ = ["Store", "Weight", "weights_of", "with_int4"]

FLOAT16_MOST = float(np.finfo(np.float16).max)
TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8}
INT4_OPSET = 21
INT4_IR = 10


@dataclass(frozen=True)
class Weight:
    """The weight of a layer.

    Parameters
    ----------
    name
        Of the constant.
    channels
        Axis of the output channels.
    shape
        Of the constant.
    operator
        That reads it.
    """

    name: str
    channels: int
    shape: tuple[int, ...]
    operator: str

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def is_product(self) -> bool:
        """Whether it is a plain matrix of a product; onnxruntime packs no stack of them, and scales each as a whole."""
        return self.operator == "MatMul" and len(self.shape) == 2


def weights_of(proto: onnx.ModelProto, kept: Collection[str] = ()) -> dict[str, Weight]:
    """Return the weight of each layer, by the layer's name.

    Parameters
    ----------
    kept
        Layers to leave out, with those that share a weight with one of them.
    """
    constants = {t.name: t for t in proto.graph.initializer}
    found: dict[str, Weight] = {}
    for layer, (node, *_) in layers_of(proto.graph).items():
        tensor = constants[node.input[1]]
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            axis = _channels(node, len(tensor.dims))
            found[layer] = Weight(tensor.name, axis, tuple(tensor.dims), node.op_type)
    whole = {found[layer].name for layer in kept if layer in found}
    return {layer: weight for layer, weight in found.items() if weight.name not in whole}


def _channels(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


def with_int4(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Bring a model to the first opset that knows 4 bits, if it is below.

    Raises
    ------
    PluginError
        When it cannot be converted.
    """
    proto = with_opset(proto, INT4_OPSET, "4 bits need", "take 8 bits")
    proto.ir_version = max(proto.ir_version, INT4_IR)
    return proto


@dataclass
class Store:
    """Puts weights of a graph into few bits: a constant of fewer bits, a cast, and a scale for each block.

    It is written as ``Cast`` and ``Mul``, which runtimes compute once when they load the file, and so the model is
    as fast as before. ``DequantizeLinear`` would say the same in one node, but onnxruntime computes it in every call:
    convolutions came out at half their speed (measured with onnxruntime 1.31).

    Symmetric, rounded to nearest (Jacob et al. 2018): 8 bits with one scale per output channel, 4 bits with
    one per block, 16 bits as float16 without a scale.

    Parameters
    ----------
    block
        Most weights of a channel that share a scale at 4 bits; the largest divisor of the channel's length up to it.
    """

    block: int
    _made: dict[tuple[str, int], tuple[list[TensorProto], list[onnx.NodeProto]]] = field(default_factory=dict)

    def put(self, graph: onnx.GraphProto, weights: Mapping[str, Weight], bits: Mapping[str, int]) -> None:
        """Replace weights of the graph by ones of 4, 8 or 16 bits; what was computed once is taken again.

        Parameters
        ----------
        weights, bits
            By layer. A weight that several share has as many bits as the one with the most.
        """
        shared: dict[str, tuple[Weight, int]] = {}
        for layer, weight in weights.items():
            first, most = shared.get(weight.name, (weight, 0))
            shared[weight.name] = first, max(most, bits[layer])
        for weight, most in shared.values():
            if most < WHOLE:
                self._put(graph, weight, most)

    def _put(self, graph: onnx.GraphProto, weight: Weight, bits: int) -> None:
        old = next(t for t in graph.initializer if t.name == weight.name)
        if (weight.name, bits) not in self._made:
            self._made[weight.name, bits] = self._make(numpy_helper.to_array(old), weight, bits)
        tensors, nodes = self._made[weight.name, bits]
        graph.initializer.remove(old)
        graph.initializer.extend(tensors)
        for place, node in enumerate(nodes):
            graph.node.insert(place, node)

    def _make(
        self, values: npt.NDArray[np.float32], weight: Weight, bits: int
    ) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
        name = weight.name
        if bits == 16:
            half = np.clip(values, -FLOAT16_MOST, FLOAT16_MOST).astype(np.float16)
            cast = helper.make_node("Cast", [f"{name}:16"], [name], to=TensorProto.FLOAT)
            return [numpy_helper.from_array(half, f"{name}:16")], [cast]
        moved = np.moveaxis(values, weight.channels, 0)
        length = moved[0].size
        blocks = moved.reshape(-1, length if bits == 8 else _divisor(length, self.block))
        scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        few = np.rint(blocks / scale).astype(helper.tensor_dtype_to_np_dtype(TYPES[bits]))
        shape = np.array(moved.shape, np.int64)
        tensors = [
            numpy_helper.from_array(few, f"{name}:{bits}"),
            numpy_helper.from_array(scale, f"{name}:scale"),
            numpy_helper.from_array(shape, f"{name}:shape"),
        ]
        back = [int(axis) for axis in np.argsort(_moved(values.ndim, weight.channels))]
        nodes = [
            helper.make_node("Cast", [f"{name}:{bits}"], [f"{name}:float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}:float", f"{name}:scale"], [f"{name}:scaled"]),
            helper.make_node("Reshape", [f"{name}:scaled", f"{name}:shape"], [f"{name}:moved"]),
            helper.make_node("Transpose", [f"{name}:moved"], [name], perm=back),
        ]
        if weight.channels == 0:  # nothing was moved
            nodes = [*nodes[:2], helper.make_node("Reshape", [f"{name}:scaled", f"{name}:shape"], [name])]
        return tensors, nodes


def _moved(rank: int, axis: int) -> list[int]:
    return [axis, *(a for a in range(rank) if a != axis)]


def _divisor(length: int, most: int) -> int:
    """Return the largest divisor of ``length`` up to ``most``.

    Examples
    --------
    >>> _divisor(27, 32), _divisor(64, 48), _divisor(7, 4)
    (27, 32, 1)
    """
    return max(d for d in range(1, min(length, most) + 1) if length % d == 0)
