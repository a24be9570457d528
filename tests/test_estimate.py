"""The estimate without labels: near the truth where it can be, silent where nothing fell, and unknown where it is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trimtab.metric import Accuracy, Mae, Metric, Rmse
from trimtab.monitor import Answer, Finding, Sample, case_of
from trimtab.window import Feature, Schema
from trimtab_evidently.estimate import Estimate
from trimtab_sklearn.metrics import F1, AveragePrecision, BalancedAccuracy

SHARED = Path(os.environ.get("TRIMTAB_SHARED", Path(__file__).parents[2] / "shared"))
STREAM = SHARED / "data" / "electricity.csv.gz"

Floats = npt.NDArray[np.float64]
NAMES = list("abcd")


def two_classes(x: Floats) -> tuple[Floats, Floats]:
    """What is true of rows, and an overconfident champion that has not understood it."""
    odds = 2 * np.sin(1.5 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3]
    said = 3 * (x[:, 0] + 0.4 * x[:, 3])
    true, told = (1 / (1 + np.exp(-z)) for z in (odds, said))
    return np.stack([1 - true, true], axis=1), np.stack([1 - told, told], axis=1)


def five_classes(x: Floats) -> tuple[Floats, Floats]:
    """The same of five classes."""
    odds = 1.5 * x @ np.random.default_rng(3).normal(size=(4, 5))
    true, told = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (odds, 2 * odds + x[:, :1] * odds[:, ::-1]))
    return true, told


World = Callable[[Floats], tuple[Floats, Floats]]


def schema(world: World) -> Schema:
    classes = world(np.zeros((1, 4)))[0].shape[1]
    frame = pd.DataFrame(np.zeros((classes, 4)), columns=NAMES).assign(y=range(classes))
    return Schema.freeze({n: Feature() for n in NAMES}, frame, label="y")


def sample(world: World, rows: int, seed: int, centre: tuple[float, ...] = (0, 0, 0, 0), scale: float = 1.0) -> Sample:
    """Rows of a world, labelled; number 0 for seeds below 1000."""
    rng = np.random.default_rng(seed)
    x = np.asarray(centre) + scale * rng.normal(size=(rows, 4))
    true, told = world(x)
    labels = (true.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    frame = pd.DataFrame(x, columns=NAMES)
    return Sample(schema(world), frame, seed // 1000, probabilities=told.astype(np.float32), labels=labels)


def judged(
    reference: Sample,
    current: Sample,
    monitor: Estimate | None = None,
    metric: Metric | None = None,
    alpha: float = 0.05,
) -> Finding:
    monitor = monitor or Estimate()
    case = case_of(monitor, reference, current, alpha)
    return monitor.check(case if metric is None else dataclasses.replace(case, metric=metric))


def actual(metric: Metric, current: Sample) -> float:
    assert current.outputs is not None
    assert current.labels is not None
    return metric.score(current.outputs, current.labels)


SMALL = sample(two_classes, 400, 0), sample(two_classes, 400, 1000)
SHIFTS = [(0.8, 0, 0, 0), (-0.8, 0, 0, 0), (0, 0.7, 0.7, 0), (0, 0, 0, 1)]


@pytest.mark.parametrize("world", [two_classes, five_classes])
@pytest.mark.parametrize("centre", SHIFTS)
def test_it_is_within_two_points_under_covariate_shift(world: World, centre: tuple[float, ...]) -> None:
    errors = []
    for seed in range(3):
        current = sample(world, 3000, 1000 + seed, centre)
        found = judged(sample(world, 3000, seed), current)
        errors.append(found.scores["accuracy"] - actual(Accuracy(), current))
    assert abs(np.mean(errors)) <= 0.02
    assert np.abs(errors).max() <= 0.04  # of one window, whose own accuracy is known to 0.017


def test_a_fall_under_covariate_shift_is_found_and_said_to_be_an_estimate() -> None:
    found = judged(sample(five_classes, 2000, 0), sample(five_classes, 1500, 7000, scale=0.5))
    assert found.answer is Answer.WORSE
    assert found.estimated
    assert found.alarms == ("accuracy",)
    assert found.p == found.scores["accuracy.p"] < 0.001
    assert found.limits == {"drop": 0.02, "accuracy.p": 0.05}
    assert found.reasons[0].startswith("accuracy is estimated, without labels, to have fallen from 0.7")
    assert "(2000 labelled rows of the reference)" in found.reasons[0]
    assert "(1500 rows)" in found.reasons[0]
    assert "at most 0.02 allowed" in found.reasons[0]
    assert found.reasons[0].endswith("It cannot see a changed relation to the label")
    assert Finding.from_json(found.to_json()) == found


def test_a_rise_is_fine() -> None:
    found = judged(sample(two_classes, 2000, 0, scale=0.5), sample(two_classes, 1500, 7000, scale=0.6))
    assert found.answer is Answer.FINE
    assert found.scores["drop"] < 0


@pytest.mark.parametrize(("world", "rows"), [(two_classes, 150), (five_classes, 300)])
def test_quiet_windows_alarm_at_most_at_alpha_even_without_a_limit_on_the_fall(world: World, rows: int) -> None:
    found = [judged(sample(world, 500, s), sample(world, rows, 1000 + s), Estimate(max_drop=0)) for s in range(25)]
    answers = [f.answer for f in found]
    assert answers.count(Answer.WORSE) <= 4  # of 25; 1.25 are promised on average
    assert answers.count(Answer.UNKNOWN) <= 1
    assert min(f.scores["accuracy.p"] for f in found) < 0.2 < 0.8 < max(f.scores["accuracy.p"] for f in found)


@pytest.mark.parametrize("metric", [BalancedAccuracy(), F1(), F1(positive=0), AveragePrecision()])
def test_it_estimates_the_projects_metric(metric: Metric) -> None:
    errors = []
    for seed in range(3):
        current = sample(two_classes, 3000, 1000 + seed, (0, 0.7, 0.7, 0))
        found = judged(sample(two_classes, 3000, seed), current, metric=metric)
        errors.append(found.scores[metric.name] - actual(metric, current))
    assert abs(np.mean(errors)) <= 0.025


@pytest.mark.parametrize("centre", [(6, 0, 0, 0), (0, 0, 0, 8)])
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_rows_that_the_reference_has_no_like_of_are_unknown(centre: tuple[float, ...], share: float) -> None:
    far, near = sample(two_classes, 1000, 5000, centre), sample(two_classes, 1000, 5001)
    some = np.random.default_rng(0).random(1000) < share
    assert far.probabilities is not None
    assert near.probabilities is not None
    mixed = Sample(
        far.schema,
        pd.DataFrame(np.where(some[:, None], far.frame, near.frame), columns=NAMES),
        5,
        probabilities=np.where(some[:, None], far.probabilities, near.probabilities),
    )
    found = judged(sample(two_classes, 1000, 0), mixed)
    assert found.answer is Answer.UNKNOWN
    assert "of the rows of window 5 lie where the reference has almost none" in found.reasons[0]
    assert found.scores["unseen"] == pytest.approx(share, abs=0.06)
    allowed = judged(sample(two_classes, 1000, 0), mixed, Estimate(max_unseen=1.0))
    assert allowed.answer is not Answer.UNKNOWN


def test_it_is_surer_near_the_reference_than_far_from_it() -> None:
    near, far = (
        judged(sample(two_classes, 2000, 0), sample(two_classes, 2000, 1000, (x, 0, 0, 0)), Estimate(max_unseen=1))
        for x in (0.0, 1.5)
    )
    assert far.scores["standard_error"] > 2 * near.scores["standard_error"]


def test_a_changed_relation_to_the_label_is_not_seen() -> None:
    current = sample(two_classes, 1500, 3000)
    assert current.labels is not None
    current.labels[:] = 1 - current.labels
    found = judged(sample(two_classes, 2000, 0), current)
    assert found.answer is Answer.FINE
    assert actual(Accuracy(), current) < found.scores["accuracy"] - 0.3


def test_rows_of_one_group_count_as_one() -> None:
    reference, current = (dataclasses.replace(s, groups=np.arange(400, dtype=np.uint64)) for s in SMALL)
    places = np.tile(np.arange(400), 5)
    alone = judged(reference, current)
    together = judged(reference.take(places), current.take(places))
    assert together.scores["standard_error"] == pytest.approx(alone.scores["standard_error"], rel=0.3)
    assert together.scores["unseen"] == alone.scores["unseen"] == 0  # trees know no row again from its copies
    assert judged(reference.take(places[:120]), current).answer is not Answer.UNKNOWN
    few = judged(reference.take(places % 90), current)
    assert few.reasons[0].endswith("needs 100 labelled rows (setting min_rows) in the reference, which has 90")


def test_what_is_missing_is_unknown_and_named() -> None:
    reference, current = sample(two_classes, 500, 0), sample(two_classes, 500, 4000)
    assert reference.labels is not None
    unlabelled = Sample(reference.schema, reference.frame, 0, probabilities=reference.probabilities)
    silent = Sample(current.schema, current.frame, 4)
    told = "accuracy cannot be estimated without labels: "
    for before, now, why in (
        (
            sample(two_classes, 99, 0),
            current,
            "needs 100 labelled rows (setting min_rows) in the reference, which has 99",
        ),
        (unlabelled, current, "needs 100 labelled rows (setting min_rows) in the reference, which has 0"),
        (reference, sample(two_classes, 50, 4000), "needs 100 rows (setting min_rows) in window 4, which has 50"),
        (reference, silent, "the champion gives no probabilities in window 4"),
    ):
        found = judged(before, now)
        assert found.answer is Answer.UNKNOWN
        assert found.reasons == (told + why,)
    reference.labels[:] = 0
    assert judged(reference, current, metric=F1()).reasons == (
        "f1 cannot be estimated without labels: the labelled rows do not determine it",
    )


def test_outputs_that_are_not_finite_are_wrong() -> None:
    reference, current = sample(two_classes, 1000, 0), sample(two_classes, 1000, 1000)
    assert current.probabilities is not None
    current.probabilities[:300] = np.nan
    found = judged(reference, current, Estimate(max_unseen=1))
    assert found.answer is Answer.WORSE
    assert found.scores["accuracy"] == pytest.approx(0.7 * found.scores["reference_accuracy"], abs=0.04)


def test_large_windows_are_drawn_from() -> None:
    found = judged(sample(two_classes, 500, 0), sample(two_classes, 3000, 1000), Estimate(rows=800))
    assert found.scores["n"] == 800


@pytest.mark.parametrize(
    "wrong",
    [{"max_drop": -0.1}, {"max_drop": 1}, {"max_rise": -0.1}, {"max_unseen": 2}, {"min_rows": 9}, {"rows": 50}],
)
def test_a_setting_against_its_rule_is_refused(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        Estimate(**wrong)  # type: ignore[arg-type]


# a regression


NUMBERS = Schema.freeze(
    {n: Feature() for n in NAMES},
    pd.DataFrame(np.eye(4), columns=NAMES).assign(y=range(4)),
    task="regression",
    label="y",
)


def predicted(rows: int, seed: int, centre: float = 0.0) -> Sample:
    """A champion that leaves out a square; noise that grows with another column."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)) + np.array([0, centre, centre, 0])
    labels = 20 + 3 * x[:, 0] + 0.5 * x[:, 1] ** 2 + (0.5 + np.abs(x[:, 2])) * rng.normal(size=rows)
    said = (20.5 + 3 * x[:, 0]).astype(np.float32)[:, None]
    return Sample(NUMBERS, pd.DataFrame(x, columns=NAMES), seed // 1000, predictions=said, labels=labels)


@pytest.mark.parametrize("metric", [Mae(), Rmse()])
@pytest.mark.parametrize("centre", [0.0, 0.7])
def test_the_errors_of_a_regression_are_estimated(metric: Metric, centre: float) -> None:
    errors = []
    for seed in range(3):
        current = predicted(3000, 1000 + seed, centre)
        found = judged(predicted(3000, seed), current, metric=metric)
        errors.append(found.scores[metric.name] / actual(metric, current) - 1)
        assert found.answer is (Answer.WORSE if centre else Answer.FINE)
    assert abs(np.mean(errors)) <= 0.05


def test_the_rise_of_an_error_is_told_as_a_share() -> None:
    found = judged(predicted(2000, 0), predicted(1000, 3000, 0.7), metric=Mae())
    assert found.reasons[0].startswith("mae is estimated, without labels, to have risen from 1.")
    assert "at most 10.0% allowed" in found.reasons[0]
    assert found.scores["rise"] == pytest.approx(found.scores["mae"] / found.scores["reference_mae"] - 1)


def test_quiet_windows_of_a_regression_alarm_at_most_at_alpha() -> None:
    found = [judged(predicted(500, s), predicted(200, 1000 + s), Estimate(max_rise=0)) for s in range(15)]
    assert [f.answer for f in found].count(Answer.WORSE) <= 3


def test_predictions_that_are_not_finite_are_unknown() -> None:
    current = predicted(500, 2000)
    assert current.predictions is not None
    current.predictions[:7] = np.inf
    found = judged(predicted(500, 0), current)
    assert found.answer is Answer.UNKNOWN
    assert found.reasons[0].endswith("the champion's predictions are not finite in 7 rows of window 2")


# electricity, shuffled and then drawn by a column


@pytest.fixture(scope="module")
def electricity() -> Sample:
    frame = pd.read_csv(STREAM).sample(frac=1, random_state=0, ignore_index=True)
    features = [c for c in frame if c != "class"]
    frozen = Schema.freeze({c: Feature() for c in features}, frame, label="class")
    inputs, labels = frame[features].to_numpy(), frame["class"].to_numpy()
    network = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=25, tol=1e-2, random_state=0))
    network.fit(inputs[:6000], labels[:6000])
    rest = frame[6000:].reset_index(drop=True)
    said = network.predict_proba(inputs[6000:]).astype(np.float32)
    return Sample(frozen, rest, probabilities=said, labels=labels[6000:])


