"""What factorizing promises: two thin layers for one, stored and served, and fewer multiply-adds."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import networks
from tests.test_torch_prune import Bench, logits_of
from trimtab.artifact import Model
from trimtab.errors import ArtifactError, OutOfTimeError, PluginError
from trimtab_torch.export import Export
from trimtab_torch.factorize import Factorize
from trimtab_torch.lowrank import Split
from trimtab_torch.prune import PruneChannel
from trimtab_torch.spec import FloatModel
from trimtab_torch.structure import LowRank
from trimtab_torch.train import Scratch

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Tied(nn.Module):
    """Two layers with one weight, and one with its own."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.second, self.own = (nn.Linear(shape[0], shape[0]) for _ in range(3))
        self.second.weight = self.first.weight
        self.head = nn.Linear(shape[0], classes)

    def forward(self, values: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.own(torch.relu(self.second(torch.relu(self.first(values)))))))
        return logits


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.noise(tmp_path_factory.mktemp("images"), (1, 8, 8))


@pytest.fixture(scope="module")
def champion(images: Bench) -> Model:
    return images.fit("trimtab_torch.networks:SmallResNet", 1, {"widths": [16, 32]})


def factorized(model: Model, bench: Bench, **settings: Any) -> Model:
    return Factorize(**settings).apply(model, bench.data, bench.job())


def thinned(model: Model, bench: Bench, rank: int, scheme: Any) -> Model:
    """Give every convolution and linear layer that can be split a weight of this rank."""
    loaded = FloatModel.load(model)
    modules: dict[str, Any] = dict(loaded.network.named_modules())
    with torch.no_grad():
        for layer in modules.values():
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.in_channels > 1):
                own = "matrix" if isinstance(layer, nn.Linear) else scheme if layer.kernel_size[0] > 1 else "channel"
                layer.weight.copy_(Split.of("", layer, own, "share", 1e-9, rank).product())
    return loaded.save(bench.job().folder, {})


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_weights_of_low_rank_are_split_without_a_loss(scheme: Any, images: Bench, champion: Model) -> None:
    thin = thinned(champion, images, 4, scheme)
    split = factorized(thin, images, keep=0.99999, round_to=1, convolutions=scheme)
    assert torch.allclose(logits_of(split, images.rows), logits_of(thin, images.rows), atol=1e-4)
    ranks = split.facts["ranks"]
    assert {name: ranks[name][::3] for name in ("stages.0.conv1", "stages.1.conv1", "stages.1.shortcut.0")} == {
        "stages.0.conv1": [4, scheme],
        "stages.1.conv1": [4, scheme],
        "stages.1.shortcut.0": [4, "channel"],
    }
    assert split.facts["multiply_adds"] < 0.6 * split.facts["multiply_adds_before"]


def test_ranks_are_in_the_stored_and_in_the_served_model(images: Bench, champion: Model) -> None:
    split = factorized(champion, images, rank="share", keep=0.25)
    facts, network = split.facts, FloatModel.load(split).network
    exported = Export().apply(split, images.data, images.job())
    shapes = [tuple(t.dims) for t in onnx.load(exported.folder / "model.onnx").graph.initializer]
    assert {"stages.0.conv1", "stages.0.conv2", "stages.1.conv2"} <= set(facts["ranks"])
    for name, (rank, full, energy, scheme) in facts["ranks"].items():
        pair: Any = network.get_submodule(name)
        weights = [tuple(part.weight.shape) for part in pair]
        assert weights[0][0] == weights[1][1] == rank < full
        assert 0 < energy < 1
        assert scheme in ("matrix", "channel", "spatial")
        assert all(shape in shapes or shape[::-1] in shapes for shape in weights)
    assert facts["left_alone"] == {"head": "rank 3 of 3 would save too little"}
    assert exported.facts["multiply_adds"] == facts["multiply_adds"] < 0.7 * facts["multiply_adds_before"]
    assert facts["parameters"] < 0.7 * facts["parameters_before"]
    assert split.digest == factorized(champion, images, rank="share", keep=0.25).digest


