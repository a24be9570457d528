"""What adapting keeps and changes: frozen layers, rows that count more, prototypes of a few labels, half precision."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.test_torch_techniques import MLP, RESNET, Bench, accuracy, rows_of
from trimtab.artifact import Model
from trimtab.data import Role
from trimtab.errors import DataError, PluginError
from trimtab.gate import Outcome
from trimtab.space import Space
from trimtab.window import Feature, Schema
from trimtab_torch.classifier import Classifier
from trimtab_torch.emphasis import balance
from trimtab_torch.fewshot import FewShot
from trimtab_torch.networks import Mlp
from trimtab_torch.rebalance import Rebalance
from trimtab_torch.recalibrate import Recalibrate
from trimtab_torch.regressor import Regressor
from trimtab_torch.spec import FloatModel
from trimtab_torch.train import Finetune
from trimtab_torch.transfer import Transfer, layer_groups, stages

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import rebalance

SMALL = {"widths": [8, 16]}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bunch = load_digits()
    images, labels = (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64)
    frame = pd.DataFrame({"image": [i.ravel() for i in images], "y": labels})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, 8, 8))}, frame, label="y")
    rows = rows_of(schema, frame)
    first = np.arange(len(rows)) < 1000
    roles = {Role.TRAIN: rows.take(first), Role.JUDGE: rows.take(~first)}
    return Bench(tmp_path_factory.mktemp("digits"), schema, roles)


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return Classifier(RESNET, SMALL, epochs=6).fit(digits.data, digits.job())


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Model]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 2)), columns=["a", "b"]).assign(y=lambda f: f["a"] * 3 + f["b"])
    schema = Schema.freeze({"a": Feature(), "b": Feature()}, frame, label="y", task="regression")
    bench = Bench(tmp_path_factory.mktemp("prices"), schema, {Role.TRAIN: rows_of(schema, frame)})
    return bench, Regressor(MLP, epochs=2).fit(bench.data, bench.job())


def tensors(model: Model) -> dict[str, Tensor]:
    return dict(load_file(model.folder / "model.safetensors"))


# transfer


def test_frozen_layers_keep_every_weight_and_figure_to_the_last_bit(digits: Bench, champion: Model) -> None:
    made = Transfer(epochs=2, thaw_epochs=0).apply(champion, digits.data, digits.job())
    learning = made.facts["groups"][-1]
    assert "head" in learning
    before, after = tensors(champion), tensors(made)
    altered = {name for name in before if not torch.equal(before[name], after[name])}
    assert "network.head.weight" in altered
    assert {name.removeprefix("network.").rpartition(".")[0] for name in altered} <= set(learning)
    frozen = {name for group in made.facts["groups"][:-1] for name in group}
    assert {"stem.0", "stem.1"} <= frozen
    assert any("running_mean" in name for name in before if name.removeprefix("network.").startswith("stem"))


def fixed_first(inputs: int, outputs: int) -> Mlp:
    """A network that holds its first layer fixed by itself."""
    network = Mlp(inputs=inputs, outputs=outputs)
    network.body[0].requires_grad_(False)
    return network


def test_what_the_network_itself_holds_fixed_never_thaws(prices: tuple[Bench, Model]) -> None:
    bench, _ = prices
    model = Regressor(f"{__name__}:fixed_first", epochs=1).fit(bench.data, bench.job())
    made = Transfer(epochs=1, thaw_epochs=2).apply(model, bench.data, bench.job())
    before, after = tensors(model), tensors(made)
    assert torch.equal(before["network.body.0.weight"], after["network.body.0.weight"])
    assert not torch.equal(before["network.head.weight"], after["network.head.weight"])


def test_what_thaws_learns_the_more_slowly_the_earlier_it_runs(digits: Bench, champion: Model) -> None:
    even, fast_end = (
        tensors(Transfer(epochs=1, decay=decay).apply(champion, digits.data, digits.job())) for decay in (1.0, 100.0)
    )
    before = tensors(champion)
    moved = [
        float((made["network.stem.0.weight"] - before["network.stem.0.weight"]).norm()) for made in (even, fast_end)
    ]
    assert moved[0] > 10 * moved[1] > 0


def test_a_transferred_model_is_as_good_on_what_it_knew(digits: Bench, champion: Model) -> None:
    made = Transfer(epochs=1, learning_rate=0.01).apply(champion, digits.data, digits.job())
    assert (made.facts["epochs"], made.facts["thaw_epochs"]) == (1, 1)
    assert accuracy(made, digits.rows, digits.job()) > accuracy(champion, digits.rows, digits.job()) - 0.03 > 0.8


class Odd(nn.Module):
    """Runs its layers in another order than it holds them, and leaves one out."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.unused = nn.Linear(2, 2)

    def forward(self, table: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.norm(self.first(table)))
        return outputs


