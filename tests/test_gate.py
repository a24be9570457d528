"""The gate: only what is proven passes, more damage never helps, and its intervals keep their confidence."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.benchmark import Quality, Scores
from trimtab.energy import Energy
from trimtab.gate import Gate, Outcome, Verdict
from trimtab.intervals import Interval, design_effect, paired_difference, rows_needed
from trimtab.metric import Accuracy, Answers, Metric, Rmse
from trimtab.runtime import Target
from trimtab.timing import Latency
from trimtab_sklearn.metrics import F1

ROWS = 2000
GATE = Gate()
AS_FAST = Latency(1.0, 1.2, Interval(1.0, 0.99, 1.01), False)
RANK = {Outcome.REJECTED: 0, Outcome.UNKNOWN: 1, Outcome.PASSED: 2}


ACCURACY = Accuracy()
NOTHING = Quality("accuracy", Interval(0, 0, 0), 0.0, 0, None, 0.0, 0.0)  # the gate compares answers, not this


def right(share: float, rows: int = ROWS) -> npt.NDArray[np.float64]:
    """The first ``share`` of the rows wrong, the others right: two of them disagree as little as they can."""
    return (np.arange(rows) >= round(rows * (1 - share))).astype(np.float64)


def said(right: npt.NDArray[np.float64], groups: Any = None, segments: Any = None) -> Answers:
    """Answers that are right where ``right`` is 1; half of the labels are of each class."""
    labels = np.arange(len(right)) % 2
    told = np.where(right > 0, labels, 1 - labels)
    groups = np.arange(len(right)) if groups is None else groups
    return Answers(np.eye(2, dtype=np.float32)[told], labels, np.asarray(groups, np.uint64), segments)


def scores(share: float = 0.9, rows: int = ROWS, **changes: Any) -> Scores:
    plain = Scores(said(right(share, rows)), NOTHING, AS_FAST, 1000)
    return dataclasses.replace(plain, **changes)


def speed(low: float, value: float, high: float, contended: bool = False) -> Latency:
    return Latency(1.0, 1.2, Interval(value, low, high), contended)


def slow(p50: float, times: float = 1.0) -> Latency:
    """A latency, so many times as fast as the champion's."""
    return Latency(p50, 1.2 * p50, Interval(times, 0.99 * times, 1.01 * times), False)


def numbers(noise: float, seed: int = 0, rows: int = 400) -> Scores:
    """A regression whose errors have this standard deviation."""
    labels = np.random.default_rng(7).normal(size=rows)
    predictions = labels + np.random.default_rng(seed).normal(0, noise, rows)
    judged = Answers(predictions[:, None].astype(np.float32), labels, np.arange(rows, dtype=np.uint64))
    return Scores(judged, NOTHING, AS_FAST, 1000)


def pair(metric: Metric) -> tuple[Scores, Scores]:
    """A champion, and a challenger that is clearly better."""
    return (numbers(0.5), numbers(0.3)) if metric.task == "regression" else (scores(0.8), scores(0.9))


def judge(challenger: Scores, champion: Scores | None = None, gate: Gate = GATE, **how: Any) -> Verdict:
    champion = champion or scores()
    return gate.judge(challenger, champion, how.pop("anchor", champion), **{"metric": ACCURACY, **how})


def test_a_proven_rise_of_quality_passes() -> None:
    verdict = judge(scores(0.95))
    assert verdict.outcome is Outcome.PASSED
    assert verdict.gains == ("quality",)
    assert verdict.reasons[0] == "superior in quality"
    assert verdict.reasons[1].startswith("accuracy rose by 0.050 (0.0")


def test_equally_good_smaller_and_faster_passes_with_both_gains() -> None:
    verdict = judge(scores(latency=speed(1.4, 1.5, 1.6), size_bytes=500))
    assert verdict.gains == ("speed", "size")
    assert verdict.reasons[0] == "superior in speed and size"


def test_no_gain_is_rejected() -> None:
    verdict = judge(scores())
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0] == "no proven gain in quality, speed or size"


