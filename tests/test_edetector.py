"""Evidence over windows: the time between false alarms is kept, and a change is dated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_evidently.edetector import BETS, evidence, limit, per_group, wealth


def windows(share: float, rows: int, count: int, seed: int, at: float) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [wealth((rng.random(rows) < share).astype(float), at).tolist() for _ in range(count)]


@pytest.mark.parametrize(("share", "rows"), [(0.02, 300), (0.15, 300), (0.5, 40)])
def test_without_a_change_the_mean_run_is_as_long_as_promised(share: float, rows: int) -> None:
    """At the limit itself, the worst that is no change; runs are cut off, which makes their mean shorter."""
    asked, longest = 50.0, 150
    runs = []
    for seed in range(60):
        quiet = windows(share, rows, longest, seed, share)
        over = (n for n in range(1, longest + 1) if evidence(quiet[:n], asked).run >= asked)
        runs.append(next(over, longest))
    assert np.mean(runs) >= asked


@pytest.mark.parametrize(("before", "after", "within"), [(0.15, 0.22, 3), (0.05, 0.10, 3), (0.10, 0.15, 8)])
def test_a_change_is_found_and_dated(before: float, after: float, within: int) -> None:
    at = limit((np.arange(2000) < 2000 * before).astype(float), 0.02)
    for seed in range(20):
        stream = [*windows(before, 1000, 10, seed, at), *windows(after, 1000, within, seed + 100, at)]
        found = evidence(stream, 200)
        assert found.run >= 200
        assert abs(found.since - 10) <= 2
        assert evidence(stream[:10], 200).run < 200


def test_when_losses_fall_again_that_is_soon_seen() -> None:
    at = 0.1
    long, calm = windows(0.5, 1000, 30, 0, at), windows(0.02, 1000, 2, 1, at)
    assert evidence(long, 100).run >= 100
    assert evidence([*long, *calm], 100).run < 100


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.floats(0.05, 0.9))
def test_groups_that_agree_count_once(sizes: list[int], at: float) -> None:
    groups = np.repeat(np.arange(len(sizes), dtype=np.uint64), np.array(sizes) + 1)
    each = np.random.default_rng(len(sizes)).random(len(sizes))
    assert np.allclose(wealth(per_group(each[groups.astype(int)], groups), at), wealth(each, at))


def test_a_limit_of_one_can_neither_be_won_nor_lost() -> None:
    assert wealth(np.ones(5), limit(np.ones(30), 0.02)).tolist() == [0.0] * len(BETS)
