"""What training promises: in time, the same twice, on views of images, from teachers, and of numbers as of classes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
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
from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, OutOfTimeError, PluginError
from trimtab.testing import yield_checks
from trimtab.window import Feature, Schema
from trimtab_torch.augment import View
from trimtab_torch.classifier import Classifier
from trimtab_torch.distill import Distill
from trimtab_torch.export import Export
from trimtab_torch.recalibrate import Recalibrate
from trimtab_torch.regressor import Regressor
from trimtab_torch.settings import Settings
from trimtab_torch.spec import FloatModel
from trimtab_torch.train import Finetune, Head, Scratch
from trimtab_torch.training import predict

SMALL = {"widths": [8, 16]}


class Pooled(nn.Module):
    """Its last layer is a convolution, and what it gives is averaged: it does not give the outputs itself."""

    def __init__(self, outputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv2d(shape[0], 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        outputs: Tensor = self.last(torch.relu(self.norm(self.first(image)))).mean(dim=(2, 3))
        return outputs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bunch = load_digits()
    images, labels = (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64)
    schema = Schema.freeze(
        {"image": Feature(kind="tensor", shape=(1, 8, 8))},
        pd.DataFrame({"image": [i.ravel() for i in images[:50]], "y": labels[:50]}),
        label="y",
    )
    order = np.random.default_rng(0).permutation(len(labels))
    rows = Rows({"image": images[order]}, labels[order], order.astype(np.uint64))
    cuts = np.split(np.arange(len(labels)), [900, 1100])
    roles = dict(zip((Role.TRAIN, Role.CALIBRATION, Role.JUDGE), map(rows.take, cuts), strict=True))
    return Bench(tmp_path_factory.mktemp("digits"), schema, roles)


@pytest.fixture(scope="module")
def champion(digits: Bench) -> Model:
    return Classifier(RESNET, SMALL, epochs=8).fit(digits.data, digits.job())


def numbers(rows: int, seed: int, outliers: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=["a", "b", "c"])
    price = 5000 + 300 * (frame["a"] + np.sin(2 * frame["b"]) + 0.5 * frame["a"] * frame["c"])
    wild = rng.random(rows) < outliers
    return frame.assign(price=np.where(wild, price + 20_000, price))


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    frame = numbers(1200, 0)
    features = {name: Feature() for name in "abc"}
    schema = Schema.freeze(features, frame, task="regression", label="price")
    roles = {Role.TRAIN: rows_of(schema, frame), Role.JUDGE: rows_of(schema, numbers(400, 1))}
    return Bench(tmp_path_factory.mktemp("prices"), schema, roles)


@pytest.fixture(scope="module")
def pricer(prices: Bench) -> Model:
    return Regressor(MLP, epochs=20, learning_rate=0.02).fit(prices.data, prices.job())


def rmse(model: Model, rows: Rows, job: Any) -> float:
    loaded = FloatModel.load(model)
    found = loaded.preprocess.serve(predict(loaded.network, loaded.prepare(rows.inputs), job)).numpy()[:, 0]
    return float(np.sqrt(np.mean((found - rows.labels) ** 2)))


def moved(before: Model, after: Model) -> set[str]:
    old, new = (load_file(m.folder / "model.safetensors") for m in (before, after))
    return {name for name in old if not torch.equal(old[name], new[name])}


# time


@pytest.mark.parametrize("step", [Finetune(), Scratch(), Head(), Distill(), Recalibrate()])
def test_a_step_whose_time_is_spent_says_how_far_it_came(digits: Bench, champion: Model, step: Any) -> None:
    job = replace(digits.job(teacher=champion), deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTimeError, match=rf"{step.about.name}: the round's minutes were spent in epoch 1 of "):
        step.apply(champion, digits.data, job)


def test_a_training_out_of_reach_is_given_up_after_its_first_epoch(digits: Bench, champion: Model) -> None:
    began = time.monotonic()
    job = replace(digits.job(), deadline=began + 60)
    with pytest.raises(OutOfTimeError, match=r"finetune would need about \d+ s more, \d\d s are left \(after epoch 1 "):
        Finetune(epochs=1_000_000).apply(champion, digits.data, job)
    assert time.monotonic() - began < 30


def test_a_deadline_that_is_kept_changes_nothing(digits: Bench, champion: Model) -> None:
    free = Finetune(epochs=2).apply(champion, digits.data, digits.job())
    timed = Finetune(epochs=2).apply(champion, digits.data, replace(digits.job(), deadline=time.monotonic() + 3600))
    assert free.digest == timed.digest


# precision and views


def test_half_precision_learns_as_well_and_leaves_float32_weights(digits: Bench, champion: Model) -> None:
    made = Classifier(RESNET, SMALL, epochs=8, precision="bfloat16").fit(digits.data, digits.job())
    judge = digits.data.rows(Role.JUDGE)
    assert accuracy(made, judge, digits.job()) > accuracy(champion, judge, digits.job()) - 0.02 > 0.9
    floats = {t.dtype for n, t in load_file(made.folder / "model.safetensors").items() if "num_batches" not in n}
    assert floats == {torch.float32}
    plain = Classifier(RESNET, SMALL, epochs=8, precision="float32").fit(digits.data, digits.job())
    assert plain.digest != made.digest


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_a_view_mirrors_and_moves_each_image_on_its_own(shift: int, flip: bool, seed: int) -> None:
    images = torch.arange(4 * 2 * 5 * 6, dtype=torch.float32).reshape(4, 2, 5, 6) + 1
    view = View.draw(Settings(flip=flip, shift=shift), 4, torch.Generator().manual_seed(seed))
    seen = view(images)
    assert seen.shape == images.shape
    for row in range(4):
        image = images[row].numpy()
        image = image[:, :, ::-1] if view.flipped is not None and view.flipped[row] else image
        down, right = view.moved[row].tolist() if view.moved is not None else (0, 0)
        padded = np.pad(image, ((0, 0), (shift, shift), (shift, shift)))
        assert np.array_equal(seen[row].numpy(), padded[:, down : down + 5, right : right + 6])


def test_views_are_drawn_by_the_seed_and_kept_with_the_model(digits: Bench) -> None:
    trainer = Classifier(RESNET, SMALL, epochs=1, flip=True, shift=1)
    first, again = (trainer.fit(digits.data, digits.job()) for _ in range(2))
    assert first.digest == again.digest
    assert moved(first, Classifier(RESNET, SMALL, epochs=1).fit(digits.data, digits.job()))
    inherited = Finetune(epochs=1).apply(first, digits.data, digits.job())
    same = Finetune(epochs=1, flip=True, shift=1).apply(first, digits.data, digits.job())
    plain = Finetune(epochs=1, flip=False, shift=0).apply(first, digits.data, digits.job())
    assert inherited.digest == same.digest != plain.digest


def test_training_on_moved_images_stands_moved_images(digits: Bench, champion: Model) -> None:
    judge = digits.data.rows(Role.JUDGE)
    aside = replace(judge, inputs={"image": np.roll(judge.inputs["image"], 1, axis=3)})
    taught = Classifier(RESNET, SMALL, epochs=8, shift=1).fit(digits.data, digits.job())
    assert accuracy(taught, aside, digits.job()) > accuracy(champion, aside, digits.job()) + 0.05


def test_views_need_images_that_they_fit(prices: Bench, digits: Bench) -> None:
    with pytest.raises(PluginError, match=r"model: flip and shift alter image tensors .*; leave them out"):
        Regressor(MLP, flip=True).fit(prices.data, prices.job())
    with pytest.raises(PluginError, match=r"model: shift 8 moves an image of 8 pixels out of sight; set shift below 8"):
        Classifier(RESNET, SMALL, shift=8).fit(digits.data, digits.job())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier(RESNET, shift=-1), "model.shift must be 0 pixels or more, got -1"),
        (lambda: Finetune(precision="half"), "precision must be one of auto, float32, bfloat16, float16, got 'half'"),  # type: ignore[arg-type]
        (lambda: Head(epochs=0), "head.epochs must be at least 1, got 0"),
        (lambda: Recalibrate(prior=-1), "recalibrate.prior must be 0 rows or more, got -1"),
        (lambda: Distill(features=-1), "distill.features must be 0 or more and finite, got -1"),
        (lambda: Distill(members=1), "distill.members must be at least 2, the parent among them, got 1"),
        (lambda: Distill(teacher="larger"), "distill.teacher 'larger' needs distill.teacher_arguments"),
        (lambda: Distill(teacher="best"), "must be one of parent, ensemble, larger, got 'best'"),  # type: ignore[arg-type]
        (lambda: Distill(teacher_epochs=0), "distill.teacher_epochs must be at least 1, got 0"),
    ],
)
def test_settings_outside_their_rule_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# the cheap rungs


def test_head_moves_the_last_layer_alone_and_learns_exchanged_labels(digits: Bench, champion: Model) -> None:
    rows, judge = digits.data.rows(Role.TRAIN), digits.data.rows(Role.JUDGE)
    turned = replace(judge, labels=(judge.labels + 3) % 10)
    data = digits.with_train(replace(rows, labels=(rows.labels + 3) % 10))
    made = Head(epochs=20).apply(champion, data, digits.job())
    assert moved(champion, made) == {"network.head.weight", "network.head.bias"}
    assert made.facts["layer"] == "head"
    assert accuracy(champion, turned, digits.job()) < 0.2
    assert accuracy(made, turned, digits.job()) > 0.8


def test_head_trains_a_layer_that_something_follows(digits: Bench) -> None:
    model = Classifier(f"{__name__}:Pooled", epochs=2).fit(digits.data, digits.job())
    made = Head(epochs=2).apply(model, digits.data, digits.job())
    assert moved(model, made) == {"network.last.weight", "network.last.bias"}
    assert made.facts["layer"] == "last"


def test_head_keeps_the_views_of_the_model_for_the_next_training(digits: Bench) -> None:
    model = Classifier(RESNET, SMALL, epochs=1, flip=True).fit(digits.data, digits.job())
    made = Head(epochs=1).apply(model, digits.data, digits.job())
    assert FloatModel.load(made).spec.settings.flip


def faded(rows: Rows) -> Rows:
    return replace(rows, inputs={"image": 0.25 * rows.inputs["image"] + 0.5})


def roles_of(digits: Bench, **roles: Rows) -> Data:
    digits.steps += 1
    return Data.write(digits.root / f"roles{digits.steps}", {Role(name): rows for name, rows in roles.items()})


def test_recalibration_brings_back_what_a_change_of_contrast_took(digits: Bench, champion: Model) -> None:
    judge = digits.data.rows(Role.JUDGE)
    train, calibration = (faded(digits.data.rows(role)) for role in (Role.TRAIN, Role.CALIBRATION))
    made = Recalibrate().apply(champion, roles_of(digits, train=train, calibration=calibration), digits.job())
    clean, hurt, healed = (
        accuracy(*given, digits.job()) for given in ((champion, judge), (champion, faded(judge)), (made, faded(judge)))
    )
    assert hurt < clean - 0.1
    assert healed > hurt + (clean - hurt) / 3
    assert made.facts["rows"] == 1100
    assert {name.rsplit(".")[-1] for name in moved(champion, made)} <= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_recalibration_reads_no_label(digits: Bench, champion: Model) -> None:
    rows = faded(digits.data.rows(Role.TRAIN))
    blind = replace(rows, labels=np.full_like(rows.labels, -1))
    first, second = (Recalibrate().apply(champion, digits.with_train(r), digits.job()) for r in (rows, blind))
    assert first.digest == second.digest


def test_a_prior_holds_few_rows_to_the_old_statistics(digits: Bench, champion: Model) -> None:
    few = digits.with_train(faded(digits.data.rows(Role.TRAIN)).take(np.arange(20)))

    def mean(model: Model) -> Tensor:
        return FloatModel.load(model).network.get_buffer("stem.1.running_mean")

    old = mean(champion)
    new, held, half = (mean(Recalibrate(prior=p).apply(champion, few, digits.job())) for p in (0, 10_000_000, 20))
    assert (new - old).abs().max() > 0.01
    assert torch.allclose(held, old, atol=1e-4)
    assert torch.allclose(half, (old + new) / 2, atol=1e-4)


def test_recalibration_says_where_there_is_nothing_to_recalibrate(prices: Bench, pricer: Model) -> None:
    with pytest.raises(PluginError, match=r"no batch norm, .* \(quantize.static measures its ranges anew by itself\)"):
        Recalibrate().apply(pricer, prices.data, prices.job())


def test_recalibration_needs_two_rows_and_looks_at_no_more_than_it_may(digits: Bench, champion: Model) -> None:
    rows = digits.data.rows(Role.TRAIN)
    with pytest.raises(DataError, match=r"recalibrate has 1 row\(s\) to train and calibrate on, and needs at least 2"):
        Recalibrate().apply(champion, digits.with_train(rows.take(np.arange(1))), digits.job())
    assert Recalibrate(rows=100).apply(champion, digits.data, digits.job()).facts["rows"] == 100


def test_an_ensemble_that_teaches_features_keeps_every_promise_of_a_technique() -> None:
    for check in yield_checks("techniques", Distill(epochs=1, teacher="ensemble", members=2, features=0.5)):
        check()


# teachers


def noise(bench: Bench) -> Data:
    rows = bench.data.rows(Role.TRAIN)
    return bench.with_train(replace(rows, labels=np.random.default_rng(0).permutation(rows.labels)))


def test_a_student_follows_its_teachers_features_where_labels_mislead(digits: Bench, champion: Model) -> None:
    data, judge = noise(digits), digits.data.rows(Role.JUDGE)
    fresh = Classifier(RESNET, {"widths": [8, 8]}, epochs=1).fit(digits.data, digits.job(seed=5))
    taught = Distill(epochs=8, weight=1.0, features=1.0).apply(fresh, data, digits.job(teacher=champion))
    assert accuracy(taught, judge, digits.job()) > 0.8


def test_a_teacher_is_asked_about_the_view_that_its_student_sees(digits: Bench) -> None:
    data, judge = noise(digits), digits.data.rows(Role.JUDGE)
    seen = Classifier(RESNET, SMALL, epochs=8, shift=1).fit(digits.data, digits.job())
    aside = replace(judge, inputs={"image": np.roll(judge.inputs["image"], 1, axis=3)})
    fresh = Classifier(RESNET, SMALL, epochs=1).fit(digits.data, digits.job(seed=5))
    taught, still = (
        Distill(epochs=8, weight=1.0, temperature=1.0, shift=shift).apply(fresh, data, digits.job(teacher=seen))
        for shift in (1, 0)
    )
    assert accuracy(taught, judge, digits.job()) > 0.7
    assert accuracy(taught, aside, digits.job()) > accuracy(still, aside, digits.job()) + 0.1


def test_matching_features_brings_the_hidden_layers_together(digits: Bench, champion: Model) -> None:
    fresh = Classifier(RESNET, SMALL, epochs=1).fit(digits.data, digits.job(seed=5))
    judge = digits.data.rows(Role.JUDGE)

    def hidden(model: Model) -> Tensor:
        loaded, seen = FloatModel.load(model), []
        loaded.network.get_submodule("head").register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        predict(loaded.network, loaded.prepare(judge.inputs), digits.job())
        return torch.cat(seen)

    def gap(features: float) -> float:
        made = Distill(epochs=6, features=features).apply(fresh, digits.data, digits.job(teacher=champion))
        return float((hidden(made) - hidden(champion)).square().mean())

    assert gap(4.0) < 0.7 * gap(0.0)


@pytest.mark.parametrize(
    "step",
    [
        Distill(epochs=4, teacher="ensemble", members=2, teacher_epochs=2),
        Distill(epochs=4, teacher="larger", teacher_arguments={"widths": [16, 24]}, teacher_epochs=4, features=0.5),
    ],
    ids=["ensemble", "larger"],
)
def test_teachers_trained_on_the_way_teach_and_the_students_shape_stays(
    digits: Bench, champion: Model, step: Distill
) -> None:
    made, again = (step.apply(champion, digits.data, digits.job(teacher=champion)) for _ in range(2))
    assert made.digest == again.digest
    assert made.facts["parameters"] == champion.facts["parameters"]
    assert accuracy(made, digits.data.rows(Role.JUDGE), digits.job()) > 0.9
    alone = Distill(epochs=4).apply(champion, digits.data, digits.job(teacher=champion))
    assert moved(made, alone)


# regression


def test_a_regression_learns_and_predicts_in_label_units(prices: Bench, pricer: Model) -> None:
    judge = prices.data.rows(Role.JUDGE)
    assert rmse(pricer, judge, prices.job()) < 0.35 * float(np.std(judge.labels))
    session = onnxruntime.InferenceSession(str(Export().apply(pricer, prices.data, prices.job()).folder / "model.onnx"))
    assert [o.name for o in session.get_outputs()] == ["predictions", "embedding"]
    found = session.run(["predictions"], dict(judge.inputs))[0]
    assert found.shape == (len(judge), 1)
    assert found.dtype == np.float32
    assert np.sqrt(np.mean((found[:, 0] - judge.labels) ** 2)) == pytest.approx(
        rmse(pricer, judge, prices.job()), rel=1e-3
    )


@pytest.mark.parametrize(
    "step", [Finetune(epochs=5), Head(epochs=5), Scratch(epochs=20), Distill(epochs=5, features=0.1)]
)
def test_every_training_works_on_numbers(prices: Bench, pricer: Model, step: Any) -> None:
    judge = prices.data.rows(Role.JUDGE)
    made = step.apply(pricer, prices.data, prices.job(teacher=pricer))
    assert rmse(made, judge, prices.job()) < 0.4 * float(np.std(judge.labels))


def test_a_student_predicts_as_its_teacher_where_labels_mislead(prices: Bench, pricer: Model) -> None:
    data, judge = noise(prices), prices.data.rows(Role.JUDGE)
    rows = data.rows(Role.TRAIN)
    other = prices.with_train(replace(rows, labels=3 * rows.labels - 9000))
    fresh = Regressor(MLP, epochs=1).fit(other, prices.job(seed=3))
    taught = Distill(epochs=20, weight=1.0, learning_rate=0.02).apply(fresh, data, prices.job(teacher=pricer))
    assert rmse(taught, judge, prices.job()) < 0.5 * float(np.std(judge.labels))


def test_outliers_pull_a_huber_loss_less(prices: Bench) -> None:
    wild = prices.with_train(rows_of(prices.schema, numbers(1200, 2, outliers=0.05)))
    judge = prices.data.rows(Role.JUDGE)
    squared, huber = (
        rmse(Regressor(MLP, epochs=10, learning_rate=0.02, loss=loss).fit(wild, prices.job()), judge, prices.job())
        for loss in ("squared", "huber")
    )
    assert huber < 0.9 * squared


def test_the_loss_stays_with_the_model(prices: Bench) -> None:
    model = Regressor(MLP, epochs=1, loss="huber").fit(prices.data, prices.job())
    assert FloatModel.load(Finetune(epochs=1).apply(model, prices.data, prices.job())).spec.settings.loss == "huber"


def test_the_loss_of_today_counts_where_the_project_names_one(prices: Bench, pricer: Model) -> None:
    job = replace(prices.job(), training={"loss": "huber"})
    assert FloatModel.load(Finetune(epochs=1).apply(pricer, prices.data, job)).spec.settings.loss == "huber"


def test_rows_whose_number_has_not_arrived_are_not_trained_on(prices: Bench, pricer: Model) -> None:
    rows = prices.data.rows(Role.TRAIN)
    late = replace(rows, labels=np.where(np.arange(len(rows)) < 300, rows.labels, np.nan))
    first = Finetune(epochs=1).apply(pricer, prices.with_train(rows.take(np.arange(300))), prices.job())
    again = Finetune(epochs=1).apply(pricer, prices.with_train(late), prices.job())
    assert first.digest == again.digest
    none = prices.with_train(replace(rows, labels=np.full(len(rows), np.nan)))
    with pytest.raises(DataError, match="no labelled training row"):
        Finetune().apply(pricer, none, prices.job())


def test_a_draft_of_a_regression_is_built_and_exported_without_labels(prices: Bench) -> None:
    draft = Regressor(MLP).draft(prices.data.rows(Role.TRAIN).inputs, prices.job())
    assert Export().apply(draft, prices.data, prices.job()).facts["parameters"] == draft.facts["parameters"]


# what an export says and weighs


def test_export_counts_multiplications_and_carries_little_beside_the_weights(
    prices: Bench, pricer: Model, digits: Bench, champion: Model
) -> None:
    exported = Export().apply(pricer, prices.data, prices.job())
    assert exported.facts["multiply_adds"] == 3 * 64 + 64 * 64 + 64
    assert exported.size_bytes < 4 * pricer.facts["parameters"] + 3_000
    image = Export().apply(champion, digits.data, digits.job())
    # stem 16 x 9 x 8, two blocks at 16 and at 4 pixels, a shortcut at 4, and the head
    assert image.facts["multiply_adds"] == 16 * 9 * 8 + 16 * 2 * 9 * 64 + 4 * 9 * (128 + 256) + 4 * 128 + 160
    assert image.size_bytes < 4 * champion.facts["parameters"] + 6_000


def test_an_exported_model_answers_a_row_alike_in_any_company(digits: Bench, champion: Model) -> None:
    path = Export().apply(champion, digits.data, digits.job()).folder / "model.onnx"
    session = onnxruntime.InferenceSession(str(path))
    images = digits.data.rows(Role.JUDGE).inputs["image"][:32]

    def by(rows: int) -> np.ndarray[Any, Any]:
        batches = np.split(images, len(images) // rows)
        return np.concatenate([session.run(["probabilities"], {"image": batch})[0] for batch in batches])

    assert np.abs(by(1) - by(32)).max() <= 1e-5
    assert np.abs(by(2) - by(32)).max() <= 1e-5
