"""What a search for architectures promises: smaller networks within the budget that inherit weights and rebuild."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from tests.tensors import Bench, accuracy, logits_of, session_of
from trimtab.artifact import Model
from trimtab.data import Role
from trimtab.errors import OutOfTimeError, PluginError
from trimtab_torch.evidence import Evidence
from trimtab_torch.evolve import Hunt, Strategy
from trimtab_torch.export import Export
from trimtab_torch.layers import channels
from trimtab_torch.proxies import PROXIES, naswot, promise, synflow
from trimtab_torch.search_width import SearchWidth
from trimtab_torch.spec import FloatModel

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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return digits.fit(RESNET, 4, {"widths": [16, 32, 48]})


@pytest.fixture(scope="module")
def evidence(digits: Bench, champion: Model) -> Evidence:
    return Evidence.draw(FloatModel.load(champion), digits.data.rows(Role.SEARCH), 64, 0)


def search(bench: Bench, model: Model, **settings: Any) -> Model:
    return SearchWidth(**{**QUICK, **settings}).apply(model, bench.data, bench.job(teacher=model))


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


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_widths_are_searched_within_the_budget_and_channels_are_gone_from_the_graph(
    strategy: str, digits: Bench, champion: Model
) -> None:
    found = search(digits, champion, budget=0.4, strategy=strategy)
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
    found = search(digits, champion, budget=0.5, trial_epochs=0)
    old, new = (FloatModel.load(m).network.get_parameter("stem.0.weight") for m in (champion, found))
    assert len(new) <= len(old)
    assert all(any(torch.equal(filter_, o) for o in old) for filter_ in new)


def test_depths_are_searched_where_the_factory_takes_them(digits: Bench, champion: Model) -> None:
    depths = [[1, 1, 1], [1, 2, 2]]
    found = search(digits, champion, budget=0.6, arguments={"blocks": depths}, finalists=4, trial_epochs=0)
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


def test_what_cannot_be_is_refused_with_the_way_out(digits: Bench, champion: Model, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"search.width.budget 0.001: the narrowest .* takes 0\.\d+ of the parent's"):
        search(digits, champion, budget=0.001)
    bench = Bench.noise(tmp_path, (1, 4, 4))
    with pytest.raises(PluginError, match=r"search\.width finds no layer that it can narrow; leave it out"):
        search(bench, bench.fit(f"{__name__}:Straight"))
    with pytest.raises(OutOfTimeError, match=r"search.width: .* lower search.width.candidates"):
        SearchWidth().apply(champion, digits.data, digits.job(champion, deadline=-1.0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": 0.0}, "search.width.budget must be above 0 and below 1, got 0.0"),
        ({"population": 1}, "search.width.population must be at least 2, got 1"),
        ({"proxy": "luck"}, "search.width.proxy must be one of loss, naswot, synflow, got 'luck'"),
        ({"arguments": {"blocks": 2}}, "search.width.arguments.blocks must be a list of values to try, got 2"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SearchWidth(**settings)
