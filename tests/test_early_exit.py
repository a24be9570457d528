"""What an early exit promises: rows that are sure leave, the rest runs on the others, and no answer depends on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tensors import Bench, session_of
from trimtab.agreement import loss
from trimtab.artifact import Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import OutOfTimeError, PluginError
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.half import QuantizeFloat16
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_onnx.weights import QuantizeWeights
from trimtab_torch.exit_early import ExitEarly, _threshold
from trimtab_torch.exits import costs, cuts
from trimtab_torch.export import Export
from trimtab_torch.layers import multiply_adds
from trimtab_torch.regressor import Regressor
from trimtab_torch.spec import FloatModel

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RESNET = "trimtab_torch.networks:SmallResNet"
MAX_DROP = 0.01


class Flat(nn.Module):
    """All its work lies before the only place that it could be left at; without a hidden layer there is none."""

    def __init__(self, classes: int, shape: tuple[int, ...], hidden: int | None) -> None:
        super().__init__()
        size = int(np.prod(shape))
        self.body = nn.Sequential(nn.Linear(size, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or size, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(image.flatten(1)))
        return logits


class Signal(nn.Module):
    """A convolution along a signal whose features come before its positions, and are what tells the classes apart."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv1d(shape[0], 8, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv1d(8, 64, 9, padding=4), nn.ReLU(), nn.Conv1d(64, 32, 9, padding=4))
        self.head = nn.Linear(32, classes)

    def forward(self, signal: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.first(signal)).mean(2))
        return logits


class Deep(nn.Module):
    """Layers of products, with an offset and without, most of whose work lies behind the first."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(int(np.prod(shape)), 4), nn.Linear(4, 256, bias=False)
        self.third, self.head = nn.Linear(256, 256, bias=False), nn.Linear(256, classes)

    def forward(self, image: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(image.flatten(1)))))
        logits: Tensor = self.head(torch.relu(self.third(hidden)))
        return logits


class Turned(nn.Module):
    """Positions come first, and rows after them, from the first layer to the last."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(shape[1], 16), nn.Linear(16, 64), nn.Linear(64, classes)

    def forward(self, signal: Tensor) -> Tensor:
        turned = torch.relu(self.first(signal.transpose(0, 1)))
        logits: Tensor = self.head(torch.relu(self.second(turned)).mean(0))
        return logits


