"""By how much a segment is behind: intervals that hold as often as they say, for segments of any size."""

import numpy as np
import pytest

from trimtab.gap import behind, compare_gap
from trimtab.metric import Accuracy, Answers, Rmse

ROWS = 400


def classified(right: np.ndarray) -> Answers:
    """Right or wrong as told, of two classes."""
    said = np.eye(2, dtype=np.float32)[(~right).astype(int)]
    return Answers(said, np.zeros(len(right), np.int64), np.arange(len(right), dtype=np.uint64))


def predicted(errors: np.ndarray) -> Answers:
    """Off by so much."""
    return Answers(errors[:, None].astype(np.float32), np.zeros(len(errors)), np.arange(len(errors), dtype=np.uint64))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_an_interval_of_accuracy_holds_as_often_as_it_says_and_little_more(share: float) -> None:
    rng = np.random.default_rng(0)
    inside = np.arange(ROWS) < share * ROWS
    before, after = np.where(inside, 0.8, 0.9), np.where(inside, 0.75, 0.92)
    truth = -(after - before)[~inside].mean() * (1 - share) + (after - before)[inside].mean() * (1 - share)
    held, draws = 0, 1000
    for _ in range(draws):
        luck, own = rng.random((2, ROWS))
        new = np.where(rng.random(ROWS) < 0.5, luck, own)  # half of the rows fare alike, as with a model and its parent
        gap = compare_gap(Accuracy(), classified(new < after), classified(luck < before), inside, 0.9)
        held += gap.gain.low <= truth <= gap.gain.high
    assert 0.87 <= held / draws <= 0.96


def test_an_interval_of_an_error_holds_as_often_as_it_says_and_little_more() -> None:
    rng = np.random.default_rng(0)
    inside = np.arange(ROWS) < ROWS / 2
    before, after = np.where(inside, 1.5, 1.0), np.where(inside, 1.5, 0.9)
    gap_before = 1.5 / np.sqrt((1.5**2 + 1) / 2)
    truth = 1 - 1.5 / np.sqrt((1.5**2 + 0.9**2) / 2) / gap_before
    held, draws = 0, 150
    for _ in range(draws):
        luck, own = rng.normal(size=(2, ROWS))  # its own noise makes every error the same multiple, and moves no gap
        gap = compare_gap(Rmse(), predicted(after * (luck + 0.3 * own)), predicted(before * luck), inside, 0.9)
        held += gap.gain.low <= truth <= gap.gain.high
    assert 0.83 <= held / draws <= 0.96


def test_rows_of_one_group_on_both_sides_are_not_taken_as_independent() -> None:
    """What is luck in a group's half of the segment is bad luck in the rest: the gap moves twice as far."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100, dtype=np.uint64), 2)
    inside = np.arange(200) % 2 == 0
    held, draws = 0, 300
    for _ in range(draws):
        up = np.repeat(rng.random(100) < 0.5, 2) == inside
        new, old = (Answers(a.outputs, a.labels, groups) for a in (classified(up), classified(~up)))
        gap = compare_gap(Accuracy(), new, old, inside, 0.9)
        held += gap.gain.low <= 0 <= gap.gain.high
    assert 0.86 <= held / draws <= 0.97


def test_a_group_on_both_sides_decides_nothing_about_a_segment_of_few_rows() -> None:
    right = np.random.default_rng(0).random(4000) < 0.9
    inside = np.arange(4000) < 12
    across = np.arange(4000, dtype=np.uint64)
    across[12] = across[11]
    alone, shared = (
        compare_gap(Accuracy(), a, a, inside, 0.95).gain
        for a in (classified(right), Answers(classified(right).outputs, np.zeros(4000, np.int64), across))
    )
    assert shared.low <= alone.low < -0.15


def test_a_segment_of_too_few_groups_is_undecided_however_many_there_are_elsewhere() -> None:
    rng = np.random.default_rng(0)
    old, new = (predicted(spread * rng.normal(size=ROWS)) for spread in (1.0, 0.7))
    few = np.arange(ROWS) < 8
    assert np.isnan(compare_gap(Rmse(), new, old, few, 0.998).gain.low)
    assert np.isfinite(compare_gap(Rmse(), new, old, few, 0.95).gain.low)


def test_a_segment_of_all_rows_is_behind_by_nothing_and_one_of_none_by_no_number() -> None:
    new, old = classified(np.arange(ROWS) % 10 > 0), classified(np.arange(ROWS) % 5 > 0)
    everything = compare_gap(Accuracy(), new, old, np.ones(ROWS, bool), 0.95)
    assert (everything.before, everything.after, everything.gain.low, everything.gain.high) == (0, 0, 0, 0)
    assert np.isnan(compare_gap(Accuracy(), new, old, np.zeros(ROWS, bool), 0.95).gain.value)


def test_rows_without_a_label_count_nowhere() -> None:
    right = np.arange(ROWS) % 7 > 0
    inside = np.arange(ROWS) % 3 == 0
    new, old = classified(right), classified(np.roll(right, 1))
    lost = np.arange(ROWS) >= 300
    blank = [Answers(a.outputs, np.where(lost, -1, a.labels), a.groups) for a in (new, old)]
    short = [a.take(~lost) for a in (new, old)]
    assert compare_gap(Accuracy(), *blank, inside, 0.95) == compare_gap(Accuracy(), *short, inside[~lost], 0.95)


def test_the_two_models_turned_round_turn_the_interval_round() -> None:
    rng = np.random.default_rng(1)
    inside = np.arange(ROWS) % 4 == 0
    one, other = (classified(rng.random(ROWS) < share) for share in (0.8, 0.9))
    there, back = (compare_gap(Accuracy(), a, b, inside, 0.95).gain for a, b in ((one, other), (other, one)))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_an_error_is_behind_by_a_multiple_and_of_nothing_by_no_number() -> None:
    assert behind(Rmse(), 3.0, 2.0) == 1.5
    assert np.isnan(behind(Rmse(), 0.0, 0.0))
