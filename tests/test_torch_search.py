"""What a search for architectures promises: smaller networks within the budget that inherit weights and rebuild."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from tests.tensors import Bench, accuracy, logits_of, session_of
from trimtab.artifact import Model
from trimtab.data import Role
from trimtab.errors import ArtifactError, OutOfTimeError, PluginError
from trimtab_torch.blocks import BLOCKS, BlockNet, Kind, Stage, cost
from trimtab_torch.blockspace import BlockSpace
from trimtab_torch.distill import Distill
from trimtab_torch.evidence import Evidence
from trimtab_torch.evolve import Hunt, Strategy
from trimtab_torch.export import Export
from trimtab_torch.factorize import Factorize
from trimtab_torch.layers import channels, multiply_adds
from trimtab_torch.proxies import PROXIES, naswot, promise, synflow
from trimtab_torch.search_block import SearchBlock
from trimtab_torch.search_width import SearchWidth
from trimtab_torch.skeleton import Level, Skeleton, carry_over
from trimtab_torch.spec import FloatModel
from trimtab_torch.train import Scratch
from trimtab_torch.trials import Tried, shortlist

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RESNET = "trimtab_torch.networks:SmallResNet"
QUICK = {"candidates": 10, "population": 4, "finalists": 2}


class Straight(nn.Module):
    """No activation is on or off, and nothing lies before the last layer."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Linear(int(np.prod(shape)), classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(image.flatten(1))
        return logits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return digits.fit(RESNET, 4, {"widths": [16, 32, 48]})


@pytest.fixture(scope="module")
def evidence(digits: Bench, champion: Model) -> Evidence:
    return Evidence.draw(FloatModel.load(champion), digits.data.rows(Role.SEARCH), 64, 0)


def search(bench: Bench, model: Model, **wanted: Any) -> Model:
    return SearchWidth(**{**QUICK, **wanted}).apply(model, bench.data, bench.job(teacher=model))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 8), st.sampled_from(["evolution", "random"]), st.integers(1, 60))
def test_every_genome_is_scored_once_and_no_more_than_asked(count: int, size: int, way: Strategy, space: int) -> None:
    asked: list[int] = []

    def score(genome: int) -> float:
        asked.append(genome)
        return float("nan") if genome == 0 else -abs(genome - 17)

    hunt = Hunt(
        lambda dice: dice.randrange(space), lambda n, dice: (n + dice.choice((-1, 1))) % space, score, count, way, size
    )
    found = hunt.run(0)
    assert len(asked) == len(set(asked)) == len(found) <= min(count, space)
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    assert found == hunt.run(0)


def test_evolution_finds_more_than_chance() -> None:
    """Of 20 numbers each from 0 to 9 the sum is to be large."""

    def draw(dice: random.Random) -> tuple[int, ...]:
        return tuple(dice.randrange(10) for _ in range(20))

    def mutate(genome: tuple[int, ...], dice: random.Random) -> tuple[int, ...]:
        at = dice.randrange(20)
        return (*genome[:at], dice.randrange(10), *genome[at + 1 :])

    best: dict[Strategy, float] = {}
    for way in ("evolution", "random"):
        runs = [Hunt(draw, mutate, sum, 300, way).run(seed)[0][1] for seed in range(5)]
        best[way] = float(np.mean(runs))
    assert best["evolution"] > best["random"] + 10


def test_widths_are_searched_within_the_budget_and_channels_are_gone_from_the_graph(
    digits: Bench, champion: Model
) -> None:
    found = search(digits, champion, budget=0.4)
    facts = found.facts
    assert 0.3 * facts["multiply_adds_before"] < facts["multiply_adds"] <= 0.4 * facts["multiply_adds_before"]
    assert facts["candidates"] == QUICK["candidates"]
    losses = [finalist["loss"] for finalist in facts["finalists"]]
    assert len(losses) == QUICK["finalists"]
    assert losses == sorted(losses)
    loaded = FloatModel.load(found)
    widths = {name: after for name, (_, after) in facts["channels"].items()}
    assert channels(loaded.network) == widths
    assert facts["finalists"][0]["multiply_adds"] == facts["multiply_adds"]
    exported = Export().apply(found, digits.data, digits.job())
    graph = onnx.load(exported.folder / "model.onnx").graph
    filters = sorted(len(numpy_helper.to_array(t)) for t in graph.initializer if len(t.dims) == 4)
    assert filters == sorted(width for name, width in widths.items() if name != "head")
    rows = digits.data.rows(Role.JUDGE)
    probabilities = session_of(exported).run(["probabilities"], {"x": rows.inputs["x"]})[0]
    assert np.abs(probabilities - torch.softmax(logits_of(found, rows), dim=1).numpy()).max() <= 1e-5
    assert accuracy(found, digits) > 0.5


