"""Quantization beside the static one: products, halves, weights alone, and bits by layer, each seen in the file."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper

from tests.onnx_nets import Net, attention, cnn, fitted, mlp, node
from trimtab import discover
from trimtab.artifact import Model
from trimtab.data import Data, Role
from trimtab.errors import DataError, OutOfTimeError, PluginError, SettingsError
from trimtab.technique import Job, Technique
from trimtab.window import Feature, Schema
from trimtab_onnx.dynamic import QuantizeDynamic
from trimtab_onnx.half import QuantizeFloat16
from trimtab_onnx.mixed import QuantizeMixed
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_onnx.sensitivity import allot, divergence
from trimtab_onnx.weights import QuantizeWeights

NETS = {"mlp": mlp, "cnn": cnn, "attention": attention}
Nets = dict[str, Net]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Nets:
    folder = tmp_path_factory.mktemp("nets")
    return {name: make(folder / name) for name, make in NETS.items()}


def apply(
    technique: Technique, net: Net, folder: Path, deadline: float | None = None, data: Data | None = None
) -> Model:
    place = folder / f"step{len(list(folder.iterdir()))}"
    place.mkdir()
    return technique.apply(net.model, data or net.data, Job(place, 0, net.schema, deadline=deadline))


def graph_of(model: Model) -> onnx.GraphProto:
    return onnx.load(str(model.folder / "model.onnx")).graph


def operators(model: Model) -> Counter[str]:
    return Counter(n.op_type for n in graph_of(model).node)


def types(model: Model) -> Counter[int]:
    """Number of matrices and larger constants of each type."""
    return Counter(t.data_type for t in graph_of(model).initializer if len(t.dims) > 1 and math.prod(t.dims) > 100)


def answers(model: Model, net: Net) -> npt.NDArray[np.float32]:
    return OnnxRuntime().load(model).predict(net.judge.inputs)


def right(model: Model, net: Net) -> float:
    return float((answers(model, net).argmax(axis=1) == net.judge.labels).mean())


def test_the_nets_are_right_about_their_rows(nets: Nets) -> None:
    assert {name: right(net.model, net) > 0.85 for name, net in nets.items()} == dict.fromkeys(nets, True)


# dynamic


@pytest.mark.parametrize(("name", "products", "floats"), [("mlp", 3, 0), ("attention", 4, 2)])
def test_products_with_weights_multiply_integers_and_need_no_row(
    nets: Nets, tmp_path: Path, name: str, products: int, floats: int
) -> None:
    net = nets[name]
    nothing = Data.write(tmp_path / "none", {role: net.judge.take(np.zeros(0, np.int64)) for role in Role})
    quantized = apply(QuantizeDynamic(), net, tmp_path, data=nothing)
    found = operators(quantized)
    assert (found["MatMulInteger"], found["MatMul"], found["Gemm"]) == (products, floats, 0)
    assert found["DynamicQuantizeLinear"] >= 1
    assert types(quantized)[TensorProto.INT8] >= products - 1
    assert quantized.size_bytes < 0.55 * net.model.size_bytes
    assert right(quantized, net) > right(net.model, net) - 0.03
    assert len(quantized.facts["quantized_layers"]) == products


def test_a_model_of_convolutions_is_refused(nets: Nets, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"quantize.dynamic is for models of matrix products, .*take quantize.static"):
        apply(QuantizeDynamic(), nets["cnn"], tmp_path)


# float16


@pytest.mark.parametrize("name", NETS)
def test_weights_are_halves_and_everything_around_them_float(nets: Nets, tmp_path: Path, name: str) -> None:
    net = nets[name]
    halved = apply(QuantizeFloat16(), net, tmp_path)
    assert set(types(halved)) == {TensorProto.FLOAT16}
    assert halved.size_bytes < 0.65 * net.model.size_bytes
    assert np.allclose(answers(halved, net), answers(net.model, net), atol=0.01)
    assert halved.facts["kept_in_float"] == []


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_float16_activations_leave_inputs_outputs_and_preprocessing_alone(
    nets: Nets, tmp_path: Path, name: str
) -> None:
    net = nets[name]  # the numbers of the mlp lie around a million: rounded to float16 they would overflow
    halved = apply(QuantizeFloat16(compute="float16"), net, tmp_path)
    graph = graph_of(halved)
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    raw = {v.name for v in graph.input}
    assert {n.op_type for n in graph.node if raw & set(n.input)} == {"Sub"}
    casts = Counter(a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to")
    assert casts[TensorProto.FLOAT16] >= 1
    assert set(types(halved)) == {TensorProto.FLOAT16}
    assert np.allclose(answers(halved, net), answers(net.model, net), atol=0.03)


def overflowing(weights: dict[str, npt.NDArray[Any]]) -> None:
    """Let the first layer's weights be beyond float16, and the second bring its answers back."""
    weights["first.weight"] *= 3e5
    weights["first.bias"] *= 3e5
    weights["second.weight"] *= 1e-4


