"""What pruning promises: narrower networks of every kind that rebuild, export and agree, cut where it costs least."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import networks
from tests.tensors import Bench, accuracy, logits_of
from trimtab.artifact import Model
from trimtab.data import Role
from trimtab.errors import DataError, OutOfTimeError, PluginError
from trimtab_torch.allocation import Cost, by_share, cheapest, levels, nearest_width
from trimtab_torch.export import Export
from trimtab_torch.groups import Group, Reader, cut, describe, find
from trimtab_torch.importance import IMPORTANCES, scores
from trimtab_torch.layers import channels, multiply_adds
from trimtab_torch.prune import PruneChannel
from trimtab_torch.regressor import Regressor
from trimtab_torch.spec import FloatModel

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ATTENTION = "which keeps its width"
KINDS = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name in networks.__all__
    for shape in dict.fromkeys([getattr(networks, name).example, *([(20, 6)] if name == "Transformer" else [])])
]


class Fixed(nn.Module):
    """Its reshape holds one width for good, which pruning the layer before it breaks."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(shape[0], 32)
        self.frozen = nn.Linear(32, 24)
        self.head = nn.Linear(12, classes)

    def forward(self, table: Tensor) -> Tensor:
        hidden = torch.relu(self.frozen(torch.relu(self.first(table))))
        logits: Tensor = self.head(hidden.reshape(hidden.shape[0], 12, 2).sum(dim=2))
        return logits


class Mixed(nn.Module):
    """A mean over channels: it takes any width, and gives other numbers at each."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(shape[0], 32)
        self.second = nn.Linear(32, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, table: Tensor) -> Tensor:
        hidden = torch.relu(self.first(table))
        logits: Tensor = self.head(torch.relu(self.second(hidden - hidden.mean(dim=1, keepdim=True))))
        return logits


class Recurrent(nn.Module):
    """A recurrent layer reads what a linear one gives."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.embed = nn.Linear(shape[1], 16)
        self.memory = nn.LSTM(16, 16, batch_first=True)
        self.neck = nn.Linear(16, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, sequence: Tensor) -> Tensor:
        last = self.memory(self.embed(sequence))[0][:, -1]
        logits: Tensor = self.head(torch.relu(self.neck(last)))
        return logits


class Detached(nn.Module):
    """Nothing that autograd could follow leads to its output."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Linear(shape[0], classes)

    def forward(self, table: Tensor) -> Tensor:
        logits: Tensor = self.head(table)
        return logits if self.training else logits.detach()


class Bare(nn.Module):
    """Has no layer."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape[0], classes))

    def forward(self, table: Tensor) -> Tensor:
        return table @ self.weight


