"""Metrics: what scikit-learn says they are, what is not a number never helps, and intervals that keep their word."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, root_mean_squared_error

from trimtab.benchmark import Quality, compare
from trimtab.errors import PluginError, SettingsError
from trimtab.intervals import bootstrap
from trimtab.metric import Accuracy, Answers, Mae, Metric, Rmse, choose, quality, score, utility, weighed
from trimtab.window import Labels
from trimtab_sklearn.metrics import F1, AveragePrecision, BalancedAccuracy

CLASSIFIERS: list[Metric] = [Accuracy(), F1(), F1(positive=0), BalancedAccuracy(), AveragePrecision()]
REGRESSIONS: list[Metric] = [Mae(), Rmse()]
each_metric = pytest.mark.parametrize("metric", [*CLASSIFIERS, *REGRESSIONS], ids=str)
each_classifier = pytest.mark.parametrize("metric", CLASSIFIERS, ids=str)


def answers(outputs: Any, labels: Any, groups: Any = None) -> Answers:
    labels = np.asarray(labels)
    groups = np.arange(len(labels)) if groups is None else groups
    return Answers(np.asarray(outputs, np.float32), labels, np.asarray(groups, np.uint64))


def classified(seed: int, rows: int, classes: int, skill: float = 1.5, rare: float = 0.3) -> Answers:
    rng = np.random.default_rng(seed)
    odds = np.r_[np.full(classes - 1, (1 - rare) / (classes - 1)), rare]
    labels = rng.choice(classes, rows, p=odds)
    logits = skill * np.eye(classes)[labels] + rng.normal(size=(rows, classes))
    return answers(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels)


def regressed(seed: int, rows: int, noise: float = 0.5) -> Answers:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).normal(size=rows)
    return answers((labels + rng.normal(0, noise, rows))[:, None], labels)


def some(metric: Metric, seed: int = 0, rows: int = 300, classes: int = 2) -> Answers:
    return regressed(seed, rows) if metric.task == "regression" else classified(seed, rows, classes)


@each_metric
@pytest.mark.parametrize("classes", [2, 4])
@given(seed=st.integers(0, 10**6), rows=st.integers(5, 60))
@settings(max_examples=15, deadline=None)
def test_many_weightings_at_once_give_what_each_gives_alone(metric: Metric, classes: int, seed: int, rows: int) -> None:
    given_answers = some(metric, seed, rows, classes)
    weights = np.random.default_rng(seed).integers(0, 4, (6, rows)).astype(np.float64)
    alone = [metric.score(given_answers.outputs, given_answers.labels, w) for w in weights]
    assert weighed(metric, given_answers)(weights) == pytest.approx(alone, nan_ok=True, abs=1e-9)


@each_metric
def test_a_row_of_weight_two_is_two_rows(metric: Metric) -> None:
    plain = some(metric, rows=40)
    weights = np.where(np.arange(40) % 3 == 0, 2.0, 1.0)
    twice = plain.take(np.repeat(np.arange(40), weights.astype(int)))
    assert metric.score(plain.outputs, plain.labels, weights) == pytest.approx(score(metric, twice))


@each_metric
def test_rows_without_a_label_are_left_out(metric: Metric) -> None:
    whole = some(metric, rows=60)
    missing: Labels = whole.labels.copy()
    missing[::3] = np.nan if metric.task == "regression" else -1
    late = Answers(whole.outputs, missing, whole.groups)
    have = whole.take(np.arange(60) % 3 != 0)
    assert score(metric, late) == pytest.approx(score(metric, have))
    weights = np.ones((2, 60))
    assert weighed(metric, late)(weights) == pytest.approx([score(metric, have)] * 2)


@each_classifier
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("classes", [2, 4])
def test_an_output_that_is_not_finite_never_helps_a_classifier(metric: Metric, odd: float, classes: int) -> None:
    whole = classified(3, 200, classes)
    right = whole.outputs.argmax(axis=1) == whole.labels
    taken = right if classes > 2 else np.ones(200, bool)  # of many classes, one error may be worse than another
    for rows in (taken & (whole.labels == classes - 1), taken & (whole.labels == 0), taken & (np.arange(200) % 5 == 0)):
        outputs = whole.outputs.copy()
        outputs[np.ix_(rows, [0])] = odd
        worse = Answers(outputs, whole.labels, whole.groups)
        assert score(metric, worse) <= score(metric, whole)
        assert weighed(metric, worse)(np.ones((1, 200)))[0] == pytest.approx(score(metric, worse))
    nothing = Answers(np.full_like(whole.outputs, odd), whole.labels, whole.groups)
    assert score(metric, nothing) <= 0.5


@pytest.mark.parametrize("metric", REGRESSIONS, ids=str)
def test_a_prediction_that_is_not_finite_is_the_worst_loss(metric: Metric) -> None:
    whole = regressed(0, 50)
    whole.outputs[7] = np.nan
    assert score(metric, whole) == math.inf
    without = np.ones((2, 50))
    without[1, 7] = 0.0
    first, second = weighed(metric, whole)(without)
    assert first == math.inf
    assert math.isfinite(second)
    assert utility(metric, math.inf) < utility(metric, 1e12)


@each_metric
def test_no_rows_have_no_quality(metric: Metric) -> None:
    nothing = some(metric).take(np.zeros(0, np.int64))
    assert math.isnan(score(metric, nothing))
    assert utility(metric, score(metric, nothing)) == -math.inf
    assert compare(metric, nothing, nothing, 0.95).rows == 0


def test_they_are_what_scikit_learn_computes() -> None:
    numbers, classes = regressed(1, 80), classified(1, 80, 3)
    assert score(Rmse(), numbers) == pytest.approx(root_mean_squared_error(numbers.labels, numbers.outputs[:, 0]))
    assert score(Mae(), numbers) == pytest.approx(mean_absolute_error(numbers.labels, numbers.outputs[:, 0]))
    said = classes.outputs.argmax(axis=1)
    assert score(BalancedAccuracy(), classes) == pytest.approx(balanced_accuracy_score(classes.labels, said))


def test_of_two_classes_the_positive_one_counts() -> None:
    lop_sided = answers([[0.4, 0.6], [0.4, 0.6], [0.4, 0.6], [0.9, 0.1]], [1, 0, 0, 0])
    assert score(F1(), lop_sided) == score(F1(positive=1), lop_sided) == pytest.approx(0.5)
    assert score(F1(positive=0), lop_sided) == pytest.approx(0.5)
    only_others = answers([[0.4, 0.6], [0.9, 0.1]], [0, 0])
    assert math.isnan(score(F1(), only_others))
    assert math.isnan(score(AveragePrecision(), only_others))
    for wrong in (F1, AveragePrecision):
        with pytest.raises(ValueError, match="positive must be 0, 1 or -1"):
            wrong(positive=2)


def test_equal_certainties_share_a_threshold() -> None:
    level = answers([[0.5, 0.5]] * 4, [1, 0, 1, 0])
    assert score(AveragePrecision(), level) == pytest.approx(0.5)
    assert weighed(AveragePrecision(), level)(np.ones((1, 4)))[0] == pytest.approx(0.5)


# by name


def test_a_metric_of_another_task_is_refused_with_both_names_and_those_that_fit() -> None:
    with pytest.raises(SettingsError) as caught:
        choose("rmse", "torch.classifier", "classification")
    assert str(caught.value).startswith("model.metric 'rmse' is for regression, but model.trainer 'torch.classifier'")
    assert "accuracy, average_precision, balanced_accuracy, f1" in str(caught.value)
    with pytest.raises(SettingsError, match=r"for regression; name a metric of that task \(mae, rmse\)"):
        choose("accuracy", "mine", "regression")


def test_a_metric_takes_settings() -> None:
    assert choose({"f1": {"positive": 0}}, "t", "classification") == F1(positive=0)
    assert choose("mae", "t", "regression") == Mae()
    with pytest.raises(SettingsError, match=r"model\.metric: unknown setting 'positiv'.*Did you mean 'positive'"):
        choose({"f1": {"positiv": 0}}, "t", "classification")
    with pytest.raises(PluginError, match=r"no metric named 'rmsee'.*Did you mean 'rmse'"):
        choose("rmsee", "t", "regression")


# intervals


def coverage(metric: Metric, pair: Callable[[int], tuple[Answers, Answers]], truth: float, times: int = 150) -> float:
    kept = 0
    for seed in range(times):
        gain = compare(metric, *pair(seed), 0.95).gain
        kept += gain.low <= truth <= gain.high
    return kept / times


@pytest.mark.parametrize(("groups", "size"), [(60, 1), (40, 4)])
def test_the_interval_of_a_relative_difference_keeps_its_confidence(groups: int, size: int) -> None:
    def pair(seed: int) -> tuple[Answers, Answers]:
        rng = np.random.default_rng(seed)
        shared = np.repeat(rng.normal(size=groups), size)
        names, labels = np.repeat(np.arange(groups), size), np.zeros(groups * size)
        a, b = (answers((shared + s * rng.normal(size=len(shared)))[:, None], labels, names) for s in (1.0, 1.2))
        return a, b

    assert coverage(Rmse(), pair, 1 - math.sqrt(2 / 2.44)) >= 0.9


@pytest.mark.parametrize("metric", [F1(), BalancedAccuracy(), AveragePrecision()], ids=str)
def test_the_interval_of_a_difference_of_shares_keeps_its_confidence(metric: Metric) -> None:
    def pair(seed: int, rows: int = 150) -> tuple[Answers, Answers]:
        rng = np.random.default_rng(seed)
        labels = (rng.random(rows) < 0.25).astype(np.int64)
        sure = [1 / (1 + np.exp(-s * (2 * labels - 1) - rng.normal(size=rows))) for s in (1.3, 1.0)]
        a, b = (answers(np.stack([1 - p, p], axis=1), labels) for p in sure)
        return a, b

    a, b = pair(10**6, 400_000)
    assert coverage(metric, pair, score(metric, a) - score(metric, b)) >= 0.9


@each_metric
@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_swapping_the_two_turns_the_interval_round(metric: Metric, seed: int) -> None:
    a, b = some(metric, seed, 80), some(metric, seed, 80)
    b = Answers(np.random.default_rng(seed).permuted(b.outputs, axis=0), b.labels, b.groups)
    there, back = compare(metric, a, b, 0.9).gain, compare(metric, b, a, 0.9).gain
    turned = [turn(metric, v) for v in (back.value, back.high, back.low)]
    assert [there.value, there.low, there.high] == pytest.approx(turned, abs=2e-3)


def turn(metric: Metric, gain: float) -> float:
    """The gain seen from the other side: as a fraction of the other's value, where the metric is relative."""
    return 1 - 1 / (1 - gain) if metric.relative else -gain