def test_layers_are_grouped_as_they_run_and_a_norm_with_the_layer_before_it() -> None:
    network = Odd()
    names = {module: name for name, module in network.named_modules()}
    groups = [[names[m] for m in group] for group in layer_groups(network, [torch.zeros(1, 3)], 9)]
    assert groups == [["unused"], ["first", "norm"], ["last"]]


@settings(deadline=None)
@given(groups=st.integers(1, 8), epochs=st.integers(1, 5), thaw=st.integers(0, 20))
def test_stages_thaw_from_behind_until_all_learn_and_take_the_epochs_they_have(
    groups: int, epochs: int, thaw: int
) -> None:
    told = stages(groups, epochs, thaw)
    learning = [count for count, _ in told]
    assert told[0] == (1, epochs)
    assert learning == sorted(set(learning))
    assert sum(passes for _, passes in told[1:]) == (thaw if groups > 1 else 0)
    assert min(passes for _, passes in told) >= 1
    assert learning[-1] == (groups if thaw else 1)


# rebalance


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 50), min_size=1, max_size=6), strength=st.floats(0, 1), beta=st.floats(0.5, 1))
def test_the_rarer_the_heavier_and_all_alike_in_sum_at_full_strength(
    counts: list[int], strength: float, beta: float
) -> None:
    column = np.repeat([f"c{i}" for i in range(len(counts))], counts)
    weights = balance([column], strength, beta)
    assert weights.mean() == pytest.approx(1.0)
    each = [float(weights[column == f"c{i}"][0]) for i in range(len(counts))]
    for one, many in ((i, j) for i in range(len(counts)) for j in range(len(counts)) if counts[i] < counts[j]):
        assert each[one] >= each[many] * (1 - 1e-9)
    sums = [n * w for n, w in zip(counts, balance_of(column, counts), strict=True)]
    assert sums == pytest.approx([sums[0]] * len(sums))


def balance_of(column: Any, counts: list[int]) -> list[float]:
    weights = balance([column], strength=1.0)
    return [float(weights[column == f"c{i}"][0]) for i in range(len(counts))]


def test_columns_that_are_independent_are_each_balanced() -> None:
    site = np.array(["a"] * 80 + ["b"] * 20)
    shift = np.array((["day"] * 3 + ["night"]) * 25)
    weights = balance([site, shift], strength=1.0)
    for column in (site, shift):
        sums = [weights[column == value].sum() for value in np.unique(column)]
        assert sums == pytest.approx([50.0, 50.0])


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> rebalance.Bench:
    return rebalance.Bench(tmp_path_factory.mktemp("sites"), seed=0)


def test_rebalancing_closes_a_segments_gap_and_the_gate_counts_it_as_a_gain(sites: rebalance.Bench) -> None:
    champion = sites.scores(sites.parent)
    whole, gap = rebalance.gap_of(champion)
    assert gap > 0.06
    for how in ("weights", "sampling"):
        made = sites.train("rebalance", {"by": "segment", "how": how}, sites.data)
        counts = {name: told["rows"] for name, told in made.facts["groups"].items()}
        assert counts[rebalance.NEW] < 0.1 * counts[rebalance.OLD]
        mended = sites.scores(made)
        after, left = rebalance.gap_of(mended)
        assert left < 0.04
        assert after > whole - 0.01
        verdict = rebalance.judged_by_gate(mended, champion)
        assert f"quality where {rebalance.NEW}" in verdict.gains
        assert verdict.outcome is Outcome.PASSED


def test_what_widens_the_gap_is_not_let_pass(sites: rebalance.Bench) -> None:
    champion = sites.scores(sites.parent)
    made = sites.scores(sites.train("finetune", {"epochs": 30}, sites.old))
    assert rebalance.gap_of(made)[1] > rebalance.gap_of(champion)[1] + 0.03
    verdict = rebalance.judged_by_gate(made, champion)
    assert verdict.outcome is not Outcome.PASSED
    assert any(reason.startswith(f"accuracy gap where {rebalance.NEW} rose by") for reason in verdict.reasons)


