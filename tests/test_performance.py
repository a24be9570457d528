"""A champion that got worse is found; one that did not is left alone at the promised rate."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.judged import judged
from trimtab.metric import Mae, Metric, Rmse
from trimtab.monitor import Answer, Sample, case_of
from trimtab.window import Schema
from trimtab_evidently.fall import Share, chance_of_fall
from trimtab_evidently.performance import Performance

SCHEMA = Schema(columns=())


def sample(hits: int, n: int, unlabelled: int = 0, number: int = 1) -> Sample:
    labels = np.r_[np.zeros(n, np.int64), np.full(unlabelled, -1)]
    said = np.r_[np.arange(n) >= hits, np.zeros(unlabelled, bool)].astype(int)
    output = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)[said]
    return Sample(SCHEMA, pd.DataFrame(index=range(n + unlabelled)), number, probabilities=output, labels=labels)


def alarm_rate(before: float, now: float, n: int, alpha: float, windows: int = 300) -> float:
    rng = np.random.default_rng(0)
    hits = zip(rng.binomial(n, before, windows), rng.binomial(n, now, windows), strict=True)
    monitor = Performance()
    return float(np.mean([judged(monitor, sample(b, n), sample(c, n), alpha).answer == Answer.WORSE for b, c in hits]))


@pytest.mark.parametrize(("before", "now", "rate"), [(0.98, 0.60, 1.0), (0.75, 0.68, 0.95), (0.98, 0.94, 0.95)])
def test_a_fall_is_found(before: float, now: float, rate: float) -> None:
    assert alarm_rate(before, now, 1300, alpha=0.025) >= rate


@pytest.mark.parametrize("accuracy", [0.5, 0.75, 0.98])
@pytest.mark.parametrize("n", [50, 300])
def test_no_fall_alarms_at_most_at_alpha(accuracy: float, n: int) -> None:
    assert alarm_rate(accuracy, accuracy, n, alpha=0.05) <= 0.05


@given(n=st.integers(50, 200), m=st.integers(50, 200), p=st.floats(0.5, 1.0), alpha=st.sampled_from([0.01, 0.05]))
@settings(max_examples=10, deadline=None)
def test_the_chance_of_a_false_alarm_is_at_most_alpha_exactly(n: int, m: int, p: float, alpha: float) -> None:
    likely = [i for i in range(n + 1) if binom.pmf(i, n, p) > 1e-6]
    rate = 0.0
    for i in likely:  # the p-value grows with the hits: all up to the last that alarms do
        alarming = bisect_right(range(m + 1), alpha, key=lambda j: chance_of_fall(Share(i, n), Share(j, m)))
        rate += binom.pmf(i, n, p) * binom.cdf(alarming - 1, m, p)
    assert rate <= alpha


def test_a_large_but_uncertain_fall_and_a_certain_but_small_one_are_fine() -> None:
    monitor = Performance()
    assert judged(monitor, sample(45, 50), sample(42, 50), 0.05).answer == Answer.FINE
    assert judged(monitor, sample(99_000, 100_000), sample(98_200, 100_000), 0.05).answer == Answer.FINE
    assert judged(Performance(max_drop=0.005), sample(99_000, 100_000), sample(98_200, 100_000), 0.05).reasons


def test_a_better_champion_is_fine() -> None:
    finding = judged(Performance(), sample(700, 1000), sample(990, 1000), 0.05)
    assert finding.answer == Answer.FINE
    assert finding.scores["drop"] == pytest.approx(-0.29)


def test_the_reason_gives_both_accuracies_and_their_rows() -> None:
    finding = judged(Performance(), sample(784, 800), sample(900, 1300), 0.05)
    assert "from 0.980 (800 rows of the reference) to 0.692 (1300 labelled rows)" in finding.reasons[0]
    assert finding.scores["accuracy"] == pytest.approx(900 / 1300)
    assert finding.scores["reference_accuracy"] == pytest.approx(0.98)
    assert finding.scores["n"] == 1300


def test_rows_without_a_label_do_not_count() -> None:
    assert judged(Performance(), sample(98, 100), sample(98, 100, unlabelled=900), 0.05).scores["n"] == 100


def test_too_few_labels_are_unknown_and_the_number_needed_is_named() -> None:
    finding = judged(Performance(), sample(98, 100), sample(48, 49, unlabelled=700), 0.05)
    assert finding.answer == Answer.UNKNOWN
    assert finding.reasons == ("needs 50 labelled rows (setting min_rows) in window 1, which has 49",)
    assert (
        judged(Performance(), sample(5, 20), sample(98, 100), 0.05).reasons[0].endswith("the reference, which has 20")
    )


def test_no_output_of_the_champion_is_unknown() -> None:
    silent = Sample(SCHEMA, pd.DataFrame(index=range(90)), labels=np.zeros(90, np.int64))
    finding = judged(Performance(), sample(98, 100), silent, 0.05)
    assert finding.answer == Answer.UNKNOWN
    assert "champion's output is missing" in finding.reasons[0]


def test_an_output_that_is_not_finite_is_wrong() -> None:
    broken = sample(100, 100)
    assert broken.probabilities is not None
    broken.probabilities[:] = np.nan
    finding = judged(Performance(), sample(98, 100), broken, 0.05)
    assert finding.answer == Answer.WORSE
    assert finding.scores["accuracy"] == 0


@pytest.mark.parametrize("wrong", [{"max_drop": -0.1}, {"max_drop": 1}, {"max_rise": -0.1}, {"min_rows": 9}])
def test_a_setting_against_its_rule_is_refused(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        Performance(**wrong)


# a regression


NUMBERS = Schema(columns=(), task="regression", label="load")


def predicted(errors: np.ndarray, unlabelled: int = 0, number: int = 1) -> Sample:
    labels = np.r_[np.full(len(errors), 50.0), np.full(unlabelled, np.nan)]
    said = np.r_[50.0 + errors, np.zeros(unlabelled)].astype(np.float32)[:, None]
    return Sample(NUMBERS, pd.DataFrame(index=range(len(labels))), number, predictions=said, labels=labels)


def errors(spread: float, rows: int, seed: int = 0) -> np.ndarray:
    return spread * np.random.default_rng(seed).standard_t(4, rows)


def test_errors_that_grow_are_found_and_told_in_the_units_of_the_label() -> None:
    finding = judged(Performance(), predicted(errors(2.0, 800)), predicted(errors(3.0, 300, 1), 500, 7), 0.025)
    assert finding.answer == Answer.WORSE
    assert finding.reasons[0].startswith("rmse of 'load' rose from 2.716 ")
    assert "(800 rows of the reference)" in finding.reasons[0]
    assert "(300 labelled rows)" in finding.reasons[0]
    assert "at most 10.0% allowed" in finding.reasons[0]
    assert finding.scores["n"] == 300


@pytest.mark.parametrize(("metric", "figure"), [(Mae(), 1.96), (Rmse(), 2.72)])
def test_the_error_is_the_one_that_the_project_names(metric: Metric, figure: float) -> None:
    now, before = predicted(errors(3.0, 300, 1)), predicted(errors(2.0, 800))
    case = dataclasses.replace(case_of(Performance(), before, now, 0.025), metric=metric)
    finding = Performance().check(case)
    assert finding.scores[f"reference_{metric.name}"] == pytest.approx(figure, abs=0.01)
    assert finding.reasons[0].startswith(f"{metric.name} of 'load' rose from")


@pytest.mark.parametrize("n", [50, 400])
def test_errors_that_do_not_grow_alarm_at_most_at_alpha(n: int) -> None:
    monitor = Performance(max_rise=0.0)
    alarms = [
        judged(monitor, predicted(errors(1.0, 300, s)), predicted(errors(1.0, n, 10_000 + s)), 0.05).answer
        for s in range(400)
    ]
    assert alarms.count(Answer.WORSE) / 400 <= 0.075


def test_a_certain_but_small_rise_and_a_bias_the_other_way_are_told_apart() -> None:
    before = predicted(errors(1.0, 50_000))
    assert judged(Performance(), before, predicted(errors(1.05, 50_000, 1)), 0.05).answer == Answer.FINE
    assert judged(Performance(max_rise=0.01), before, predicted(errors(1.05, 50_000, 1)), 0.05).answer == Answer.WORSE
    assert judged(Performance(), before, predicted(errors(1.0, 500, 1) - 2.0), 0.05).answer == Answer.WORSE
    assert judged(Performance(), before, predicted(errors(0.5, 500, 1)), 0.05).answer == Answer.FINE


def test_predictions_that_are_not_finite_are_the_worst_errors() -> None:
    now = errors(1.0, 200, 1)
    now[:60] = np.nan
    assert judged(Performance(), predicted(errors(1.0, 500)), predicted(now), 0.05).answer == Answer.WORSE


def test_a_champion_that_was_never_wrong_and_now_is_is_worse_by_however_much() -> None:
    for error in (1.0, 10.0, 1e6):
        finding = judged(Performance(), predicted(np.zeros(200)), predicted(np.full(200, error)), 0.05)
        assert finding.answer == Answer.WORSE
        assert finding.reasons[0].startswith("rmse of 'load' rose from 0 (200 rows of the reference) to ")


def test_a_regression_without_labels_or_output_is_unknown() -> None:
    before = predicted(errors(1.0, 500))
    few = judged(Performance(), before, predicted(errors(1.0, 49), 700), 0.05)
    assert few.reasons == ("needs 50 labelled rows (setting min_rows) in window 1, which has 49",)
    silent = Sample(NUMBERS, pd.DataFrame(index=range(90)), 1, labels=np.zeros(90))
    assert "output is missing" in judged(Performance(), before, silent, 0.05).reasons[0]