class Widened(nn.Module):
    """An image that is made larger on the way, in groups of channels."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], 8, 3, padding=1), nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=2), nn.ReLU()
        )
        self.head = nn.Linear(12, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(image).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return digits.fit(RESNET, 6, {"widths": [16, 32, 48]})


@pytest.fixture(scope="module")
def whole(digits: Bench, champion: Model) -> Model:
    return Export().apply(champion, digits.data, digits.job())


@pytest.fixture(scope="module")
def early(digits: Bench, champion: Model) -> Model:
    return ExitEarly(max_drop=MAX_DROP).apply(champion, digits.data, digits.job())


def answers(model: Model, images: npt.NDArray[np.float32], *names: str) -> list[npt.NDArray[np.float32]]:
    found: list[npt.NDArray[np.float32]] = session_of(model).run(list(names or ["probabilities"]), {"x": images})
    return found


def test_rows_leave_early_and_little_is_lost_on_held_rows(digits: Bench, whole: Model, early: Model) -> None:
    facts = early.facts
    assert 0.2 < facts["exits"] <= 1
    assert facts["multiply_adds"] < 0.9 * facts["multiply_adds_before"]
    assert 0 <= facts["agreement_loss"] <= MAX_DROP
    held = digits.data.rows(Role.SEARCH).inputs["x"]
    assert loss(answers(whole, held)[0], answers(early, held)[0]) == facts["agreement_loss"]
    graph = onnx.load(early.folder / "model.onnx").graph
    (branch,) = [node for node in graph.node if node.op_type == "If"]
    inside = {a.name: [node.op_type for node in a.g.node] for a in branch.attribute}
    assert "Conv" in inside["then_branch"]
    assert inside["else_branch"] == ["Identity"]
    assert [o.name for o in graph.output] == ["probabilities", "embedding"]


def test_those_that_stay_get_the_networks_own_answer_and_the_others_that_of_the_exit(
    digits: Bench, whole: Model, early: Model
) -> None:
    images = digits.data.rows(Role.JUDGE).inputs["x"]
    own, found = answers(whole, images)[0], answers(early, images)[0]
    same = np.abs(own - found).max(axis=1) <= 1e-5
    sure = found.max(axis=1) >= early.facts["threshold"] - 1e-6
    assert (same | sure).all()
    assert 0 < (~same).mean() <= 1
    assert (~same).mean() == pytest.approx(early.facts["exits"], abs=0.15)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 390), min_size=1, max_size=12))
def test_no_answer_depends_on_the_rows_beside_it(digits: Bench, early: Model, picked: list[int]) -> None:
    images = digits.data.rows(Role.JUDGE).inputs["x"][picked]
    together, embedding = answers(early, images, "probabilities", "embedding")
    assert embedding.shape[0] == len(picked)
    for at, image in enumerate(images):
        alone = answers(early, image[None])[0]
        assert np.abs(alone[0] - together[at]).max() <= 1e-5


def test_a_runtime_serves_it(digits: Bench, early: Model) -> None:
    rows = digits.data.rows(Role.JUDGE)
    said = OnnxRuntime().load(early).predict(rows.inputs)
    assert float((said.argmax(axis=1) == rows.labels).mean()) > 0.8


def test_multiply_adds_of_the_graph_are_those_that_torch_counts(digits: Bench, champion: Model, whole: Model) -> None:
    loaded = FloatModel.load(champion)
    graph = onnx.load(whole.folder / "model.onnx").graph
    inferred = onnx.load(whole.folder / "model.onnx")
    inferred.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in onnx.shape_inference.infer_shapes(inferred, strict_mode=True).graph.value_info
    }
    shapes |= {"embedding": [1, 48], "probabilities": [1, 10]}
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    spent = costs(graph, {**shapes, gemm.output[0]: [1, 10]})
    assert sum(spent) == multiply_adds(loaded.network, loaded.examples())[""]
    places = cuts(graph, spent)
    assert [c.before for c in places] == sorted({c.before for c in places})
    assert places[-1].before == sum(spent) - 480  # the last layer alone lies behind it


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 99), st.floats(0, 0.5))
def test_a_threshold_loses_what_it_may_and_lets_as_many_go_as_it_can(rows: int, seed: int, most: float) -> None:
    rng = np.random.default_rng(seed)
    final, exits = rng.dirichlet(np.ones(3), (2, rows)).astype(np.float32).round(1)
    sure = exits.max(axis=1)

    def lost(threshold: float) -> float:
        return loss(final, np.where(sure[:, None] >= threshold, exits, final))

    threshold, share = _threshold(sure, exits, final, most)
    assert float((sure >= threshold).mean()) == pytest.approx(share)
    assert share == 0 or lost(threshold) <= most + 1e-6
    lower = [value for value in np.unique(sure) if value < threshold]
    assert not lower or lost(max(lower)) > most - 1e-6


def test_what_has_no_exit_is_refused_with_the_way_out(digits: Bench, champion: Model, tmp_path: Path) -> None:
    noise = Bench.noise(tmp_path, (1, 8, 8))
    wide, flat = (noise.fit(f"{__name__}:Flat", 1, {"hidden": hidden}) for hidden in (256, None))
    with pytest.raises(PluginError, match=r"exit.early saves nothing: .* raise max_drop, or leave exit.early out"):
        ExitEarly().apply(wide, noise.data, noise.job())
    with pytest.raises(PluginError, match=r"exit\.early finds no place where the graph hangs on one value"):
        ExitEarly().apply(flat, noise.data, noise.job())
    with pytest.raises(OutOfTimeError, match=r"exit.early: .* lower exit.early.rows"):
        ExitEarly().apply(champion, digits.data, digits.job(deadline=-1.0))
    model, data, job = regression(tmp_path)
    with pytest.raises(PluginError, match=r"exit\.early asks how sure a classification is, and this is a regression"):
        ExitEarly().apply(model, data, job)


def test_a_signal_is_averaged_over_its_positions_wherever_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    waves = rng.normal(size=(600, 3, 40)) + 2 * np.eye(3)[labels][:, :, None]
    bench = Bench(tmp_path, waves.astype(np.float32), labels.astype(np.int64), 400)
    early = ExitEarly().apply(bench.fit(f"{__name__}:Signal", 4), bench.data, bench.job())
    assert early.facts["exits"] > 0.9
    assert answers(early, waves[:5].astype(np.float32), "embedding")[0].shape == (5, 8)


def test_a_place_where_rows_are_not_on_the_first_axis_is_passed_over(tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, (6, 5))
    model = bench.fit(f"{__name__}:Turned", 1)
    with pytest.raises(PluginError, match="finds no place where the graph hangs on one value with a row on each line"):
        ExitEarly(max_drop=0.9).apply(model, bench.data, bench.job())


def test_a_transposed_convolution_counts(tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, (2, 6, 6))
    model = bench.fit(f"{__name__}:Widened", 1)
    early = ExitEarly(max_drop=0.9).apply(model, bench.data, bench.job())
    loaded = FloatModel.load(model)
    assert early.facts["multiply_adds_before"] == multiply_adds(loaded.network, loaded.examples())[""]


def test_what_lies_behind_the_exit_stays_float_and_the_facts_say_so(digits: Bench, early: Model) -> None:
    quantized = QuantizeStatic().apply(early, digits.data, digits.job())
    last = "network.stages.2.conv2"
    assert last in quantized.facts["kept_in_float"]
    assert last not in quantized.facts["quantized_layers"]
    assert last in QuantizeWeights().apply(early, digits.data, digits.job()).facts["kept_in_float"]


@pytest.fixture(scope="module")
def deep(digits: Bench) -> Model:
    """Many rows are not sure at its exit, and go on."""
    return ExitEarly(max_drop=0.0).apply(digits.fit(f"{__name__}:Deep", 10), digits.data, digits.job())


@pytest.mark.parametrize("technique", [QuantizeWeights(), QuantizeWeights(bits=4), QuantizeFloat16(), QuantizeStatic()])
def test_products_behind_the_exit_stay_float_and_are_named(digits: Bench, deep: Model, technique: Any) -> None:
    made = technique.apply(deep, digits.data, digits.job())
    branch = behind_the_exit(made)
    assert {t.data_type for t in branch.initializer if len(t.dims) == 2} == {onnx.TensorProto.FLOAT}
    products = [node for node in branch.node if node.op_type in ("Gemm", "MatMul")]
    named = [n for n in made.facts["kept_in_float"] if "third" in n or "head" in n]
    assert len(products) == len(named) == 2
    assert_answers_alike(digits, deep, made)


def test_products_behind_the_exit_are_in_float16_where_all_is(digits: Bench, deep: Model) -> None:
    made = QuantizeFloat16(compute="float16").apply(deep, digits.data, digits.job())
    assert {t.data_type for t in behind_the_exit(made).initializer if len(t.dims) == 2} == {onnx.TensorProto.FLOAT16}
    assert not made.facts["kept_in_float"]
    assert_answers_alike(digits, deep, made)
    with pytest.raises(PluginError, match=r"would leave .*first.* in float32, .* take compute: float32"):
        QuantizeFloat16(compute="float16", keep_float=("*first*",)).apply(deep, digits.data, digits.job())


def behind_the_exit(model: Model) -> onnx.GraphProto:
    graph = onnx.load(model.folder / "model.onnx").graph
    (branch,) = [a.g for node in graph.node if node.op_type == "If" for a in node.attribute if a.name == "then_branch"]
    return branch


def assert_answers_alike(bench: Bench, one: Model, other: Model) -> None:
    images = bench.data.rows(Role.JUDGE).inputs["x"]
    assert one.facts["exits"] < 0.8
    there, here = (answers(model, images)[0] for model in (one, other))
    assert np.abs(there - here).mean() < 0.05
    assert np.abs(there - np.roll(here, 1, axis=0)).mean() > 0.1


def regression(folder: Path) -> tuple[Model, Data, Job]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"]).assign(y=rng.normal(size=60))
    schema = Schema.freeze({"a": Feature(), "b": Feature()}, frame, task="regression", label="y")
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(60, dtype=np.uint64))
    data = Data.write(folder / "regression", {Role.TRAIN: rows})
    jobs = []
    for name in ("fitted", "left"):
        (folder / name).mkdir()
        jobs.append(Job(folder / name, 0, schema))
    return Regressor("trimtab_torch.networks:Mlp", epochs=1).fit(data, jobs[0]), data, jobs[1]


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"exit\.early\.rows must be at least 2, got 1"):
        ExitEarly(rows=1)
    with pytest.raises(ValueError, match=r"export\.opset must be from 18 to 23, got 9"):
        ExitEarly(opset=9)
