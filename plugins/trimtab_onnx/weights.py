"""Weight-only quantization: the file shrinks to a quarter or an eighth, and no row is needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx
from onnxruntime import quantization

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_onnx.layers import every_node, in_branches, layers_of, named, prepared, quiet, save, with_products
from trimtab_onnx.stored import Store, weights_of, with_int4

with quiet():  # its import configures the root logger, which is the application's affair
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

__all__ = ["QuantizeWeights"]

INT8_PRODUCTS = 4
"""``accuracy_level`` of ``MatMulNBits``: activations in 8 bits; at others 8-bit weights take ten times as long."""


@dataclass(frozen=True)
class QuantizeWeights:
    """Keep weights in 4 or 8 bits; activations stay float in the file, and no row is read.

    Matrix products become onnxruntime's ``MatMulNBits``, which computes with the packed weights: the memory of the
    running model shrinks too, and products of large matrices are faster one row at a time. Convolutions keep 8
    bits with a scale per output channel, unfolded when the file is loaded, and are as fast as before. What else
    holds numbers (biases, embeddings, recurrent layers) stays float. ``facts.json`` tells the bits of each layer.

    Parameters
    ----------
    bits
        Of the weights of matrix products, 4 or 8; convolutions have 8.
    block_size
        Weights of a column that share a scale: a power of two from 16 to 256.
    products
        ``packed`` (``MatMulNBits``), or ``unfolded`` when the file is loaded, as convolutions are: never slower
        than float, and any runtime loads it.
    keep_float
        Layers that stay float, as the facts name them, with ``*`` for any text.

    Notes
    -----
    The quantizer of products is onnxruntime's ``MatMulNBitsQuantizer``: symmetric, rounded to nearest, in blocks
    (as in Frantar et al. 2023, "GPTQ", without its correction). It takes a tenth of a second for half a million
    weights.

    Examples
    --------
    >>> QuantizeWeights(bits=3)
    Traceback (most recent call last):
    ...
    ValueError: quantize.weights.bits must be 4 or 8, got 3
    """

    bits: Literal[4, 8] = 8
    block_size: int = 32
    products: Literal["packed", "unfolded"] = "packed"
    keep_float: tuple[str, ...] = ()

    about: ClassVar[About] = About(
        name="quantize.weights", takes=ONNX, gives=ONNX, smaller=True, libraries=("onnx", "onnxruntime")
    )

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"quantize.weights.bits must be 4 or 8, got {self.bits}")
        if self.block_size not in BLOCKS:
            words = ", ".join(map(str, BLOCKS))
            raise ValueError(f"quantize.weights.block_size must be one of {words}, got {self.block_size}")
        if self.products not in ("packed", "unfolded"):
            raise ValueError(f"quantize.weights.products must be packed or unfolded, got {self.products!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the quantized model into ``job.folder``.

        Raises
        ------
        PluginError
            When the graph has no weights, or few bits already.
        SettingsError
            When ``keep_float`` names a layer that the model does not have.
        """
        with prepared(model, self.about.name) as ready:
            proto = with_products(onnx.load(str(ready)))
            if self.bits == 4 and self.products == "unfolded":
                proto = with_int4(proto)
            layers = layers_of(proto.graph)
            kept = named(self.keep_float, layers, "quantize.weights.keep_float")
            weights = weights_of(proto, kept)
            if not weights:
                raise PluginError("quantize.weights.keep_float leaves nothing to quantize; name fewer layers")
            products = [n for n, w in weights.items() if w.operator in PRODUCTS]
            packed = [n for n in products if self.products == "packed" and weights[n].is_product]
            few = packed if self.products == "packed" else products
            bits = {name: self.bits if name in few else 8 for name in weights}
            unfolded = {name: w for name, w in weights.items() if name not in packed}
            Store(self.block_size).put(proto.graph, unfolded, bits)
            if packed:
                proto = self._pack(proto, [layers[name][0].name for name in packed])
            save(proto, model, job, self.about.name)
        kept_in_float = [*sorted({*layers} - {*weights}), *in_branches(proto.graph)]
        facts = {"bits": bits, "block_size": self.block_size, "kept_in_float": kept_in_float}
        write_json(job.folder / "facts.json", {**model.facts, **facts})
        return Model.at(job.folder, ONNX)

    def _pack(self, proto: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
        quantizer = MatMulNBitsQuantizer(
            proto,
            bits=self.bits,
            block_size=self.block_size,
            is_symmetric=True,
            accuracy_level=INT8_PRODUCTS,
            nodes_to_exclude=[n.name for n in every_node(proto.graph) if n.name not in nodes],
            quant_format=quantization.QuantFormat.QOperator,
        )
        quantizer.process()
        packed: onnx.ModelProto = quantizer.model.model
        return packed


PRODUCTS = frozenset({"MatMul", "Gemm"})
BLOCKS = (16, 32, 64, 128, 256)
