"""What the torch steps promise: trained, pruned, distilled and exported models that rebuild and agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from trimtab.artifact import Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, PluginError
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_torch.classifier import Classifier
from trimtab_torch.distill import Distill
from trimtab_torch.export import Export
from trimtab_torch.layers import channels
from trimtab_torch.preprocess import Preprocess, to_tensors
from trimtab_torch.prune import PruneChannel
from trimtab_torch.spec import FloatModel
from trimtab_torch.train import Finetune, Scratch
from trimtab_torch.training import predict

MLP = "trimtab_torch.networks:Mlp"
RESNET = "trimtab_torch.networks:SmallResNet"


class Branching(nn.Module):
    """Looks at a value to decide what it does: no graph can hold that."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, classes)

    def forward(self, table: Tensor) -> Tensor:
        logits: Tensor = self.head(table if float(table.sum()) > 0 else -table)
        return logits


class ConvOnly(nn.Module):
    """Ends in a convolution, so that there is no embedding; takes a table and an image."""

    def __init__(self, inputs: int, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape[0], 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.out = nn.Conv2d(16, classes, 1)

    def forward(self, table: Tensor, image: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.relu(self.norm(self.conv(image)))).mean(dim=(2, 3)) + table.mean()
        return logits


def no_module(**_given: Any) -> str:
    return "a network"


def raises(classes: int) -> nn.Module:
    raise RuntimeError(f"cannot make {classes} classes")


def frame_of(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a b.c": rng.normal(50, 10, rows),
            "linear": rng.choice(["red", "gréen", "blue"], rows),
            "level": rng.integers(1, 5, rows) * 10,
            "softmax": rng.normal(size=rows),
        }
    )
    odd = (frame["linear"] == "red") ^ (frame["level"] > 25) ^ (frame["softmax"] > 0)
    frame["y"] = np.where(odd, "yes", "no")
    frame.loc[::11, "a b.c"] = np.nan
    frame.loc[::13, "linear"] = None
    return frame


FEATURES = {
    "a b.c": Feature(),
    "linear": Feature(kind="categorical", categories=("red", "gréen", "blue")),
    "level": Feature(kind="categorical"),
    "softmax": Feature(),
}


class Bench:
    """A folder, a schema and rows by role; gives each step a fresh job."""

    def __init__(self, root: Path, schema: Schema, roles: dict[Role, Rows]) -> None:
        self.root, self.schema, self.steps = root, schema, 0
        self.data = Data.write(root / "data", roles)

    @property
    def rows(self) -> Rows:
        return self.data.rows(Role.JUDGE)

    def job(self, teacher: Model | None = None, seed: int = 0, training: Mapping[str, Any] | None = None) -> Job:
        self.steps += 1
        folder = self.root / f"step{self.steps}"
        folder.mkdir()
        return Job(folder, seed, self.schema, teacher, training=training or {})

    def with_train(self, rows: Rows) -> Data:
        self.steps += 1
        return Data.write(self.root / f"data{self.steps}", {Role.TRAIN: rows})


def rows_of(schema: Schema, frame: pd.DataFrame) -> Rows:
    return Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(len(frame), dtype=np.uint64))


def accuracy(model: Model, rows: Rows, job: Job) -> float:
    loaded = FloatModel.load(model)
    logits = predict(loaded.network, loaded.prepare(rows.inputs), job)
    return float((logits.argmax(1).numpy() == rows.labels).mean())


def logits_of(model: Model, rows: Rows) -> Tensor:
    loaded = FloatModel.load(model)
    with torch.inference_mode():
        logits: Tensor = loaded.network(*loaded.prepare(rows.inputs))
    return logits


def session_of(model: Model) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model.folder / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    frame = frame_of(1000, 0)
    schema = Schema.freeze(FEATURES, frame, label="y")
    roles = {Role.TRAIN: rows_of(schema, frame), Role.JUDGE: rows_of(schema, frame_of(500, 1))}
    return Bench(tmp_path_factory.mktemp("table"), schema, roles)


