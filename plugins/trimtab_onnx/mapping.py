"""The inputs and outputs of a stranger's ONNX file, brought to those of a project's schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from trimtab.errors import SettingsError, nearest
from trimtab.window import Input, Schema

__all__ = ["Mapped"]

NUMERIC = "numeric"
PREFIX = "file/"
CASTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64)
"""Types of an input that numbers are cast to."""
EMBEDDING = "embedding"


@dataclass
class Mapped:
    """A file as a model of the schema: raw rows in, ``probabilities`` or ``predictions`` out (decision 0005).

    Parameters
    ----------
    proto
        The file.
    schema
        Of the rows.
    inputs, output, embedding
        As the project's settings map them.
    softmax
        Whether a softmax is put behind the output; behind one of a single column a sigmoid.
    order
        Column of each class of the schema; empty: as they come.
    """

    proto: onnx.ModelProto
    schema: Schema
    inputs: Mapping[str, str]
    output: str | None = None
    embedding: str | None = None
    softmax: bool = False
    order: Sequence[int] = ()
    _nodes: list[onnx.NodeProto] = field(default_factory=list, init=False)
    _constants: list[onnx.TensorProto] = field(default_factory=list, init=False)

    def written(self) -> onnx.ModelProto:
        """Return the model with the schema's inputs and outputs.

        Raises
        ------
        SettingsError
            When an input or an output does not fit, with the setting that mends it.
        """
        graph = self.proto.graph
        given = {t.name for t in graph.initializer}
        wanted = [value for value in graph.input if value.name not in given]
        sources = self._sources(wanted)
        answer, embedding = self._answer(), self._embedding()
        weights = self._clashes(given)
        whole = compose.add_prefix(
            self.proto,
            PREFIX,
            rename_nodes=True,
            rename_edges=True,
            rename_inputs=True,
            rename_outputs=True,
            rename_initializers=weights,
            rename_value_infos=True,
        )
        for value in wanted:
            self._feed(value, sources[value.name])
        before, self._nodes = self._nodes, []
        outputs = [self._give(answer, PREFIX + answer.name)]
        if embedding is not None:
            self._nodes.append(helper.make_node("Identity", [PREFIX + embedding.name], [EMBEDDING]))
            outputs.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["rows", None]))
        nodes = _needed([*before, *whole.graph.node, *self._nodes], [o.name for o in outputs])
        self._replace(whole.graph, nodes, outputs)
        onnx.checker.check_model(whole)
        return whole

    def _clashes(self, weights: set[str]) -> bool:
        """Tell whether a weight has a name that the schema or an output needs; else weights keep theirs."""
        names = {i.name for i in self.schema.inputs} | {self._main, EMBEDDING}
        return bool(weights & names)

    @property
    def _main(self) -> str:
        return "predictions" if self.schema.task == "regression" else "probabilities"

    def _replace(
        self, graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> None:
        read = {name for node in nodes for name in {*node.input, *_inner(node)}}
        constants = [t for t in (*graph.initializer, *self._constants) if t.name in read]
        types = {"float32": TensorProto.FLOAT, "text": TensorProto.STRING}
        inputs = [helper.make_tensor_value_info(i.name, types[i.dtype], ["rows", *i.shape]) for i in self.schema.inputs]
        for field_, values in (("node", nodes), ("input", inputs), ("output", outputs), ("initializer", constants)):
            kept = list(values)
            graph.ClearField(field_)
            getattr(graph, field_).extend(kept)
        graph.ClearField("value_info")

    # inputs

    def _sources(self, wanted: Sequence[onnx.ValueInfoProto]) -> dict[str, str]:
        """Return what each input of the file is fed from: a name of the schema's inputs or of a numeric column."""
        mine = {i.name: i for i in self.schema.inputs}
        columns = self._columns()
        names = [value.name for value in wanted]
        for name, source in self.inputs.items():
            if name not in names:
                raise SettingsError(f"model.inputs: the file has no input {name!r}, but {names}.{nearest(name, names)}")
            if source not in mine and source not in columns:
                known = list(dict.fromkeys([*mine, *columns]))
                raise SettingsError(f"model.inputs.{name}: no input {source!r}, but {known}.{nearest(source, known)}")
        found = {n: self.inputs.get(n, n) for n in names if n in self.inputs or n in mine or n in columns}
        for value in (v for v in wanted if v.name not in found):
            left = [i for i in mine.values() if i.name not in found.values() and _is_text(value) == (i.dtype == "text")]
            alike = [v.name for v in wanted if v.name not in found and _is_text(v) == _is_text(value)]
            if len(left) != 1 or len(alike) != 1:
                known = list(dict.fromkeys([*mine, *columns]))
                raise SettingsError(
                    f"model.inputs: nobody says what the file's input {value.name!r} is; name one of {known} there, "
                    f"such as {{{value.name}: {known[0]}}}"
                )
            found[value.name] = left[0].name
        return found

    def _columns(self) -> list[str]:
        return [c.name for c in self.schema.columns if c.coded]

    def _feed(self, value: onnx.ValueInfoProto, source: str) -> None:
        """Lay the way from the schema's input to the file's."""
        shape, kind = _shape(value), value.type.tensor_type.elem_type
        whole = next((i for i in self.schema.inputs if i.name == source), None)
        self._check_type(value, whole)
        if shape and shape[0] is not None:
            raise SettingsError(
                f"model.path: the file's input {value.name!r} takes {shape[0]} rows, no more and no fewer; export it "
                "with a first dimension of any size"
            )
        name = source
        if whole is None:
            name = self._column(source, value.name)
        if not _fits(shape, whole.shape if whole is not None else (1,)):
            self._refuse_shape(value.name, source, shape, whole)
        if len(shape) == 1:  # [rows], of one column
            name = self._reshaped(name, value.name, [-1])
        cast = kind != (TensorProto.STRING if _is_text(value) else TensorProto.FLOAT)
        node = helper.make_node("Cast", [name], [PREFIX + value.name], to=kind) if cast else None
        self._nodes.append(node or helper.make_node("Identity", [name], [PREFIX + value.name]))

    def _check_type(self, value: onnx.ValueInfoProto, whole: Input | None) -> None:
        kind = value.type.tensor_type.elem_type
        text = whole is not None and whole.dtype == "text"
        if (kind == TensorProto.STRING) != text or not (text or kind in CASTS):
            have = helper.tensor_dtype_to_string(kind).removeprefix("TensorProto.").lower() if kind else "no tensor"
            raise SettingsError(
                f"model.inputs.{value.name}: the file takes {have} there, and the feature is "
                f"{'text' if text else 'numbers'}; map another feature to it"
            )

    def _column(self, column: str, name: str) -> str:
        index = numpy_helper.from_array(np.array([self._columns().index(column)], np.int64), f"{name}/column")
        self._constants.append(index)
        self._nodes.append(helper.make_node("Gather", [NUMERIC, index.name], [f"{name}/only"], axis=1))
        return f"{name}/only"

    def _refuse_shape(self, name: str, source: str, shape: Sequence[int | None], whole: Input | None) -> None:
        have = ["rows", *(whole.shape if whole is not None else (1,))]
        want = ["rows", *("any" if d is None else d for d in shape[1:])]
        columns = f" ({', '.join(self._columns())})" if source == NUMERIC else ""
        way = "declare the features that it was trained on, in its order" if source == NUMERIC else "set its shape"
        raise SettingsError(
            f"model.inputs.{name}: the file takes {want}, {source!r}{columns} gives {have}; {way} under features"
        )

    def _reshaped(self, source: str, name: str, shape: list[int]) -> str:
        self._constants.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}/shape"))
        self._nodes.append(helper.make_node("Reshape", [source, f"{name}/shape"], [f"{name}/reshaped"]))
        return f"{name}/reshaped"

    # outputs

    def _answer(self) -> onnx.ValueInfoProto:
        outputs = {o.name: o for o in self.proto.graph.output}
        name = self.output or (self._main if self._main in outputs else next(iter(outputs)))
        if name not in outputs or (self.output is None and name != self._main and len(outputs) > 1):
            raise SettingsError(
                f"model.output: the file has the outputs {list(outputs)}; name the one that gives the {self._main}."
                f"{nearest(name, outputs) if self.output else ''}"
            )
        value, shape = outputs[name], _shape(outputs[name])
        kind = value.type.tensor_type.elem_type
        if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            raise SettingsError(
                f"model.output: {name!r} gives no array of numbers with a point (of skl2onnx: convert with "
                "options={'zipmap': False}); name another of " + str(list(outputs))
            )
        columns = self._columns_given
        if shape and not self._is_single(value) and (len(shape) != 2 or shape[1] not in (None, columns)):
            have = ["rows", *("any" if d is None else d for d in shape[1:])]
            labels = f" for the labels {list(self.schema.classes)}" if columns > 1 else ""
            raise SettingsError(
                f"model.output: {name!r} gives {have}, and {['rows', columns]} is needed{labels}; name another output, "
                "or see that the rows before window 1 hold every class that the file knows"
            )
        return value

    def _embedding(self) -> onnx.ValueInfoProto | None:
        outputs = {o.name: o for o in self.proto.graph.output}
        if self.embedding is None:
            return None
        if self.embedding not in outputs:
            near = nearest(self.embedding, outputs)
            raise SettingsError(
                f"model.embedding: the file has the outputs {list(outputs)}, not {self.embedding!r}.{near}"
            )
        value = outputs[self.embedding]
        if value.type.tensor_type.elem_type != TensorProto.FLOAT or len(_shape(value)) != 2:
            raise SettingsError(f"model.embedding: {self.embedding!r} is no float32 [rows, width]; leave it out")
        return value

    @property
    def _columns_given(self) -> int:
        return 1 if self.schema.task == "regression" else len(self.schema.classes)

    def _is_single(self, value: onnx.ValueInfoProto) -> bool:
        """Tell whether an output is one number a row, where that will do: of two classes it is the second's."""
        shape = _shape(value)
        return self._columns_given <= 2 and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))

    def _give(self, value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
        """Lay the way from the file's output to the schema's."""
        columns, single = self._columns_given, self._is_single(value)
        name = self._reshaped(name, "answer", [-1, 1 if single else columns])
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            self._nodes.append(helper.make_node("Cast", [name], ["answer/float"], to=TensorProto.FLOAT))
            name = "answer/float"
        if single and columns == 2:
            name = self._of_both(name)
        if self.order:
            self._constants.append(numpy_helper.from_array(np.array(self.order, np.int64), "answer/order"))
            self._nodes.append(helper.make_node("Gather", [name, "answer/order"], ["answer/ordered"], axis=1))
            name = "answer/ordered"
        last = helper.make_node("Softmax", [name], [self._main], axis=1) if self.softmax and not single else None
        self._nodes.append(last or helper.make_node("Identity", [name], [self._main]))
        return helper.make_tensor_value_info(self._main, TensorProto.FLOAT, ["rows", columns])

    def _of_both(self, name: str) -> str:
        """Lay the way from what is said of the second class to the probabilities of both."""
        if self.softmax:
            self._nodes.append(helper.make_node("Sigmoid", [name], ["answer/second"]))
            name = "answer/second"
        self._constants.append(numpy_helper.from_array(np.array(1, np.float32), "answer/one"))
        self._nodes += [
            helper.make_node("Sub", ["answer/one", name], ["answer/first"]),
            helper.make_node("Concat", ["answer/first", name], ["answer/both"], axis=1),
        ]
        return "answer/both"


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs follow from."""
    wanted = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input) | _inner(node)
    return kept[::-1]


def _inner(node: onnx.NodeProto) -> set[str]:
    """Return what the graphs inside of a node (``If``, ``Loop``) read."""
    graphs = [g for a in node.attribute for g in ((a.g, *a.graphs) if a.HasField("g") else a.graphs)]
    return {name for g in graphs for inner in g.node for name in {*inner.input, *_inner(inner)}}


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    """Return the sizes of a value's axes; None for any size, which older exporters write as -1 or 0."""
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]


def _fits(shape: Sequence[int | None], have: Sequence[int]) -> bool:
    """Tell whether an input of the file takes rows of a shape; one of one number a row may lack its second axis."""
    if not shape or (len(shape) == 1 and list(have) == [1]):
        return True
    return len(shape) == len(have) + 1 and all(want in (None, d) for want, d in zip(shape[1:], have, strict=True))


def _is_text(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.STRING)
