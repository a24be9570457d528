"""Takes out of an ONNX file what no runtime reads: in a small quantized model that is a fifth of its bytes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["slim"]

DIGITS = "abcdefghijklmnopqrstuvwxyz"


def slim(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Shorten a model in place without changing a number, and return it.

    Names of inner values and nodes, shapes that any runtime infers again, documentation, and constants that
    occur twice go; names of inputs and outputs stay. A graph with graphs inside it (``If``, ``Loop``) keeps
    its names, for those inside refer to them. Zero points of zero stay too: without them onnxruntime 1.31
    computes a quantized ``Gemm`` in float.
    """
    graph = proto.graph
    _drop_words(proto)
    if not any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        _merge_constants(graph)
        _shorten_names(graph)
    return proto


def _drop_words(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    for holder in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.doc_string = ""
        if hasattr(holder, "metadata_props"):
            del holder.metadata_props[:]
    del graph.value_info[:]
    for node in graph.node:
        node.name = ""


def _merge_constants(graph: onnx.GraphProto) -> None:
    """Keep one of each constant, and none that nothing reads."""
    outputs = {o.name for o in graph.output}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        if tensor.name not in outputs and tensor.data_location != onnx.TensorProto.EXTERNAL:
            values = np.ascontiguousarray(numpy_helper.to_array(tensor))
            same[tensor.name] = first.setdefault((tensor.data_type, tuple(tensor.dims), values.tobytes()), tensor.name)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    read = {name for node in graph.node for name in node.input} | outputs
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shorten_names(graph: onnx.GraphProto) -> None:
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    fresh = (name for name in _short_names() if name not in fixed)
    new = {name: name for name in fixed}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [new[v] if v in new else new.setdefault(v, next(fresh)) for v in values]
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)


def _short_names() -> Iterator[str]:
    for length in itertools.count(1):
        yield from ("".join(letters) for letters in itertools.product(DIGITS, repeat=length))
