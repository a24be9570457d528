"""What an exported graph needs before it is a product: the schema's names, text inputs, and nothing superfluous."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from string import ascii_letters

import onnx

from trimtab.window import Schema

__all__ = ["clean", "feed_text", "name_inputs", "placeholder", "shorten"]


def placeholder(at: int) -> str:
    """Return the name that an input has while the exporter works, which no inner value takes."""
    return f"trimtab.input.{at}"


def _codes(name: str) -> str:
    return f"{name}.codes"


def name_inputs(proto: onnx.ModelProto, schema: Schema) -> onnx.ModelProto:
    """Give the inputs the schema's names, and other names to inner values that the exporter called the same."""
    names = [_codes(i.name) if i.dtype == "text" else i.name for i in schema.inputs]
    taken = {*names, *(i.name for i in schema.inputs)}
    inner = {v for node in proto.graph.node for v in node.output} | {t.name for t in proto.graph.initializer}
    new = {name: f"{name}.inner" for name in inner & taken}
    new |= {placeholder(at): name for at, name in enumerate(names)}
    _rename(proto.graph, new)
    return proto


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    for holder in (*graph.input, *graph.value_info, *graph.initializer):
        holder.name = new.get(holder.name, holder.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [new.get(v, v) for v in values]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, new)


def feed_text(proto: onnx.ModelProto, schema: Schema) -> onnx.ModelProto:
    """Put a LabelEncoder in front of each text input, so that the file takes the text itself."""
    levels = {c.name: [str(level) for level in c.levels] for c in schema.columns if c.dtype == "text"}
    if not levels:
        return proto
    graph = proto.graph
    inputs = list(graph.input)
    del graph.input[:]
    encoders = []
    for given in inputs:
        name = given.name.removesuffix(_codes(""))
        if given.name == name or name not in levels:
            graph.input.append(given)
            continue
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.STRING, ["rows", 1]))
        encoders.append(
            onnx.helper.make_node(
                "LabelEncoder",
                [name],
                [given.name],
                name=f"{name}.encoder",
                domain="ai.onnx.ml",
                keys_strings=levels[name],
                values_int64s=list(range(len(levels[name]))),
                default_int64=-1,
            )
        )
        graph.value_info.append(given)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*encoders, *nodes])
    if not any(o.domain == "ai.onnx.ml" for o in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def clean(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what only the exporter's authors read, and shapes that every reader infers.

    Stack traces would name this machine's folders, and weigh as much as a small network.
    """
    codes = [v for v in proto.graph.value_info if v.name.endswith(_codes(""))]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(codes)
    for holder in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.initializer):
        if hasattr(holder, "metadata_props"):
            del holder.metadata_props[:]
        holder.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    return proto


def shorten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give inner values the shortest names and nodes none: in a small quantized model they are a tenth of the bytes.

    A graph with graphs inside it (``If``, ``Loop``) keeps its names.
    """
    graph = proto.graph
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return proto
    fixed = {value.name for value in (*graph.input, *graph.output)}
    inner = dict.fromkeys([*(t.name for t in graph.initializer), *(v for node in graph.node for v in node.output)])
    short = (name for name in map(_short, itertools.count()) if name not in fixed)
    _rename(graph, {name: next(short) for name in inner if name and name not in fixed})
    del graph.value_info[:]
    for node in graph.node:
        node.name = ""
    return proto


def _short(number: int) -> str:
    digits = ""
    while number >= 0:
        number, digit = divmod(number, len(ascii_letters))
        digits, number = ascii_letters[digit] + digits, number - 1
    return digits
