"""What ONNX Runtime and its quantization promise: outputs by name, integer weights, float edges, clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper

from trimtab.artifact import ONNX, Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, PluginError
from trimtab.metric import correctness
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_torch.classifier import Classifier
from trimtab_torch.export import Export


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
    assert correctness(session, bench.data.rows(Role.JUDGE)).mean() > 0.9


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
    with pytest.raises(ArtifactError, match=r"has the outputs \['logits'\], but needs one named 'probabilities'"):
        OnnxRuntime().load(model)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_quantized_model_is_as_good_and_much_smaller(bench: Bench, method: Any, capfd: Any) -> None:
    quantized = QuantizeStatic(method=method).apply(bench.model, bench.data, bench.job())
    assert capfd.readouterr() == ("", "")
    assert quantized.size_bytes < 0.5 * bench.model.size_bytes
    judge = bench.data.rows(Role.JUDGE)
    before, after = (OnnxRuntime().load(m) for m in (bench.model, quantized))
    assert correctness(after, judge).mean() > correctness(before, judge).mean() - 0.03
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
    with pytest.raises(DataError, match="no row to calibrate on"):
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
    assert correctness(session, rows.take(known)).mean() > 0.9
    as_objects = {**rows.inputs, "c": rows.inputs["c"].astype(object)}
    assert np.array_equal(session.predict(as_objects), session.predict(rows.inputs))
