"""What attention promises: heads go out of the graph, a window computes less and gives what masking would give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tensors import Bench, logits_of, session_of
from trimtab.artifact import Model
from trimtab.errors import PluginError
from trimtab_torch.attention import Attention
from trimtab_torch.export import Export
from trimtab_torch.layers import multiply_adds
from trimtab_torch.local import AttentionLocal
from trimtab_torch.prune_head import PruneHead, attentions, head_importance, without_heads
from trimtab_torch.spec import FloatModel

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ENCODER = "tests.networks:Encoder"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.noise(tmp_path_factory.mktemp("sequences"), (50, 4))


@pytest.fixture(scope="module")
def model(bench: Bench) -> Model:
    return bench.fit(ENCODER)


def projections(model: Model) -> list[list[int]]:
    """Return the shapes of the exported matrices that are 16 wide on either side, and so belong to attention."""
    graph = onnx.load(model.folder / "model.onnx").graph
    return sorted(list(t.dims) for t in graph.initializer if len(t.dims) == 2 and 32 not in t.dims and 16 in t.dims)


def test_heads_go_and_the_projections_of_the_graph_with_them(bench: Bench, model: Model) -> None:
    pruned = PruneHead(ratio=0.5, scope="layer").apply(model, bench.data, bench.job())
    facts = pruned.facts
    assert list(facts["heads"].values()) == [[4, 2], [4, 2]]
    assert facts["multiply_adds"] < 0.8 * facts["multiply_adds_before"]
    assert facts["parameters"] < facts["parameters_before"]
    assert [a.heads for a in attentions(FloatModel.load(pruned).network, "test").values()] == [2, 2]
    whole, fewer = (Export().apply(m, bench.data, bench.job()) for m in (model, pruned))
    assert projections(whole).count([16, 16]) == 8
    assert projections(fewer).count([16, 8]) == 6
    assert projections(fewer).count([8, 16]) == 2
    expected = torch.softmax(logits_of(pruned, bench.rows), dim=1).numpy()
    found = session_of(fewer).run(["probabilities"], {"x": bench.rows.inputs["x"]})[0]
    assert np.abs(found - expected).max() <= 1e-5


def test_every_layer_keeps_a_head_however_many_go(bench: Bench, model: Model) -> None:
    facts = PruneHead(ratio=0.95).apply(model, bench.data, bench.job()).facts
    assert [after for _, after in facts["heads"].values()] == [1, 1]
    again = PruneHead(ratio=0.6).apply(model, bench.data, bench.job()).facts
    assert sum(before - after for before, after in again["heads"].values()) == 5


def test_a_head_that_nobody_hears_goes_first_and_nothing_changes(bench: Bench, model: Model) -> None:
    loaded = FloatModel.load(model)
    with torch.no_grad():
        for layer in attentions(loaded.network, "test").values():
            layer.out.weight[:, 4:12] = 0
    parts = loaded.prepare(bench.rows.inputs)
    importance = head_importance(loaded.network, lambda network: iter([network(*parts).square().sum()]))
    for values in importance.values():
        assert values[1] == values[2] == 0
        assert values[0] > 0
        assert float(values.norm()) == pytest.approx(1)
    fewer = without_heads(loaded.network, {name: [1, 2] for name in importance})
    assert torch.allclose(fewer(*parts), loaded.network(*parts), atol=1e-6)


def test_importance_is_the_slope_of_a_gate(bench: Bench, model: Model) -> None:
    """A gate on one head, moved by a little, changes each row's loss by what its importance says."""
    loaded = FloatModel.load(model)
    parts = tuple(p[:1] for p in loaded.prepare(bench.rows.inputs))
    layers = attentions(loaded.network, "test")
    found = head_importance(loaded.network, lambda network: iter([network(*parts).square().sum()]))
    name, layer = next(iter(layers.items()))
    slopes = []
    for head in range(layer.heads):
        change = {}
        for factor in (1.01, 0.99):
            with torch.no_grad():
                place = layer.out.weight[:, 4 * head : 4 * head + 4]
                before = place.clone()
                place *= factor
                change[factor] = float(loaded.network(*parts).square().sum())
                place.copy_(before)
        slopes.append(abs(change[1.01] - change[0.99]) / 0.02)
    measured = torch.tensor(slopes) / torch.tensor(slopes).norm()
    assert torch.allclose(found[name], measured, atol=0.02)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_blocks_give_what_a_mask_gives(length: int, window: int, rows: int) -> None:
    torch.manual_seed(length * 100 + window)
    local = Attention(8, 2, window=window).eval()
    sequence = torch.randn(rows, length, 8)
    with torch.no_grad():
        query, key, value = (
            layer(sequence).view(rows, length, 2, 4).transpose(1, 2) for layer in (local.query, local.key, local.value)
        )
        apart = (torch.arange(length)[:, None] - torch.arange(length)[None]).abs()
        scores = (query @ key.transpose(2, 3) / 2).masked_fill(apart > window, float("-inf"))
        expected = local.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        assert torch.allclose(local(sequence), expected, atol=1e-5)