@each_metric
def test_a_model_differs_from_itself_by_nothing(metric: Metric) -> None:
    same = some(metric)
    gain = compare(metric, same, same, 0.95).gain
    assert gain.value == 0
    assert gain.low <= 0 <= gain.high


@each_metric
def test_the_interval_of_a_figure_holds_it(metric: Metric) -> None:
    interval = quality(metric, some(metric, rows=400), 0.95)
    assert interval.low < interval.value < interval.high


def test_rows_of_one_group_bound_nothing() -> None:
    low, high = bootstrap(lambda w: w.sum(axis=1), np.zeros(50, np.uint64), 0.95)
    assert math.isnan(low)
    assert math.isnan(high)


def test_too_few_of_a_class_bound_nothing() -> None:
    rare = classified(0, 60, 2)
    labels = np.zeros(60, np.int64)
    labels[0] = 1
    interval = quality(F1(), Answers(rare.outputs, labels, rare.groups), 0.95)
    assert math.isnan(interval.low)  # the one row of the class is missing from a third of the draws


def test_words_say_the_metric_its_values_and_the_rows() -> None:
    labels = np.zeros(100)
    errors = np.tile([1.0, -1.0], 50)
    change = compare(Rmse(), answers(1.031 * errors[:, None], labels), answers(errors[:, None], labels), 0.95)
    assert change.said("rmse") == "rmse rose by 3.1 % (3.1 to 3.1 %), from 1 to 1.031, on 100 rows"
    assert change.wants(0.01) == "and more rows like these would refuse it"
    back = compare(Rmse(), answers(errors[:, None], labels), answers(2 * errors[:, None], labels), 0.95)
    assert back.said("rmse").startswith("rmse fell by 50.0 %")


