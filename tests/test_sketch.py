"""Sketches: they add up over any batches, and their scores are those of the rows themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, ks_2samp, mannwhitneyu, mood, norm, rankdata, spearmanr, wasserstein_distance

from trimtab_evidently.joint import Ranks, correlation, correlations, kernel, separation, strongest
from trimtab_evidently.scores import levels, missing, numbers, rank_chance
from trimtab_evidently.sketch import LevelLens, NumberLens

Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]

SHAPES: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(2, n),
    "skewed": lambda rng, n: np.exp(2 * rng.normal(size=n)),
    "whole": lambda rng, n: rng.poisson(3, n).astype(np.float64),
    "large whole": lambda rng, n: rng.integers(0, 10**6, n).astype(np.float64),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, rng.normal(size=n)),
    "two values": lambda rng, n: rng.integers(0, 2, n) * 3.7,
    "constant": lambda rng, n: np.full(n, 5.0),
}


@settings(deadline=None)  # the first lens draws the bridges that all share
@given(
    arrays.arrays(np.float64, st.integers(0, 60), elements=st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf])),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_a_sketch_of_the_whole_is_the_sum_of_its_batches_sketches(
    values: npt.NDArray[np.float64], cuts: list[int]
) -> None:
    lens = NumberLens.cut(np.random.default_rng(0).normal(0, 1e5, 500))
    parts = np.split(values, sorted(min(c, len(values)) for c in cuts))
    whole, summed = lens.look(values), functools.reduce(lambda a, b: a + b, [lens.look(p) for p in parts])
    assert (whole.counts == summed.counts).all()
    assert (whole.missing, whole.infinite, whole.rows) == (summed.missing, summed.infinite, len(values))
    np.testing.assert_allclose(summed.sums, whole.sums, rtol=1e-9, atol=1e-6)
    finite = values[np.isfinite(values)]
    if len(finite):
        assert summed.mean == pytest.approx(finite.mean(), rel=1e-6, abs=1e-3)
        assert summed.sd == pytest.approx(finite.std(), rel=1e-6, abs=1.0)  # of values around a million


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=40), st.integers(0, 40))
def test_levels_add_up_too(words: list[str | None], cut: int) -> None:
    lens = LevelLens.cut(pd.Series(["a", "a", "b"]))
    whole, parts = (
        lens.look(pd.Series(words, dtype=object)),
        [lens.look(pd.Series(p, dtype=object)) for p in (words[:cut], words[cut:])],
    )
    summed = parts[0] + parts[1]
    assert summed.counted == whole.counted == {w: words.count(w) for w in {*words} - {None}}
    assert (summed.other, summed.missing) == (whole.other, words.count(None))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_scores_of_sketches_are_those_of_the_rows(shape: str, moved: float) -> None:
    rng = np.random.default_rng(3)
    before = SHAPES[shape](rng, 5000)
    now = SHAPES[shape](rng, 1500) + moved * (before.std() or 1.0)
    lens = NumberLens.cut(before)
    score = numbers(lens.look(before), lens.look(now))
    scale = before.std() or np.concatenate([before, now]).std() or 1.0
    assert score.effect == pytest.approx(wasserstein_distance(before, now) / scale, abs=2e-3)
    whole = min(float(ks_2samp(before, now, method="asymp").pvalue), by_ranks(before, now))
    assert score.p >= min(1.0, whole) * 0.9
    assert score.p <= max(2.4 * whole, 2 * whole + 0.15)


def by_ranks(before: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> float:
    """Test the rows' ranks for place and scale: least squares give what the permutations' variance gives."""
    ranks = rankdata(np.concatenate([before, now])) - (len(before) + len(now) + 1) / 2
    if not ranks.any():
        return 1.0
    which = np.repeat([0.0, 1.0], [len(before), len(now)])
    scores = np.column_stack([np.ones(len(ranks)), ranks, ranks**2 / len(ranks)])
    found, _, rank, _ = np.linalg.lstsq(scores, which, rcond=1e-9)
    explained = float(((scores @ found - which.mean()) ** 2).sum() / ((which - which.mean()) ** 2).sum())
    return float(chi2.sf((len(ranks) - 1) * explained, rank - 1))


def test_ranks_of_place_and_scale_are_those_of_wilcoxon_and_mood() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=300), rng.normal(0.2, 1.3, size=200)
    counts = np.stack([np.isin(np.sort(np.concatenate([before, now])), x) for x in (before, now)], axis=1).astype(float)
    wilcoxon = norm.isf(mannwhitneyu(before, now, use_continuity=False, method="asymptotic").pvalue / 2)
    place_and_scale = wilcoxon**2 + mood(before, now).statistic ** 2
    assert rank_chance(counts, 120.0) == pytest.approx(chi2.sf(place_and_scale, 2), rel=1e-6)


@pytest.mark.parametrize("shape", ["normal", "whole", "two values", "mostly zero"])
@pytest.mark.parametrize(("n", "m"), [(2000, 100), (2000, 500), (150, 150)])
def test_a_number_alarms_where_nothing_changed_as_rarely_as_its_p_says(shape: str, n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        before, now = SHAPES[shape](rng, n), SHAPES[shape](rng, m)
        lens = NumberLens.cut(before)
        p_values.append(numbers(lens.look(before), lens.look(now)).p)
    for alpha, most in ((0.1, 34), (0.01, 8), (0.001, 3)):  # to be beyond has a chance below 1 in 1000
        assert np.sum(np.array(p_values) <= alpha) <= most


@pytest.mark.parametrize("shape", ["normal", "heavy tails"])
def test_half_as_wide_again_is_found_in_a_thousand_rows_however_heavy_the_tails(shape: str) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        before, now = SHAPES[shape](rng, 2000), 1.5 * SHAPES[shape](rng, 1000)
        lens = NumberLens.cut(before)
        score = numbers(lens.look(before), lens.look(now))
        found += score.p <= 3e-4 and score.effect > score.chance
    assert found >= 38


@pytest.mark.parametrize("shape", ["normal", "large whole", "whole", "mostly zero"])
def test_chance_alone_goes_beyond_its_quantile_as_rarely_as_it_says(shape: str) -> None:
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(400):
        before, now = SHAPES[shape](rng, 1000), SHAPES[shape](rng, 400)
        lens = NumberLens.cut(before)
        score = numbers(lens.look(before), lens.look(now))
        beyond += score.effect > score.chance
    assert beyond <= 16  # of 400, where 4 are expected


def test_levels_are_compared_by_jensen_and_shannon_and_rare_ones_together() -> None:
    before, now = pd.Series(["a"] * 60 + ["b"] * 40), pd.Series(["a"] * 30 + ["b"] * 60 + ["c"] * 10)
    lens = LevelLens.cut(before)
    score = levels(lens.look(before), lens.look(now))
    assert score.effect == pytest.approx(jensenshannon([60, 40, 0], [30, 60, 10]))
    assert score.p < 1e-5
    rng = np.random.default_rng(0)
    one, other = (pd.Series([f"u{v}" for v in rng.integers(0, 5000, 800)]) for _ in range(2))
    assert levels(LevelLens.cut(one).look(one), LevelLens.cut(one).look(other)).p == 1.0


def test_missing_values_are_compared_by_their_share() -> None:
    before, now = np.ones(500), np.where(np.arange(500) < 50, np.nan, 1.0)
    lens = NumberLens.cut(before)
    assert missing(lens.look(before), lens.look(now)).p < 1e-9
    assert missing(lens.look(before), lens.look(before)).p == 1.0


@settings(max_examples=30)
@given(arrays.arrays(np.int64, (120, 2), elements=st.integers(0, 6)))
def test_rank_correlation_is_spearmans(values: npt.NDArray[np.int64]) -> None:
    one, other = (Ranks.of(values[:, i].astype(np.float64)) for i in range(2))
    if one.sd and other.sd:
        r, spread = correlation(one, other)
        assert r == pytest.approx(spearmanr(values[:, 0], values[:, 1]).statistic, abs=1e-9)
        assert spread >= 0


def dependent(rng: np.random.Generator, rows: int, rho: float) -> npt.NDArray[np.float64]:
    """Columns of every kind: a pair, a skewed one, whole numbers, gaps, and one that follows another's square."""
    x = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], rows)
    gaps = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows))
    return np.column_stack([x, np.exp(2 * rng.normal(size=rows)), np.round(x[:, 1]), gaps, x[:, 0] ** 2])


