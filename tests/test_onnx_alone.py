"""A project whose model is an ONNX file alone: the whole loop without a trainer, and how a file is mapped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from tests.onnx_nets import node, save
from trimtab import champion, console, loop, round, stand
from trimtab.artifact import Model, sha256_file
from trimtab.backtest import backtest
from trimtab.check import examine
from trimtab.data import Data, Role, Rows
from trimtab.errors import InputError, PluginError, SettingsError
from trimtab.executor import Silent
from trimtab.explain import explain
from trimtab.history import Round
from trimtab.loop import Report
from trimtab.parts import Parts, assemble
from trimtab.registry import PREVIOUS
from trimtab.runtime import CHAMPION
from trimtab.settings import Project
from trimtab.space import Space
from trimtab.status import describe
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_mlflow.registry import MlflowRegistry
from trimtab_onnx.file import OnnxClassifier, OnnxRegressor
from trimtab_onnx.runtime import OnnxRuntime

FEATURES = ("a", "b", "c", "d")
NAMES = np.array(["high", "low", "mid"])
TRUTH = np.random.default_rng(7).normal(size=(4, 3))
WIDTH = 96
EVERY = 400


def rows_of(count: int, seed: int, scale: float = 1.0) -> pd.DataFrame:
    """Rows whose label is told by their direction, however far from zero they lie."""
    values = np.random.default_rng(seed).normal(size=(count, 4))
    labels = NAMES[(values @ TRUTH).argmax(axis=1)]
    return pd.DataFrame(values * scale, columns=list(FEATURES)).assign(label=labels)


def write_net(path: Path) -> None:
    """Two layers of random weights and one that is fitted to them, none with a bias: no answer depends on the scale."""
    rng, frame = np.random.default_rng(0), rows_of(2000, 99)
    first, second = rng.normal(size=(4, WIDTH)) / 2, rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
    hidden = np.maximum(np.maximum(frame[list(FEATURES)].to_numpy() @ first, 0) @ second, 0)
    last = LogisticRegression(fit_intercept=False, C=10, max_iter=300).fit(hidden, frame["label"]).coef_.T
    weights = {"first": first, "second": second, "last": last}
    nodes = [
        node("MatMul", ["measured", "first"], ["h1"]),
        node("Relu", ["h1"], ["h2"]),
        node("MatMul", ["h2", "second"], ["h3"]),
        node("Relu", ["h3"], ["h4"]),
        node("MatMul", ["h4", "last"], ["scores"]),
    ]
    save(path, nodes, {"measured": ["n", 4]}, {"scores": ["n", 3], "h4": ["n", WIDTH]}, weights)


# the whole loop

SCALES = (1, 3, 3, 60, 60, 60)
SWAPPED = 6
"""The window in which labels begin to mean something else."""


def project(folder: Path, **changes: Any) -> Path:
    frames = [rows_of(800, 1), *(rows_of(EVERY, 10 + n, scale) for n, scale in enumerate(SCALES))]
    frames[SWAPPED] = frames[SWAPPED].assign(
        label=frames[SWAPPED]["label"].map(dict(zip(NAMES, NAMES[[1, 2, 0]], strict=True)))
    )
    pd.concat(frames).to_csv(folder / "rows.csv", index=False)
    write_net(folder / "net.onnx")
    settings = {
        "name": "alone",
        "home": str(folder / "home"),
        "source": {"kind": "csv", "path": str(folder / "rows.csv"), "label": "label"},
        "features": {name: {} for name in FEATURES},
        "window": {"every": f"{EVERY} rows", "start": 800},
        "data": {"train": "last 1 window", "replay": 0, "split": {"train": 0.3, "calibration": 0.2, "judge": 0.4}},
        "model": {
            "trainer": "onnx.classifier",
            "path": str(folder / "net.onnx"),
            "output": "scores",
            "embedding": "h4",
            "softmax": True,
        },
        "monitors": {"use": ["performance"]},
        "rollout": {"probation": 0},  # else the first windows of drift bring the file itself back
        "trigger": {"on": ["worse"], "cooldown": 0},
        "optimize": {"techniques": ["optimize.graph", "quantize.static"], "candidates": 3},
        "gate": {"max_slowdown": 99, "max_quality_drop": 0.05, "max_total_drop": 0.1, "confidence": 0.8},
        **changes,
    }
    path = folder / "alone.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@dataclasses.dataclass(frozen=True)
class Story:
    folder: Path
    parts: Parts
    asked: Round
    reports: list[Report]

    def round_of(self, window: int) -> Round:
        return next(r.round for r in self.reports if r.window == window and r.round is not None)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("alone")
    parts = assemble(Project.load(project(folder)))
    windows = loop.watch(parts, replay=True)
    before = [next(windows) for _ in range(2)]
    asked = round.optimize(parts, round.request_by_hand(parts, "smaller"))
    return Story(folder, parts, asked, [*before, *windows])


def test_the_file_is_the_first_champion_and_answers_as_it_did(story: Story) -> None:
    serving = champion.load(story.parts, 1)
    raw = rows_of(50, 5)[list(FEATURES)].to_numpy(np.float32)
    session = onnxruntime.InferenceSession(str(story.folder / "net.onnx"))
    scores, seen = session.run(["scores", "h4"], {"measured": raw})
    outputs = serving.session.run({"numeric": raw})
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert np.allclose(outputs["probabilities"], odds / odds.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(outputs["embedding"], seen, atol=1e-4)
    assert serving.parent.format == "onnx"
    assert serving.model.facts["file_sha256"] == sha256_file(story.folder / "net.onnx")


def test_the_file_is_quantized_and_when_rows_drift_calibrated_anew(story: Story) -> None:
    worse = story.round_of(4)
    assert (story.asked.outcome, worse.outcome, worse.cause) == ("promoted", "promoted", "worse")
    assert [p.version for p in story.parts.journal.promotions()] == [1, 2, 3]
    file, first, again = (champion.load(story.parts, number) for number in (1, 2, 3))
    assert first.model.size_bytes < 0.6 * file.model.size_bytes
    assert first.parent.digest == again.parent.digest == file.parent.digest  # cut from the file, not from each other
    assert first.model.digest != again.model.digest
    rows = rows_of(500, 77, 60)
    right = [s.session.predict(s.schema.encode(rows)).argmax(1) == s.schema.encode_labels(rows) for s in (first, again)]
    assert right[1].mean() > right[0].mean() + 0.1  # ranges that were calibrated where the rows are now


def test_what_is_promoted_predicts_as_the_file_does_for_whoever_takes_it_from_mlflow(story: Story) -> None:
    rows = rows_of(500, 78, 60)
    raw = rows[list(FEATURES)].to_numpy(np.float32)
    session = onnxruntime.InferenceSession(str(story.folder / "net.onnx"))
    expected = np.asarray(session.run(["scores"], {"measured": raw})[0]).argmax(axis=1)
    registry = story.parts.registry
    assert isinstance(registry, MlflowRegistry)
    client = MlflowClient(registry.url)
    source = client.get_model_version_by_alias("alone", CHAMPION).source.removeprefix("models:/")
    logged = mlflow.pyfunc.load_model(client.get_logged_model(source).artifact_location)
    found = logged.predict({"numeric": raw})["probabilities"]
    assert (found.argmax(axis=1) == expected).mean() > 0.95


def test_where_nothing_but_training_helps_the_round_promotes_nothing_and_says_why(story: Story) -> None:
    done = story.round_of(SWAPPED)
    assert done.outcome == "degraded"
    assert story.parts.registry.alias(CHAMPION) == 3
    assert story.parts.registry.alias(PREVIOUS) == 2
    judged = [c for c in done.detail["candidates"] if c["outcome"] in ("rejected", "unknown")]
    why = "nothing was retrained: the model is an ONNX file without a trainer"
    assert judged
    assert all(c["reasons"][-1].startswith(why) for c in judged)
    report = explain(story.parts.journal, SWAPPED)
    assert report["rounds"][0]["untrained"].startswith(why)
    assert any(why in str(part) for part in console.explanation(report))
    told = describe(story.parts.journal, story.parts.registry)["rounds"][-1]
    assert told["untrained"].startswith(why)
    assert why in str(console.candidates_tables(told)[0].caption)


def test_a_trainer_of_another_format_is_no_trainer_of_this_champion(story: Story) -> None:
    parts = dataclasses.replace(story.parts, space=Space([("finetune", {}), ("export", {})]))
    ground = stand.take(parts, story.asked, parts.journal.promotions(None), 0.0)
    with pytest.raises(SettingsError, match=r"gives models of format torch, .* was cut from one of format onnx; set"):
        stand.kitchen(parts, ground)


def test_a_backtest_replays_a_project_without_a_trainer(story: Story) -> None:
    (row,) = backtest(story.folder / "alone.yaml", [], Silent(), begin="5", end="6")["rows"]
    assert row["failed"] is None
    assert [(r["window"], r["outcome"]) for r in row["rounds"]] == [(SWAPPED, "degraded")]


def test_a_project_is_checked_before_it_runs(tmp_path: Path) -> None:
    config = project(tmp_path, optimize={"techniques": ["finetune", "quantize.static"]})
    report = examine(config)
    assert report["problems"] == []
    assert any("finetune is in no recipe" in note and "whose models can be trained" in note for note in report["notes"])
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    assert "net.onnx is no ONNX model" in examine(config)["problems"][0]
    (tmp_path / "net.onnx").unlink()
    assert "model.path: no file" in examine(config)["problems"][0]


# the mapping

FRAME = rows_of(60, 3).assign(
    text=np.where(np.arange(60) % 2, "x", "y"), number=np.arange(60) / 7, image=[np.ones(12)] * 60
)


def schema_of(*names: str, task: Any = "classification", label: str = "label") -> Schema:
    kinds = {"text": Feature(kind="categorical"), "image": Feature(kind="tensor", shape=(3, 4))}
    return Schema.freeze({n: kinds.get(n, Feature()) for n in names}, FRAME, task=task, label=label)


def fitted(folder: Path, trainer: Any, schema: Schema) -> Model:
    rows = Rows(schema.encode(FRAME), schema.encode_labels(FRAME), np.arange(60, dtype=np.uint64))
    data = Data.write(folder / "data", {Role.TRAIN: rows})
    (folder / "made").mkdir(parents=True)
    model: Model = trainer.fit(data, Job(folder / "made", 0, schema))
    return model


def softmax(source: str = "x") -> list[onnx.NodeProto]:
    return [node("MatMul", [source, "w"], ["s"]), node("Softmax", ["s"], ["p"], axis=1)]


def test_classes_of_the_file_may_come_in_another_order(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", softmax(), {"x": ["n", 4]}, {"p": ["n", 3]}, {"w": TRUTH})
    schema = schema_of(*FEATURES)
    trainer = OnnxClassifier(str(tmp_path / "m.onnx"), classes=("low", "mid", "high"))
    order = OnnxRuntime().load(fitted(tmp_path, trainer, schema)).predict(schema.encode(FRAME))
    raw = FRAME[list(FEATURES)].to_numpy() @ TRUTH
    plain = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    assert np.allclose(order, plain[:, [2, 0, 1]], atol=1e-5)  # high, low, mid
    with pytest.raises(SettingsError, match=r"model.classes: the rows have the labels .* got \['low', 'mid'\]"):
        fitted(tmp_path / "made", OnnxClassifier(str(tmp_path / "m.onnx"), classes=("low", "mid")), schema)


def test_inputs_of_one_column_text_and_other_types_are_fed_from_the_features(tmp_path: Path) -> None:
    nodes = [
        node(
            "LabelEncoder",
            ["kind"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["x", "y"],
            values_floats=[1.0, 2.0],
            default_float=0.0,
        ),
        node("Cast", ["b"], ["b32"], to=TensorProto.FLOAT),
        node("Add", ["code", "b32"], ["sum"]),
        node("Add", ["sum", "number"], ["s"]),
        node("ReduceMean", ["picture"], ["mean"], axes=[1, 2], keepdims=0),
        node("Unsqueeze", ["mean", "one"], ["m"]),
        node("Add", ["s", "m"], ["answer"]),
    ]
    shapes = {"kind": ["n", 1], "b": ["n", 1], "number": ["n", 1], "picture": ["n", 3, 4]}
    save(
        tmp_path / "m.onnx",
        nodes,
        shapes,
        {"answer": ["n", 1]},
        weights={"one": np.array([1])},
        types={"kind": TensorProto.STRING, "b": TensorProto.DOUBLE},
        opset=17,
    )
    schema = schema_of("a", "b", "number", "text", "image", task="regression", label="c")
    trainer = OnnxRegressor(str(tmp_path / "m.onnx"), inputs={"kind": "text", "picture": "image"})
    found = OnnxRuntime().load(fitted(tmp_path, trainer, schema)).run(schema.encode(FRAME))
    code = FRAME["text"].map({"x": 1.0, "y": 2.0})
    assert set(found) == {"predictions"}
    assert np.allclose(found["predictions"][:, 0], code + FRAME["b"] + FRAME["number"] + 1, atol=1e-4)


def test_weights_keep_their_names_and_an_output_that_is_not_asked_for_goes(tmp_path: Path) -> None:
    nodes = [*softmax(), node("MatMul", ["x", "idle"], ["other"])]
    weights = {"w": TRUTH, "idle": np.ones((4, 50))}
    save(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"p": ["n", 3], "other": ["n", 50]}, weights)
    model = fitted(tmp_path, OnnxClassifier(str(tmp_path / "m.onnx"), output="p"), schema_of(*FEATURES))
    graph = onnx.load(str(model.folder / "model.onnx")).graph
    assert [t.name for t in graph.initializer if len(t.dims) == 2] == ["w"]
    assert [o.name for o in graph.output] == ["probabilities"]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], type[InputError], str]] = {
    "rows fixed": ({"x": [1, 4]}, {"p": [1, 3]}, {}, SettingsError, "input 'x' takes 1 rows, no more and no fewer"),
    "columns": (
        {"x": ["n", 5]},
        {"p": ["n", 3]},
        {},
        SettingsError,
        r"takes \['rows', 5\], 'numeric' \(a, b, c, d\) gives \['rows', 4\]; declare the features",
    ),
    "no such input": (
        {"x": ["n", 4]},
        {"p": ["n", 3]},
        {"inputs": {"y": "numeric"}},
        SettingsError,
        r"model.inputs: the file has no input 'y', but \['x'\]",
    ),
    "no such feature": (
        {"x": ["n", 4]},
        {"p": ["n", 3]},
        {"inputs": {"x": "numerc"}},
        SettingsError,
        r"model.inputs.x: no input 'numerc', .* Did you mean 'numeric'\?",
    ),
    "no such output": (
        {"x": ["n", 4]},
        {"p": ["n", 3]},
        {"output": "q"},
        SettingsError,
        r"model.output: the file has the outputs \['p'\]",
    ),
    "which output": (
        {"x": ["n", 4]},
        {"p": ["n", 3], "s": ["n", 3]},
        {},
        SettingsError,
        r"the outputs \['p', 's'\]; name the one that gives the probabilities",
    ),
    "classes": (
        {"x": ["n", 4]},
        {"p": ["n", 5]},
        {},
        SettingsError,
        r"gives \['rows', 5\], and \['rows', 3\] is needed for the labels",
    ),
    "logits": (
        {"x": ["n", 4]},
        {"s": ["n", 3]},
        {},
        SettingsError,
        r"are no probabilities, .* set model.softmax: true",
    ),
    "probabilities": (
        {"x": ["n", 4]},
        {"p": ["n", 3]},
        {"softmax": True},
        SettingsError,
        r"model.softmax: the answers of .* are probabilities already, .* leave model.softmax out",
    ),
    "embedding": (
        {"x": ["n", 4]},
        {"p": ["n", 3]},
        {"output": "p", "embedding": "e"},
        SettingsError,
        r"model.embedding: the file has the outputs \['p'\], not 'e'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_named_with_the_setting_that_mends_it(tmp_path: Path, case: str) -> None:
    inputs, outputs, settings, error, message = CASES[case]
    columns = next(iter(inputs.values()))[1]
    save(tmp_path / "m.onnx", softmax(), inputs, outputs, {"w": np.ones((columns, outputs.get("p", ["n", 3])[1]))})
    with pytest.raises(error, match=message):
        fitted(tmp_path, OnnxClassifier(str(tmp_path / "m.onnx"), **settings), schema_of(*FEATURES))


@pytest.mark.parametrize("shape", [["n", 1], ["n"]])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("classes", [(), ("x", "y"), ("y", "x")])
def test_of_two_classes_the_probability_of_the_second_will_do(
    tmp_path: Path, shape: list[Any], logits: bool, classes: tuple[str, ...]
) -> None:
    weight = TRUTH[:, :1] if len(shape) == 2 else TRUTH[:, 0]
    nodes = [node("MatMul", ["x", "w"], ["s"]), node("Sigmoid", ["s"], ["p"])]
    save(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"s" if logits else "p": shape}, {"w": weight})
    schema = schema_of(*FEATURES, label="text")
    trainer = OnnxClassifier(str(tmp_path / "m.onnx"), softmax=logits, classes=classes)
    answers = OnnxRuntime().load(fitted(tmp_path, trainer, schema)).predict(schema.encode(FRAME))
    second = 1 / (1 + np.exp(-FRAME[list(FEATURES)].to_numpy() @ TRUTH[:, 0]))
    wanted = np.stack([1 - second, second], axis=1)
    assert np.allclose(answers, wanted[:, ::-1] if classes == ("y", "x") else wanted, atol=1e-5)
    if logits:
        with pytest.raises(SettingsError, match=r"the least is -.* set model.softmax: true"):
            fitted(tmp_path / "wrong", OnnxClassifier(str(tmp_path / "m.onnx")), schema)


def test_logits_of_one_column_that_look_like_probabilities_are_taken_as_what_they_are_said_to_be(
    tmp_path: Path,
) -> None:
    nodes = [node("MatMul", ["x", "w"], ["s"]), node("Tanh", ["s"], ["t"]), node("Abs", ["t"], ["between"])]
    save(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"between": ["n", 1]}, {"w": TRUTH[:, :1]})
    schema = schema_of(*FEATURES, label="text")
    trainer = OnnxClassifier(str(tmp_path / "m.onnx"), softmax=True)
    answers = OnnxRuntime().load(fitted(tmp_path, trainer, schema)).predict(schema.encode(FRAME))
    assert (answers[:, 1] >= 0.5).all()


def test_a_file_whose_answers_hang_together_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        node("Sub", ["x", "mean"], ["centred"]),
        *softmax("centred"),
    ]
    save(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"p": ["n", 3]}, {"w": TRUTH}, opset=17)
    with pytest.raises(PluginError, match=r"answers a row otherwise when 2 rows come at once"):
        fitted(tmp_path, OnnxClassifier(str(tmp_path / "m.onnx")), schema_of(*FEATURES))


def taken(folder: Path, inputs: dict[str, str] | None = None) -> dict[str, Any]:
    """Take the file in a folder, and ask the model."""
    schema = schema_of(*FEATURES)
    model = fitted(folder, OnnxClassifier(str(folder / "m.onnx"), inputs=inputs or {}), schema)
    return OnnxRuntime().load(model).run(schema.encode(FRAME))


def test_a_weight_that_only_a_branch_reads_stays(tmp_path: Path) -> None:
    branches = {
        name: helper.make_graph(
            [node(operator, ["w"], [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 3])]
        )
        for name, operator in (("then_branch", "Neg"), ("else_branch", "Identity"))
    }
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "most"], ["far"]),
        node("If", ["far"], ["chosen"], **branches),
        node("MatMul", ["x", "chosen"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=1),
    ]
    save(tmp_path / "m.onnx", nodes, {"x": ["n", 4]}, {"p": ["n", 3]}, {"w": TRUTH, "most": np.array(1e9)})
    scores = FRAME[list(FEATURES)].to_numpy() @ TRUTH
    assert (taken(tmp_path)["probabilities"].argmax(axis=1) == scores.argmax(axis=1)).all()


def test_two_inputs_may_be_one_column_and_a_batch_of_any_size_may_be_written_as_minus_one(tmp_path: Path) -> None:
    nodes = [node("Concat", ["u", "v"], ["x"], axis=1), *softmax()]
    save(tmp_path / "m.onnx", nodes, {"u": [-1, 1], "v": [-1, 1]}, {"p": [-1, 3]}, {"w": TRUTH[:2]})
    found = taken(tmp_path, {"u": "b", "v": "b"})["probabilities"]
    assert (found.argmax(axis=1) == (FRAME[["b", "b"]].to_numpy() @ TRUTH[:2]).argmax(axis=1)).all()


def test_weights_beside_the_file_are_part_of_it(tmp_path: Path) -> None:
    def written(weights: Any) -> str:
        save(tmp_path / "whole.onnx", softmax(), {"x": ["n", 4]}, {"p": ["n", 3]}, {"w": weights})
        (tmp_path / "m.data").unlink(missing_ok=True)
        proto = onnx.load(str(tmp_path / "whole.onnx"))
        place = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
        onnx.save_model(proto, str(tmp_path / "m.onnx"), **place)
        return OnnxClassifier(str(tmp_path / "m.onnx")).digest

    assert written(TRUTH) == written(TRUTH) != written(-TRUTH)
    scores = FRAME[list(FEATURES)].to_numpy() @ -TRUTH
    assert (taken(tmp_path)["probabilities"].argmax(axis=1) == scores.argmax(axis=1)).all()
