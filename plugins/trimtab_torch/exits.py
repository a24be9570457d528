"""Where an exported graph may be left early, what that saves, and a graph that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Cut", "Exit", "costs", "cuts", "pooled", "with_exit"]

Array = npt.NDArray[np.float32]

MULTIPLIES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SPATIAL: dict[int, tuple[tuple[int, ...], ...]] = {4: ((2, 3),), 3: ((1,), (2,)), 2: ((),)}
"""Axes that may be averaged over in a value of so many axes: an image's, or the positions of a sequence, which come
before its features from a matrix product and after them from a convolution."""


@dataclass(frozen=True)
class Cut:
    """A place in a graph behind which everything follows from one value.

    Parameters
    ----------
    value
        Its name.
    nodes
        How many nodes lie before it.
    before
        Multiply-adds before it.
    over
        Axes of the value that are averaged over.
    """

    value: str
    nodes: int
    before: int
    over: tuple[int, ...] = ()

    @property
    def mean(self) -> str:
        """Name of what is left when it is averaged."""
        return f"{self.value}.over{''.join(map(str, self.over))}"


@dataclass(frozen=True)
class Exit:
    """A linear classifier on the mean over an inner value's positions.

    Parameters
    ----------
    cut
        Where it is.
    weight, bias
        ``[classes, features]`` and ``[classes]``.
    threshold
        Probability of the likeliest class from which a row leaves.
    """

    cut: Cut
    weight: Array
    bias: Array
    threshold: float


def products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that multiply."""
    return [node for node in graph.node if node.op_type in MULTIPLIES]