class Refuses(Detached):
    """Serves without gradients alone."""

    def forward(self, table: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not self.training:
            raise RuntimeError("inference only")
        return super().forward(table)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return digits.fit("trimtab_torch.networks:SmallResNet", 4, {"widths": [16, 32, 48]})


@pytest.mark.parametrize(("name", "shape"), KINDS)
def test_network_of_any_kind_is_pruned_rebuilt_and_exported(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, shape)
    model = bench.fit(f"tests.networks:{name}")
    pruned = bench.prune(model, round_to=4)
    facts = pruned.facts
    assert facts["multiply_adds"] < 0.8 * facts["multiply_adds_before"]
    assert facts["parameters"] < facts["parameters_before"] == model.facts["parameters"]
    loaded = FloatModel.load(pruned)
    assert channels(loaded.network) == {layer: after for layer, (_, after) in facts["channels"].items()}
    assert channels(FloatModel.load(model).network) == {n: before for n, (before, _) in facts["channels"].items()}
    exported = Export().apply(pruned, bench.data, bench.job())
    session = onnxruntime.InferenceSession(str(exported.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = torch.softmax(logits_of(pruned, bench.rows), dim=1).numpy()
    found = session.run(["probabilities"], {"x": bench.rows.inputs["x"]})[0]
    assert found.shape == (len(bench.rows), 3)
    assert np.abs(found - expected).max() <= 1e-5


@pytest.mark.parametrize(("name", "shape"), KINDS)
def test_multiply_adds_foretold_are_those_counted_afterwards(name: str, shape: tuple[int, ...]) -> None:
    network, example = getattr(networks, name)(shape=shape).eval(), torch.zeros(2, *shape)
    groups, _ = find(network, [example])
    cost = Cost.of(network, [example], groups)
    rng = np.random.default_rng(0)
    kept = {n: g.blocks * int(rng.integers(1, g.places)) for n, g in groups.items()}
    narrow = cut(network, [example], {n: g.at(range(g.places - kept[n] // g.blocks)) for n, g in groups.items()})
    assert cost(kept) == pytest.approx(multiply_adds(narrow, [example])[""])
    assert cost({n: g.width for n, g in groups.items()}) == multiply_adds(network, [example])[""]


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_channels_that_carry_nothing_go_first_and_nothing_changes(importance: Any, tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, networks.MobileNet.example)
    loaded = FloatModel.load(bench.fit("tests.networks:MobileNet"))
    modules: dict[str, Any] = dict(loaded.network.named_modules())
    groups, _ = describe(loaded.network, loaded.examples())
    with torch.no_grad():
        for group in groups.values():
            for writer in group.writers if "head" not in group.writers else ():
                norm = modules[f"{writer.rpartition('.')[0]}.1"]
                for weight in (modules[writer].weight, norm.weight, norm.bias, norm.running_mean):
                    weight[1::2] = 0
    (tmp_path / "dead").mkdir()
    dead = loaded.save(tmp_path / "dead", {})
    pruned = bench.prune(dead, importance=importance, scope="layer", round_to=1)
    assert pruned.facts["channels"]["blocks.0.depthwise.0"] == [32, 16]
    assert torch.allclose(logits_of(pruned, bench.rows), logits_of(dead, bench.rows), atol=1e-5)


def test_channels_that_a_residual_sum_ties_are_pruned_together(digits: Bench, champion: Model) -> None:
    facts = digits.prune(champion, ratio=0.7, scope="layer", importance="l2").facts
    assert facts["channels"]["stem.0"] == facts["channels"]["stages.0.conv2"] == [16, 8]
    assert facts["channels"]["stages.1.conv2"] == facts["channels"]["stages.1.shortcut.0"] == [32, 8]
    assert facts["channels"]["head"] == [10, 10]
    assert facts["left_alone"] == {"head": "the output layer"}


def test_blocks_of_a_grouped_convolution_stay_equal(tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, networks.ResNeXt.example)
    pruned = bench.prune(bench.fit("tests.networks:ResNeXt"), ratio=0.4, round_to=1, scope="layer")
    grouped = FloatModel.load(pruned).network.get_submodule("blocks.0.body.1.0")
    assert (grouped.groups, grouped.in_channels % 4, grouped.out_channels % 4) == (4, 0, 0)
    assert grouped.in_channels < 32


@pytest.mark.parametrize(
    ("factory", "shape", "left", "why", "narrower"),
    [
        ("tests.networks:Transformer", (12, 6), "encoder.layers.0.linear2", ATTENTION, "encoder.layers.0.linear1"),
        ("tests.networks:Transformer", (12, 6), "encoder.layers.1.self_attn", "keeps its width", "neck"),
        (f"{__name__}:Fixed", (6,), "frozen", "the network then raises RuntimeError", "first"),
        (f"{__name__}:Mixed", (6,), "first", "its channels do not stay apart", "second"),
        (f"{__name__}:Recurrent", (7, 6), "embed", "tied to memory, a LSTM, which keeps its width", "neck"),
    ],
)
def test_what_cannot_be_pruned_is_left_alone_by_name_and_the_rest_is_pruned(
    factory: str, shape: tuple[int, ...], left: str, why: str, narrower: str, tmp_path: Path
) -> None:
    bench = Bench.noise(tmp_path, shape)
    facts = bench.prune(bench.fit(factory), scope="layer").facts
    before, after = facts["channels"].get(left, (0, 0))
    assert before == after
    assert why in facts["left_alone"][left]
    assert facts["channels"][narrower][1] < facts["channels"][narrower][0]
    assert facts["left_alone"]["head"] == "the output layer"


def test_pruned_model_is_rebuilt_and_pruned_again(digits: Bench, champion: Model) -> None:
    pruned = digits.prune(champion, scope="layer")
    rows = digits.data.rows(Role.JUDGE)
    again = FloatModel.load(pruned).save(digits.job().folder, {})
    assert torch.equal(logits_of(again, rows), logits_of(pruned, rows))
    twice = digits.prune(pruned, scope="layer")
    assert twice.facts["channels"]["stages.1.conv1"] == [16, 8]


@given(st.integers(1, 512), st.floats(0, 0.99), st.sampled_from([1, 4, 8, 16]))
def test_channels_kept_are_the_nearest_multiple(width: int, ratio: float, unit: int) -> None:
    kept = nearest_width(width, ratio, unit)
    assert 1 <= kept <= width
    assert kept == width or (kept % unit == 0 and abs(kept - width * (1 - ratio)) <= unit)
    tried = levels(Group("g", width, 1, {}, ()), ratio, unit)
    assert tried == sorted(set(tried), reverse=True)
    assert all(0 < w < width and w % unit == 0 for w in tried)
    assert kept == width or kept in tried


def test_layers_ranked_against_each_other_lose_unequal_shares(digits: Bench, champion: Model) -> None:
    found = digits.prune(champion, scope="global", importance="taylor").facts["channels"]
    kept = {name: after / before for name, (before, after) in found.items() if name != "head"}
    assert len(set(kept.values())) > 1
    assert all(after % 8 == 0 for name, (_, after) in found.items() if name != "head")


class Forked(nn.Module):
    """Two layers read one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, table: Tensor) -> Tensor:
        hidden = torch.relu(self.first(table))
        self.hidden = hidden
        logits: Tensor = self.left(hidden) * self.right(hidden).sigmoid()
        return logits


def test_what_two_layers_read_counts_once() -> None:
    torch.manual_seed(0)
    network, table = Forked(), torch.randn(32, 5)

    def losses(network: nn.Module) -> Iterator[Tensor]:
        yield network(table).square().sum()

    found = scores("taylor", network, (table,), find(network, (table,))[0], losses)["first"]
    (slope,) = torch.autograd.grad(network(table).square().sum(), network.hidden)
    assert torch.allclose(found, (slope * network.hidden).square().mean(dim=0), rtol=1e-4)


def test_sensitivity_saves_as_much_as_equal_shares_do_at_a_smaller_rise(digits: Bench, champion: Model) -> None:
    equal = digits.prune(champion, scope="layer")
    chosen = digits.prune(champion, scope="sensitivity")
    assert chosen.facts["multiply_adds"] <= equal.facts["multiply_adds"] < equal.facts["multiply_adds_before"]
    table = chosen.facts["sensitivity"]

    def rise(facts: Mapping[str, Any]) -> float:
        after = {group: str(facts["channels"][group][1]) for group in table}
        return sum(max(0.0, table[g].get(width, 0.0)) for g, width in after.items())

    assert rise(chosen.facts) < rise(equal.facts)


def test_sensitivity_cuts_where_nothing_is_lost_and_equal_shares_do_not(digits: Bench) -> None:
    loaded = FloatModel.load(digits.fit("tests.networks:FlatCnn", 3))
    with torch.no_grad():
        loaded.network.get_submodule("head").weight[:, 32:] = 0
        loaded.network.get_submodule("hidden").weight[:, 4 * 8 :] = 0
    idle = loaded.save(digits.job().folder, {})
    settings = {"ratio": 0.4, "importance": "taylor"}
    chosen, equal = (digits.prune(idle, scope=scope, **settings) for scope in ("sensitivity", "layer"))
    assert chosen.facts["channels"] == {"body.0.0": [16, 16], "body.1.0": [24, 8], "hidden": [64, 40], "head": [10, 10]}
    assert chosen.facts["left_alone"]["body.0.0"] == "dear to cut"
    assert torch.allclose(logits_of(chosen, digits.rows), logits_of(idle, digits.rows), atol=1e-4)
    assert not torch.allclose(logits_of(equal, digits.rows), logits_of(idle, digits.rows), atol=0.1)


def test_width_goes_where_it_costs_least() -> None:
    groups = {n: Group(n, 16, 1, {n: 16}, (Reader(f"{n}-out", (), ()),)) for n in ("dear", "cheap")}
    layers = {"dear": 100.0, "cheap": 100.0}
    cost = Cost(groups, layers, 10.0, {}, {n: {n: 1.0} for n in layers})
    table = {"dear": {8: 5.0, 4: 9.0}, "cheap": {8: 1.0, 4: 1.5}}
    assert cost({"dear": 16, "cheap": 16}) == 210
    assert cheapest(table, cost, 170) == {"dear": 16, "cheap": 8}
    assert cheapest(table, cost, 150) == {"dear": 16, "cheap": 4}
    assert cheapest(table, cost, 80) == {"dear": 4, "cheap": 4}
    assert cheapest({"dear": {8: 2.0}, "cheap": {8: 3.0, 4: -1.0}}, cost, 150) == {"dear": 16, "cheap": 4}


def test_rounds_end_at_the_same_shape_with_and_without_recovery(digits: Bench, champion: Model) -> None:
    at_once = digits.prune(champion, ratio=0.6)
    rounds = digits.prune(champion, ratio=0.6, rounds=3)
    recovered = digits.prune(champion, ratio=0.6, rounds=3, recovery_epochs=1)
    assert at_once.facts["channels"] == rounds.facts["channels"] == recovered.facts["channels"]
    assert len(recovered.facts["recovery_loss"]) == 3
    assert accuracy(recovered, digits) > max(accuracy(rounds, digits), 0.85)


def test_recovery_learns_from_the_teacher_where_there_is_one(digits: Bench, champion: Model) -> None:
    step = PruneChannel(scope="layer", importance="l2", recovery_epochs=1)
    taught = step.apply(champion, digits.data, digits.job(teacher=champion))
    alone = step.apply(champion, digits.data, digits.job())
    assert taught.facts["channels"] == alone.facts["channels"]
    assert taught.digest != alone.digest


@pytest.mark.parametrize("settings", [{}, {"rounds": 2, "recovery_epochs": 1}, {"importance": "bn_scale"}])
def test_same_seed_same_file(digits: Bench, champion: Model, settings: dict[str, Any]) -> None:
    assert digits.prune(champion, **settings).digest == digits.prune(champion, **settings).digest


def test_regression_is_pruned_by_its_own_loss(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 6)).astype(np.float32)
    bench = Bench(tmp_path, inputs, 50 + 9 * inputs[:, 0].astype(np.float64), 300)
    model = Regressor(f"{__name__}:plain", {}, epochs=20).fit(bench.data, bench.job())
    pruned = bench.prune(model)
    assert pruned.facts["channels"] == {"0": [64, 32], "2": [1, 1]}
    gap = (logits_of(pruned, bench.rows) - logits_of(model, bench.rows)).square().mean()
    assert float(gap) < 0.1


def plain(outputs: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 64), nn.ReLU(), nn.Linear(64, outputs))


def test_rows_are_asked_for_only_where_they_are_read(digits: Bench, champion: Model) -> None:
    for settings in ({"importance": "taylor", "scope": "layer"}, {"importance": "l2", "scope": "sensitivity"}, {}):
        with pytest.raises(DataError, match=r"no labelled row .* set prune.channel.importance to l2"):
            PruneChannel(**settings).apply(champion, digits.blank, digits.job())  # type: ignore[arg-type]
    step = PruneChannel(importance="l2", scope="layer")
    assert step.apply(champion, digits.blank, digits.job()).facts["channels"]["stem.0"] == [16, 8]
    with pytest.raises(DataError, match="no labelled training row"):
        dataclasses.replace(step, recovery_epochs=1).apply(champion, digits.blank, digits.job())


def test_it_gives_up_when_the_minutes_are_spent(digits: Bench, champion: Model) -> None:
    with pytest.raises(OutOfTimeError, match=r"prune.channel: the round's minutes were spent"):
        PruneChannel().apply(champion, digits.data, digits.job(deadline=time.monotonic()))


def test_cut_leaves_the_network_and_what_it_trains_alone(digits: Bench, champion: Model) -> None:
    network = FloatModel.load(champion).network
    network.get_submodule("stem").requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    example = torch.zeros(2, 1, 8, 8)
    groups, _ = find(network, [example])
    narrow = cut(network, [example], {name: group.at([0, 1]) for name, group in groups.items()})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    trains = {n: w.requires_grad for n, w in network.named_parameters()}
    assert {n: w.requires_grad for n, w in narrow.named_parameters()} == trains
    assert by_share(groups, 0.0, 8) == {name: group.width for name, group in groups.items()}


def test_pruning_that_removes_nothing_is_an_error_that_says_so(digits: Bench, champion: Model) -> None:
    with pytest.raises(PluginError, match=r"ratio 0.05 with round_to 64 removes no channel from any of 10 layers"):
        digits.prune(champion, ratio=0.05, round_to=64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Refuses", r"cannot trace this network \(RuntimeError: inference only\); leave what cuts channels"),
        ("Bare", "finds no layer that it can prune; leave it out of optimize.techniques$"),
        ("Detached", "finds no layer that it can prune; .*; head was left alone: the graph does not reach it"),
    ],
)
def test_network_that_cannot_be_pruned_at_all_is_an_error_that_says_so(name: str, message: str, tmp_path: Path) -> None:
    bench = Bench.noise(tmp_path, (6,))
    model = bench.fit(f"{__name__}:{name}")
    with pytest.raises(PluginError, match=message):
        bench.prune(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"prune.channel.ratio must be in \[0, 1\), got 1.0"),
        ({"round_to": 0}, "prune.channel.round_to must be at least 1, got 0"),
        ({"rounds": 0}, "prune.channel.rounds must be at least 1, got 0"),
        ({"recovery_epochs": -1}, "prune.channel.recovery_epochs must be at least 0, got -1"),
        ({"importance": "l3"}, "prune.channel.importance must be one of l1, l2, median, bn_scale, taylor, got 'l3'"),
        ({"scope": "all"}, "prune.channel.scope must be one of layer, global, sensitivity, got 'all'"),
    ],
)
def test_settings_outside_their_rule_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneChannel(**settings)