def test_a_layer_that_overflows_goes_back_into_float(tmp_path: Path) -> None:
    net = mlp(tmp_path / "net", overflowing)
    spoilt = apply(QuantizeFloat16(compute="float16", max_drop=None), net, tmp_path)
    held = apply(QuantizeFloat16(compute="float16"), net, tmp_path)
    assert spoilt.facts["lost"] > 0.1
    assert "first" in held.facts["kept_in_float"]
    assert held.facts["lost"] <= 0.01
    assert right(held, net) > right(net.model, net) - 0.03


# weights


@pytest.mark.parametrize("bits", [4, 8])
def test_products_are_packed_and_need_no_row(nets: Nets, tmp_path: Path, bits: Any) -> None:
    net = nets["mlp"]
    nothing = Data.write(tmp_path / "none", {role: net.judge.take(np.zeros(0, np.int64)) for role in Role})
    quantized = apply(QuantizeWeights(bits=bits), net, tmp_path, data=nothing)
    packed = [n for n in graph_of(quantized).node if n.op_type == "MatMulNBits"]
    read = [{a.name: a.i for a in n.attribute} for n in packed]
    assert [(r["bits"], r["block_size"]) for r in read] == [(bits, 32)] * 3
    assert quantized.size_bytes < (0.35 if bits == 4 else 0.5) * net.model.size_bytes
    assert right(quantized, net) > right(net.model, net) - (0.08 if bits == 4 else 0.03)
    assert quantized.facts["bits"] == {"first": bits, "second": bits, "last": bits}


def test_convolutions_keep_8_bits_with_a_scale_for_each_channel(nets: Nets, tmp_path: Path) -> None:
    net = nets["cnn"]
    quantized = apply(QuantizeWeights(bits=4), net, tmp_path)
    graph = graph_of(quantized)
    eights = [t for t in graph.initializer if t.data_type == TensorProto.INT8]
    assert sorted(t.dims[0] for t in eights) == [16, 24, 32]  # a row for each output channel
    assert operators(quantized)["MatMulNBits"] == 1
    assert quantized.size_bytes < 0.4 * net.model.size_bytes
    assert right(quantized, net) > right(net.model, net) - 0.05
    assert quantized.facts["bits"] == {"enter": 8, "inner": 8, "up": 8, "last": 4}


def sensitive(weights: dict[str, npt.NDArray[Any]]) -> None:
    """Give the second layer large weights for an input that is always zero: they swallow the scale of the others."""
    weights["first.weight"][0] = 0
    weights["first.bias"][0] = 0
    weights["second.weight"][:, 0] = 3e3