def test_quiet_correlations_alarm_as_rarely_as_their_p_says() -> None:
    rng = np.random.default_rng(0)
    found = [
        score.p
        for _ in range(60)
        for *_, score in correlations(
            *([Ranks.of(c) for c in dependent(rng, rows, 0.6).T] for rows in (1000, 400)),
            strongest([Ranks.of(c) for c in dependent(rng, 200, 0.6).T], 15),
        ).values()
    ]
    assert len(found) == 900
    assert np.mean(np.array(found) <= 0.05) <= 0.075


def test_a_broken_correlation_is_found_by_its_pair() -> None:
    rng = np.random.default_rng(1)
    before, now = ([Ranks.of(c) for c in dependent(rng, 1000, rho).T] for rho in (0.3, 0.0))
    found = correlations(before, now, [(0, 1), (0, 2)])
    assert found[0, 1].score.p < 1e-4 < 0.001 < found[0, 2].score.p
    assert found[0, 1].before > 0.2 > found[0, 1].now


def test_trees_tell_samples_apart_that_differ_and_no_others() -> None:
    rng = np.random.default_rng(0)
    quiet = [separation(dependent(rng, 400, 0.6), dependent(rng, 300, 0.6)).p for _ in range(20)]
    assert sum(p <= 0.05 for p in quiet) <= 4
    moved = dependent(rng, 300, 0.6) + np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert separation(dependent(rng, 400, 0.6), moved).p < 1e-6


def test_kernels_find_a_shift_of_vectors_and_no_other() -> None:
    rng = np.random.default_rng(0)
    quiet = [kernel(rng.normal(size=(200, 16)), rng.normal(size=(150, 16))).p for _ in range(20)]
    assert sum(p <= 0.05 for p in quiet) <= 4
    assert kernel(rng.normal(size=(200, 16)), rng.normal(0.3, 1, size=(150, 16))).p == pytest.approx(1 / 4000)