def test_more_rows_are_asked_for_where_they_would_decide() -> None:
    change = compare(Mae(), regressed(1, 200), regressed(2, 200), 0.95)
    wanted = int(change.wants(0.1).split()[1])
    again = compare(Mae(), regressed(1, 4 * wanted), regressed(2, 4 * wanted), 0.95)
    assert wanted > 200
    assert again.gain.low >= -0.1


def test_five_thousand_rows_are_compared_within_seconds() -> None:
    rows = [regressed(seed, 5000) for seed in (1, 2)]
    begin = time.process_time()
    compare(Rmse(), *rows, 1 - 0.05 / 12)
    assert time.process_time() - begin < 4


# in figures


def test_quality_ranks_by_all_rows_on_one_scale() -> None:
    judged, searched = regressed(1, 100, 0.5), regressed(2, 100, 0.5)
    worse = regressed(3, 100, 0.6)
    better, other = Quality.of(Rmse(), judged, searched), Quality.of(Rmse(), worse, searched)
    assert better.metric == "rmse"
    assert better.utility > other.utility
    assert better.utility == pytest.approx(-math.log(score(Rmse(), Answers.join([judged, searched]))))
    assert 0 < better.error < 0.1
    assert better.golden is None
    assert Quality.of(Rmse(), judged, searched, worse).golden == score(Rmse(), worse)
    assert Quality.of(Rmse(), judged, searched.take(np.zeros(0, int))).search_rows == 0