def test_unfolded_products_are_of_plain_onnx_and_a_large_weight_spoils_its_own_block(tmp_path: Path) -> None:
    net = mlp(tmp_path / "net", sensitive)
    coarse, fine = (
        apply(QuantizeWeights(bits=4, block_size=size, products="unfolded"), net, tmp_path) for size in (256, 16)
    )
    for quantized in (coarse, fine):
        assert {n.domain for n in graph_of(quantized).node} == {""}
        assert types(quantized)[TensorProto.INT4] >= 2
    gaps = [divergence(answers(net.model, net), answers(m, net)) for m in (coarse, fine)]
    assert gaps[1] < gaps[0] / 2
    assert coarse.size_bytes < fine.size_bytes < 0.4 * net.model.size_bytes


# bits by layer


def test_the_layer_that_suffers_gets_more_bits_until_the_budget_holds(tmp_path: Path) -> None:
    net = mlp(tmp_path / "net", sensitive)
    technique = QuantizeMixed(block_size=96, max_drop=0.005)
    mixed = apply(technique, net, tmp_path)
    bits = mixed.facts["bits"]
    assert bits["second"] == 16
    assert max(bits["first"], bits["last"]) < 16
    assert mixed.facts["lost"] <= 0.005
    assert types(mixed)[TensorProto.FLOAT16] == 1
    assert right(mixed, net) > right(net.model, net) - 0.03
    free = apply(QuantizeMixed(block_size=96, max_drop=0.99), net, tmp_path)
    assert set(free.facts["bits"].values()) == {4}
    assert free.facts["lost"] > 0.005
    assert free.facts["mean_bits"] == 4 < mixed.facts["mean_bits"] < 32
    assert free.size_bytes < mixed.size_bytes < net.model.size_bytes


@pytest.mark.parametrize("name", NETS)
def test_a_tight_budget_is_kept_and_a_loose_one_gives_an_eighth(nets: Nets, tmp_path: Path, name: str) -> None:
    net = nets[name]
    tight, loose = (apply(QuantizeMixed(max_drop=drop), net, tmp_path) for drop in (0.0, 0.5))
    assert tight.facts["lost"] == 0
    assert loose.size_bytes <= tight.size_bytes < net.model.size_bytes
    assert types(loose)[TensorProto.INT4] >= 1
    assert right(tight, net) > right(net.model, net) - 0.05


def test_bits_are_spent_where_each_takes_away_most_harm() -> None:
    hurt = {"large": {4: 0.3, 8: 0.0, 32: 0.0}, "small": {4: 0.2, 8: 0.0, 32: 0.0}}
    widths = dict.fromkeys(hurt, (4, 8, 32))
    outcome = allot(
        widths, lambda bits: sum(hurt[n][b] for n, b in bits.items()), 0.3, sizes={"large": 100, "small": 1}
    )
    assert outcome.bits == {"large": 4, "small": 8}
    whole = allot(widths, lambda bits: float(any(b < 32 for b in bits.values())), 0.1)
    assert set(whole.bits.values()) == {32}
    assert whole.lost == 0


# all of them

TECHNIQUES: list[Technique] = [
    QuantizeDynamic(),
    QuantizeFloat16(),
    QuantizeWeights(bits=4),
    QuantizeMixed(max_drop=0.5),
]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.about.name)
def test_same_rows_same_file_and_nothing_is_quantized_twice(nets: Nets, tmp_path: Path, technique: Technique) -> None:
    net = nets["mlp"]
    first, again = (apply(technique, net, tmp_path) for _ in range(2))
    assert first.digest == again.digest
    with pytest.raises(PluginError, match=rf"{technique.about.name} takes a float model, and this one is quantized"):
        apply(technique, Net(first, net.data, net.schema), tmp_path)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.about.name)
def test_openvino_answers_alike(nets: Nets, tmp_path: Path, technique: Technique) -> None:
    net = nets["mlp"]
    quantized = apply(technique, net, tmp_path)
    found = discover.build("runtimes", "openvino", {}, "targets").load(quantized).predict(net.judge.inputs)
    assert np.allclose(found, answers(quantized, net), atol=0.05)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.about.name)