@pytest.fixture(scope="module")
def parent(table: Bench) -> Model:
    return Classifier(MLP, epochs=15).fit(table.data, table.job())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bunch = load_digits()
    small = torch.from_numpy(bunch.images[:, None]).float() / 16
    images = nn.functional.interpolate(small, size=32, mode="bilinear").numpy()
    labels = bunch.target.astype(np.int64)
    schema = Schema.freeze(
        {"image": Feature(kind="tensor", shape=(1, 32, 32))},
        pd.DataFrame({"image": [i.ravel() for i in images[:50]], "y": labels[:50]}),
        label="y",
    )
    order = np.random.default_rng(0).permutation(len(labels))
    rows = Rows({"image": images[order]}, labels[order], order.astype(np.uint64))
    first = np.arange(len(rows)) < 900
    return Bench(
        tmp_path_factory.mktemp("digits"), schema, {Role.TRAIN: rows.take(first), Role.JUDGE: rows.take(~first)}
    )


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return Classifier(RESNET, epochs=8).fit(digits.data, digits.job())


def test_residual_network_learns_digits_and_half_of_it_nearly_as_much(digits: Bench, champion: Model) -> None:
    judge = digits.data.rows(Role.JUDGE)
    assert champion.facts["parameters"] == 308_074
    assert accuracy(champion, judge, digits.job()) > 0.96
    half = PruneChannel(ratio=0.5).apply(champion, digits.data, digits.job())
    taught = Distill(epochs=4).apply(half, digits.data, digits.job(teacher=champion))
    assert taught.facts["parameters"] < 0.3 * 308_074
    assert accuracy(taught, judge, digits.job()) > 0.95


def test_batch_norm_is_folded_and_the_file_names_no_folder(digits: Bench, champion: Model, capfd: Any) -> None:
    exported = Export().apply(champion, digits.data, digits.job())
    assert capfd.readouterr() == ("", "")
    proto = onnx.load(str(exported.folder / "model.onnx"))
    assert "BatchNormalization" not in {n.op_type for n in proto.graph.node}
    assert [o.version for o in proto.opset_import if o.domain == ""] == [20]
    assert sorted(p.name for p in exported.folder.iterdir()) == ["facts.json", "model.onnx"]
    written = (exported.folder / "model.onnx").read_bytes()
    assert b"networks.py" not in written
    assert exported.size_bytes < 308_074 * 4 + 20_000


def test_table_with_text_and_integer_categories_is_learnt(table: Bench, parent: Model) -> None:
    assert accuracy(parent, table.data.rows(Role.JUDGE), table.job()) > 0.85


def test_training_settings_travel_with_the_model(table: Bench, parent: Model) -> None:
    assert Finetune().apply(parent, table.data, table.job()).facts["epochs"] == 15
    child = Finetune(epochs=2).apply(parent, table.data, table.job())
    assert child.facts["epochs"] == 2
    assert FloatModel.load(child).spec.settings.epochs == 15


def test_the_project_says_today_what_a_technique_is_not_told(table: Bench, parent: Model) -> None:
    today = {"factory": MLP, "arguments": {"hidden": [8]}, "epochs": 2, "learning_rate": 1e-9, "loss": "cross_entropy"}
    still = Finetune().apply(parent, table.data, table.job(training=today))
    assert still.facts["epochs"] == 2
    assert torch.allclose(logits_of(still, table.rows), logits_of(parent, table.rows), atol=1e-3)
    assert Finetune(epochs=1).apply(parent, table.data, table.job(training=today)).facts["epochs"] == 1
    pruned = PruneChannel(recovery_epochs=1).apply(parent, table.data, table.job(parent, training=today))
    bare = PruneChannel().apply(parent, table.data, table.job(parent))
    assert torch.allclose(logits_of(pruned, table.rows), logits_of(bare, table.rows), atol=1e-2)
    assert Distill().apply(pruned, table.data, table.job(parent, training=today)).facts["epochs"] == 2
    narrow = Scratch(epochs=1).apply(parent, table.data, table.job(training=today))
    assert next(iter(channels(FloatModel.load(narrow).network).values())) == 8