def test_a_gain_of_no_use_to_anybody_is_none() -> None:
    assert judge(scores(size_bytes=960, latency=speed(1.01, 1.02, 1.03))).outcome is Outcome.REJECTED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"judged": said(right(0.85))}, "accuracy fell by 0.050 (0.0"),
        ({"latency": speed(0.7, 0.8, 0.9)}, "speed 0.80 (0.70 to 0.90) times the champion's, at least 0.95 required"),
        ({"size_bytes": 1200}, "size 1 kB, 1.20 of the champion's, at most 1.05 allowed"),
    ],
)
def test_a_loss_beyond_its_margin_is_rejected_with_the_decisive_reason_first(change: Any, words: str) -> None:
    gains = {"latency": speed(1.4, 1.5, 1.6), "size_bytes": 500}
    verdict = judge(scores(**{**gains, **change}))
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith(words)


def test_too_few_rows_are_unknown_and_say_how_many_are_needed() -> None:
    champion = scores(rows=100)
    challenger = scores(rows=100, judged=said(np.roll(right(0.9, 100), 2)), latency=speed(1.4, 1.5, 1.6))
    verdict = judge(challenger, champion)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "cannot decide a margin of 0.010, needs " in verdict.reasons[0]
    needed = int(verdict.reasons[0].split("needs ")[1].split()[0])
    assert rows_needed(0.04, 0.01, 0.95) <= needed <= 2 * rows_needed(0.04, 0.01, 0.95)


def test_a_contended_machine_is_unknown() -> None:
    verdict = judge(scores(0.95, latency=speed(0.8, 1.3, 1.9, contended=True)))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "contended" in verdict.reasons[0]


def test_a_wide_interval_that_lies_above_proves_a_gain_all_the_same() -> None:
    assert judge(scores(latency=speed(5.5, 6.2, 7.0, contended=True))).gains == ("speed",)
    assert judge(scores(latency=speed(1.0, 1.9, 2.4, contended=True))).outcome is Outcome.REJECTED


@pytest.mark.parametrize(
    ("bound", "champion", "challenger", "gains"),
    [
        ({"max_p50_ms": 2.0}, {"latency": slow(2.01)}, {"latency": slow(1.99)}, ()),
        ({"max_p50_ms": 2.0}, {"latency": slow(3.0)}, {"latency": slow(1.5, 1.9)}, ("max_p50_ms", "speed")),
        ({"max_peak_mb": 50.0}, {"peak_mb": 51.0}, {"peak_mb": 49.0}, ()),
        ({"max_peak_mb": 50.0}, {"peak_mb": 70.0}, {"peak_mb": 49.0}, ("max_peak_mb",)),
    ],
)
def test_a_bound_that_chance_keeps_is_no_gain(
    bound: dict[str, float], champion: dict[str, Any], challenger: dict[str, Any], gains: tuple[str, ...]
) -> None:
    verdict = judge(scores(**challenger), scores(**champion), target=Target.model_validate({**bound}))
    assert verdict.gains == gains
    assert verdict.outcome is (Outcome.PASSED if gains else Outcome.REJECTED)


def test_a_repair_that_the_rows_cannot_decide_is_unknown_and_says_how_many_are_needed() -> None:
    few = said(np.roll(right(0.91, 300), 20))
    verdict = judge(scores(rows=300, judged=few), scores(rows=300), repair=True)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "needs " in verdict.reasons[0]
    assert verdict.reasons[0].endswith("a proven rise is what the round was opened for")


def test_small_losses_that_add_up_are_seen_beside_the_anchor() -> None:
    champion, anchor = scores(0.9), scores(0.93)
    verdict = judge(scores(0.9, size_bytes=500), champion, anchor=anchor)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("accuracy against the anchor fell by 0.030")


def test_forgetting_the_golden_rows_is_rejected() -> None:
    verdict = judge(scores(0.95, golden=said(right(0.9, 1000))), scores(golden=said(np.ones(1000))))
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("accuracy on the golden rows fell by 0.100")


def test_a_repair_needs_a_proven_rise_however_small_and_fast() -> None:
    tempting = scores(latency=speed(2.9, 3.0, 3.1), size_bytes=100)
    assert judge(tempting).outcome is Outcome.PASSED
    verdict = judge(tempting, repair=True)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].endswith("no proven rise, which is what the round was opened for")
    assert judge(scores(0.95), repair=True).outcome is Outcome.PASSED


