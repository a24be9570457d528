"""What ONNX Runtime and its quantization promise: outputs by name, integer weights, float edges, clear errors."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimtab import discover
from trimtab.agreement import loss
from trimtab.artifact import ONNX, Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, OutOfTimeError, PluginError, SettingsError
from trimtab.runtime import Session
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.graph import OptimizeGraph
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_onnx.sensitivity import put_back
from trimtab_torch.classifier import Classifier
from trimtab_torch.export import Export


def share_right(session: Session, rows: Rows) -> float:
    return float((session.predict(rows.inputs).argmax(axis=1) == rows.labels).mean())


class Bench:
    """Blobs seen as small images beside a number and a text, with a trained and exported network."""

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, 0
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 600)
        images = rng.normal(size=(600, 1, 8, 8)).astype(np.float32) * 0.5
        for row, label in enumerate(labels):
            images[row, 0, 2 * label : 2 * label + 3, 2:6] += 2
        frame = pd.DataFrame({"image": [i.ravel() for i in images], "y": labels})
        self.schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, 8, 8))}, frame, label="y")
        self.rows = Rows(self.schema.encode(frame), self.schema.encode_labels(frame), np.arange(600, dtype=np.uint64))
        parts = np.split(np.arange(600), [300, 400])
        roles = dict(zip((Role.TRAIN, Role.CALIBRATION, Role.JUDGE), map(self.rows.take, parts), strict=True))
        self.data = Data.write(root / "data", roles)
        trainer = Classifier("trimtab_torch.networks:SmallResNet", {"widths": [16, 32]}, epochs=3)
        self.model = Export().apply(trainer.fit(self.data, self.job()), self.data, self.job())

    def job(self) -> Job:
        self.steps += 1
        folder = self.root / f"step{self.steps}"
        folder.mkdir()
        return Job(folder, 0, self.schema)

    def only(self, role: Role, count: int) -> Data:
        self.steps += 1
        return Data.write(self.root / f"data{self.steps}", {role: self.rows.take(np.arange(count))})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("onnx"))


def written(folder: Path, nodes: list[onnx.NodeProto], output: str = "probabilities") -> Model:
    """Write a model that maps ``image`` to ``output`` through the given nodes."""
    folder.mkdir()
    shape = ["rows", 1, 8, 8]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(proto, str(folder / "model.onnx"))
    return Model.at(folder, ONNX)


def test_session_gives_outputs_by_name_and_predict_the_same_probabilities(bench: Bench) -> None:
    session = OnnxRuntime().load(bench.model)
    outputs = session.run(bench.rows.inputs)
    assert set(outputs) == {"probabilities", "embedding"}
    assert outputs["probabilities"].shape == (600, 3)
    assert outputs["embedding"].shape == (600, 32)
    assert np.allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(session.predict(bench.rows.inputs), outputs["probabilities"])
    assert share_right(session, bench.data.rows(Role.JUDGE)) > 0.9


def test_threads_change_no_prediction(bench: Bench) -> None:
    one, two = (OnnxRuntime().load(bench.model, t) for t in (1, 2))
    assert np.allclose(one.predict(bench.rows.inputs), two.predict(bench.rows.inputs), atol=1e-6)


def test_inputs_that_the_model_does_not_know_are_left_out_and_missing_ones_are_named(bench: Bench) -> None:
    session = OnnxRuntime().load(bench.model)
    more = {**bench.rows.inputs, "other": np.zeros((600, 1), np.float32)}
    assert np.array_equal(session.predict(more), session.predict(bench.rows.inputs))
    with pytest.raises(DataError, match=r"model input 'image' is missing; given: \['other'\]"):
        session.predict({"other": np.zeros((1, 1), np.float32)})
    with pytest.raises(DataError, match=r"the model does not take {'image': 'float32 \[2, 3\]'}"):
        session.predict({"image": np.zeros((2, 3), np.float32)})


def test_file_that_does_not_load_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"model.onnx cannot be loaded"):
        OnnxRuntime().load(Model.at(tmp_path, ONNX))


def test_model_without_probabilities_is_an_artifact_error(tmp_path: Path) -> None:
    model = written(tmp_path / "m", [helper.make_node("Relu", ["image"], ["logits"])], output="logits")
    with pytest.raises(
        ArtifactError, match=r"has the outputs \['logits'\], but needs one named 'probabilities' or 'predictions'"
    ):
        OnnxRuntime().load(model)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_quantized_model_is_as_good_and_much_smaller(bench: Bench, method: Any, capfd: Any) -> None:
    quantized = QuantizeStatic(method=method).apply(bench.model, bench.data, bench.job())
    assert capfd.readouterr() == ("", "")
    assert quantized.size_bytes < 0.5 * bench.model.size_bytes
    judge = bench.data.rows(Role.JUDGE)
    before, after = (OnnxRuntime().load(m) for m in (bench.model, quantized))
    assert share_right(after, judge) > share_right(before, judge) - 0.03
    assert set(after.run(judge.inputs)) == {"probabilities", "embedding"}
    assert quantized.facts["parameters"] == bench.model.facts["parameters"]
    assert quantized.facts["quantized_nodes"] > 5
    assert quantized.facts["calibration_rows"] == 100


def test_activations_are_unsigned_weights_signed_per_channel_and_the_edges_float(bench: Bench) -> None:
    quantized = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    graph = onnx.load(str(quantized.folder / "model.onnx")).graph
    constants = {t.name: t for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    activation_types = {constants[n.input[2]].data_type for n in graph.node if n.op_type == "QuantizeLinear"}
    assert activation_types == {TensorProto.UINT8}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 6
    for node in convolutions:
        dequantize = producers[node.input[1]]
        assert len(node.input) == 3
        weight, scale = (constants[name] for name in dequantize.input[:2])
        assert weight.data_type == TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
    for node in graph.node:
        if node.op_type in ("Sub", "Div"):
            assert all(producers[n].op_type == "Sub" for n in node.input if n in producers)
    assert producers["probabilities"].op_type == "Softmax"


def test_same_rows_same_file(bench: Bench) -> None:
    first, again = (QuantizeStatic().apply(bench.model, bench.data, bench.job()) for _ in range(2))
    assert first.digest == again.digest
    assert Model.at(bench.model.folder, ONNX).digest == bench.model.digest


def test_rows_are_capped_and_training_rows_stand_in_for_calibration_rows(bench: Bench) -> None:
    assert QuantizeStatic(rows=37).apply(bench.model, bench.data, bench.job()).facts["calibration_rows"] == 37
    only_train = bench.only(Role.TRAIN, 50)
    assert QuantizeStatic().apply(bench.model, only_train, bench.job()).facts["calibration_rows"] == 50
    with pytest.raises(DataError, match=r"no row with the role calibration or train; raise data\.split"):
        QuantizeStatic().apply(bench.model, bench.only(Role.JUDGE, 50), bench.job())


def test_graph_without_weights_has_nothing_to_quantize(bench: Bench, tmp_path: Path) -> None:
    model = written(tmp_path / "m", [helper.make_node("Softmax", ["image"], ["probabilities"])])
    with pytest.raises(PluginError, match=r"finds nothing to quantize: the graph has no convolution"):
        QuantizeStatic().apply(model, bench.data, bench.job())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mean"}, "quantize.static.method must be one of minmax, entropy, percentile, got 'mean'"),
        ({"rows": -1}, "quantize.static.rows must be at least 1, got -1"),
        ({"percentile": 20.0}, "quantize.static.percentile must be above 50 and at most 100, got 20.0"),
        ({"activation": "u4"}, "quantize.static.activation must be u8 or s8, got 'u4'"),
        ({"max_drop": 1.5}, r"quantize.static.max_drop must be in \[0, 1\), or null, got 1.5"),
    ],
)
def test_settings_outside_their_rule_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeStatic(**settings)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_text_and_missing_numbers_pass_through_a_quantized_table_model(tmp_path: Path, method: Any) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=400), "c": rng.choice(["ö", "b"], 400), "k": rng.integers(0, 3, 400)})
    frame["y"] = (frame["x"] > 0) ^ (frame["c"] == "b")
    frame.loc[::9, "x"] = np.nan
    categories = {name: Feature(kind="categorical") for name in ("c", "k")}
    schema = Schema.freeze({"x": Feature(), **categories}, frame, label="y")
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(400, dtype=np.uint64))
    data = Data.write(tmp_path / "data", {Role.TRAIN: rows.take(np.arange(400) < 300)})
    folders = [tmp_path / name for name in ("fit", "export", "quantize")]
    for folder in folders:
        folder.mkdir()
    fitted, exported, quantized = (Job(folder, 0, schema) for folder in folders)
    parent = Classifier("trimtab_torch.networks:Mlp", epochs=15).fit(data, fitted)
    model = QuantizeStatic(method=method).apply(Export().apply(parent, data, exported), data, quantized)
    session = OnnxRuntime().load(model)
    known = ~np.isnan(rows.inputs["numeric"][:, 0])
    assert share_right(session, rows.take(known)) > 0.9
    as_objects = {**rows.inputs, "c": rows.inputs["c"].astype(object)}
    assert np.array_equal(session.predict(as_objects), session.predict(rows.inputs))


@pytest.mark.parametrize(("activation", "code"), [("u8", TensorProto.UINT8), ("s8", TensorProto.INT8)])
def test_type_of_activations_is_a_setting(bench: Bench, activation: Any, code: int) -> None:
    quantized = QuantizeStatic(activation=activation).apply(bench.model, bench.data, bench.job())
    graph = onnx.load(str(quantized.folder / "model.onnx")).graph
    constants = {t.name: t for t in graph.initializer}
    assert {constants[n.input[2]].data_type for n in graph.node if n.op_type == "QuantizeLinear"} == {code}


def test_percentile_cuts_ranges(bench: Bench) -> None:
    whole, cut = (
        QuantizeStatic(method="percentile", percentile=p, max_drop=None).apply(bench.model, bench.data, bench.job())
        for p in (100.0, 80.0)
    )
    assert whole.facts["lost"] < cut.facts["lost"]


def test_file_carries_little_but_weights(bench: Bench) -> None:
    quantized = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    proto = onnx.load(str(quantized.folder / "model.onnx"))
    weights = sum(t.ByteSize() for t in proto.graph.initializer if t.data_type == TensorProto.INT8)
    assert proto.ByteSize() - weights < 11_000
    assert not proto.graph.value_info
    assert not proto.metadata_props
    assert not any(node.doc_string or node.name for node in proto.graph.node)
    assert len({t.SerializeToString() for t in proto.graph.initializer}) == len(proto.graph.initializer)


def spoilt(bench: Bench, layer: str) -> Model:
    """The bench's model with one channel of a layer 3000 times as large and divided again after its ReLU.

    It answers the same, but the range of the large channel swallows the others.
    """
    proto = onnx.load(str(bench.model.folder / "model.onnx"))
    graph = proto.graph
    convolution = next(n for n in graph.node if f"{layer}.weight" in n.input)
    for tensor in graph.initializer:
        if tensor.name in convolution.input[1:]:
            values = numpy_helper.to_array(tensor).copy()
            values[0] *= 3000
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            channels = len(values)
    scale = np.where(np.arange(channels) == 0, 1 / 3000, 1.0).astype(np.float32).reshape(1, -1, 1, 1)
    graph.initializer.append(numpy_helper.from_array(scale, "scale"))
    at, relu = next((i, n) for i, n in enumerate(graph.node) if convolution.output[0] in n.input)
    output = relu.output[0]
    relu.output[0] = "large"
    graph.node.insert(at + 1, helper.make_node("Mul", ["large", "scale"], [output], name="divide"))
    folder = bench.job().folder
    onnx.save_model(proto, str(folder / "model.onnx"))
    return Model.at(folder, ONNX)


def test_layer_that_quantization_spoils_goes_back_into_float_until_the_quality_holds(bench: Bench) -> None:
    layer = "network.stem.0"
    model = spoilt(bench, layer)
    judge = bench.data.rows(Role.JUDGE)
    before = share_right(OnnxRuntime().load(model), judge)
    taken = QuantizeStatic(max_drop=None).apply(model, bench.data, bench.job())
    held = QuantizeStatic(max_drop=0.01).apply(model, bench.data, bench.job())
    assert taken.facts["lost"] > 0.05
    assert taken.facts["kept_in_float"] == []
    assert held.facts["lost"] <= 0.01
    assert layer in held.facts["kept_in_float"]
    assert len(held.facts["kept_in_float"]) <= 2
    assert share_right(OnnxRuntime().load(held), judge) > before - 0.03


def test_layers_are_kept_in_float_by_hand(bench: Bench) -> None:
    everything = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    some = QuantizeStatic(keep_float=("network.stem.*", "network.head")).apply(bench.model, bench.data, bench.job())
    assert some.facts["kept_in_float"] == ["network.stem.0", "network.head"]
    assert [*some.facts["quantized_layers"]] == everything.facts["quantized_layers"][1:-1]
    assert some.size_bytes > everything.size_bytes
    with pytest.raises(SettingsError, match=r"keep_float: 'network.haed' is no layer .* Did you mean 'network.head'\?"):
        QuantizeStatic(keep_float=("network.haed",)).apply(bench.model, bench.data, bench.job())
    with pytest.raises(PluginError, match="keep_float leaves nothing to quantize"):
        QuantizeStatic(keep_float=("*",)).apply(bench.model, bench.data, bench.job())


def test_quantizing_gives_up_when_the_time_is_spent(bench: Bench) -> None:
    late = dataclasses.replace(bench.job(), deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTimeError, match=r"quantize.static ran out of time"):
        QuantizeStatic().apply(bench.model, bench.data, late)


def test_loss_counts_what_the_float_model_itself_would_lose() -> None:
    before = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], np.float32)
    assert loss(before, before) == 0
    assert loss(before, before[:, ::-1]) == pytest.approx((0 + 0.8 + 0.6) / 3)
    assert loss(before, np.full_like(before, np.nan)) == pytest.approx((0.5 + 0.9 + 0.8) / 3)
    numbers = np.array([[0.0], [2.0]], np.float32)
    assert loss(numbers, numbers + 0.1) == pytest.approx(0.1)
    assert loss(numbers, numbers * np.nan) == float("inf")


def test_at_most_half_of_the_layers_go_back() -> None:
    outcome = put_back(["a", "b", "c", "d", "e"], lambda kept: 1.0 - 0.1 * len(kept), 0.01)
    assert outcome.in_float == ("a", "b")
    assert outcome.lost == pytest.approx(0.8)


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_stored_optimized_graph_answers_the_same(bench: Bench, level: Any) -> None:
    stored = OptimizeGraph(level).apply(bench.model, bench.data, bench.job())
    before, after = (OnnxRuntime().load(m).run(bench.rows.inputs) for m in (bench.model, stored))
    assert set(before) == set(after)
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert stored.facts["portable"] == (level != "all")
    assert stored.facts["parameters"] == bench.model.facts["parameters"]
    domains = {node.domain for node in onnx.load(str(stored.folder / "model.onnx")).graph.node}
    assert (domains == {""}) == (level == "basic")


def test_provider_that_is_not_installed_is_refused_with_what_is() -> None:
    with pytest.raises(SettingsError, match=r"runtime.onnxruntime: .* 'CUDAExecutionProvider' is not built into .*CPU"):
        discover.build(
            "runtimes", "onnxruntime", {"providers": ["CUDAExecutionProvider"]}, "targets.runtime.onnxruntime"
        )
    with pytest.raises(ValueError, match=r"onnxruntime.providers is empty"):
        OnnxRuntime(providers=())
    with pytest.raises(ValueError, match=r"onnxruntime.graph must be one of all, extended, basic, off, got 'some'"):
        OnnxRuntime(graph="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("graph", ["all", "extended", "basic", "off"])
def test_level_of_optimization_changes_no_prediction(bench: Bench, graph: Any) -> None:
    session = OnnxRuntime(graph=graph).load(bench.model)
    expected = OnnxRuntime().load(bench.model).predict(bench.rows.inputs)
    assert np.allclose(session.predict(bench.rows.inputs), expected, atol=1e-5)


def test_regression_answers_predictions(tmp_path: Path) -> None:
    model = written(tmp_path / "m", [helper.make_node("Relu", ["image"], ["predictions"])], output="predictions")
    session = OnnxRuntime().load(model)
    inputs = {"image": np.ones((2, 1, 8, 8), np.float32)}
    assert set(session.run(inputs)) == {"predictions"}
    assert np.array_equal(session.predict(inputs), inputs["image"])


def test_nothing_is_quantized_twice(bench: Bench) -> None:
    once = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    with pytest.raises(PluginError, match=r"quantize.static takes a float model, and this one is quantized"):
        QuantizeStatic().apply(once, bench.data, bench.job())