def test_layers_are_kept_in_float_by_name(nets: Nets, tmp_path: Path, technique: Technique) -> None:
    net, made = nets["mlp"], type(technique)
    kept = apply(made(keep_float=("sec*",)), net, tmp_path)
    assert kept.facts["kept_in_float"] == ["second"]
    assert types(kept)[TensorProto.FLOAT] == 1
    with pytest.raises(SettingsError, match=rf"{technique.about.name}.keep_float: 'secnd' .* Did you mean 'second'\?"):
        apply(made(keep_float=("secnd",)), net, tmp_path)
    with pytest.raises(PluginError, match=rf"{technique.about.name}.keep_float leaves nothing to"):
        apply(made(keep_float=("*",)), net, tmp_path)


@pytest.mark.parametrize("technique", [QuantizeFloat16(), QuantizeMixed()], ids=lambda t: t.about.name)
def test_what_tries_layers_looks_at_the_clock_and_needs_rows(nets: Nets, tmp_path: Path, technique: Technique) -> None:
    net = nets["mlp"]
    with pytest.raises(
        OutOfTimeError, match=rf"{technique.about.name} ran out of time .* lower {technique.about.name}.rows"
    ):
        apply(technique, net, tmp_path, deadline=-math.inf)
    nothing = Data.write(tmp_path / "none", {role: net.judge.take(np.zeros(0, np.int64)) for role in Role})
    with pytest.raises(DataError, match="no row with the role"):
        apply(technique, net, tmp_path, data=nothing)


def test_a_graph_without_weights_has_nothing_to_quantize(nets: Nets, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    value = helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", 6])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 6])
    graph = helper.make_graph([helper.make_node("Softmax", ["numeric"], ["probabilities"])], "g", [value], [answer])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(empty / "model.onnx"))
    net = Net(Model.at(empty, "onnx"), nets["mlp"].data, nets["mlp"].schema)
    for technique in TECHNIQUES:
        with pytest.raises(PluginError, match=rf"{technique.about.name} finds nothing to quantize"):
            apply(technique, net, tmp_path)


