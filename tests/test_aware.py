"""What quantization-aware training promises: the file computes what was trained, in 8 bits, and keeps structure."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from tests import networks
from trimtab.artifact import Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, OutOfTimeError, PluginError
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_openvino.runtime import OpenVino
from trimtab_torch.aware import QuantizeAware
from trimtab_torch.classifier import Classifier
from trimtab_torch.export import Export, Serving, trace
from trimtab_torch.placement import place
from trimtab_torch.preprocess import to_tensors
from trimtab_torch.regressor import Regressor
from trimtab_torch.runtime import TorchRuntime
from trimtab_torch.simulate import Grid, Norm, Simulated, Weighted
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import fit

RESNET, MLP = "trimtab_torch.networks:SmallResNet", "trimtab_torch.networks:Mlp"
ROWS, TRAIN, CALIBRATION = 500, 300, 400


class Bench:
    """Labelled rows of any shape by role; gives each step a folder."""

    def __init__(self, root: Path, inputs: npt.NDArray[np.float32], labels: npt.NDArray[Any], task: Any) -> None:
        self.root, self.steps = root, 0
        if inputs.ndim > 2:
            frame = pd.DataFrame({"x": [i.ravel() for i in inputs], "y": labels})
            features = {"x": Feature(kind="tensor", shape=inputs.shape[1:])}
        else:
            names = list("abcdefgh"[: inputs.shape[1]])
            frame = pd.DataFrame(inputs.astype(np.float64), columns=names).assign(y=labels)
            features = {name: Feature() for name in names}
        self.schema = Schema.freeze(features, frame, label="y", task=task)
        count = len(labels)
        rows = Rows(self.schema.encode(frame), self.schema.encode_labels(frame), np.arange(count, dtype=np.uint64))
        parts = np.split(np.arange(count), [TRAIN, CALIBRATION])
        roles = dict(zip((Role.TRAIN, Role.CALIBRATION, Role.JUDGE), map(rows.take, parts), strict=True))
        self.data = Data.write(root / "data", roles)
        self.judged = self.data.rows(Role.JUDGE)

    def job(self, teacher: Model | None = None, **changes: Any) -> Job:
        self.steps += 1
        folder = self.root / f"step{self.steps}"
        folder.mkdir()
        return dataclasses.replace(Job(folder, 0, self.schema, teacher), **changes)

    def quantize(self, model: Model, teacher: Model | None = None, **given: Any) -> Model:
        return QuantizeAware(**given).apply(model, self.data, self.job(teacher))

    def changed(self, model: Model, change: Callable[[str, Tensor], Tensor]) -> Model:
        """Return the model with other weights in its convolutions and linear layers."""
        loaded = FloatModel.load(model)
        for name, module in loaded.network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data = change(name, module.weight.data)
        return loaded.save(self.job().folder, {})

    def right(self, model: Model) -> float:
        said = OnnxRuntime().load(model).predict(self.judged.inputs).argmax(axis=1)
        return float((said == self.judged.labels).mean())


def patterns(shape: tuple[int, ...], classes: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Smooth patterns under noise."""
    rng = np.random.default_rng(0)
    ramps = np.random.default_rng(99).normal(size=(classes, *shape)).cumsum(axis=-1)
    labels = rng.integers(0, classes, ROWS)
    return (ramps[labels] / ramps.std() + rng.normal(0, 1.0, (ROWS, *shape))).astype(np.float32), labels


def bench_of(root: Path, shape: tuple[int, ...], classes: int = 3) -> Bench:
    return Bench(root, *patterns(shape, classes), "classification")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench_of(tmp_path_factory.mktemp("images"), (1, 8, 8))


@pytest.fixture(scope="module")
def resnet(images: Bench) -> Model:
    return Classifier(RESNET, {"widths": [16, 24]}, epochs=2, batch_size=32).fit(images.data, images.job())


@pytest.fixture(scope="module")
def aware(images: Bench, resnet: Model) -> Model:
    return images.quantize(resnet, epochs=2)


def graph_of(model: Model) -> onnx.GraphProto:
    return onnx.load(str(model.folder / "model.onnx")).graph