def test_proven_better_than_the_champion_passes_where_the_anchor_cannot_decide() -> None:
    champion = scores(0.5, rows=200)
    better = scores(0.9, rows=200)
    anchor = scores(rows=200, judged=said(np.roll(right(0.9, 200), 3)))
    verdict = judge(better, champion, anchor=anchor)
    assert verdict.outcome is Outcome.PASSED
    assert any(reason.endswith("undecided, but proven better than the champion") for reason in verdict.reasons)


def test_more_candidates_ask_for_more_proof() -> None:
    assert [round(GATE.level(n), 4) for n in (0, 1, 2, 10)] == [0.95, 0.95, 0.975, 0.995]
    barely = scores(judged=said(np.where(np.arange(ROWS) < 7, 1.0, right(0.9))))
    assert judge(barely, comparisons=1).gains == ("quality",)
    assert judge(barely, comparisons=50).gains == ()


@pytest.mark.parametrize("what", ["value", "low", "high"])
@pytest.mark.parametrize("repair", [False, True])
def test_a_speed_that_is_not_a_number_never_passes(what: str, repair: bool) -> None:
    sound = scores(0.95, latency=speed(1.4, 1.5, 1.6), size_bytes=100)
    assert judge(sound, repair=repair).outcome is Outcome.PASSED
    interval = dataclasses.replace(sound.latency.speedup, **{what: math.nan})
    spoilt = dataclasses.replace(sound, latency=dataclasses.replace(sound.latency, speedup=interval))
    assert judge(spoilt, repair=repair).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("metric", [ACCURACY, F1(), Rmse()], ids=str)
@pytest.mark.parametrize("repair", [False, True])
def test_outputs_that_are_not_numbers_never_pass(metric: Metric, repair: bool) -> None:
    champion, better = pair(metric)
    assert judge(better, champion, metric=metric, repair=repair).outcome is Outcome.PASSED
    for share in (0.3, 1.0):
        outputs = better.judged.outputs.copy()
        outputs[: round(share * len(outputs))] = np.nan
        spoilt = dataclasses.replace(
            better, judged=dataclasses.replace(better.judged, outputs=outputs), latency=speed(2.9, 3.0, 3.1)
        )
        assert judge(spoilt, champion, metric=metric, repair=repair).outcome is Outcome.REJECTED
        assert judge(better, spoilt, metric=metric, anchor=champion).outcome is not Outcome.REJECTED


@pytest.mark.parametrize("repair", [False, True])
def test_without_rows_nothing_passes(repair: bool) -> None:
    nothing = scores(rows=0, latency=speed(2.9, 3.0, 3.1), size_bytes=100)
    verdict = judge(nothing, scores(rows=0), repair=repair)
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reasons[0] == "accuracy: no rows to judge on"


def test_rows_of_one_thing_prove_nothing_about_others() -> None:
    one = np.zeros(ROWS)
    better, champion = (scores(judged=said(right(share), one)) for share in (0.95, 0.9))
    verdict = judge(dataclasses.replace(better, size_bytes=100), champion)
    assert verdict.outcome is Outcome.UNKNOWN


@given(
    better=st.integers(0, 150),
    worse=st.integers(0, 150),
    more=st.integers(0, 40),
    rate=st.floats(0.5, 2.0),
    width=st.floats(0, 0.3),
    size=st.integers(200, 2000),
)
@settings(max_examples=150, deadline=None)
def test_more_damage_never_helps(better: int, worse: int, more: int, rate: float, width: float, size: int) -> None:
    champion = scores(0.8, rows=1000)
    judged = right(0.8, 1000)
    judged[:better] = 1.0
    judged[1000 - worse :] = 0.0
    challenger = scores(
        rows=1000, judged=said(judged), latency=speed(rate - width, rate, rate + width), size_bytes=size
    )
    more_wrong = judged.copy()
    more_wrong[1000 - worse - more : 1000 - worse] = 0.0
    worsened = [
        dataclasses.replace(challenger, judged=said(more_wrong)),
        dataclasses.replace(challenger, size_bytes=size + 10 * more),
        dataclasses.replace(
            challenger, latency=speed(rate - width - more / 100, rate - more / 100, rate + width - more / 100)
        ),
    ]
    before = judge(challenger, champion)
    for damaged in worsened:
        after = judge(damaged, champion)
        assert RANK[after.outcome] <= RANK[before.outcome]
        assert set(after.gains) <= set(before.gains)


