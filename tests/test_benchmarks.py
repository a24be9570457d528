"""What the benchmarks compute of what they measure: means over seeds, corruptions, and flips of labels."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.data import Rows

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import recalibrate
import search
import seeded


def test_a_mean_over_seeds_is_told_with_students_interval() -> None:
    mean = seeded.over_seeds([1.0, 2.0, 3.0])
    assert (mean.value, mean.low, mean.high) == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-3)
    assert seeded.plain(seeded.over_seeds([0.5])) == {"value": 0.5, "low": None, "high": None}


def test_ratios_are_averaged_so_that_half_and_double_cancel_out() -> None:
    mean = seeded.ratio([0.5, 2.0, 1.0])
    assert mean.value == pytest.approx(1.0)
    assert mean.low * mean.high == pytest.approx(1.0)
    assert mean.low < 0.5


def test_only_what_was_finished_within_the_budget_counts_and_only_beyond_the_reference() -> None:
    nothing, half = (0.3, -1.0, -1.0), (search.REFERENCE[0] - 0.1, -1.0, -1.0)
    better = (search.REFERENCE[0] - 0.1, -2.0, -1.0)
    found = search.Found(epochs=[1, 2, 9], losses=[nothing, half, better], recipes=["a", "b", "c"])
    assert found.volume(1) == 0
    assert found.volume(8) == pytest.approx(0.1)
    assert found.volume(9) == pytest.approx(0.2)
    assert [described["recipe"] for described in found.front()] == ["c"]


@pytest.mark.parametrize("name", recalibrate.CORRUPTIONS)
def test_a_corruption_is_seen_by_a_camera_of_8_bits_and_is_the_same_twice(name: str) -> None:
    images = np.random.default_rng(0).random((4, 1, 16, 16)).astype(np.float32)
    rows = Rows({"image": images}, np.arange(4), np.arange(4, dtype=np.uint64))
    first, second = (
        recalibrate.corrupt(rows, name, recalibrate.STRENGTHS["digits"][name], 7).inputs["image"] for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert first.dtype == np.float32
    assert np.abs(first - images).mean() > 0.02
    assert np.allclose(first * 255, np.rint(first * 255), atol=1e-3)
    assert first.min() >= 0
    assert first.max() <= 1


@pytest.mark.parametrize("classes", recalibrate.FLIPS.values())
def test_a_flip_gives_each_of_its_classes_another_name_and_leaves_the_rest(classes: range) -> None:
    labels = np.repeat(np.arange(10), 3)
    called = recalibrate.swapped(labels, classes)
    inside = np.isin(labels, list(classes))
    assert (called[inside] != labels[inside]).all()
    assert np.array_equal(called[~inside], labels[~inside])
    assert np.array_equal(np.sort(called), labels)


def test_the_summary_takes_the_smaller_of_the_data_sets_and_counts_promotions() -> None:
    def run(recovery: float, promoted: bool) -> dict[str, Any]:
        corruptions = {kind: {"recovery": recovery, "seconds": 10 * recovery} for kind in recalibrate.CORRUPTIONS}
        return {"corruptions": corruptions, "flips": {"two classes": {"promoted": promoted}}}

    figures = recalibrate.summary({"a": {"0": run(0.8, False), "1": run(0.6, True)}, "b": {"0": run(0.9, False)}})
    assert figures["recalibrate_recovery"]["value"] == pytest.approx(0.7)
    assert figures["recalibrate_recovery"]["low"] < 0.7 < figures["recalibrate_recovery"]["high"]
    assert figures["seconds"] == pytest.approx(9.0)
    assert (figures["promoted_after_flips"], figures["flips"]) == (1, 3)
    assert math.isclose(figures["recovery"]["b"]["blur"]["value"], 0.9)
