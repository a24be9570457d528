"""Operators of an exported graph, as placing what rounds to 8 bits must know them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx
from torch.fx.graph import CodeGen
from torch.fx.node import Node

__all__ = [
    "JOINING",
    "LAYERS",
    "LINEAR",
    "TRANSPOSED",
    "activates",
    "is_grid",
    "make_plain",
    "name_of",
    "norm_follows",
    "passes",
    "rank",
    "values",
]

aten = torch.ops.aten

CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default})
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input})
LINEAR = aten.linear.default
LAYERS = CONVOLUTIONS | TRANSPOSED | {LINEAR}
PASSING = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.transpose.int,
        aten.contiguous.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
    }
)
"""That give levels where they are given levels."""
JOINING = frozenset({aten.add.Tensor, aten.cat.default, aten.avg_pool1d.default, aten.avg_pool2d.default})
"""That runtimes compute in 8 bits where all that they are given is in 8 bits."""


def make_plain(graph: fx.Graph) -> None:
    """Give the graph one output, no dropout, and operators that change nothing in place.

    Whoever reads a tensor after it was changed reads, in an exported graph, what the change gave.
    """
    graph.set_codegen(CodeGen())
    (output,) = (n for n in graph.nodes if n.op == "output")
    output.args = (cast("Any", output.args[0])[0],)
    for node in list(graph.nodes):
        operator = node.target
        if operator == aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif isinstance(operator, torch._ops.OpOverload) and operator._schema.is_mutable:
            packet = getattr(aten, operator._opname.removesuffix("_"), None)
            if packet is not None and operator._overloadname in packet.overloads():
                node.target = getattr(packet, operator._overloadname)


def norm_follows(node: Node) -> bool:
    """Return whether a batch norm alone reads a node, over the axis of its channels.

    A linear layer of a sequence has its channels on the last axis, a batch norm takes the second.
    """
    if node.target == LINEAR and rank(node) != 2:
        return False
    readers = list(node.users)
    return len(readers) == 1 and readers[0].target == aten.batch_norm.default and readers[0].args[0] is node


def is_grid(node: Node) -> bool:
    """Return whether a node is a call of a grid."""
    return node.op == "call_module" and str(node.target).startswith("grid")


def passes(node: Node) -> bool:
    """Return whether a node gives levels where it is given levels."""
    return node.target in PASSING or node.target == "embedding"


def activates(node: Node) -> bool:
    """Return whether a node is an activation whose lowest value is zero: runtimes fuse it into what is before it."""
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        return len(node.args) > 1 and bool(node.args[1] == 0)
    return node.target == aten.relu.default


def values(node: Node) -> list[Any]:
    """Return the tensors that an operator joins, numbers among them where it is given such."""
    first = node.args[0]
    if node.target == aten.add.Tensor:
        return list(node.args[:2])
    return list(first) if isinstance(first, list | tuple) else [first]


def rank(node: Any) -> int:
    """Return the number of axes of a value."""
    return int(node.meta["val"].dim())


def name_of(node: Node) -> str:
    """Return the name of a layer, which is that of its stored weight; empty where that is computed."""
    weight = node.args[1]
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return ""
    return str(weight.target).removeprefix("network.").removesuffix(".weight")