@given(st.lists(st.sampled_from([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]), min_size=1, max_size=80))
@settings(deadline=None)
def test_swapping_the_two_turns_the_interval_round(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    groups = np.arange(len(a), dtype=np.uint64)
    there, back = paired_difference(a, b, groups, 0.95), paired_difference(b, a, groups, 0.95)
    assert there.value == pytest.approx(-back.value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert -1 <= there.low <= there.high <= 1


@pytest.mark.parametrize(
    ("rows", "gains", "loses"), [(60, 0.1, 0.1), (400, 0.05, 0.03), (400, 0.01, 0.002), (1500, 0.02, 0.05)]
)
def test_the_interval_keeps_its_confidence(rows: int, gains: float, loses: float) -> None:
    rng = np.random.default_rng(5)
    groups = np.arange(rows, dtype=np.uint64)
    zeros = np.zeros(rows)
    kept = 0
    for _ in range(1000):
        difference = rng.choice([1.0, -1.0, 0.0], size=rows, p=[gains, loses, 1 - gains - loses])
        interval = paired_difference(difference, zeros, groups, 0.95)
        kept += interval.low <= gains - loses <= interval.high
    assert 0.935 <= kept / 1000 <= 0.995


def test_the_interval_keeps_its_confidence_when_rows_come_in_groups() -> None:
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(120, dtype=np.uint64), 8)
    zeros = np.zeros(len(groups))
    kept = naive = 0
    for _ in range(1000):
        difference = np.repeat(rng.choice([1.0, -1.0, 0.0], size=120, p=[0.1, 0.05, 0.85]), 8)
        grouped = paired_difference(difference, zeros, groups, 0.95)
        kept += grouped.low <= 0.05 <= grouped.high
        alone = paired_difference(difference, zeros, np.arange(len(groups), dtype=np.uint64), 0.95)
        naive += alone.low <= 0.05 <= alone.high
    assert kept / 1000 >= 0.93
    assert naive / 1000 < 0.7


def test_the_design_effect_of_copies_is_their_number() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.choice([-1.0, 0.0, 1.0], size=200), 5)
    assert design_effect(values, np.repeat(np.arange(200, dtype=np.uint64), 5)) == pytest.approx(5.0 * 200 / 199)
    assert design_effect(values, np.arange(1000, dtype=np.uint64)) == 1.0


@given(st.floats(0.001, 0.5), st.floats(0.002, 0.1), st.floats(0.6, 0.999))
def test_a_smaller_margin_needs_more_rows(disagreeing: float, margin: float, confidence: float) -> None:
    assert rows_needed(disagreeing, margin / 2, confidence) >= rows_needed(disagreeing, margin, confidence) > 0


# other metrics


def test_a_rise_of_an_error_is_told_as_a_fraction_of_the_champions() -> None:
    verdict = judge(numbers(0.8, seed=1), numbers(0.5), metric=Rmse())
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("rmse rose by ")
    assert " %), from 0." in verdict.reasons[0]
    assert verdict.reasons[0].endswith(" on 400 rows; at most 1.0 % allowed")


def test_a_fall_of_an_error_is_a_gain_of_quality() -> None:
    champion, challenger = pair(Rmse())
    verdict = judge(challenger, champion, metric=Rmse(), repair=True)
    assert verdict.gains == ("quality",)
    assert verdict.reasons[1].startswith("rmse fell by ")


def test_too_few_rows_for_an_error_say_how_many_are_needed() -> None:
    verdict = judge(numbers(0.5, 1, 60), numbers(0.5, 2, 60), metric=Rmse())
    assert verdict.outcome is Outcome.UNKNOWN
    assert "cannot decide a margin of 1.0 %, " in verdict.reasons[0]


@pytest.mark.parametrize("metric", [ACCURACY, F1(), Rmse()], ids=str)
@given(seed=st.integers(0, 1000), share=st.floats(0.3, 1.0))
@settings(max_examples=10, deadline=None)
def test_a_challenger_equal_to_the_champion_never_passes(metric: Metric, seed: int, share: float) -> None:
    same = numbers(share, seed, 150) if metric.task == "regression" else scores(share, 150)
    for repair in (False, True):
        assert judge(same, same, metric=metric, repair=repair).outcome is not Outcome.PASSED


# constraints