@pytest.mark.parametrize("name", networks.__all__)
def test_network_of_any_kind_is_split_rebuilt_and_exported(name: str, tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, getattr(networks, name).example)
    model = bench.fit(f"tests.networks:{name}")
    split = factorized(model, bench, rank="share", keep=0.1)
    assert split.facts["multiply_adds"] < split.facts["multiply_adds_before"]
    again = FloatModel.load(split).save(bench.job().folder, {})
    assert torch.equal(logits_of(again, bench.rows), logits_of(split, bench.rows))
    exported = Export().apply(split, bench.data, bench.job())
    session = onnxruntime.InferenceSession(str(exported.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["probabilities"], {"x": bench.rows.inputs["x"]})[0]
    assert np.abs(found - torch.softmax(logits_of(split, bench.rows), dim=1).numpy()).max() <= 1e-5
    if name == "Transformer":
        assert "has no attribute 'weight'" in split.facts["left_alone"]["encoder.layers.0.linear1"]
    if name == "MobileNet":
        assert split.facts["left_alone"]["blocks.0.depthwise.0"] == "a grouped or transposed convolution"


def test_layers_that_share_a_weight_go_on_sharing_it(tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, (48,))
    split = factorized(bench.fit(f"{__name__}:Tied"), bench, rank="share", keep=0.1)
    shared = "its weight is used in more places than one"
    assert [name for name, why in split.facts["left_alone"].items() if why == shared] == ["first", "second"]
    assert list(split.facts["ranks"]) == ["own"]
    network: Any = FloatModel.load(split).network
    assert network.first.weight is network.second.weight


@given(st.integers(2, 24), st.integers(2, 24), st.floats(0.05, 0.95), st.integers(1, 5))
def test_rank_is_the_least_that_keeps_the_energy(into: int, out: int, keep: float, round_to: int) -> None:
    layer = nn.Linear(into, out)
    split = Split.of("layer", layer, "matrix", "energy", keep, round_to)
    assert split.energy >= keep
    assert split.edit.rank % round_to == 0 or split.edit.rank == min(into, out)
    weight = layer.weight.detach()
    residue = (split.product() - weight).square().sum() / weight.square().sum()
    assert float(residue) == pytest.approx(1 - split.energy, abs=1e-4)
    if round_to == 1 and split.edit.rank > 1:
        less = Split.of("layer", layer, "matrix", "share", (split.edit.rank - 1) / min(into, out) - 1e-9, 1)
        assert less.energy < keep
    assert split.cost == pytest.approx(split.edit.rank * (into + out) / (into * out))


def test_split_model_is_pruned_and_trained_anew(images: Bench, champion: Model) -> None:
    split = factorized(champion, images, rank="share", keep=0.25)
    narrow = PruneChannel(scope="layer", round_to=4).apply(split, images.data, images.job())
    assert narrow.facts["multiply_adds"] < split.facts["multiply_adds"]
    again = FloatModel.load(narrow).save(images.job().folder, {})
    assert torch.equal(logits_of(again, images.rows), logits_of(narrow, images.rows))
    fresh = Scratch(epochs=1).apply(split, images.data, images.job())
    assert fresh.facts["parameters"] == champion.facts["parameters"]
    assert FloatModel.load(fresh).spec.structure == ()


def altered(model: Model, folder: Path, structure: Any) -> Model:
    shutil.copytree(model.folder, folder)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "structure": structure}))
    return Model.at(folder, model.format)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"edit": "fold"}, "structure must be a list of edits"),
        ([{"edit": "os.system", "layer": "head"}], "the edit 'os.system', this trimtab knows fold, low_rank"),
        ([{"edit": ["fold"]}], r"the edit \['fold'\], this trimtab knows"),
        ([{"edit": "low_rank", "layer": "head", "rank": 0, "scheme": "matrix"}], "rank must be at least 1, got 0"),
        ([{"edit": "low_rank", "layer": "head", "rank": "4", "scheme": "matrix"}], "is no edit 'low_rank'"),
        ([{"edit": "low_rank", "layer": 3, "rank": 4, "scheme": "matrix"}], "is no edit 'low_rank': layer is 3"),
        ([{"edit": "fold", "layer": "stem.0"}], "is no edit 'fold'"),
        ([{"edit": "fold", "layer": "stem.0", "norm": "stem.9"}], "names 'stem.9', which is no _BatchNorm"),
        ([{"edit": "low_rank", "layer": "head", "rank": 4, "scheme": "spatial"}], "names 'head', which is no Conv2d"),
    ],
)
def test_structure_that_is_not_ours_is_refused(structure: Any, message: str, champion: Model, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        FloatModel.load(altered(champion, tmp_path / "altered", structure))


def test_edits_are_told_in_the_spec_by_kind_and_values(images: Bench, champion: Model) -> None:
    split = factorized(champion, images, rank="share", keep=0.25)
    told = json.loads((split.folder / "spec.json").read_text())["structure"]
    edits = {LowRank(name, rank, scheme) for name, (rank, _, _, scheme) in split.facts["ranks"].items()}
    assert set(FloatModel.load(split).spec.structure) == edits
    first = FloatModel.load(split).spec.structure[0]
    assert isinstance(first, LowRank)
    assert told[0] == {"edit": "low_rank", "layer": first.layer, "rank": first.rank, "scheme": first.scheme}
    assert json.loads((champion.folder / "spec.json").read_text())["structure"] == []


def test_factorizing_that_saves_nothing_is_an_error_that_says_so(images: Bench, champion: Model) -> None:
    with pytest.raises(PluginError, match=r"keep 0.999 saves 20% in no layer; lower keep, saving or"):
        factorized(champion, images, keep=0.999)


def test_it_gives_up_when_the_minutes_are_spent(images: Bench, champion: Model) -> None:
    with pytest.raises(OutOfTimeError, match="factorize: the round's minutes were spent before it was done"):
        Factorize().apply(champion, images.data, images.job(deadline=time.monotonic()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": "best"}, "factorize.rank must be one of energy, share, got 'best'"),
        ({"keep": 0.0}, "factorize.keep must be above 0 and below 1, got 0.0"),
        ({"round_to": 0}, "factorize.round_to must be at least 1, got 0"),
        ({"saving": 1.0}, r"factorize.saving must be in \[0, 1\), got 1.0"),
        ({"convolutions": "tucker"}, "factorize.convolutions must be one of best, channel, spatial, got 'tucker'"),
    ],
)
def test_settings_outside_their_rule_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Factorize(**settings)
