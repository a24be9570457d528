"""A fitted estimator as an ONNX graph by skl2onnx, with what skl2onnx leaves to be mended."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.utils import Extractor
from skl2onnx import convert_sklearn
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import Pipeline
from sklearn.tree._tree import Tree
from sklearn.utils._indexing import _get_column_indices

from trimtab.window import Schema
from trimtab_sklearn.fitted import Fitted, frame_of, trees_of

__all__ = ["PREDICTIONS", "PROBABILITIES", "converted"]

PROBABILITIES, PREDICTIONS = "probabilities", "predictions"
ML_OPSET = 3
HISTOGRAM = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
PYTHON_WORDS = r"(?u)\b\w\w+\b"
WORDS = r"[\p{L}\p{N}_]{2,}"
"""scikit-learn's own pattern of a word as RE2 writes it, which executes it in onnxruntime; skl2onnx's own stand-in
splits at every letter beyond ASCII."""
LOCALE = "C.UTF-8"
"""Knows capitals beyond ASCII, and is on every Linux; skl2onnx's own choice is missing from most containers."""


def converted(fitted: Fitted, opset: int) -> onnx.ModelProto:
    """Return a graph with the schema's inputs and the one output that is served."""
    schema, estimator = fitted.spec.schema, _prepared(fitted)
    names = {f"trimtab_input_{at}": given.name for at, given in enumerate(schema.inputs)}
    kinds = [
        (inner, FloatTensorType([None, *i.shape]) if i.dtype == "float32" else StringTensorType([None, 1]))
        for inner, i in zip(names, schema.inputs, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto: onnx.ModelProto = convert_sklearn(
            estimator,
            initial_types=kinds,
            target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
            options=_options(estimator, schema),
            custom_conversion_functions={kind: _in_integers(f"Sklearn{kind.__name__}") for kind in HISTOGRAM},
        )
    served = proto.graph.output[-1].name
    proto = Extractor(proto).extract_model([i.name for i in proto.graph.input], [served])
    if schema.task == "classification" and len(estimator.classes_) < len(schema.classes):
        served = _widen(proto.graph, served, np.asarray(estimator.classes_), len(schema.classes))
    main, width = (PREDICTIONS, 1) if schema.task == "regression" else (PROBABILITIES, len(schema.classes))
    _rename(proto.graph, names | {served: main})
    shape = onnx.helper.make_tensor_value_info(main, onnx.TensorProto.FLOAT, ["rows", width])
    proto.graph.output[0].CopyFrom(shape)
    for given in proto.graph.input:
        given.type.tensor_type.shape.dim[0].dim_param = "rows"
    del proto.graph.value_info[:]
    proto.graph.name = "model"  # the extractor draws one
    return proto


def _prepared(fitted: Fitted) -> BaseEstimator:
    """Return a copy that says the same, in words that skl2onnx takes as they are meant."""
    estimator = copy.deepcopy(fitted.estimator)
    frame = frame_of(fitted.spec.schema, _blank(fitted.spec.schema))
    for part in _parts(estimator):
        for tree in trees_of(part) if not isinstance(part, Pipeline) else ():
            _round_down(tree)
    _by_place(estimator, frame)
    return estimator


def _blank(schema: Schema) -> Mapping[str, npt.NDArray[Any]]:
    return {i.name: np.zeros((1, *i.shape), np.float32 if i.dtype == "float32" else np.str_) for i in schema.inputs}


def _parts(estimator: Any) -> list[BaseEstimator]:
    """Return an estimator and all that it consists of."""
    found = [estimator] if isinstance(estimator, BaseEstimator) else []
    if isinstance(estimator, Pipeline):
        inner = [step for _, step in estimator.steps]
    elif isinstance(estimator, ColumnTransformer):
        inner = [part for _, part, _ in estimator.transformers_]
    else:
        inner = []
    return found + [part for one in inner for part in _parts(one)]


def _round_down(tree: Any) -> None:
    """Round thresholds to the largest float32 that is not above them.

    A row's numbers are float32, so that no row goes another way. skl2onnx rounds to the nearest, and where that is
    above, a row that lies between does.
    """
    thresholds = tree.threshold if isinstance(tree, Tree) else tree.nodes["num_threshold"]
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
    thresholds[:] = np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def _by_place(estimator: Any, frame: Any) -> None:
    """Name the columns of the first step by their place: several columns are one input."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[0][1]
    if isinstance(estimator, ColumnTransformer):
        estimator.transformers_ = [
            (name, part, [int(at) for at in _get_column_indices(frame, columns)])
            for name, part, columns in estimator.transformers_
        ]


def _options(estimator: BaseEstimator, schema: Schema) -> dict[int, dict[str, Any]]:
    """Return what skl2onnx is to be told of single parts."""
    options: dict[int, dict[str, Any]] = {id(estimator): {"zipmap": False}} if schema.task == "classification" else {}
    for part in _parts(estimator):
        if isinstance(part, CountVectorizer):
            pattern = WORDS if part.token_pattern == PYTHON_WORDS else part.token_pattern
            options[id(part)] = {"tokenexp": pattern, "locale": LOCALE}
    return options


def _in_integers(kind: str) -> Any:
    """Return skl2onnx's converter, with what it writes as truth values or numpy's integers as plain integers."""
    convert = get_converter(kind)
    return lambda scope, operator, container: convert(scope, operator, _Integers(container))


class _Integers:
    """A container of nodes that takes any whole numbers: protobuf's newer versions are strict."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *given: Any, **attributes: Any) -> None:
        """Add a node."""
        plain = {name: [int(v) for v in value] if _whole(value) else value for name, value in attributes.items()}
        self._container.add_node(*given, **plain)


def _whole(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, int | bool | np.integer | np.bool_) for v in value)
    )


def _widen(graph: onnx.GraphProto, served: str, seen: npt.NDArray[Any], classes: int) -> str:
    """Give a class that was never seen a column of zeros."""
    places = np.zeros((len(seen), classes), dtype=np.float32)
    places[np.arange(len(seen)), seen] = 1.0
    graph.initializer.append(onnx.numpy_helper.from_array(places, "trimtab_classes"))
    graph.node.append(onnx.helper.make_node("MatMul", [served, "trimtab_classes"], ["trimtab_widened"]))
    return "trimtab_widened"


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    """Give inputs and output their names; an inner value that has such a name already gets another."""
    taken = set(new.values())
    inner = {v for node in graph.node for v in node.output} | {t.name for t in graph.initializer}
    new = {name: f"{name}_inner" for name in inner & taken} | dict(new)
    for holder in (*graph.input, *graph.initializer):
        holder.name = new.get(holder.name, holder.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [new.get(v, v) for v in values]