@pytest.mark.parametrize(
    ("bound", "kept", "broken", "words"),
    [
        (
            {"max_p50_ms": 2.0},
            {"latency": slow(1.9, 1.3)},
            {"latency": Latency(2.5, 3.0, AS_FAST.speedup, False)},
            "p50 2.5 ms, at most 2 allowed",
        ),
        (
            {"max_p99_ms": 2.0},
            {"latency": dataclasses.replace(slow(1.5, 1.3), p99_ms=1.9)},
            {"latency": dataclasses.replace(AS_FAST, p99_ms=2.1)},
            "p99 2.1 ms, at most 2 allowed",
        ),
        ({"max_size_mb": 0.0005}, {"size_bytes": 500}, {"size_bytes": 600}, "size 0.0006 MB, at most 0.0005 allowed"),
        ({"max_peak_mb": 50}, {"peak_mb": 45.0}, {"peak_mb": 51.0}, "peak memory 51 MB, at most 50 allowed"),
    ],
)
def test_what_the_target_does_not_allow_is_rejected_and_keeping_it_alone_is_a_gain(
    bound: dict[str, float], kept: dict[str, Any], broken: dict[str, Any], words: str
) -> None:
    target, gate = Target(**bound), Gate(min_gain=0.9)
    (name,) = bound
    refused = judge(scores(0.95, **broken), scores(**kept), gate, target=target)
    assert refused.outcome is Outcome.REJECTED
    assert refused.reasons[0] == f"{words} ({name})"
    freed = judge(scores(**kept), scores(**broken), gate, target=target)
    assert freed.outcome is Outcome.PASSED
    assert freed.gains == (name,)
    assert f"keeps {name}, which the champion breaks" in freed.reasons
    assert judge(scores(**kept), scores(**kept), gate, target=target).outcome is Outcome.REJECTED


@pytest.mark.parametrize("name", ["max_p99_ms", "max_peak_mb"])
def test_a_bound_on_what_was_not_measured_is_unknown(name: str) -> None:
    verdict = judge(scores(0.95), target=Target(**{name: 9.0}))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "was not measured" in verdict.reasons[0]


def test_keeping_one_bound_and_breaking_another_is_no_gain() -> None:
    target = Target(max_size_mb=0.0005, max_p50_ms=0.5)
    verdict = judge(scores(0.95, size_bytes=400), target=target)
    assert verdict.outcome is Outcome.REJECTED
    assert "max_size_mb" not in verdict.gains


def test_the_target_may_allow_another_loss_of_quality() -> None:
    smaller = scores(0.88, size_bytes=400)
    assert judge(smaller).outcome is Outcome.REJECTED
    wide = Gate(max_total_drop=0.1)
    assert judge(smaller, gate=wide, target=Target(max_quality_drop=0.05)).outcome is Outcome.PASSED


# segments


def sites(*names: str, rows: int = ROWS) -> npt.NDArray[np.str_]:
    return np.array([f"site={names[i * len(names) // rows]}" for i in range(rows)])[:, None]


def test_a_loss_in_one_segment_is_rejected_though_the_whole_gains() -> None:
    gate, where = Gate(max_segment_drop=0.05), sites("a", "b", "c", "d")
    worse_in_d = np.ones(ROWS)
    worse_in_d[-200:] = 0.0
    champion = scores(judged=said(right(0.7), segments=where))
    verdict = judge(scores(judged=said(worse_in_d, segments=where)), champion, gate)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("accuracy where site=d fell by 0.400")
    assert verdict.reasons[0].endswith("at most 0.050 allowed")
    held = judge(scores(judged=said(np.ones(ROWS), segments=where)), champion, gate)
    assert held.outcome is Outcome.PASSED
    assert "accuracy held in each of 4 segments" in held.reasons


def test_a_segment_of_too_few_rows_is_unknown_and_named() -> None:
    where = sites("tiny", "a")
    where[8:] = "site=a"
    better, champion = (scores(judged=said(right(share), segments=where)) for share in (0.95, 0.9))
    verdict = judge(better, champion, Gate(max_segment_drop=0.05))
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reasons[0].startswith("accuracy where site=tiny")
    assert int(verdict.reasons[0].split("needs ")[1].split()[0]) > 300