def test_same_seed_same_file_and_another_seed_another(table: Bench, parent: Model) -> None:
    for step in (Finetune(epochs=1), Scratch(epochs=1), Distill(epochs=1), PruneChannel()):
        first, again = (step.apply(parent, table.data, table.job(teacher=parent, seed=3)) for _ in range(2))
        assert first.digest == again.digest, step.about.name
    other = Finetune(epochs=1).apply(parent, table.data, table.job(seed=4))
    assert other.digest != Finetune(epochs=1).apply(parent, table.data, table.job(seed=3)).digest


def test_steps_leave_their_input_the_generator_and_the_threads_alone(table: Bench, parent: Model) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    for step in (Finetune(epochs=1), Scratch(epochs=1), Distill(epochs=1), PruneChannel(), Export()):
        made = step.apply(parent, table.data, table.job(teacher=parent))
        assert Model.at(parent.folder, parent.format).digest == parent.digest, step.about.name
        assert made.format == step.about.gives
        assert made.facts["parameters"] > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distill(temperature=0), "distill.temperature must be above 0 and finite, got 0"),
        (lambda: Distill(epochs=0), "distill.epochs must be at least 1, got 0"),
        (lambda: Scratch(batch_size=0), "scratch.batch_size must be at least 1, got 0"),
        (lambda: Finetune(weight_decay=-1), "finetune.weight_decay must be 0 or more and finite, got -1"),
        (
            lambda: Classifier(MLP, learning_rate=float("nan")),
            "model.learning_rate must be above 0 and finite, got nan",
        ),
        (lambda: Export(opset=11), "export.opset must be from 18 to 23, got 11"),
    ],
)
def test_settings_outside_their_rule_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_distillation_needs_a_teacher_of_the_same_classes(table: Bench, parent: Model, champion: Model) -> None:
    with pytest.raises(PluginError, match="distill has no teacher"):
        Distill().apply(parent, table.data, table.job())
    with pytest.raises(PluginError, match="the teacher's classes"):
        Distill().apply(parent, table.data, table.job(teacher=champion))


def test_a_student_follows_its_teacher_where_labels_mislead(table: Bench, parent: Model) -> None:
    rows = table.data.rows(Role.TRAIN)
    noise = replace(rows, labels=np.random.default_rng(0).permutation(rows.labels))
    data, judge = table.with_train(noise), table.data.rows(Role.JUDGE)
    pruned = PruneChannel(ratio=0.5).apply(parent, data, table.job())
    taught = Distill(epochs=10, weight=1.0).apply(pruned, data, table.job(teacher=parent))
    alone = Distill(epochs=10, weight=0.0).apply(pruned, data, table.job(teacher=parent))
    assert accuracy(taught, judge, table.job()) > 0.85 > accuracy(alone, judge, table.job()) + 0.1


def test_finetuning_keeps_the_preprocessing_and_scratch_fits_it_anew(table: Bench, parent: Model) -> None:
    rows = table.data.rows(Role.TRAIN)
    moved = replace(rows, inputs={**rows.inputs, "numeric": rows.inputs["numeric"] + np.float32(5)})
    data = table.with_train(moved)
    old = FloatModel.load(parent).preprocess.mean
    tuned = FloatModel.load(Finetune(epochs=1).apply(parent, data, table.job())).preprocess.mean
    fresh = FloatModel.load(Scratch(epochs=1).apply(parent, data, table.job())).preprocess.mean
    assert torch.equal(tuned, old)
    assert torch.allclose(fresh, old + 5, atol=1e-4)


def test_scratch_brings_the_factorys_own_widths_back(table: Bench, parent: Model) -> None:
    pruned = PruneChannel().apply(parent, table.data, table.job())
    assert Scratch(epochs=1).apply(pruned, table.data, table.job()).facts["parameters"] == parent.facts["parameters"]


def test_rows_without_labels_are_not_trained_on(table: Bench, parent: Model) -> None:
    rows = table.data.rows(Role.TRAIN)
    some = rows.take(np.arange(400))
    late = replace(rows, labels=np.where(np.arange(len(rows)) < 400, rows.labels, -1))
    first = Finetune(epochs=1).apply(parent, table.with_train(some), table.job())
    again = Finetune(epochs=1).apply(parent, table.with_train(late), table.job())
    assert first.digest == again.digest
    assert first.facts["rows"] == 400


