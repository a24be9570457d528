"""Float16: half the bytes, with inputs, outputs and preprocessing as they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import onnx
from onnx import TensorProto
from onnxruntime.transformers import float16

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_onnx.layers import Layers, every_node, in_branches, layers_of, named, prepared, save
from trimtab_onnx.sensitivity import Outcome, Trial, put_back
from trimtab_onnx.stored import Store, weights_of

__all__ = ["QuantizeFloat16"]


@dataclass(frozen=True)
class QuantizeFloat16:
    """Keep weights in float16; inputs, outputs, preprocessing and softmax stay float32.

    On x86 processors it makes the file half as large and nothing faster. There onnxruntime has few float16
    operators, and ``compute: float16`` puts casts around the rest: such a model is slower than float32. It is for
    hardware that computes in float16.

    When more than ``max_drop`` is lost on held-out rows, because numbers overflow (float16 ends at 65504), the layers
    that hurt most go back into float32, as in ``quantize.static``.

    Parameters
    ----------
    compute
        ``float32``: weights are cast once, when the file is loaded. ``float16``: activations too.
    max_drop
        Largest loss of quality, as a fraction (0.01 = one point of accuracy), before layers go back into
        float32; None takes whatever comes.
    keep_float
        Layers that stay float32 in any case, as the facts name them, with ``*`` for any text.
    rows
        Most rows to judge the loss on: the first of the search rows, else of the calibration rows, else of the
        training rows.

    Notes
    -----
    The conversion to float16 activations is that of ``onnxruntime.transformers.float16`` (from onnxconverter-common),
    with preprocessing in its block list. Mixed precision is that of Micikevicius et al. 2018.

    Examples
    --------
    >>> QuantizeFloat16(compute="bfloat16")
    Traceback (most recent call last):
    ...
    ValueError: quantize.float16.compute must be float32 or float16, got 'bfloat16'
    """

    compute: Literal["float32", "float16"] = "float32"
    max_drop: float | None = 0.01
    keep_float: tuple[str, ...] = ()
    rows: int = 256

    about: ClassVar[About] = About(
        name="quantize.float16",
        takes=ONNX,
        gives=ONNX,
        needs_data=True,
        smaller=True,
        libraries=("onnx", "onnxruntime"),
    )

    def __post_init__(self) -> None:
        if self.compute not in ("float32", "float16"):
            raise ValueError(f"quantize.float16.compute must be float32 or float16, got {self.compute!r}")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise ValueError(f"quantize.float16.max_drop must be in [0, 1), or null, got {self.max_drop}")
        if self.rows < 1:
            raise ValueError(f"quantize.float16.rows must be at least 1, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model of float16 into ``job.folder``.

        Raises
        ------
        DataError
            When there is no row to judge the loss on.
        OutOfTimeError
            When ``job.deadline`` passes while it looks for sensitive layers.
        PluginError
            When the graph has no weights, or few bits already; when ``compute: float16`` would leave a layer of a graph
            with branches in float32.
        SettingsError
            When ``keep_float`` names a layer that the model does not have.
        """
        rows = data.first(self.rows, Role.SEARCH, Role.CALIBRATION, Role.TRAIN)
        with prepared(model, self.about.name) as ready:
            proto = onnx.load(str(ready))
            layers = layers_of(proto.graph)
            kept = named(self.keep_float, layers, "quantize.float16.keep_float")
            free = [name for name in layers if name not in kept]
            if not free:
                raise PluginError("quantize.float16.keep_float leaves nothing to convert; name fewer layers")
            trial, draft = Trial(self.about.name, model, rows, job), ready.parent / "draft"
            draft.mkdir()

            def lost(in_float: frozenset[str]) -> float:
                trial.tick()
                halved = self._halved(proto, layers, kept | in_float)
                onnx.save_model(halved, str(draft / "model.onnx"))
                return trial.lost(draft)

            outcome = put_back(free, lost, float("inf") if self.max_drop is None else self.max_drop)
            save(onnx.load(str(draft / "model.onnx")), model, job, self.about.name)
        in_float = kept | {*outcome.in_float}
        if self.compute == "float32":
            in_float = frozenset(layers) - weights_of(proto, in_float).keys()
        facts = {**_facts(layers, in_float, outcome), "compute": self.compute}
        if self.compute == "float32":  # weights are found in the outer graph alone
            facts["kept_in_float"] += in_branches(proto.graph)
        write_json(job.folder / "facts.json", {**model.facts, **facts})
        return Model.at(job.folder, ONNX)

    def _halved(self, proto: onnx.ModelProto, layers: Layers, in_float: frozenset[str]) -> onnx.ModelProto:
        """Return a copy with these layers, preprocessing and softmax in float32, and everything else in float16."""
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        if self.compute == "float32":
            weights = weights_of(proto, in_float)
            Store(1).put(copy.graph, weights, dict.fromkeys(weights, 16))
            return copy
        if in_float and in_branches(proto.graph):  # the converter loses what branches read of such layers
            raise PluginError(
                f"quantize.float16 with compute: float16 would leave {', '.join(sorted(in_float))} in float32, and "
                "cannot in a graph with branches, such as an early exit: take compute: float32, or neither keep_float "
                "nor max_drop"
            )
        halved = {node.name for name, nodes in layers.items() if name not in in_float for node in nodes}
        whole = [node.name for node in proto.graph.node if node.name not in halved]
        converted = float16.convert_float_to_float16(copy, keep_io_types=True, node_block_list=whole)
        return _without_detours(converted)


def _facts(layers: Layers, in_float: frozenset[str], outcome: Outcome) -> dict[str, Any]:
    return {
        "halved_layers": [name for name in layers if name not in in_float],
        "kept_in_float": [name for name in layers if name in in_float],
        "lost": outcome.lost,
    }


def _without_detours(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Take out the casts to float16 and back that the conversion leaves between two nodes that stay float32.

    Inputs and preprocessing would be rounded there, and a large raw number would overflow.
    """
    graph = proto.graph
    halves = {n.output[0]: n.input[0] for n in graph.node if _casts(n, TensorProto.FLOAT16)}
    back = [n for n in graph.node if _casts(n, TensorProto.FLOAT) and n.input[0] in halves]
    same = {n.output[0]: halves[n.input[0]] for n in back}
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    while idle := _unread_casts(graph):
        for node in idle:
            graph.node.remove(node)
    return proto


def _casts(node: onnx.NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == to for a in node.attribute)


def _unread_casts(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    read = {name for node in every_node(graph) for name in node.input} | {o.name for o in graph.output}
    return [n for n in graph.node if n.op_type == "Cast" and not read & set(n.output)]