def test_a_segment_that_stays_small_need_not_stop_every_promotion() -> None:
    where = np.array([["site=tiny"]] * 8 + [["site=a"]] * (ROWS - 8))
    better, champion = (scores(judged=said(right(share), segments=where)) for share in (0.95, 0.9))
    strict = judge(better, champion, Gate(max_segment_drop=0.05, max_gap_rise=0.05))
    assert strict.outcome is Outcome.UNKNOWN
    assert strict.reasons[0].endswith("rows, or gate.min_segment_rows above 8")
    lenient = judge(better, champion, Gate(max_segment_drop=0.05, max_gap_rise=0.05, min_segment_rows=9))
    assert lenient.outcome is Outcome.PASSED
    assert "site=tiny (8 rows): not judged, having fewer rows than gate.min_segment_rows (9)" in lenient.reasons


def test_a_gate_that_lets_every_segment_go_unjudged_promotes_nothing() -> None:
    where = np.array([["site=a"]] * ROWS)
    better, champion = (scores(judged=said(right(share), segments=where)) for share in (0.95, 0.9))
    verdict = judge(better, champion, Gate(max_segment_drop=0.05, min_segment_rows=ROWS + 1))
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reasons[0].endswith(f"no segment has {ROWS + 1} judge rows (gate.min_segment_rows): lower it")


def test_a_segment_that_seems_to_lose_is_not_one_to_look_away_from() -> None:
    where = np.array([["site=tiny"]] * 8 + [["site=a"]] * (ROWS - 8))
    hits = right(0.9)
    hits[:8] = True
    lost = hits.copy()
    lost[:2] = False
    champion, worse = (scores(judged=said(h, segments=where)) for h in (hits, lost))
    verdict = judge(worse, champion, Gate(max_segment_drop=0.05, max_quality_drop=0.5, max_total_drop=0.5))
    reason = next(r for r in verdict.reasons if "site=tiny" in r)
    assert "more rows like these would refuse it" in reason
    assert "min_segment_rows" not in reason


def test_more_segments_ask_for_more_proof() -> None:
    gate = Gate(max_segment_drop=0.0028)
    right_ones = right(0.9, 4000)
    barely = np.roll(right_ones, 9)
    outcomes = []
    for columns in (1, 40):
        where = np.concatenate([np.full((4000, 1), f"c{i}=x") for i in range(columns)], axis=1)
        better, champion = (scores(judged=said(hits, segments=where)) for hits in (barely, right_ones))
        verdict = judge(dataclasses.replace(better, size_bytes=100), champion, gate)
        outcomes.append(sum("where c" in reason for reason in verdict.reasons))
    assert outcomes == [0, 40]


def test_segments_that_nobody_named_are_unknown() -> None:
    verdict = judge(scores(0.95), gate=Gate(max_segment_drop=0.05))
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reasons[0] == "gate.max_segment_drop is set, but data.segments names no column"


def behind(in_b: float, elsewhere: float = 0.9, share: float = 0.25) -> Scores:
    """Right so often in site a, and in site b, which has a quarter of the rows or the ``share``."""
    rows = 4 * ROWS
    first = round(rows * (1 - share))
    judged = np.concatenate([right(elsewhere, first), right(in_b, rows - first)])
    where = np.array(["site=a"] * first + ["site=b"] * (rows - first))[:, None]
    return scores(rows=rows, judged=said(judged, segments=where))


FAIR = Gate(max_gap_rise=0.02)


def test_a_gap_that_widens_is_rejected_though_no_segment_loses_and_the_whole_gains() -> None:
    champion, challenger = behind(0.8), behind(0.8, elsewhere=0.99)
    assert judge(challenger, champion, Gate(max_segment_drop=0.02)).outcome is Outcome.PASSED
    verdict = judge(challenger, champion, FAIR)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("accuracy gap where site=b rose by 0.068 (0.0")
    assert ", from 0.075 to 0.142, on 2000 rows; at most 0.020 allowed" in verdict.reasons[0]


def test_a_proven_rise_where_the_champion_is_behind_is_a_gain_and_a_repair() -> None:
    champion, challenger = behind(0.8), behind(0.83, elsewhere=0.8905)
    assert judge(challenger, champion).outcome is Outcome.REJECTED
    for repair in (False, True):
        verdict = judge(challenger, champion, FAIR, repair=repair)
        assert verdict.outcome is Outcome.PASSED
        assert verdict.gains == ("quality where site=b",)
        assert verdict.reasons[0] == "superior in quality where site=b"
        assert judge(challenger, champion, repair=repair).outcome is Outcome.REJECTED