def taken(whole: Sample, rows: npt.NDArray[np.int64], number: int) -> Sample:
    assert whole.probabilities is not None
    assert whole.labels is not None
    frame = whole.frame.iloc[rows].reset_index(drop=True)
    return Sample(whole.schema, frame, number, probabilities=whole.probabilities[rows], labels=whole.labels[rows])


@pytest.mark.skipif(not STREAM.is_file(), reason="set TRIMTAB_SHARED to a folder with data/electricity.csv.gz")
@pytest.mark.parametrize("column", ["period", "nswprice", "nswdemand", "vicdemand", "transfer"])
def test_it_is_within_two_points_on_electricity_drawn_by_a_column(electricity: Sample, column: str) -> None:
    found = []
    for seed, slope in ((0, -1.0), (1, -1.0), (2, 1.0), (3, 1.0)):
        rng = np.random.default_rng(seed)
        places = rng.permutation(len(electricity))
        values = electricity.frame[column].to_numpy()[places[3000:]]
        weights = np.exp(slope * np.clip((values - values.mean()) / values.std(), -3, 3))
        window = rng.choice(places[3000:], 3000, replace=False, p=weights / weights.sum())
        current = taken(electricity, window, 1)
        finding = judged(taken(electricity, places[:3000], 0), current)
        assert finding.answer is not Answer.UNKNOWN
        found.append(finding.scores["accuracy"] - actual(Accuracy(), current))
    assert np.abs(np.mean(found)) <= 0.02
    assert np.abs(found).max() <= 0.04


def test_a_champion_of_a_library_needs_no_calibration_of_its_own() -> None:
    before, now = sample(two_classes, 3000, 0), sample(two_classes, 2000, 1000, (0.8, 0, 0, 0))
    champion = LogisticRegression().fit(sample(two_classes, 2000, 9).frame, sample(two_classes, 2000, 9).labels)
    told = [
        Sample(
            s.schema,
            s.frame,
            s.number,
            probabilities=champion.predict_proba(s.frame).astype(np.float32),
            labels=s.labels,
        )
        for s in (before, now)
    ]
    found = judged(*told)
    assert found.scores["accuracy"] == pytest.approx(actual(Accuracy(), told[1]), abs=0.03)