def test_a_rare_class_is_found_more_often(digits: Bench) -> None:
    train = digits.data.rows(Role.TRAIN)
    rare = np.flatnonzero(train.labels == 8)[6:]
    data = digits.with_train(train.take(np.setdiff1d(np.arange(len(train)), rare)))
    parent = Classifier(RESNET, SMALL, epochs=3).fit(data, digits.job())
    eights = digits.rows.take(digits.rows.labels == 8)
    plain, heavy = (
        accuracy(technique.apply(parent, data, digits.job()), eights, digits.job())
        for technique in (Finetune(epochs=3), Rebalance(epochs=3))
    )
    assert heavy > plain + 0.05


def test_without_strength_rebalancing_is_finetuning(digits: Bench, champion: Model) -> None:
    none = tensors(Rebalance(epochs=1, strength=0.0).apply(champion, digits.data, digits.job()))
    plain = tensors(Finetune(epochs=1).apply(champion, digits.data, digits.job()))
    assert all(torch.allclose(none[name], plain[name], atol=1e-4) for name in plain)


def test_what_there_is_nothing_to_balance_by_is_named(
    digits: Bench, champion: Model, prices: tuple[Bench, Model]
) -> None:
    with pytest.raises(DataError, match=r"rebalance.by is segment, and the rows have none; name columns in data.segm"):
        Rebalance(by="segment").apply(champion, digits.data, digits.job())
    bench, model = prices
    with pytest.raises(PluginError, match=r"rebalance\.by is class, and a regression has none"):
        Rebalance().apply(model, bench.data, bench.job())


# adapt.fewshot


def few_of(bench: Bench, rows: int, seed: int = 0) -> Any:
    train = bench.data.rows(Role.TRAIN)
    return train.take(np.random.default_rng(seed).permutation(len(train))[:rows])


def dimmed(rows: Any) -> Any:
    return replace(rows, inputs={"image": (1 - rows.inputs["image"]).astype(np.float32) * 0.6})


def test_a_few_labels_after_a_drift_are_worth_more_than_finetuning_on_them(digits: Bench, champion: Model) -> None:
    data, judge = digits.with_train(dimmed(few_of(digits, 50))), dimmed(digits.rows)
    tuned, adapted = (
        accuracy(technique.apply(champion, data, digits.job()), judge, digits.job())
        for technique in (Finetune(), FewShot())
    )
    assert adapted > tuned + 0.03


def test_labels_tell_what_rows_alone_cannot(digits: Bench, champion: Model) -> None:
    renamed = np.array([1, 0, *range(2, 10)])
    few, judge = (replace(r, labels=renamed[r.labels]) for r in (few_of(digits, 50), digits.rows))
    data = digits.with_train(few)
    blind, told = (
        accuracy(technique.apply(champion, data, digits.job()), judge, digits.job())
        for technique in (Recalibrate(), FewShot())
    )
    assert told > blind + 0.08


def test_only_batch_norm_figures_and_the_last_layer_change(digits: Bench, champion: Model) -> None:
    made = FewShot().apply(champion, digits.with_train(few_of(digits, 50)), digits.job())
    before, after = tensors(champion), tensors(made)
    altered = {name for name in before if not torch.equal(before[name], after[name])}
    assert {n for n in altered if "running" not in n and "num_batches" not in n} <= {
        "network.head.weight",
        "network.head.bias",
    }
    assert 0 <= made.facts["blend"] <= 1
    assert made.facts["recalibrated"] > 0


def test_a_class_of_which_no_row_came_is_still_known(digits: Bench, champion: Model) -> None:
    few = few_of(digits, 120)
    made = FewShot(blend=1.0).apply(champion, digits.with_train(few.take(few.labels != 7)), digits.job())
    assert 7 in made.facts["unseen"]
    sevens = digits.rows.take(digits.rows.labels == 7)
    assert accuracy(made, sevens, digits.job()) > 0.6