def test_too_few_rows_or_classes_are_data_errors(table: Bench, parent: Model) -> None:
    rows = table.data.rows(Role.TRAIN)
    with pytest.raises(DataError, match="no labelled training row"):
        Finetune().apply(parent, table.with_train(rows.take(np.zeros(0, dtype=np.int64))), table.job())
    with pytest.raises(DataError, match="are of the one class 'yes'"):
        Scratch().apply(parent, table.with_train(rows.take(rows.labels == 1)), table.job())


def test_one_row_more_than_a_batch_does_not_break_batch_norm(digits: Bench, champion: Model) -> None:
    rows = digits.data.rows(Role.TRAIN).take(np.arange(65))
    made = Finetune(epochs=1).apply(champion, digits.with_train(rows), digits.job())
    assert np.isfinite(made.facts["loss"])


def test_divergence_names_the_learning_rate_and_a_lower_one(table: Bench) -> None:
    with pytest.raises(PluginError, match=r"diverged in epoch \d+ of 3 .* at learning_rate 1e\+30; lower it"):
        Classifier(MLP, epochs=3, learning_rate=1e30).fit(table.data, table.job())


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("raises", {}, "raised RuntimeError: cannot make 2 classes when called with {'classes': 2}"),
        ("no_module", {}, "gave a str; it must return a torch.nn.Module"),
        ("Branching", {"classes": 7}, r"gives \[2, 7\] for two rows, but must give logits \[2, 2\]"),
        ("Branching", {"inputs": 3}, r"its network raised RuntimeError: .* on inputs of shape \[2, 9\]"),
        ("Missing", {}, "has no 'Missing'"),
    ],
)
def test_factory_that_does_not_fit_is_named(
    table: Bench, factory: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        Classifier(f"{__name__}:{factory}", arguments).fit(table.data, table.job())


def altered(model: Model, folder: Path, **changes: Any) -> Model:
    shutil.copytree(model.folder, folder)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, **changes}))
    return Model.at(folder, model.format)


def test_damaged_models_are_artifact_errors(parent: Model, tmp_path: Path) -> None:
    short = altered(parent, tmp_path / "short")
    weights = short.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        FloatModel.load(short)
    with pytest.raises(ArtifactError, match="has version 99"):
        FloatModel.load(altered(parent, tmp_path / "newer", version=99))
    with pytest.raises(ArtifactError, match="no spec of a float model"):
        FloatModel.load(altered(parent, tmp_path / "bare", settings=None))
    with pytest.raises(ArtifactError, match="do not fit"):
        FloatModel.load(altered(parent, tmp_path / "other", arguments={"hidden": [64]}, widths={}))
    with pytest.raises(ArtifactError, match=r"layer 'body.3' that model.factory .* no longer builds"):
        FloatModel.load(altered(parent, tmp_path / "shorter", arguments={"hidden": [64]}))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.floats(-1e4, 1e4, width=32), st.just(float("nan"))), min_size=2, max_size=20))
def test_numbers_are_standardised_and_missing_ones_become_the_mean(values: list[float]) -> None:
    frame = pd.DataFrame({"x": [*values, 1.0]})
    schema = Schema.freeze({"x": Feature()}, frame)
    preprocess = Preprocess(schema)
    preprocess.fit(schema.encode(frame))
    out = preprocess(*to_tensors(schema, schema.encode(frame)))[0].numpy().ravel()
    known = frame["x"].notna().to_numpy()
    assert np.isfinite(out).all()
    assert (out[~known] == 0).all()
    wide = np.ptp(frame["x"].to_numpy()[known]) > 1e-2 * max(1.0, np.abs(frame["x"].to_numpy()[known]).max())
    assert abs(out[known].mean()) < 1e-3 or not wide
    assert abs(out[known].std() - 1) < 1e-2 or not wide