def costs(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the multiply-adds of one row by node.

    Parameters
    ----------
    shapes
        Of what the nodes that multiply read and give, for one row.
    """
    known = {t.name: tuple(t.dims) for t in graph.initializer} | {n: tuple(s) for n, s in shapes.items()}
    found = []
    for node in graph.node:
        taken, inner = node.output[0], 0
        if node.op_type == "Conv":
            inner = int(np.prod(known[node.input[1]][1:]))
        elif node.op_type == "ConvTranspose":  # every number that comes in meets all kernels of its channel
            taken, inner = node.input[0], int(np.prod(known[node.input[1]][1:]))
        elif node.op_type == "Gemm":
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            inner = known[node.input[0]][0 if turned else 1]
        elif node.op_type == "MatMul":
            inner = known[node.input[0]][-1]
        found.append(int(np.prod(known[taken])) * inner if inner else 0)
    return found


def cuts(graph: onnx.GraphProto, spent: Sequence[int]) -> list[Cut]:
    """Return the places to leave a graph: of those between two nodes that multiply the last one.

    Parameters
    ----------
    spent
        Multiply-adds by node.
    """
    made = {i.name for i in graph.input}
    last = {name: at for at, node in enumerate(graph.node) for name in node.input}
    outputs = {o.name for o in graph.output}
    found: dict[int, Cut] = {}
    total = 0
    for at, node in enumerate(graph.node[:-1]):
        total += spent[at]
        made |= set(node.output)
        alive = {name for name in made if last.get(name, -1) > at}
        if alive == {node.output[0]} and not outputs & made and 0 < total < sum(spent):
            found[total] = Cut(node.output[0], at + 1, total)
    return list(found.values())


def pooled(cut: Cut, name: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what averages the value at a cut into ``name``, ``[rows, features]``."""
    if not cut.over:
        return [helper.make_node("Identity", [cut.value], [name])], []
    over = numpy_helper.from_array(np.asarray(cut.over, dtype=np.int64), f"{name}.axes")
    return [helper.make_node("ReduceMean", [cut.value, over.name], [name], keepdims=0)], [over]


def with_exit(proto: onnx.ModelProto, leave: Exit, main: str, embedding: str) -> onnx.ModelProto:
    """Return a model that works on those rows alone, behind the exit, that did not leave there.

    A row's answer does not depend on the others: the rest runs (under an ``If``) on the rows that stay, picked
    out of the batch and put back into it. ``embedding`` becomes what the exit looks at, which every row has.

    Parameters
    ----------
    main
        Name of the output with the probabilities.
    """
    graph = proto.graph
    nodes = list(graph.node)
    head, rest = nodes[: leave.cut.nodes], _needed(nodes[leave.cut.nodes :], main)
    classes = len(leave.bias)
    pool, constants = pooled(leave.cut, embedding)
    constants += [
        numpy_helper.from_array(leave.weight, "exit.weight"),
        numpy_helper.from_array(leave.bias, "exit.bias"),
        numpy_helper.from_array(np.asarray(leave.threshold, dtype=np.float32), "exit.threshold"),
        numpy_helper.from_array(np.asarray([1], dtype=np.int64), "exit.one"),
        numpy_helper.from_array(np.asarray(0, dtype=np.int64), "exit.none"),
    ]
    decide = [
        helper.make_node("Gemm", [embedding, "exit.weight", "exit.bias"], ["exit.logits"], transB=1),
        helper.make_node("Softmax", ["exit.logits"], ["exit.probabilities"], axis=1),
        helper.make_node("ReduceMax", ["exit.probabilities", "exit.one"], ["exit.sure"], keepdims=0),
        # Not "is less": what is no number stays, too.
        helper.make_node("GreaterOrEqual", ["exit.sure", "exit.threshold"], ["exit.leaves"]),
        helper.make_node("Not", ["exit.leaves"], ["exit.stays"]),
        helper.make_node("NonZero", ["exit.stays"], ["exit.places"]),
        helper.make_node("Transpose", ["exit.places"], ["exit.index"], perm=[1, 0]),
        helper.make_node("Size", ["exit.index"], ["exit.count"]),
        helper.make_node("Greater", ["exit.count", "exit.none"], ["exit.any"]),
        helper.make_node(
            "If",
            ["exit.any"],
            [main],
            then_branch=_rest(graph, rest, leave.cut.value, {main: "exit.rest", embedding: "exit.deep"}, classes),
            else_branch=_left(main, classes),
        ),
    ]
    used = {name for node in head for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    new = helper.make_graph(
        [*head, *pool, *decide],
        graph.name,
        graph.input,
        [
            helper.make_tensor_value_info(main, TensorProto.FLOAT, ["rows", classes]),
            helper.make_tensor_value_info(embedding, TensorProto.FLOAT, ["rows", leave.weight.shape[1]]),
        ],
        [*kept, *constants],
        value_info=graph.value_info,
    )
    made = helper.make_model(new, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    onnx.checker.check_model(made)
    return made


def _needed(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Return the nodes that lead to one output."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def _rest(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], value: str, outputs: Mapping[str, str], classes: int
) -> onnx.GraphProto:
    """Return the branch that works on the rows that stay; its weights lie in it, where runtimes lay them out anew.

    Parameters
    ----------
    outputs
        Names of the whole graph's outputs, and what they are called in here.
    """
    new = {value: "exit.rows", **outputs}
    inside: list[onnx.NodeProto] = []
    for node in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [new.get(name, name) for name in node.input]
        copied.output[:] = [new.get(name, name) for name in node.output]
        inside.append(copied)
    used = {name for node in nodes for name in node.input}
    pick = helper.make_node("GatherND", [value, "exit.index"], ["exit.rows"])
    put = helper.make_node("ScatterND", ["exit.probabilities", "exit.index", "exit.rest"], ["exit.all"])
    answer = helper.make_tensor_value_info("exit.all", TensorProto.FLOAT, ["rows", classes])
    weights = [t for t in graph.initializer if t.name in used]
    return helper.make_graph([pick, *inside, put], "rest", [], [answer], weights)


def _left(main: str, classes: int) -> onnx.GraphProto:
    """Return the branch where every row has left."""
    same = helper.make_node("Identity", ["exit.probabilities"], ["exit.early"])
    answer = helper.make_tensor_value_info("exit.early", TensorProto.FLOAT, ["rows", classes])
    return helper.make_graph([same], "left", [], [answer])