def test_weights_are_inherited_where_nothing_is_trained(digits: Bench, champion: Model) -> None:
    found = search(digits, champion, budget=0.5, trial_epochs=0, strategy="random")
    assert found.facts["multiply_adds"] <= 0.5 * found.facts["multiply_adds_before"]
    old, new = (FloatModel.load(m).network.get_parameter("stem.0.weight") for m in (champion, found))
    assert len(new) <= len(old)
    assert all(any(torch.equal(filter_, o) for o in old) for filter_ in new)


def test_depths_are_searched_where_the_factory_takes_them(digits: Bench, champion: Model) -> None:
    depths = [[1, 1, 1], [1, 2, 2]]
    found = search(digits, champion, budget=0.6, arguments={"blocks": depths}, finalists=10, trial_epochs=0)
    tried = [finalist["arguments"]["blocks"] for finalist in found.facts["finalists"]]
    assert {tuple(d) for d in tried} == {tuple(d) for d in depths}
    loaded = FloatModel.load(found)
    assert loaded.spec.arguments["blocks"] == tried[0]
    assert found.facts["multiply_adds"] <= 0.6 * found.facts["multiply_adds_before"]
    deeper = search(digits, champion, budget=0.9, arguments={"blocks": [[1, 2, 2]]}, trial_epochs=0)
    assert "deeper.2.0.conv1" in deeper.facts["channels"]
    assert torch.equal(
        logits_of(deeper, digits.rows), logits_of(FloatModel.load(deeper).save(digits.job().folder, {}), digits.rows)
    )


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_ranks_and_a_wider_network_promises_no_less(
    proxy: Any, digits: Bench, champion: Model, evidence: Evidence
) -> None:
    whole = FloatModel.load(champion)
    (digits.root / proxy).mkdir()
    found = search(digits, champion, budget=0.2, proxy=proxy, trial_epochs=0, candidates=4)
    narrow = FloatModel.load(found).network
    assert promise(proxy, narrow, evidence, evidence) < promise(proxy, whole.network, evidence, evidence)
    assert found.facts["proxy"]["best"] >= found.facts["proxy"]["worst"]


def test_synflow_reads_no_row_and_naswot_asks_for_units(evidence: Evidence, champion: Model) -> None:
    network = FloatModel.load(champion).network
    assert synflow(network, evidence.parts) == synflow(network, [torch.zeros_like(p) for p in evidence.parts])
    with pytest.raises(PluginError, match="no ReLU or the like, which the proxy naswot looks at; set proxy: loss"):
        naswot(Straight(3, (1, 8, 8)), evidence.parts)


def test_rows_that_are_alike_do_not_blind_naswot(champion: Model, evidence: Evidence) -> None:
    rows = [torch.cat([part, part]) for part in evidence.first(20).parts]
    narrow, wide = (BlockNet(3, (1, 8, 8), {"width": n, "stride": 1}, []).eval() for n in (4, 32))
    assert float("-inf") < naswot(narrow, rows) < naswot(wide, rows)


def test_a_finalist_whose_training_diverges_is_out(digits: Bench, champion: Model, evidence: Evidence) -> None:
    def broken() -> FloatModel:
        loaded = FloatModel.load(champion)
        loaded.network.get_parameter("head.bias").data.fill_(float("inf"))
        return loaded

    def run(*finalists: Callable[[], FloatModel]) -> list[Tried]:
        return shortlist(finalists, 1, evidence, digits.data, digits.job(), "a test")

    assert [tried.at for tried in run(broken, lambda: FloatModel.load(champion), broken)] == [1]
    with pytest.raises(PluginError, match="a test diverged in epoch 1 of 1"):
        run(broken, broken)