def test_a_window_is_rebuilt_exported_and_costs_less(bench: Bench, model: Model) -> None:
    local = AttentionLocal(window=4).apply(model, bench.data, bench.job())
    assert local.facts["lengths"] == {"layers.0.attention": 50, "layers.1.attention": 50}
    assert local.facts["multiply_adds"] < local.facts["multiply_adds_before"]
    assert json.loads((local.folder / "spec.json").read_text())["widths"]["layers.0.attention"]["window"] == 4
    exported = Export().apply(local, bench.data, bench.job())
    graph = onnx.load(exported.folder / "model.onnx").graph
    whole = onnx.load(Export().apply(model, bench.data, bench.job()).folder / "model.onnx").graph
    assert {50 * 50} & sizes(whole)
    assert not {50 * 50} & sizes(graph)
    expected = torch.softmax(logits_of(local, bench.rows), dim=1).numpy()
    for rows in (1, 7):
        found = session_of(exported).run(["probabilities"], {"x": bench.rows.inputs["x"][:rows]})[0]
        assert np.abs(found - expected[:rows]).max() <= 1e-5
    finer = PruneHead(ratio=0.5).apply(local, bench.data, bench.job())
    kept = attentions(FloatModel.load(finer).network, "test").values()
    assert sum(a.heads for a in kept) == 4
    assert all(a.window == 4 for a in kept)


def sizes(graph: onnx.GraphProto) -> set[int]:
    """Return how many numbers each inner value has beside its rows and heads, as shape inference says."""
    model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph))
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info]
    return {s[-1] * s[-2] for s in shapes if len(s) > 3}


def test_work_grows_with_the_length_and_not_with_its_square() -> None:
    def cost(length: int, window: int) -> int:
        attention = Attention(16, 4, window=window).eval()
        return multiply_adds(attention, [torch.zeros(1, length, 16)])[""]

    assert cost(1024, 32) == pytest.approx(4 * cost(256, 32), rel=0.01)
    assert cost(1024, 0) > 8 * cost(256, 0)
    assert cost(1024, 32) < 0.2 * cost(1024, 0)


def test_networks_that_cannot_be_changed_are_refused_with_the_way_out(
    bench: Bench, model: Model, tmp_path: Path
) -> None:
    other = Bench.noise(tmp_path, (12, 6))
    plain = other.fit("tests.networks:Transformer")
    for technique in (PruneHead(), AttentionLocal()):
        with pytest.raises(PluginError, match=r"finds no trimtab_torch.attention.Attention .* nn.MultiheadAttention"):
            technique.apply(plain, other.data, other.job())
    with pytest.raises(PluginError, match=r"attention\.local\.window 32: the longest sequence has 50 positions"):
        AttentionLocal().apply(model, bench.data, bench.job())
    single = PruneHead(ratio=0.95).apply(model, bench.data, bench.job())
    with pytest.raises(PluginError, match=r"takes no head from layers.0.attention \(1\), layers.1.attention \(1\)"):
        PruneHead().apply(single, bench.data, bench.job())


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"prune\.head\.scope must be one of global, layer, got 'all'"):
        PruneHead(scope="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads must be at least 1 and window 0 or more, got 0 and 0"):
        Attention(8, 0)
