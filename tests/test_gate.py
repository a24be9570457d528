"""The gate: only what is proven passes, more damage never helps, and its intervals keep their confidence."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.benchmark import Scores
from trimtab.gate import Gate, Outcome, Verdict, design_effect, paired_difference, rows_needed
from trimtab.intervals import Interval
from trimtab.timing import Latency

ROWS = 2000
GATE = Gate()
AS_FAST = Latency(1.0, 1.2, Interval(1.0, 0.99, 1.01), False)
RANK = {Outcome.REJECTED: 0, Outcome.UNKNOWN: 1, Outcome.PASSED: 2}


def right(share: float, rows: int = ROWS) -> npt.NDArray[np.float64]:
    """The first ``share`` of the rows wrong, the others right: two of them disagree as little as they can."""
    return (np.arange(rows) >= round(rows * (1 - share))).astype(np.float64)


def scores(share: float = 0.9, rows: int = ROWS, **changes: Any) -> Scores:
    plain = Scores(right(share, rows), np.arange(rows, dtype=np.uint64), AS_FAST, 1000, share)
    return dataclasses.replace(plain, **changes)


def speed(low: float, value: float, high: float, contended: bool = False) -> Latency:
    return Latency(1.0, 1.2, Interval(value, low, high), contended)


def judge(challenger: Scores, champion: Scores | None = None, gate: Gate = GATE, **how: Any) -> Verdict:
    champion = champion or scores()
    return gate.judge(challenger, champion, how.pop("anchor", champion), **how)


def test_a_proven_rise_of_quality_passes() -> None:
    verdict = judge(scores(0.95))
    assert verdict.outcome is Outcome.PASSED
    assert verdict.gains == ("quality",)
    assert verdict.reasons[0] == "superior in quality"
    assert verdict.reasons[1].startswith("quality rose by 0.050 (0.0")


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
        ({"judged": right(0.85)}, "quality fell by 0.050 (0.0"),
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
    challenger = scores(rows=100, judged=np.roll(champion.judged, 2), latency=speed(1.4, 1.5, 1.6))
    verdict = judge(challenger, champion)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "cannot decide a margin of 0.010, needs " in verdict.reasons[0]
    needed = int(verdict.reasons[0].split("needs ")[1].split()[0])
    assert needed == rows_needed(0.04, 0.01, 0.95)


def test_a_contended_machine_is_unknown() -> None:
    verdict = judge(scores(0.95, latency=speed(0.8, 1.3, 1.9, contended=True)))
    assert verdict.outcome is Outcome.UNKNOWN
    assert "contended" in verdict.reasons[0]


def test_a_speed_measured_on_a_contended_machine_is_no_gain() -> None:
    assert judge(scores(latency=speed(1.4, 1.9, 2.4, contended=True))).outcome is Outcome.REJECTED


def test_small_losses_that_add_up_are_seen_beside_the_anchor() -> None:
    champion, anchor = scores(0.9), scores(0.93)
    verdict = judge(scores(0.9, size_bytes=500), champion, anchor=anchor)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("quality against the anchor fell by 0.030")


def test_forgetting_the_golden_rows_is_rejected() -> None:
    golden = {"golden": np.ones(1000), "golden_groups": np.arange(1000, dtype=np.uint64)}
    forgets = scores(0.95, golden=right(0.9, 1000), golden_groups=golden["golden_groups"])
    verdict = judge(forgets, scores(**golden))
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].startswith("quality on the golden rows fell by 0.100")


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
    anchor = scores(0.9, rows=200, judged=np.roll(better.judged, 3))
    verdict = judge(better, champion, anchor=anchor)
    assert verdict.outcome is Outcome.PASSED
    assert any(reason.endswith("undecided, but proven better than the champion") for reason in verdict.reasons)


def test_more_candidates_ask_for_more_proof() -> None:
    assert [round(GATE.level(n), 4) for n in (0, 1, 2, 10)] == [0.95, 0.95, 0.975, 0.995]
    barely = scores(judged=np.where(np.arange(ROWS) < 7, 1.0, right(0.9)))
    assert judge(barely, comparisons=1).gains == ("quality",)
    assert judge(barely, comparisons=50).gains == ()


@pytest.mark.parametrize("what", ["judged", "golden", "value", "low", "high"])
@pytest.mark.parametrize("repair", [False, True])
def test_what_is_not_a_number_never_passes(what: str, repair: bool) -> None:
    golden = {"golden": np.ones(500), "golden_groups": np.arange(500, dtype=np.uint64)}
    sound = scores(0.95, latency=speed(1.4, 1.5, 1.6), size_bytes=100, **golden)
    champion = scores(**golden)
    assert judge(sound, champion, repair=repair).outcome is Outcome.PASSED
    if what in ("judged", "golden"):
        values = getattr(sound, what).copy()
        values[7] = np.nan
        spoilt = dataclasses.replace(sound, **{what: values})
    else:
        interval = dataclasses.replace(sound.latency.speedup, **{what: float("nan")})
        spoilt = dataclasses.replace(sound, latency=dataclasses.replace(sound.latency, speedup=interval))
    assert judge(spoilt, champion, repair=repair).outcome is Outcome.UNKNOWN
    assert judge(sound, dataclasses.replace(champion, judged=np.full(ROWS, np.nan))).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("repair", [False, True])
def test_without_rows_nothing_passes(repair: bool) -> None:
    nothing = scores(rows=0, latency=speed(2.9, 3.0, 3.1), size_bytes=100)
    verdict = judge(nothing, scores(rows=0), repair=repair)
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reasons[0] == "quality: no rows to judge on"


def test_rows_of_one_thing_prove_nothing_about_others() -> None:
    one = np.zeros(ROWS, dtype=np.uint64)
    verdict = judge(scores(0.95, groups=one, size_bytes=100), scores(groups=one))
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
    judged = champion.judged.copy()
    judged[:better] = 1.0
    judged[1000 - worse :] = 0.0
    challenger = scores(rows=1000, judged=judged, latency=speed(rate - width, rate, rate + width), size_bytes=size)
    more_wrong = judged.copy()
    more_wrong[1000 - worse - more : 1000 - worse] = 0.0
    worsened = [
        dataclasses.replace(challenger, judged=more_wrong),
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
    assert design_effect(values, np.repeat(np.arange(200, dtype=np.uint64), 5)) == pytest.approx(5.0)
    assert design_effect(values, np.arange(1000, dtype=np.uint64)) == 1.0


@given(st.floats(0.001, 0.5), st.floats(0.002, 0.1), st.floats(0.6, 0.999))
def test_a_smaller_margin_needs_more_rows(disagreeing: float, margin: float, confidence: float) -> None:
    assert rows_needed(disagreeing, margin / 2, confidence) >= rows_needed(disagreeing, margin, confidence) > 0