def test_what_cannot_be_is_refused_with_the_way_out(digits: Bench, champion: Model, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"search.width.budget 0.001: the narrowest .* takes 0\.\d+ of the parent's"):
        search(digits, champion, budget=0.001)
    bench = Bench.noise(tmp_path, (1, 4, 4))
    with pytest.raises(PluginError, match=r"search\.width finds no layer that it can narrow; leave it out"):
        search(bench, bench.fit(f"{__name__}:Straight"))
    with pytest.raises(OutOfTimeError, match=r"search.width: .* lower search.width.candidates"):
        SearchWidth().apply(champion, digits.data, digits.job(champion, deadline=-1.0))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"budget": 0.0}, "search.width.budget must be above 0 and below 1, got 0.0"),
        ({"population": 1}, "search.width.population must be at least 2, got 1"),
        ({"proxy": "luck"}, "search.width.proxy must be one of loss, naswot, synflow, got 'luck'"),
        ({"arguments": {"blocks": 2}}, "search.width.arguments.blocks must be a list of values to try, got 2"),
    ],
)
def test_settings_are_checked(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SearchWidth(**wanted)


STAGES = st.builds(
    Stage,
    st.sampled_from(["plain", "residual", "separable", "inverted"]),
    st.sampled_from([3, 5]),
    st.sampled_from([4, 8]),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(STAGES, min_size=1, max_size=3), st.integers(6, 13), st.sampled_from([1, 2]))
def test_what_blocks_cost_is_what_is_counted(stages: list[Stage], size: int, stride: int) -> None:
    shape, stem = (2, size, size + 1), {"width": 8, "stride": stride}
    network = BlockNet(3, shape, stem, [asdict(s) for s in stages]).eval()
    counts = multiply_adds(network, [torch.zeros(2, *shape)])
    assert cost(3, shape, stem, stages) == counts[""]
    alone = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert cost(3, shape, stem, stages, depthwise=5) == counts[""] + 4 * sum(counts[name] for name in alone)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.floats(0.05, 1.5), st.sampled_from([4, 8]))
def test_networks_that_are_drawn_or_changed_spend_the_budget(seed: int, share: float, unit: int) -> None:
    skeleton = Skeleton(16, 1, (Level(1, 16, 2), Level(2, 32, 4)))
    space = BlockSpace(skeleton, 10, (3, 16, 16), ("plain", "inverted"), (3, 5), unit, 4.0, share, share * 3e6)
    assume(space.least <= space.most)
    dice = random.Random(seed)  # noqa: S311
    found = [space.draw(dice)]
    for _ in range(5):
        found.append(space.mutate(found[-1], dice))
    for genome in found:
        assert space.least <= space.cost(genome) <= space.most
        assert [stage.stride for stage in genome] == [1, 2]
        for at, stage in enumerate(genome):
            wider = replace(stage, width=stage.width + unit)
            most = 2 * skeleton.levels[at].width
            assert wider.width > most or space.cost((*genome[:at], wider, *genome[at + 1 :])) > space.most
    family = space.families()
    assert all(space.cost(genome) <= space.most for genome in family)
    assert len({(genome[0].block, genome[0].kernel) for genome in family}) == len(family) >= 1


def hunted(bench: Bench, model: Model, **wanted: Any) -> Model:
    return SearchBlock(**{**QUICK, **wanted}).apply(model, bench.data, bench.job(teacher=model))


def test_blocks_are_searched_within_the_budget_and_the_spec_rebuilds_them(digits: Bench, champion: Model) -> None:
    found = hunted(digits, champion, budget=0.4)
    facts = found.facts
    assert facts["multiply_adds"] <= 0.4 * facts["multiply_adds_before"]
    assert all(finalist["cost"] <= facts["budget"] for finalist in facts["finalists"])
    assert facts["inherited_layers"] >= 1
    kinds = [{stage.split()[2] for stage in finalist["stages"]} for finalist in facts["finalists"]]
    assert kinds[0] != kinds[1]
    losses = [finalist["loss"] for finalist in facts["finalists"]]
    assert losses == sorted(losses)
    loaded = FloatModel.load(found, RESNET)  # the project's factory is another, and ours is called all the same
    assert isinstance(loaded.network, BlockNet)
    rows = digits.data.rows(Role.JUDGE)
    exported = Export().apply(found, digits.data, digits.job())
    probabilities = session_of(exported).run(["probabilities"], {"x": rows.inputs["x"]})[0]
    assert np.abs(probabilities - torch.softmax(logits_of(found, rows), dim=1).numpy()).max() <= 1e-5