def test_a_rise_where_the_champion_is_ahead_is_no_gain() -> None:
    champion, challenger = behind(0.95), behind(0.98, elsewhere=0.8905)
    verdict = judge(challenger, champion, FAIR)
    assert verdict.gains == ()
    assert verdict.outcome is Outcome.REJECTED


def test_a_segment_that_loses_its_lead_because_another_rose_is_not_left_behind() -> None:
    verdict = judge(behind(0.91), behind(0.5), FAIR)
    assert verdict.outcome is Outcome.PASSED
    assert verdict.gains == ("quality", "quality where site=b")


def test_gaps_that_hold_are_told_together_and_those_of_few_rows_are_unknown() -> None:
    assert "no gap in accuracy widened in 2 segments" in judge(behind(0.8), behind(0.8), FAIR).reasons
    few = judge(behind(0.7, share=0.005), behind(0.8, share=0.005), FAIR)
    assert few.outcome is Outcome.UNKNOWN
    assert few.reasons[0].startswith("accuracy gap where site=b rose by")
    bare = judge(scores(0.95), gate=FAIR)
    assert bare.reasons[0] == "gate.max_gap_rise is set, but data.segments names no column"


def off_by(in_a: float, in_b: float) -> Scores:
    """A regression that is off by so much in either half of the rows."""
    where = np.array(["site=a"] * ROWS + ["site=b"] * ROWS)[:, None]
    off = np.where(where[:, 0] == "site=a", in_a, in_b).astype(np.float32)
    judged = Answers(off[:, None], np.zeros(2 * ROWS), np.arange(2 * ROWS, dtype=np.uint64), where)
    return Scores(judged, NOTHING, AS_FAST, 1000)


def test_an_error_s_gap_is_a_multiple_and_a_lead_in_it_may_be_lost() -> None:
    gate = Gate(max_gap_rise=0.05)
    level = judge(off_by(0.99, 1.01), off_by(1.4, 0.5), gate, metric=Rmse())
    assert level.outcome is Outcome.PASSED
    assert level.gains == ("quality", "quality where site=a")
    wider = judge(off_by(0.6, 1.2), off_by(1.4, 0.5), gate, metric=Rmse())
    assert wider.outcome is Outcome.REJECTED
    gap = next(reason for reason in wider.reasons if reason.startswith("rmse gap where site=b rose"))
    before, after = (float(part) for part in gap.split("from ")[1].split(", on")[0].split(" to "))
    assert before == pytest.approx(0.5 / math.sqrt((1.4**2 + 0.5**2) / 2), rel=1e-3)
    assert float(gap.split("rose by ")[1].split(" %")[0]) == pytest.approx(100 * (after / before - 1), rel=1e-3)


@given(before=st.integers(50, 95), after=st.integers(50, 95), lost=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_a_wider_gap_never_helps(before: int, after: int, lost: int) -> None:
    champion, challenger = behind(before / 100), behind(after / 100)
    worse = behind(max(0, after - lost) / 100)
    outcomes = [judge(c, champion, FAIR) for c in (challenger, worse)]
    assert outcomes[0].outcome is Outcome.PASSED or outcomes[1].outcome is not Outcome.PASSED
    assert set(outcomes[1].gains) <= set(outcomes[0].gains)


# energy


def taking(joules: float) -> Latency:
    return dataclasses.replace(AS_FAST, energy=Energy(joules, None, None, "counter", False))


def test_energy_counts_where_the_project_asks_for_it() -> None:
    saving, champion, gate = scores(latency=taking(5.0)), scores(latency=taking(10.0)), Gate(max_energy_rise=0.1)
    assert judge(saving, champion).outcome is Outcome.REJECTED
    assert judge(saving, champion, gate).gains == ("energy",)
    wasting = judge(champion, saving, gate)
    assert wasting.outcome is Outcome.REJECTED
    assert "energy 10 J for 1000 rows, 2.00 of the champion's, at most 1.10 allowed" in wasting.reasons
    assert judge(scores(0.95), champion, gate).outcome is Outcome.UNKNOWN
