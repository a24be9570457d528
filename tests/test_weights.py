"""What sparsity and sharing promise: zeros, patterns, few values and fewer channels, in the files that are served."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import nn

from tests import networks
from tests.test_torch_prune import Bench, accuracy, logits_of
from trimtab.artifact import Model
from trimtab.errors import DataError, PluginError
from trimtab.technique import Technique
from trimtab_torch.cluster import STARTS, Cluster, centroids, nearest
from trimtab_torch.distill import Distill
from trimtab_torch.export import Export
from trimtab_torch.folding import fold
from trimtab_torch.groups import cut, find
from trimtab_torch.layers import channels
from trimtab_torch.penalty import Penalty, members
from trimtab_torch.prune import PruneChannel
from trimtab_torch.prune_nm import PruneNm, nm_mask
from trimtab_torch.prune_regularized import PruneRegularized
from trimtab_torch.prune_weight import PruneWeight, Thinning
from trimtab_torch.spec import FloatModel
from trimtab_torch.train import Finetune
from trimtab_torch.weights import distinct, require_weights, weights_of, zeros

pytestmark = pytest.mark.usefixtures("one_torch_thread")

Array = npt.NDArray[Any]
EPOCHS = 2


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = (bunch.images[order, None] / 16).astype(np.float32)
    return Bench(tmp_path_factory.mktemp("digits"), images, bunch.target[order].astype(np.int64), 600)


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return digits.fit("trimtab_torch.networks:SmallResNet", 5, {"widths": [16, 24]})


def made(technique: Technique, model: Model, bench: Bench) -> Model:
    return technique.apply(model, bench.data, bench.job(teacher=model))


def served(model: Model, bench: Bench) -> list[Array]:
    """Return the matrices and kernels of the exported file."""
    file = made(Export(), model, bench).folder / "model.onnx"
    arrays = [numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer]
    return [array for array in arrays if array.ndim > 1 and array.size > 1]


def stored(model: Model) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in weights_of(FloatModel.load(model).network).items()}


# prune.weight


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_smallest_weights_are_zero_in_the_stored_and_in_the_served_model(
    scope: Any, digits: Bench, champion: Model
) -> None:
    thin = made(PruneWeight(epochs=EPOCHS, sparsity=0.75, scope=scope), champion, digits)
    weights = stored(thin)
    counts = {name: [zeros(weight), weight.numel()] for name, weight in weights.items()}
    assert thin.facts["zeros"] == counts
    total = sum(size for _, size in counts.values())
    assert sum(zero for zero, _ in counts.values()) == pytest.approx(0.75 * total, abs=len(counts))
    shares = {zero / size for zero, size in counts.values()}
    assert (max(shares) - min(shares) < 0.02) == (scope == "layer")
    assert sum(int((a == 0).sum()) for a in served(thin, digits)) == sum(zero for zero, _ in counts.values())
    assert thin.facts["zipped_bytes"][1] < 0.5 * thin.facts["zipped_bytes"][0]
    at_once = made(PruneWeight(epochs=0, sparsity=0.75, scope=scope), champion, digits)
    assert at_once.facts["sparsity"] == pytest.approx(thin.facts["sparsity"], abs=1e-3)
    assert accuracy(thin, digits) > accuracy(at_once, digits)


@given(st.integers(1, 60), st.floats(0, 0.9), st.floats(0.05, 1), st.integers(1, 30), st.floats(0.05, 0.95))
def test_share_of_zeros_rises_to_what_was_asked_and_stays(
    steps: int, begin: float, length: float, frequency: int, sparsity: float
) -> None:
    end = min(1.0, begin + length)
    layer = nn.Linear(20, 10)
    settings = PruneWeight(sparsity=sparsity, begin=begin, end=end, frequency=frequency)
    thinning = Thinning(settings, {"layer": layer.weight})
    seen = []
    with torch.no_grad():
        for done in range(1, steps + 1):
            layer.weight.add_(0.1 * torch.rand_like(layer.weight) + 0.01)
            thinning(done, steps)
            seen.append(zeros(layer.weight))
    assert seen == sorted(seen)
    assert seen[-1] == round(sparsity * 200)


# prune.nm


@pytest.mark.parametrize(("pattern", "method"), [("2:4", "sr_ste"), ("1:4", "sr_ste"), ("2:4", "fixed")])
def test_pattern_holds_along_the_inputs_in_the_stored_and_in_the_served_model(
    pattern: str, method: Any, digits: Bench, champion: Model
) -> None:
    step = PruneNm(epochs=EPOCHS, pattern=pattern, method=method)
    thin, (kept, of) = made(step, champion, digits), step.numbers
    weights = stored(thin)
    assert list(thin.facts["left_alone"]) == ["stem.0"]
    assert "1 inputs, no multiple of 4" in thin.facts["left_alone"]["stem.0"]
    held = {name: weight.numpy() for name, weight in weights.items() if name != "stem.0"}
    found = [a for a in served(thin, digits) if a.shape != tuple(weights["stem.0"].shape)]
    head = tuple(weights["head"].shape)
    assert sorted(a.size for a in found) == sorted(a.size for a in held.values())
    for array in (*held.values(), *(a if a.ndim > 2 or a.shape == head else a.T for a in found)):
        blocks = np.moveaxis(array, 1, -1).reshape(-1, of)
        assert ((blocks != 0).sum(axis=1) == kept).mean() > 0.99
        assert ((blocks != 0).sum(axis=1) <= kept).all()
    assert accuracy(thin, digits) > accuracy(made(PruneNm(epochs=0, pattern=pattern), champion, digits), digits)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_largest_of_each_block_are_kept(kept: int, more: int, blocks: int) -> None:
    of = kept + more
    weight = torch.randn(3, of * blocks, 2)
    mask = nm_mask(weight, kept, of)
    chosen = (weight * mask).movedim(1, -1).reshape(-1, of).abs()
    whole = weight.movedim(1, -1).reshape(-1, of).abs()
    assert torch.equal(chosen.sort(dim=1).values[:, -kept:], whole.sort(dim=1).values[:, -kept:])
    assert int(mask.sum()) == kept * blocks * 6


def test_pattern_that_fits_no_layer_is_an_error_that_says_so(digits: Bench, champion: Model) -> None:
    with pytest.raises(PluginError, match=r"prune.nm.pattern 3:7 fits no layer; set another, .* no multiple of 7"):
        made(PruneNm(epochs=0, pattern="3:7"), champion, digits)


# cluster


def test_few_distinct_values_are_in_the_stored_and_in_the_served_model(digits: Bench, champion: Model) -> None:
    shared = made(Cluster(epochs=EPOCHS, clusters=8), champion, digits)
    weights = stored(shared)
    assert all(distinct(weight) <= 8 for weight in weights.values())
    assert shared.facts["distinct"] == {name: [distinct(w), w.numel()] for name, w in weights.items()}
    arrays = served(shared, digits)
    assert sorted(a.size for a in arrays) == sorted(w.numel() for w in weights.values())
    assert all(len(np.unique(a)) <= 8 for a in arrays)
    assert {"stem.1", "stages.0.bn1", "stages.1.shortcut.1"} <= set(shared.facts["folded"])
    plain = b"".join(a.tobytes() for a in served(champion, digits))
    assert len(zlib.compress(b"".join(a.tobytes() for a in arrays), 9)) < 0.3 * len(zlib.compress(plain, 9))
    assert shared.facts["compressed_bytes"] < shared.facts["zipped_bytes"][1] < 0.4 * shared.facts["zipped_bytes"][0]
    untrained = made(Cluster(epochs=0, clusters=8), champion, digits)
    assert accuracy(shared, digits) > accuracy(champion, digits) - 0.05
    assert not torch.equal(stored(untrained)["head"].unique(), weights["head"].unique())


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=20, max_size=200, unique=True),
    st.integers(2, 9),
    st.sampled_from(STARTS),
)
def test_kmeans_is_no_worse_than_values_drawn_evenly(values: list[float], count: int, initial: str) -> None:
    flat = np.array(values, dtype=np.float64)
    book = centroids(flat, count, initial, seed=0)
    assert 1 <= len(book) <= count
    assert (np.diff(book) >= 0).all()
    assert flat.min() - 1e-6 <= book[0] <= book[-1] <= flat.max() + 1e-6
    error = ((nearest(flat, book) - flat) ** 2).sum()
    assert error <= ((flat - flat.mean()) ** 2).sum() * (1 + 1e-9)
    if initial == "linear":
        even = np.linspace(flat.min(), flat.max(), count)
        assert error <= ((nearest(flat, even) - flat) ** 2).sum() * (1 + 1e-9)


def test_training_keeps_what_was_pruned_and_then_clustered(digits: Bench, champion: Model) -> None:
    thin = made(PruneWeight(epochs=0, sparsity=0.6, scope="layer"), champion, digits)
    shared = made(Cluster(epochs=EPOCHS, clusters=8), thin, digits)
    assert {n: zeros(w) for n, w in stored(shared).items()} == {n: zeros(w) for n, w in stored(thin).items()}
    for step in (Finetune(epochs=1), Distill(epochs=1)):
        trained = step.apply(shared, digits.data, digits.job(teacher=champion))
        for name, weight in stored(trained).items():
            before = stored(shared)[name]
            assert torch.equal(weight == 0, before == 0)
            assert distinct(weight) <= distinct(before) <= 8
            assert not torch.equal(weight, before)


@pytest.mark.parametrize(
    ("layer", "norm", "example", "folds"),
    [
        (nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), (4,), True),
        (nn.Linear(4, 6), nn.BatchNorm1d(5), (5, 4), False),
        (nn.Linear(4, 5), nn.BatchNorm1d(5), (5, 4), False),
        (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (4, 9), True),
        (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), (4, 5, 5), True),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (4, 5, 5), False),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6), (4, 5, 5), False),
    ],
)
def test_norms_are_folded_where_the_layer_has_a_factor_for_each_channel(
    layer: nn.Module, norm: Any, example: tuple[int, ...], folds: bool
) -> None:
    torch.manual_seed(0)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    network = nn.Sequential(layer, norm, nn.ReLU()).eval()
    batch = torch.randn(3, *example)
    folded, edits = fold(network, [batch])
    assert bool(edits) == folds == isinstance(folded.get_submodule("1"), nn.Identity)
    assert torch.allclose(folded(batch), network(batch), atol=1e-5)


# prune.regularized


@pytest.mark.parametrize("penalty", ["group_lasso", "l2"])
def test_channels_that_the_penalty_brings_down_leave_the_served_graph(
    penalty: Any, digits: Bench, champion: Model
) -> None:
    settings = {"group_lasso": {"strength": 1.5}, "l2": {"strength": 4.0, "threshold": 0.2}}[penalty]
    narrow = made(PruneRegularized(epochs=8, penalty=penalty, **settings), champion, digits)
    facts = narrow.facts
    assert facts["multiply_adds"] < 0.7 * facts["multiply_adds_before"]
    assert channels(FloatModel.load(narrow).network) == {name: after for name, (_, after) in facts["channels"].items()}
    assert facts["channels"]["head"] == [10, 10]
    assert facts["left_alone"] == {"head": "the output layer"}
    exported = made(Export(), narrow, digits)
    assert exported.facts["multiply_adds"] == facts["multiply_adds"]
    graph = onnx.load(exported.folder / "model.onnx").graph
    kernels = sorted(t.dims[0] for t in graph.initializer if len(t.dims) == 4)
    assert kernels == sorted(after for name, (_, after) in facts["channels"].items() if name != "head")
    assert accuracy(narrow, digits) > 0.75


@pytest.mark.parametrize("name", ["FlatCnn", "Conv1d", "UNet", "MobileNet"])
def test_weights_of_a_channel_are_all_that_others_hear_of_it(name: str) -> None:
    torch.manual_seed(0)
    kind = getattr(networks, name)
    network, example = kind(classes=3).eval(), torch.randn(2, *kind.example)
    groups, _ = find(network, [example])
    pulled = members(network, [example], groups)
    removed = {n: g.at(range(0, g.places - 1, 2)) for n, g in groups.items()}
    with torch.no_grad():
        for group, parts in pulled.items():
            for part in parts:
                gone = torch.isin(part.channels, torch.tensor(removed[group]))
                part.write(part.read() * (~gone)[:, None])
        assert torch.allclose(cut(network, [example], removed)(example), network(example), atol=1e-4)


@pytest.mark.parametrize("pull", ["group_lasso", "l1", "l2"])
def test_penalty_alone_takes_what_its_strength_says_and_leaves_the_largest(pull: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    groups, _ = find(network, [torch.randn(2, 6)])
    pulled = members(network, [torch.randn(2, 6)], groups)
    before = {name: weight.clone() for name, weight in weights_of(network).items()}
    penalty = Penalty.on(pull, 5.0, groups, pulled, {"0": 4})
    with torch.no_grad():
        for done in range(1, 21):
            penalty(done, 20)
    length = torch.cat([network[0].weight, network[2].weight.T], dim=1).norm(dim=1)
    whole = torch.cat([before["0"], before["2"].T], dim=1).norm(dim=1)
    stay = whole.topk(4).indices
    assert torch.equal(length[stay], whole[stay])
    others = length[length < whole]
    assert len(others) == 12
    if pull == "l2":
        assert torch.allclose(others / whole[length < whole], torch.full((12,), float(np.exp(-5))), rtol=1e-3)
    else:
        assert not others.any()


def test_penalty_that_brings_nothing_down_is_an_error_that_says_so(digits: Bench, champion: Model) -> None:
    weak = PruneRegularized(epochs=1, strength=1e-6)
    with pytest.raises(PluginError, match=r"under threshold 0.1 \(the smallest is .* raise strength \(1e-06\)"):
        made(weak, champion, digits)


# all of them


def test_recovery_between_cuts_keeps_zeros(digits: Bench, champion: Model) -> None:
    thin = made(PruneWeight(epochs=0, sparsity=0.6, scope="layer"), champion, digits)
    narrow, mended = (
        stored(made(PruneChannel(scope="layer", recovery_epochs=epochs), thin, digits)) for epochs in (0, 1)
    )
    for name, weight in narrow.items():
        assert torch.equal(mended[name] == 0, weight == 0)
        assert not torch.equal(mended[name], weight)


def test_weights_that_a_layer_computes_are_left_alone_and_none_at_all_is_an_error() -> None:
    computed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert list(weights_of(nn.Sequential(computed, nn.Linear(3, 2)))) == ["1"]
    for network in (computed, nn.Sequential(nn.ReLU())):
        with pytest.raises(PluginError, match=r"cluster finds no .* weight of its own; leave cluster out of optimize"):
            require_weights(network, "cluster")


@pytest.mark.parametrize(
    "step",
    [PruneWeight(epochs=1), PruneNm(epochs=1), Cluster(epochs=1, initial="kmeans++"), PruneRegularized(epochs=1)],
    ids=lambda step: step.about.name,
)
def test_same_seed_same_file_and_no_label_no_file(step: Technique, digits: Bench, champion: Model) -> None:
    first, second = (made(step, champion, digits) for _ in range(2))
    assert first.digest == second.digest
    assert torch.equal(logits_of(first, digits.rows), logits_of(second, digits.rows))
    with pytest.raises(DataError, match="no labelled training row"):
        step.apply(champion, digits.blank, digits.job())


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (PruneWeight, {"epochs": -1}, "prune.weight.epochs must be at least 0, got -1"),
        (PruneWeight, {"sparsity": 0.0}, "prune.weight.sparsity must be above 0 and below 1, got 0.0"),
        (PruneWeight, {"begin": 0.5, "end": 0.5}, "prune.weight.begin must .* got 0.5 and 0.5"),
        (PruneWeight, {"frequency": 0}, "prune.weight.frequency must be at least 1, got 0"),
        (PruneWeight, {"scope": "all"}, "prune.weight.scope must be one of layer, global, got 'all'"),
        (PruneNm, {"pattern": "0:4"}, "prune.nm.pattern must be N:M .* got '0:4'"),
        (PruneNm, {"method": "dense"}, "prune.nm.method must be one of sr_ste, fixed, got 'dense'"),
        (PruneNm, {"refinement": -1.0}, "prune.nm.refinement must be 0 or more and finite, got -1.0"),
        (Cluster, {"clusters": 257}, "cluster.clusters must be from 2 to 256, got 257"),
        (Cluster, {"initial": "random"}, r"cluster.initial must be one of linear, density, kmeans\+\+, got 'random'"),
        (Cluster, {"learning_rate": 0.0}, "cluster.learning_rate must be above 0 and finite, got 0.0"),
        (PruneRegularized, {"penalty": "l3"}, "prune.regularized.penalty must be one of group_lasso, l1, l2, got 'l3'"),
        (PruneRegularized, {"threshold": 1.0}, r"prune.regularized.threshold must be in \[0, 1\), got 1.0"),
        (PruneRegularized, {"round_to": 0}, "prune.regularized.round_to must be at least 1, got 0"),
        (PruneRegularized, {"epochs": 0}, "prune.regularized.epochs must be at least 1, got 0"),
    ],
)
def test_settings_outside_their_rule_are_named(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