def weights_of(model: Model) -> dict[str, npt.NDArray[np.int8]]:
    """Return the int8 weights in the file, channels first, by layer."""
    graph = graph_of(model)
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    found = [
        constants[producers[node.input[1]].input[0]]
        for node in graph.node
        if node.op_type in ("Conv", "Gemm") and producers.get(node.input[1]) is not None
    ]
    return dict(zip(model.facts["quantized_layers"], found, strict=True))


def kernels(model: Model, folder: Path) -> Counter[str]:
    """Return which operators onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(model.folder / "model.onnx"), options)
    return Counter(node.op_type for node in onnx.load(str(folder / "optimized.onnx")).graph.node)


def test_activations_are_unsigned_weights_signed_per_channel_and_the_edges_float(aware: Model) -> None:
    graph = graph_of(aware)
    constants = {t.name: t for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    assert {constants[n.input[2]].data_type for n in graph.node if n.op_type == "QuantizeLinear"} == {TensorProto.UINT8}
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(aware.facts["quantized_layers"]) == 7
    for node in layers:
        weight, scale, zero = (constants[name] for name in producers[node.input[1]].input)
        assert weight.data_type == zero.data_type == TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        assert producers[node.input[0]].op_type == "DequantizeLinear"
    for node in graph.node:
        if node.op_type in ("Sub", "Div"):
            assert all(producers[n].op_type == "Sub" for n in node.input if n in producers)
    assert producers["probabilities"].op_type == "Softmax"
    assert {o.name: o.type.tensor_type.elem_type for o in graph.output} == {
        "probabilities": TensorProto.FLOAT,
        "embedding": TensorProto.FLOAT,
    }


def test_both_sides_of_a_residual_sum_come_in_8_bits_and_so_does_the_sum(aware: Model) -> None:
    graph = graph_of(aware)
    producers = {name: node for node in graph.node for name in node.output}
    sums = [n for n in graph.node if n.op_type == "Add"]
    assert len(sums) == 2
    for node in sums:
        assert [producers[name].op_type for name in node.input] == ["DequantizeLinear"] * 2
        (after,) = [n for n in graph.node if node.output[0] in n.input]
        (rounded,) = [n for n in graph.node if after.output[0] in n.input]
        assert (after.op_type, rounded.op_type) == ("Relu", "QuantizeLinear")


def test_the_kernels_are_those_of_quantize_static(images: Bench, resnet: Model, aware: Model, tmp_path: Path) -> None:
    exported = Export().apply(resnet, images.data, images.job())
    static = QuantizeStatic(max_drop=None).apply(exported, images.data, images.job())
    ours, theirs = kernels(aware, tmp_path), kernels(static, tmp_path)
    for kind in ("QLinearConv", "QLinearAdd", "QGemm", "Conv", "Gemm", "Add"):
        assert ours[kind] == theirs[kind]
    assert ours.total() <= theirs.total()
    assert aware.size_bytes <= static.size_bytes < 0.5 * exported.size_bytes
    assert images.right(aware) > images.right(exported) - 0.03


def test_openvino_takes_the_file_and_answers_alike(images: Bench, aware: Model) -> None:
    ours, theirs = (runtime.load(aware).predict(images.judged.inputs) for runtime in (OnnxRuntime(), OpenVino()))
    assert np.abs(ours - theirs).max() < 0.05
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.98


@pytest.mark.parametrize("optimized", [False, True])
def test_the_file_answers_as_the_network_that_was_trained_row_by_row(
    images: Bench, resnet: Model, optimized: bool
) -> None:
    loaded = FloatModel.load(resnet)
    parts = loaded.prepare(images.judged.inputs)
    placement = place(loaded.network, loaded.examples(2), per_channel=True, last_in_float=False)
    simulated = Simulated(placement.network, 0).eval()
    simulated.watch([parts])
    with torch.inference_mode():
        trained = torch.softmax(simulated(*parts), dim=1).numpy()
    placement.settle()
    serving = Serving(loaded.preprocess, placement.network, placement.embedding).eval()
    proto = trace(serving, images.schema, 20)
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    served = session.run(["probabilities"], dict(images.judged.inputs))[0]
    with torch.inference_mode():
        settled = serving(*to_tensors(images.schema, images.judged.inputs))[0].numpy()
    apart = np.abs(settled - trained).max(axis=1), np.abs(served - trained).max(axis=1)
    # Where a number lies on the edge of two levels, another order of additions may take the other one.
    assert all(np.quantile(gap, 0.9 if not optimized else 0.5) < 1e-3 for gap in apart)
    assert all(gap.max() < 0.02 for gap in apart)
    assert (served.argmax(axis=1) == trained.argmax(axis=1)).mean() > 0.99


def test_training_mends_what_rounding_spoils(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, (8,))
    model = Classifier(MLP, {"hidden": [32, 32]}, epochs=6, batch_size=32).fit(bench.data, bench.job())
    loaded = FloatModel.load(model)
    parts, known = loaded.prepare(bench.judged.inputs), bench.data.rows(Role.TRAIN)

    def right(network: nn.Module) -> float:
        with torch.inference_mode():
            return float((network(*parts).argmax(dim=1).numpy() == bench.judged.labels).mean())

    before = right(loaded.network)
    with torch.no_grad():  # one channel a thousand times larger, undone in the next layer: the same float network
        first, second = (loaded.network.get_submodule(name) for name in ("body.0", "body.3"))
        first.weight[0] *= 1000
        first.bias[0] *= 1000
        second.weight[:, 0] /= 1000
    assert right(loaded.network) == pytest.approx(before, abs=0.02)
    placement = place(loaded.network, loaded.examples(2), per_channel=False, last_in_float=False)
    simulated = Simulated(placement.network, 0).eval()
    simulated.watch([loaded.prepare(bench.data.rows(Role.CALIBRATION).inputs)])
    rounded = right(simulated)
    training = loaded.spec.settings.but(epochs=8, learning_rate=0.03, precision="float32")
    fit(simulated, loaded.prepare(known.inputs), loaded.targets(known.labels), training, bench.job(), "a test")
    placement.settle()
    assert rounded < before - 0.2
    assert right(placement.network) > rounded + 0.15


def test_per_tensor_weights_have_one_scale(images: Bench, resnet: Model) -> None:
    graph = graph_of(images.quantize(resnet, epochs=0, per_channel=False))
    constants = {t.name: t for t in graph.initializer}
    scales = [constants[n.input[1]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert all(list(scale.dims) == [] for scale in scales)


@pytest.mark.parametrize("steps", [0, 4])
def test_ranges_and_norms_stand_still_from_where_they_freeze(images: Bench, resnet: Model, steps: int) -> None:
    loaded = FloatModel.load(resnet)
    parts = loaded.prepare(images.judged.inputs)
    placement = place(loaded.network, loaded.examples(2), per_channel=True, last_in_float=False)
    simulated = Simulated(placement.network, steps).eval()
    simulated.watch([parts])

    def statistics() -> list[float]:
        grids = [m.high for m in placement.network.modules() if isinstance(m, Grid)]
        norms = [m.mean.sum() for m in placement.network.modules() if isinstance(m, Norm)]
        return [float(value) for value in (*grids, *norms)]

    simulated.train()
    seen = [statistics()]
    for _ in range(6):
        simulated(*parts)
        seen.append(statistics())
    assert [before != after for before, after in itertools.pairwise(seen)] == [step < steps for step in range(6)]


def pruned(_name: str, weight: Tensor) -> Tensor:
    return weight * (weight.abs() > weight.abs().flatten().quantile(0.6))


def clustered(_name: str, weight: Tensor) -> Tensor:
    """Share seven values, none of them zero."""
    values = torch.linspace(-1.0, 1.0, 8)[[0, 1, 2, 3, 4, 5, 7]] * weight.abs().max()
    return values[(weight[..., None] - values).abs().argmin(dim=-1)]


def both(name: str, weight: Tensor) -> Tensor:
    kept = pruned(name, weight) != 0
    return clustered(name, weight) * kept


def floats_of(model: Model) -> dict[str, npt.NDArray[np.float32]]:
    network = FloatModel.load(model).network
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return {name: module.weight.detach().numpy() for name, module in layers.items()}


@pytest.mark.parametrize("change", [pruned, clustered, both])
def test_zeros_and_shared_values_outlast_training_exactly(images: Bench, resnet: Model, change: Any) -> None:
    model = images.changed(resnet, change)
    quantized = images.quantize(model, epochs=1)
    before, after = floats_of(model), weights_of(quantized)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        levels = after[name]
        assert (levels[weight == 0] == 0).all()
        if change is not clustered:
            assert quantized.facts["zeros"][name] == [(weight == 0).sum(), (levels == 0).sum()]
        if change is not pruned:
            shared = [np.unique(np.abs(levels[weight == value])) for value in np.unique(weight)]
            assert all(len(found) == 1 for found in shared)
            told = quantized.facts["distinct"][name]
            assert told == [len(np.unique(weight)), len(np.unique(levels))]
            assert told[1] <= told[0]
    assert bool(quantized.facts["distinct"]) is (change is not pruned)
    assert bool(quantized.facts["zeros"]) is (change is not clustered)
    if change is pruned:  # what is left of the weights was trained
        moved = [np.abs(after[n] / np.abs(after[n]).max()) - np.abs(w) / np.abs(w).max() for n, w in before.items()]
        assert max(np.abs(m).max() for m in moved) > 0.01


def test_a_dense_model_is_held_to_nothing(aware: Model) -> None:
    assert (aware.facts["zeros"], aware.facts["distinct"]) == ({}, {})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_a_layer_serves_what_it_was_trained_to_whatever_its_batch_norm(
    seed: int, per_channel: bool, closed: bool
) -> None:
    draws = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    factor = drawn(6)
    factor[0] = 0.0  # a channel that its norm silences
    norm = Norm(nn.Parameter(factor), nn.Parameter(drawn(6)), drawn(6), drawn(6).abs(), 0.1, 1e-5)
    weight = drawn(6, 5)
    weight[1] = 0.0  # one that was pruned
    layer = Weighted(nn.functional.linear, nn.Parameter(weight), nn.Parameter(drawn(6)), norm, per_channel, False)
    grid, x = Grid(), drawn(40, 5)
    grid.watches = True
    grid(x)
    grid.watches = False
    layer.eval()
    with torch.inference_mode():
        trained = layer(grid.eval()(x))
        served = layer.settle(grid.levels()[0], closed)(grid.settle()(x))
    # A bias that is rounded to 32 bits lies within half a step of products.
    assert float((trained - served).abs().max()) < 1e-3 * float(trained.abs().max())


def test_the_layer_that_gives_predictions_stays_float(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ROWS, 4)).astype(np.float32)
    bench = Bench(tmp_path, values, 100 + 10.0 * values[:, 0] - 5 * values[:, 1] * values[:, 2], "regression")
    model = Regressor(MLP, {"hidden": [32, 32]}, epochs=10, batch_size=32).fit(bench.data, bench.job())
    quantized = bench.quantize(model, epochs=1)
    assert list(quantized.facts["kept_in_float"]) == ["head"]
    assert quantized.facts["quantized_layers"] == ["body.0", "body.3"]
    before = Export().apply(model, bench.data, bench.job())
    said, wanted = (OnnxRuntime().load(m).predict(bench.judged.inputs) for m in (quantized, before))
    assert len(np.unique(said)) > 0.9 * len(said)
    assert np.sqrt(((said - wanted) ** 2).mean()) < 0.2 * wanted.std()


@pytest.mark.parametrize(
    ("network", "in_8_bits"),
    [
        (networks.MobileNet, {"QLinearConv": 10, "QLinearAdd": 2, "QGemm": 1, "Conv": 0}),
        (networks.Transformer, {"MatMulIntegerToFloat": 7, "QGemm": 4, "LayerNormalization": 4}),
        (networks.UNet, {"QLinearConv": 3, "ConvTranspose": 1, "QGemm": 1}),
    ],
)
def test_other_networks_are_rounded_where_runtimes_compute_in_8_bits(
    network: Any, in_8_bits: dict[str, int], tmp_path: Path
) -> None:
    bench = bench_of(tmp_path, network.example)
    factory = f"tests.networks:{network.__name__}"
    model = Classifier(factory, epochs=1, batch_size=32).fit(bench.data, bench.job())
    quantized = bench.quantize(model, epochs=0)
    found = kernels(quantized, tmp_path)
    assert {kind: found[kind] for kind in in_8_bits} == in_8_bits
    assert set(quantized.facts["kept_in_float"]) == ({"up"} if network is networks.UNet else set())
    said = TorchRuntime(factory=factory).load(model).predict(bench.judged.inputs)
    assert bench.right(quantized) > float((said.argmax(axis=1) == bench.judged.labels).mean()) - 0.05


def test_the_teacher_counts(images: Bench, resnet: Model, aware: Model) -> None:
    stranger = images.changed(resnet, lambda _name, weight: weight * 0.5)
    assert images.quantize(resnet, stranger, epochs=2).digest != aware.digest


def test_its_messages_name_its_own_settings(images: Bench, resnet: Model, tmp_path: Path) -> None:
    late = images.job(deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTimeError, match=r"^quantize.aware: the round's minutes were spent") as told:
        QuantizeAware(epochs=3).apply(resnet, images.data, late)
    assert "static" not in str(told.value)
    with pytest.raises(PluginError, match=r"^quantize.aware diverged"):
        images.quantize(resnet, epochs=1, learning_rate=1e12)
    unlabelled = dataclasses.replace(images.judged, labels=np.full_like(images.judged.labels, -1))
    with pytest.raises(DataError, match=r"no labelled training row"):
        QuantizeAware().apply(resnet, Data.write(tmp_path / "d", {Role.TRAIN: unlabelled}), images.job())


class Branching(nn.Module):
    """Looks at a value to decide what it does."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, classes)

    def forward(self, table: Tensor) -> Tensor:
        logits: Tensor = self.head(table if float(table.sum()) > 0 else -table)
        return logits