@pytest.mark.parametrize(("kind", "grouped"), [("plain", False), ("separable", True)])
def test_a_kind_that_is_asked_for_is_in_the_graph(kind: Kind, grouped: bool, digits: Bench, champion: Model) -> None:
    found = hunted(digits, champion, blocks=(kind,), kernels=(5,), candidates=3, trial_epochs=0)
    graph = onnx.load(Export().apply(found, digits.data, digits.job()).folder / "model.onnx").graph
    groups = [a.i for node in graph.node if node.op_type == "Conv" for a in node.attribute if a.name == "group"]
    kernels = {tuple(t.dims[2:]) for t in graph.initializer if len(t.dims) == 4}
    assert any(g > 1 for g in groups) == grouped
    assert (5, 5) in kernels
    assert all(f" {kind} 5x5" in stage for stage in found.facts["finalists"][0]["stages"])


def test_the_skeleton_and_weights_of_the_parent_are_taken_over() -> None:
    description = [asdict(Stage("residual", 3, 16, 1, 1)), asdict(Stage("inverted", 5, 24, 2, 2))]
    network = BlockNet(3, (1, 8, 8), {"width": 8, "stride": 2}, description).eval()
    example = torch.zeros(2, 1, 8, 8)
    assert Skeleton.of(network, [example]) == Skeleton(8, 2, (Level(1, 32, 2), Level(2, 48, 2)))
    twin = BlockNet(3, (1, 8, 8), {"width": 8, "stride": 2}, description).eval()
    noise = torch.randn(2, 1, 8, 8)
    assert not torch.allclose(twin(noise), network(noise))
    carry_over(network, twin, [example])
    assert torch.allclose(twin(noise), network(noise), atol=1e-6)


def test_no_factory_but_the_projects_and_our_own_is_called(digits: Bench, champion: Model, tmp_path: Path) -> None:
    found = hunted(digits, champion, candidates=2, trial_epochs=0)
    described = json.loads((found.folder / "spec.json").read_text())
    for path in found.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for factory in ("os:system", "trimtab_torch.blocks:Block", f"{__name__}:Straight"):
        (tmp_path / "spec.json").write_text(json.dumps(described | {"factory": factory}))
        with pytest.raises(ArtifactError, match="asks for the factory"):
            FloatModel.load(Model.at(tmp_path, "torch"), RESNET)
    described["arguments"]["stages"][0]["block"] = "dense"
    (tmp_path / "spec.json").write_text(json.dumps(described))
    with pytest.raises(PluginError, match=f"block must be one of {', '.join(BLOCKS)}, got 'dense'"):
        FloatModel.load(Model.at(tmp_path, "torch"), RESNET)


def test_the_projects_own_network_comes_back_where_one_is_built_anew(digits: Bench, champion: Model) -> None:
    lean = Factorize().apply(champion, digits.data, digits.job())
    found = hunted(digits, lean, candidates=2, finalists=1, trial_epochs=0)
    assert FloatModel.load(found).spec.structure == ()
    project: dict[str, Any] = {"factory": RESNET, "training": {"arguments": {"widths": [8, 8]}, "epochs": 1}}
    fresh = Scratch().apply(found, digits.data, replace(digits.job(), **project))
    spec = FloatModel.load(fresh).spec
    assert (spec.factory, spec.arguments) == (RESNET, {"widths": [8, 8]})
    taught = Distill(teacher="larger", teacher_arguments={"widths": [8, 16]})
    learnt = taught.apply(found, digits.data, replace(digits.job(teacher=found), **project))
    assert isinstance(FloatModel.load(learnt, RESNET).network, BlockNet)


def test_blocks_are_for_images_within_reach(digits: Bench, champion: Model, tmp_path: Path) -> None:
    signals = Bench.noise(tmp_path, (2, 64))
    with pytest.raises(PluginError, match=r"search.block works on .* one image .*, these hold \[\[2, 64\]\]"):
        hunted(signals, signals.fit("tests.networks:Conv1d"))
    with pytest.raises(PluginError, match=r"search.block.budget 0.001: the smallest network .* takes 0\.\d+"):
        hunted(digits, champion, budget=0.001)
    with pytest.raises(OutOfTimeError, match=r"search.block: .* lower search.block.candidates"):
        SearchBlock().apply(champion, digits.data, digits.job(champion, deadline=-1.0))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"kernels": (4,)}, "search.block.kernels must be odd and above 0, got 4"),
        ({"depthwise_cost": 0.5}, "search.block.depthwise_cost must be at least 1, got 0.5"),
        ({"strategy": "luck"}, "search.block.strategy must be one of evolution, random, got 'luck'"),
        ({"finalists": 0}, "search.block.finalists must be at least 1, got 0"),
    ],
)
def test_settings_of_blocks_are_checked(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SearchBlock(**wanted)
