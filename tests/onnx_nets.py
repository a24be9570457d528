"""Small classifiers as ONNX files that no trainer made: random layers, and a last one that is fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from trimtab.artifact import ONNX, Model
from trimtab.data import Data, Role, Rows
from trimtab.window import Feature, Schema

__all__ = ["Net", "attention", "cnn", "fitted", "mlp", "node", "save"]

CLASSES = 3
ROWS = 500
OFFSET = 1e6
"""Where the numbers of :func:`mlp` lie: far beyond what float16 knows."""
node = helper.make_node


@dataclass(frozen=True)
class Net:
    """A model with rows that it is right about."""

    model: Model
    data: Data
    schema: Schema

    @property
    def judge(self) -> Rows:
        return self.data.rows(Role.JUDGE)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
    types: Mapping[str, int] | None = None,
    opset: int = 18,
) -> None:
    """Write a graph; floats are float32."""

    def values(shapes: Mapping[str, list[Any]]) -> list[onnx.ValueInfoProto]:
        kinds = types or {}
        return [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in shapes.items()]

    constants = [
        numpy_helper.from_array(v.astype(np.float32) if v.dtype.kind == "f" else v, n)
        for n, v in (weights or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "net", values(inputs), values(outputs), constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def mlp(folder: Path, change: Callable[[dict[str, npt.NDArray[Any]]], None] = lambda _: None) -> Net:
    """Six numbers; ``change`` alters the random weights before the last layer is fitted."""
    rng = np.random.default_rng(0)
    weights: dict[str, npt.NDArray[Any]] = {
        "mean": np.full(6, OFFSET),
        "scale": np.full(6, 50.0),
        "first.weight": rng.normal(size=(96, 6)) / 2,
        "first.bias": rng.normal(size=96) / 2,
        "second.weight": rng.normal(size=(96, 96)) / 8,
        "second.bias": np.zeros(96),
    }
    change(weights)
    nodes = [
        node("Sub", ["numeric", "mean"], ["centred"]),
        node("Div", ["centred", "scale"], ["scaled"]),
        node("Gemm", ["scaled", "first.weight", "first.bias"], ["h1"], transB=1),
        node("Relu", ["h1"], ["h2"]),
        node("Gemm", ["h2", "second.weight", "second.bias"], ["h3"], transB=1),
        node("Relu", ["h3"], ["hidden"]),
    ]
    values = rng.normal(size=(ROWS, 6))
    labels = (values @ rng.normal(size=(6, CLASSES))).argmax(axis=1)
    frame = pd.DataFrame(values * 50 + OFFSET, columns=list("abcdef")).assign(y=labels)
    schema = Schema.freeze({name: Feature() for name in "abcdef"}, frame, label="y")
    return fitted(folder, schema, frame, nodes, {"numeric": ["n", 6]}, weights)


def cnn(folder: Path) -> Net:
    """Images ``[1, 8, 8]``; two convolutions, of which the second sees groups, and a transposed one."""
    rng = np.random.default_rng(1)
    weights: dict[str, npt.NDArray[Any]] = {
        "mean": np.array(0.5),
        "enter.weight": rng.normal(size=(16, 1, 3, 3)) / 2,
        "inner.weight": rng.normal(size=(32, 8, 3, 3)) / 5,
        "up.weight": rng.normal(size=(32, 24, 2, 2)) / 5,
    }
    nodes = [
        node("Sub", ["image", "mean"], ["centred"]),
        node("Conv", ["centred", "enter.weight"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "inner.weight"], ["c2"], pads=[1, 1, 1, 1], group=2),
        node("Relu", ["c2"], ["r2"]),
        node("ConvTranspose", ["r2", "up.weight"], ["c3"], strides=[2, 2]),
        node("Relu", ["c3"], ["r3"]),
        node("AveragePool", ["r3"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["pooled"], ["hidden"]),
    ]
    labels = rng.integers(0, CLASSES, ROWS)
    images = rng.normal(size=(ROWS, 1, 8, 8)) * 0.5
    for row, label in enumerate(labels):
        images[row, 0, 2 * label : 2 * label + 3, 2:6] += 2
    frame = pd.DataFrame({"image": [i.ravel() for i in images], "y": labels})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, 8, 8))}, frame, label="y")
    return fitted(folder, schema, frame, nodes, {"image": ["n", 1, 8, 8]}, weights)


def attention(folder: Path) -> Net:
    """Sequences ``[5, 16]`` through one attention layer, whose inner products have no constant weights."""
    rng = np.random.default_rng(2)
    weights: dict[str, npt.NDArray[Any]] = {
        f"{n}.weight": rng.normal(size=(16, 48)) / 4 for n in ("query", "key", "value")
    }
    weights["axes"] = np.array([1])
    nodes = [
        *(node("MatMul", ["sequence", f"{n}.weight"], [n]) for n in ("query", "key", "value")),
        node("Transpose", ["key"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["query", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=2),
        node("MatMul", ["weights", "value"], ["mixed"]),
        node("ReduceMean", ["mixed", "axes"], ["mean"], keepdims=0),
        node("Relu", ["mean"], ["hidden"]),
    ]
    labels = rng.integers(0, CLASSES, ROWS)
    values = rng.normal(size=(ROWS, 5, 16)) * 0.5
    values[np.arange(ROWS), :, labels] += 1.5
    frame = pd.DataFrame({"sequence": [v.ravel() for v in values], "y": labels})
    schema = Schema.freeze({"sequence": Feature(kind="tensor", shape=(5, 16))}, frame, label="y")
    return fitted(folder, schema, frame, nodes, {"sequence": ["n", 5, 16]}, weights)


def fitted(
    folder: Path,
    schema: Schema,
    frame: pd.DataFrame,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, list[Any]],
    weights: dict[str, npt.NDArray[Any]],
    opset: int = 18,
) -> Net:
    """Fit a last layer to what the graph's ``hidden`` gives on 200 of the rows, and write the whole."""
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(ROWS, dtype=np.uint64))
    folder.mkdir(parents=True)
    save(folder / "model.onnx", nodes, inputs, {"hidden": ["n", "width"]}, weights, opset=opset)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    hidden = session.run(["hidden"], dict(rows.inputs))[0]
    last = LogisticRegression(C=10, max_iter=500).fit(hidden[:200], rows.labels[:200])
    weights |= {"last.weight": last.coef_.T, "last.bias": last.intercept_}
    tail = [
        node("MatMul", ["hidden", "last.weight"], ["products"]),
        node("Add", ["products", "last.bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    save(folder / "model.onnx", [*nodes, *tail], inputs, {"probabilities": ["n", CLASSES]}, weights, opset=opset)
    parts = zip(
        (Role.TRAIN, Role.CALIBRATION, Role.SEARCH, Role.JUDGE), np.split(np.arange(ROWS), [200, 280, 380]), strict=True
    )
    data = Data.write(folder.with_name(f"{folder.name}-data"), {role: rows.take(part) for role, part in parts})
    return Net(Model.at(folder, ONNX), data, schema)