def test_prototypes_alone_are_the_nearest_class_mean(digits: Bench, champion: Model) -> None:
    data = digits.with_train(few_of(digits, 200))
    made = FewShot(prior=0.0, blend=1.0).apply(champion, data, digits.job())
    loaded = FloatModel.load(made)
    seen: list[Tensor] = []
    hook = loaded.network.get_submodule("head").register_forward_pre_hook(lambda _m, i: seen.append(i[0]))
    with torch.inference_mode():
        loaded.network(*loaded.prepare(data.rows(Role.TRAIN).inputs))
        answers = loaded.network(*loaded.prepare(digits.rows.inputs)).argmax(dim=1)
    hook.remove()
    labels = torch.from_numpy(data.rows(Role.TRAIN).labels)
    means = torch.stack([seen[0][labels == c].mean(dim=0) for c in range(10)])
    nearest = torch.cdist(seen[1], means).argmin(dim=1)
    assert float((answers == nearest).float().mean()) > 0.995


class Bare(nn.Module):
    """Its last layer has no bias, so that no prototype fits in."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, outputs, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        outputs: Tensor = self.head(image.flatten(1))
        return outputs


def test_where_prototypes_do_not_fit_in_the_way_out_is_named(digits: Bench, prices: tuple[Bench, Model]) -> None:
    bench, model = prices
    with pytest.raises(PluginError, match="needs classes, and this model is a regression; name head or finetune"):
        FewShot().apply(model, bench.data, bench.job())
    bare = Classifier(f"{__name__}:Bare", epochs=1).fit(digits.data, digits.job())
    with pytest.raises(
        PluginError, match=r"needs a linear layer with a bias .* 'head', is none: name head or finetune"
    ):
        FewShot().apply(bare, digits.data, digits.job())


# half precision


class Watched(nn.Module):
    """Notes in which precision its layer's products come out."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)
        self.head.register_forward_hook(lambda _m, _i, output: PRODUCTS.add(output.dtype))

    def forward(self, table: Tensor) -> Tensor:
        outputs: Tensor = self.head(table)
        return outputs


PRODUCTS: set[torch.dtype] = set()


@pytest.mark.parametrize(
    ("precision", "product"), [("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)]
)
def test_products_are_of_the_precision_asked_for_and_weights_stay_float32(
    prices: tuple[Bench, Model], precision: Any, product: torch.dtype
) -> None:
    bench, _ = prices
    trainer = Regressor(f"{__name__}:Watched", epochs=3, precision=precision)
    made = trainer.fit(bench.data, bench.job())
    PRODUCTS.clear()
    tuned = Finetune(epochs=1).apply(made, bench.data, bench.job())
    assert product in PRODUCTS
    assert {product, torch.float32} >= PRODUCTS
    assert {tensor.dtype for tensor in tensors(tuned).values()} == {torch.float32}


def test_the_loss_in_half_precision_is_that_in_whole(prices: tuple[Bench, Model]) -> None:
    bench, model = prices
    brain, half, whole = (
        Finetune(epochs=1, precision=precision).apply(model, bench.data, bench.job()).facts["loss"]
        for precision in ("bfloat16", "float16", "float32")
    )
    assert len({brain, half, whole}) == 3
    assert [brain, half] == pytest.approx([whole, whole], rel=0.02)


# in common


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transfer(thaw_epochs=-1), "transfer.thaw_epochs must be 0 or more, got -1"),
        (lambda: Transfer(decay=0.5), "transfer.decay must be at least 1 and finite, got 0.5"),
        (lambda: Transfer(epochs=0), "transfer.epochs must be at least 1, got 0"),
        (lambda: Rebalance(how="loud"), "rebalance.how must be weights or sampling, got 'loud'"),  # type: ignore[arg-type]
        (lambda: Rebalance(strength=2), r"rebalance.strength must be in \[0, 1\], got 2"),
        (lambda: Rebalance(beta=0), "rebalance.beta must be above 0 and at most 1, got 0"),
        (lambda: FewShot(prior=-1), "adapt.fewshot.prior must be 0 rows or more and finite, got -1"),
        (lambda: FewShot(rows=1), "adapt.fewshot.rows must be at least 2, got 1"),
    ],
)
def test_settings_outside_their_rule_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_search_places_them_by_what_they_say_of_themselves() -> None:
    space = Space([(name, {}) for name in ("adapt.fewshot", "rebalance", "transfer", "export")])
    (train,) = (p for p in space.parameters if p.name == "train")
    assert train.options == ("rebalance", "transfer")
    assert space.rungs == (2, 3)
    assert [r.name for r in space.adapted(2)] == ["champion > adapt.fewshot > export"]