@pytest.mark.parametrize(
    ("made", "settings", "message"),
    [
        (QuantizeWeights, {"bits": 3}, "quantize.weights.bits must be 4 or 8, got 3"),
        (QuantizeWeights, {"block_size": 30}, "quantize.weights.block_size must be one of 16, 32, .* got 30"),
        (QuantizeWeights, {"products": "raw"}, "quantize.weights.products must be packed or unfolded, got 'raw'"),
        (QuantizeMixed, {"bits": ()}, r"quantize.mixed.bits must be some of 4, 8, 16, got \(\)"),
        (QuantizeMixed, {"max_drop": 1.0}, r"quantize.mixed.max_drop must be in \[0, 1\), got 1.0"),
        (QuantizeMixed, {"block_size": 0}, "quantize.mixed.block_size must be at least 1, got 0"),
        (QuantizeMixed, {"rows": 0}, "quantize.mixed.rows must be at least 1, got 0"),
        (QuantizeFloat16, {"compute": "half"}, "quantize.float16.compute must be float32 or float16, got 'half'"),
        (QuantizeFloat16, {"max_drop": 1.5}, r"quantize.float16.max_drop must be in \[0, 1\), or null, got 1.5"),
        (QuantizeFloat16, {"rows": 0}, "quantize.float16.rows must be at least 1, got 0"),
    ],
)
def test_settings_outside_their_rule_are_named(made: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


# what strangers' files are like


def net_of(folder: Path, middle: list[onnx.NodeProto], weights: dict[str, npt.NDArray[Any]], opset: int = 18) -> Net:
    """Six numbers ``numeric`` through the nodes to ``hidden``, and a fitted layer; no node has a name."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(500, 6))
    labels = (values @ rng.normal(size=(6, 3))).argmax(axis=1)
    frame = pd.DataFrame(values, columns=list("abcdef")).assign(y=labels)
    schema = Schema.freeze({name: Feature() for name in "abcdef"}, frame, label="y")
    return fitted(folder, schema, frame, middle, {"numeric": ["n", 6]}, weights, opset)


def tied(folder: Path) -> Net:
    """Two layers in a row that share their weight."""
    rng = np.random.default_rng(0)
    weights = {"first": rng.normal(size=(6, 64)) / 2, "both": rng.normal(size=(64, 64)) / 8}
    nodes = [
        node("MatMul", ["numeric", "first"], ["h1"]),
        node("Relu", ["h1"], ["h2"]),
        node("MatMul", ["h2", "both"], ["h3"]),
        node("Relu", ["h3"], ["h4"]),
        node("MatMul", ["h4", "both"], ["h5"]),
        node("Relu", ["h5"], ["hidden"]),
    ]
    return net_of(folder, nodes, weights)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.about.name)
def test_a_weight_that_a_kept_layer_shares_stays_float(tmp_path: Path, technique: Technique) -> None:
    net = tied(tmp_path / "net")
    kept = apply(type(technique)(keep_float=("both",)), net, tmp_path)
    assert kept.facts["kept_in_float"] == ["both", "node4"]
    assert types(kept)[TensorProto.FLOAT] == 1
    assert right(kept, net) > right(net.model, net) - 0.05


def test_static_keeps_layers_whose_nodes_have_no_names(nets: Nets, tmp_path: Path) -> None:
    net = nets["mlp"]
    kept = apply(QuantizeStatic(keep_float=("sec*",), max_drop=None), net, tmp_path)
    assert kept.facts["kept_in_float"] == ["second"]
    assert types(kept) == {TensorProto.INT8: 2, TensorProto.FLOAT: 1}


@pytest.mark.parametrize("opset", [11, 12])
def test_static_takes_files_of_opsets_without_a_scale_for_each_channel(tmp_path: Path, opset: int) -> None:
    rng = np.random.default_rng(0)
    weights = {"first": rng.normal(size=(6, 64)) / 2, "second": rng.normal(size=(64, 64)) / 8}
    nodes = [
        node("MatMul", ["numeric", "first"], ["h1"]),
        node("Relu", ["h1"], ["h2"]),
        node("MatMul", ["h2", "second"], ["h3"]),
        node("Relu", ["h3"], ["hidden"]),
    ]
    net = net_of(tmp_path / "net", nodes, weights, opset)
    quantized = apply(QuantizeStatic(max_drop=None), net, tmp_path)
    assert types(quantized)[TensorProto.INT8] == 3
    assert right(quantized, net) > right(net.model, net) - 0.05


@pytest.mark.parametrize("technique", [QuantizeDynamic(), QuantizeStatic(max_drop=None)], ids=lambda t: t.about.name)
def test_stacks_of_matrices_stay_float(tmp_path: Path, technique: Technique) -> None:
    rng = np.random.default_rng(0)
    weights = {"stack": rng.normal(size=(4, 6, 48)) / 2, "second": rng.normal(size=(48, 64)) / 8}
    weights |= {"axes": np.array([1]), "both": np.array([1, 2])}
    nodes = [
        node("Unsqueeze", ["numeric", "both"], ["n"]),
        node("MatMul", ["n", "stack"], ["h1"]),  # [rows, 4, 1, 48]
        node("ReduceMean", ["h1", "axes"], ["h2"], keepdims=0),
        node("ReduceMean", ["h2", "axes"], ["h"], keepdims=0),
        node("MatMul", ["h", "second"], ["h3"]),
        node("Relu", ["h3"], ["hidden"]),
    ]
    net = net_of(tmp_path / "net", nodes, weights)
    quantized = apply(technique, net, tmp_path)
    assert quantized.facts["kept_in_float"] == ["stack"]
    assert right(quantized, net) > right(net.model, net) - 0.05