def test_images_are_standardised_per_channel() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 2, 4, 4)).astype(np.float32) * np.float32([3, 7])[:, None, None] + 5
    schema = Schema.freeze(
        {"i": Feature(kind="tensor", shape=(2, 4, 4))}, pd.DataFrame({"i": [a.ravel() for a in images]})
    )
    preprocess = Preprocess(schema)
    preprocess.fit({"i": images})
    out = preprocess(torch.from_numpy(images))[0]
    assert torch.allclose(out.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(out.std(dim=(0, 2, 3)), torch.ones(2), atol=1e-2)
    with pytest.raises(DataError, match="tensor column 'i' holds values that are not finite"):
        preprocess.fit({"i": np.full_like(images, np.inf)})


def test_exported_file_takes_raw_rows_and_agrees_with_torch(table: Bench, parent: Model) -> None:
    session = session_of(Export().apply(parent, table.data, table.job()))
    inputs = {k: v.copy() for k, v in table.data.rows(Role.JUDGE).inputs.items()}
    inputs["numeric"][0] = np.nan
    inputs["linear"][1] = "never seen"
    assert [i.name for i in session.get_inputs()] == [i.name for i in table.schema.inputs]
    loaded = FloatModel.load(parent)
    for rows in (1, 2, 500):
        part = {k: v[:rows] for k, v in inputs.items()}
        probabilities, embedding = session.run(["probabilities", "embedding"], part)
        with torch.inference_mode():
            expected = torch.softmax(loaded.network(*loaded.prepare(part)), dim=1).numpy()
        assert np.abs(probabilities - expected).max() <= 1e-5
        assert probabilities.dtype == embedding.dtype == np.float32
        assert embedding.shape == (rows, 64)


def test_network_without_a_last_linear_layer_has_no_embedding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"n": rng.normal(size=40), "i": list(rng.normal(size=(40, 32)).astype(np.float32))})
    frame["y"] = np.arange(40) % 3
    schema = Schema.freeze({"n": Feature(), "i": Feature(kind="tensor", shape=(2, 4, 4))}, frame, label="y")
    bench = Bench(tmp_path, schema, {Role.TRAIN: rows_of(schema, frame)})
    model = Classifier(f"{__name__}:ConvOnly", epochs=1).fit(bench.data, bench.job())
    pruned = PruneChannel().apply(model, bench.data, bench.job())
    assert pruned.facts["channels"] == {"conv": [16, 8], "out": [3, 3]}
    session = session_of(Export().apply(pruned, bench.data, bench.job()))
    assert [o.name for o in session.get_outputs()] == ["probabilities"]
    assert [i.name for i in session.get_inputs()] == ["numeric", "i"]


def test_linear_model_embeds_its_preprocessed_row(table: Bench) -> None:
    model = Classifier(MLP, {"hidden": []}, epochs=1).fit(table.data, table.job())
    session = session_of(Export().apply(model, table.data, table.job()))
    inputs = table.data.rows(Role.JUDGE).inputs
    assert session.run(["embedding"], dict(inputs))[0].shape == (500, 2 + 4 + 3)


def test_network_that_does_not_export_is_an_error_in_one_line(table: Bench) -> None:
    model = Classifier(f"{__name__}:Branching", epochs=1).fit(table.data, table.job())
    with pytest.raises(PluginError, match=r"^model does not export: .*; avoid control flow") as caught:
        Export().apply(model, table.data, table.job())
    assert "\n" not in str(caught.value)


def test_feature_named_like_an_output_does_not_export(tmp_path: Path) -> None:
    frame = pd.DataFrame({"embedding": ["a", "b"] * 5, "y": [0, 1] * 5})
    schema = Schema.freeze({"embedding": Feature(kind="categorical")}, frame, label="y")
    bench = Bench(tmp_path, schema, {Role.TRAIN: rows_of(schema, frame)})
    model = Classifier(MLP, epochs=1).fit(bench.data, bench.job())
    with pytest.raises(PluginError, match="feature 'embedding' has the name of an output; rename it"):
        Export().apply(model, bench.data, bench.job())


def test_a_model_that_asks_for_another_factory_is_not_rebuilt(parent: Model, tmp_path: Path) -> None:
    copied = altered(parent, tmp_path / "altered", factory="os:getcwd")
    with pytest.raises(ArtifactError, match="asks for the factory 'os:getcwd', the project names"):
        FloatModel.load(copied, MLP)
