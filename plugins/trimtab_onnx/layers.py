"""What of a graph holds weights: its layers by name, and the graph made ready for a quantizer."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, version_converter
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process

from trimtab.artifact import Model
from trimtab.errors import PluginError, SettingsError, nearest
from trimtab.technique import Job
from trimtab_onnx.slim import slim

__all__ = [
    "Layers",
    "every_node",
    "in_branches",
    "layers_of",
    "named",
    "prepared",
    "quiet",
    "save",
    "with_opset",
    "with_products",
]

Layers = dict[str, list[onnx.NodeProto]]
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FLOAT_ONLY = frozenset({"Softmax"})
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"})
FEW_BITS = frozenset({TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.FLOAT16})


@contextlib.contextmanager
def prepared(model: Model, name: str) -> Iterator[Path]:
    """Lay down a float model with every shape inferred and constants folded, for as long as it is worked on.

    Every node has a name of its own, by which onnxruntime's quantizers are told which to take.

    Parameters
    ----------
    name
        Of the technique, for messages.

    Raises
    ------
    PluginError
        When the model has few bits already, or nothing with constant weights.
    """
    path = model.folder / "model.onnx"
    graph = onnx.load(str(path), load_external_data=False).graph
    branched = any(_branches(node) for node in graph.node)  # symbolic inference fails on rows picked by a condition
    few = any(t.data_type in FEW_BITS and len(t.dims) > 1 for t in graph.initializer)
    if few or any(node.op_type in QUANTIZED for node in graph.node):
        raise PluginError(f"{name} takes a float model, and this one is quantized; leave one of the two out")
    nothing = PluginError(
        f"{name} finds nothing to quantize: the graph has no convolution or matrix product "
        f"with constant weights; leave {name} out of optimize.techniques for this model"
    )
    if not any(node.op_type in WEIGHTED for node in graph.node):
        raise nothing  # trees, say, whose shapes cannot be inferred
    with tempfile.TemporaryDirectory() as scratch, quiet():
        ready = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(path), str(ready), auto_merge=True, skip_symbolic_shape=branched)
        proto = onnx.load(str(ready))
        _name_nodes(proto.graph)
        if not layers_of(proto.graph):
            raise nothing
        onnx.save_model(proto, str(ready))
        yield ready


def _name_nodes(graph: onnx.GraphProto) -> None:
    nodes = list(every_node(graph))
    taken = Counter(node.name for node in nodes)
    fresh = (name for number in itertools.count() if (name := f"node{number}") not in taken)
    for node in nodes:
        if not node.name or taken[node.name] > 1:
            node.name = next(fresh)


def layers_of(graph: onnx.GraphProto) -> Layers:
    """Return what can be quantized, layer by layer: a weighted node, and the nodes after it up to the next.

    What lies before the first weighted node is preprocessing; a softmax stays float.
    """
    constants = {t.name for t in graph.initializer}
    reached: set[str] = set()
    layers: Layers = {}
    for node in graph.node:
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants:
            layers[_layer_name(node, layers)] = [node]
        elif node.op_type not in FLOAT_ONLY and reached & set(node.input):
            layers[next(reversed(layers))].append(node)
        elif not reached & set(node.input):
            continue
        reached |= set(node.output)
    return layers


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, and of the branches and loops in it."""
    for node in graph.node:
        yield node
        for branch in _branches(node):
            yield from every_node(branch)


def in_branches(graph: onnx.GraphProto) -> list[str]:
    """Return the layers within branches and loops, such as behind an early exit, into which no quantizer looks."""
    inner = [branch for node in graph.node for branch in _branches(node)]
    return [name for branch in inner for name in (*layers_of(branch), *in_branches(branch))]


def _branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def _layer_name(node: onnx.NodeProto, taken: Mapping[str, list[onnx.NodeProto]]) -> str:
    """Name a layer by its weight, which is how the network's author knows it; by its node where two share one."""
    name = str(node.input[1]).removesuffix(".weight")
    return str(node.name) if name in taken else name


def named(patterns: Sequence[str], layers: Layers, setting: str) -> frozenset[str]:
    """Return the layers whose names match one of the patterns.

    Parameters
    ----------
    patterns
        Names with ``*`` for any text.
    setting
        That holds them, for messages.

    Raises
    ------
    SettingsError
        When a pattern matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise SettingsError(
                f"{setting}: {pattern!r} is no layer of the model, which has {', '.join(layers)}."
                f"{nearest(pattern, layers)}"
            )
    return frozenset(name for pattern in patterns for name in fnmatch.filter(layers, pattern))


def with_products(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Write each ``Gemm`` as ``MatMul`` and ``Add``, which is what onnxruntime's quantizers of products look for.

    A weight that several nodes read is copied first: onnxruntime transposes it once for each of them.
    """
    graph = proto.graph
    weights = {t.name: t for t in graph.initializer}
    readers = Counter(name for node in graph.node for name in set(node.input))
    for number, node in enumerate(graph.node):
        if node.op_type == "Gemm" and node.input[1] in weights and readers[node.input[1]] > 1:
            copy = graph.initializer.add()
            copy.CopyFrom(weights[node.input[1]])
            copy.name = node.input[1] = f"{node.input[1]}.{number}"
    whole = ONNXModel(proto)
    whole.replace_gemm_with_matmul()
    changed: onnx.ModelProto = whole.model
    return changed


def with_opset(proto: onnx.ModelProto, opset: int, why: str, way: str) -> onnx.ModelProto:
    """Bring a model to an opset, if it is below.

    Parameters
    ----------
    why, way
        What needs that opset, and what to do where the model cannot be converted, for messages.

    Raises
    ------
    PluginError
        When it cannot be converted.
    """
    have = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if have >= opset:
        return proto
    try:
        converted: onnx.ModelProto = version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter's errors share no base class
        raise PluginError(
            f"{why} ONNX opset {opset}, and the model of opset {have} cannot be converted: "
            f"{' '.join(str(error).split())[:200]}; {way}, or export the model with a later opset"
        ) from error
    _name_nodes(converted.graph)
    return converted


def save(proto: onnx.ModelProto, model: Model, job: Job, name: str) -> None:
    """Write what came of a model, without what no runtime reads.

    Raises
    ------
    PluginError
        When it has other outputs than the model.
    """
    before = onnx.load(str(model.folder / "model.onnx"), load_external_data=False).graph
    outputs, found = ([o.name for o in graph.output] for graph in (before, proto.graph))
    if found != outputs:
        raise PluginError(f"{name} changed the outputs {outputs} into {found}; leave it out")
    onnx.save_model(slim(proto), str(job.folder / "model.onnx"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what onnxruntime's quantizers print, and log on the root logger below an error."""
    root, null = logging.getLogger(), logging.NullHandler()

    def severe(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addHandler(null)  # without one, logging.warning() would install a handler for good
    root.addFilter(severe)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(severe)
        root.removeHandler(null)
