"""Dynamic quantization: 8-bit matrix products whose activations are measured in every call; it reads no row."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
from onnxruntime import quantization

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_onnx.layers import in_branches, layers_of, named, prepared, save, with_products
from trimtab_onnx.stored import Weight, weights_of

__all__ = ["QuantizeDynamic"]

LEAST_SHARE = 0.25
"""Of the weights that have to lie in matrix products; what has fewer there gains neither speed nor size."""


@dataclass(frozen=True)
class QuantizeDynamic:
    """Compute matrix products in 8 bits, with the range of the activations taken anew in every call.

    For models of matrix products: multilayer perceptrons and transformers. Weights are signed 8 bits; each call
    finds the range of what enters a product (``DynamicQuantizeLinear``) and multiplies integers
    (``MatMulInteger``). No row is read and nothing is calibrated, so that ranges cannot go stale as data
    moves; that is paid for in each call. Products of two activations, as inside of attention, stay float, and so
    do convolutions, which this would make ten times slower.

    Parameters
    ----------
    per_channel
        One scale per column of a weight instead of one per weight.
    keep_float
        Layers that stay float, as the facts name them, with ``*`` for any text.

    Notes
    -----
    The quantizer is onnxruntime's ``quantize_dynamic``. It takes a second.

    Examples
    --------
    >>> QuantizeDynamic().about.needs_data
    False
    """

    per_channel: bool = True
    keep_float: tuple[str, ...] = ()

    about: ClassVar[About] = About(
        name="quantize.dynamic",
        takes=ONNX,
        gives=ONNX,
        faster_on=("onnxruntime",),
        smaller=True,
        libraries=("onnx", "onnxruntime"),
    )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the quantized model into ``job.folder``.

        Raises
        ------
        PluginError
            When the graph has no matrix product with constant weights, or most of its weights lie elsewhere.
        SettingsError
            When ``keep_float`` names a layer that the model does not have.
        """
        with prepared(model, self.about.name) as ready, tempfile.TemporaryDirectory() as scratch:
            proto = with_products(onnx.load(str(ready)))
            layers, weights = layers_of(proto.graph), weights_of(proto)
            products = _products(weights)
            kept = named(self.keep_float, layers, "quantize.dynamic.keep_float")
            chosen = [name for name in products if name in weights_of(proto, kept)]
            if not chosen:
                raise PluginError("quantize.dynamic.keep_float leaves nothing to quantize; name fewer layers")
            path = Path(scratch) / "model.onnx"
            quantization.quantize_dynamic(
                proto,
                str(path),
                op_types_to_quantize=["MatMul"],
                per_channel=self.per_channel,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_quantize=[layers[name][0].name for name in chosen],
            )
            save(onnx.load(str(path)), model, job, self.about.name)
        kept_in_float = [*(name for name in layers if name not in chosen), *in_branches(proto.graph)]
        facts = {"quantized_layers": chosen, "kept_in_float": kept_in_float}
        write_json(job.folder / "facts.json", {**model.facts, **facts})
        return Model.at(job.folder, ONNX)


def _products(weights: dict[str, Weight]) -> list[str]:
    """Return the layers that are matrix products.

    Raises
    ------
    PluginError
        When there is none, or they hold few of the weights.
    """
    products = [name for name, w in weights.items() if w.is_product]
    inside, all_ = sum(weights[name].count for name in products), sum(w.count for w in weights.values())
    if not products or inside < LEAST_SHARE * all_:
        found = f"{inside / all_:.0%} of its weights in matrix products" if products else "no matrix product"
        raise PluginError(
            f"quantize.dynamic is for models of matrix products, and this one has {found}; "
            "take quantize.static, or leave quantize.dynamic out of optimize.techniques"
        )
    return products
