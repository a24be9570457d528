"""Intervals keep what they promise, also where rows come in few groups."""

import math

import numpy as np
import pytest

from trimtab.intervals import bootstrap, design_effect, paired_difference, proportion

TIMES = 400


def drawn(groups: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models of which neither is better: in each group of rows one is, by chance."""
    gains = np.repeat(rng.normal(0, 0.05, groups), size)
    u, better, worse = rng.random(len(gains)), (0.1 + gains / 2).clip(0, 1), (0.1 - gains / 2).clip(0, 1)
    return (u < better) * 1.0, ((u >= better) & (u < better + worse)) * 1.0, np.repeat(np.arange(groups), size)


@pytest.mark.parametrize(("groups", "size"), [(2, 200), (3, 200), (5, 200), (8, 200), (30, 60), (120, 10)])
def test_a_rise_is_no_oftener_proven_by_chance_than_promised(groups: int, size: int) -> None:
    rng = np.random.default_rng(groups)
    found = sum(
        paired_difference(a, b, g.astype(np.uint64), 0.95).low > 0
        for a, b, g in (drawn(groups, size, rng) for _ in range(TIMES))
    )
    assert found <= 0.025 * TIMES + 3 * math.sqrt(0.025 * 0.975 * TIMES)


def test_groups_that_all_agree_say_no_more_than_their_number() -> None:
    same, groups = np.ones(2000), np.repeat(np.arange(40), 50).astype(np.uint64)
    interval = paired_difference(same, same, groups, 0.95)
    assert interval.low < -0.05  # 5 % of the groups may lose wholly, and 40 show none in 13 of 100 samples
    assert proportion(same, groups, 0.95).low < 0.95
    assert design_effect(same, groups) == 50


def test_rows_of_one_group_are_one_observation() -> None:
    right, group = np.array([1.0, 1, 0, 1]), np.zeros(4, np.uint64)
    assert (proportion(right, group, 0.95).low, proportion(right, group, 0.95).high) == (0.0, 1.0)
    interval = paired_difference(right, 1 - right, group, 0.95)
    assert (interval.low, interval.high) == (-1.0, 1.0)


@pytest.mark.parametrize(("groups", "bounded"), [(2, False), (5, False), (6, True), (40, True)])
def test_too_few_groups_bound_nothing_by_resampling(groups: int, bounded: bool) -> None:
    codes, values = (
        np.repeat(np.arange(groups), 20).astype(np.uint64),
        np.random.default_rng(0).normal(size=20 * groups),
    )
    low, high = bootstrap(lambda w: w @ values / w.sum(axis=1), codes, 0.95)
    assert (math.isfinite(low) and math.isfinite(high)) is bounded