class Scales(nn.Module):
    """Has weights, and no layer that multiplies matrices."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(inputs))
        self.classes = classes

    def forward(self, table: Tensor) -> Tensor:
        return (table * self.factor)[:, : self.classes]


class Twice(nn.Module):
    """Runs one block two times, and two layers with one weight."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(shape[0], 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, classes)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.block(self.block(torch.relu(self.stem(image)))).mean(dim=(2, 3))
        logits: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(hidden)))))
        return logits


class NormOfSteps(nn.Module):
    """Normalises each step of a sequence, and not each feature of a layer's output."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(shape[1], 5), nn.BatchNorm1d(shape[0])
        self.head = nn.Linear(5, classes)

    def forward(self, sequence: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.norm(self.embed(sequence))).mean(dim=1))
        return logits


@pytest.mark.parametrize(
    ("network", "shape", "layers"),
    [
        ("Twice", (1, 6, 6), ["stem", "block.0", "block.0#2", "second", "second#2", "head"]),
        ("NormOfSteps", (7, 4), ["embed", "head"]),
    ],
)
def test_each_call_of_a_layer_is_rounded(
    network: str, shape: tuple[int, ...], layers: list[str], tmp_path: Path
) -> None:
    bench = bench_of(tmp_path, shape)
    model = Classifier(f"tests.test_aware:{network}", epochs=1, batch_size=32).fit(bench.data, bench.job())
    quantized = bench.quantize(model, epochs=1)
    assert quantized.facts["quantized_layers"] == layers
    integers = [t for t in graph_of(quantized).initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert len(integers) >= len({name.split("#")[0] for name in layers})  # calls of a layer may share its weight


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Branching", r"^quantize.aware cannot export the network: .*avoid control flow on values"),
        ("Scales", r"^quantize.aware finds nothing to quantize"),
    ],
)
def test_a_network_that_it_cannot_take_is_named_with_the_way_out(tmp_path: Path, network: str, message: str) -> None:
    bench = bench_of(tmp_path, (4,))
    model = Classifier(f"tests.test_aware:{network}", epochs=1).fit(bench.data, bench.job())
    with pytest.raises(PluginError, match=message):
        bench.quantize(model, epochs=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": -1}, "quantize.aware.epochs must be at least 0, got -1"),
        ({"learning_rate": 0.0}, "quantize.aware.learning_rate must be above 0 and finite, got 0.0"),
        ({"distill": 1.5}, r"quantize.aware.distill must be in \[0, 1\], got 1.5"),
        ({"freeze": -0.1}, r"quantize.aware.freeze must be in \[0, 1\], got -0.1"),
        ({"rows": 0}, "quantize.aware.rows must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_its_range_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeAware(**given)
