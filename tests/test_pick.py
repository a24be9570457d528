"""Whom a round judges: a few of the front at a look, the best of them in any case, and why each other is not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.entry import Entry, Glance, Trial
from trimtab.intervals import Interval
from trimtab.metric import Accuracy
from trimtab.pick import Finalists, finalists
from trimtab.recipe import Recipe, Step
from trimtab.runtime import CHAMPION, Setup, Target

SERVER, EDGE = CHAMPION, "champion-edge"
Look = tuple[float, float, int]


def recipe(place: int) -> Recipe:
    return Recipe(steps=(Step(technique=f"t{place}"),))


def trial(quality: float, speedup: float, size: int, rows: int = 1000) -> Trial:
    between = Interval(speedup, speedup * 0.95, speedup * 1.05)
    return Trial(Setup("numpy"), Glance(quality, rows, 1 / speedup, between, size))


def entries(looks: list[Look], rows: int = 1000) -> list[Entry]:
    return [Entry(recipe(i), trials={SERVER: trial(*look, rows)}) for i, look in enumerate(looks)]


def chosen(looks: list[Look], most: int = 3, rows: int = 1000, **target: object) -> Finalists:
    wanted = Target.model_validate({"runtime": "numpy", **target})
    return finalists(entries(looks, rows), SERVER, wanted, Accuracy(), 0.01, most)


def place(looks: list[Look], which: Recipe) -> Glance:
    return trial(*looks[int(which.steps[0].technique[1:])]).glance


LOOKS = st.lists(
    st.tuples(st.sampled_from([0.7, 0.8, 0.85, 0.9]), st.floats(0.5, 8), st.integers(1, 9)), min_size=1, max_size=12
)


@given(LOOKS, st.integers(1, 5), st.sampled_from(["speed", "size", "quality"]))
def test_everybody_is_judged_or_told_why_not_and_the_best_is_among_them(
    looks: list[Look], most: int, prefer: str
) -> None:
    found = chosen(looks, most, prefer=prefer)
    everybody = {recipe(i) for i in range(len(looks))}
    assert set(found.recipes) | set(found.why) == everybody
    assert not set(found.recipes) & set(found.why)
    assert 1 <= len(found.recipes) <= most
    for one in found.recipes:
        here = place(looks, one)
        assert not any(here.is_behind(o, here.quality, o.quality) for o in (place(looks, r) for r in found.recipes))
    if most > 1:
        best = max(q for q, _, _ in looks)
        assert any(looks[int(r.steps[0].technique[1:])][0] == best for r in found.recipes)


def test_what_is_behind_excludes_nobody() -> None:
    # 0 to 1 and 1 to 2 overlap in speed, 0 to 2 does not: 2 is behind 1, 1 is behind 0, and 2 is slower than 0
    found = chosen([(0.90, 4.0, 5), (0.89, 3.7, 5), (0.88, 3.4, 5)])
    assert found.recipes == (recipe(0),)
    for prefer in ("quality", "speed", "size"):
        found = chosen([(0.90, 3.4, 5), (0.89, 3.7, 5), (0.88, 4.0, 5)], prefer=prefer)
        assert set(found.recipes) == {recipe(0), recipe(2)}  # 1 alone is ahead of 2, and it is behind 0
        assert found.why[recipe(1)].endswith("than t0")


def test_what_breaks_a_bound_is_not_judged() -> None:
    found = chosen([(0.9, 2.0, 2_000_000), (0.9, 2.0, 500_000)], max_size_mb=1.0)
    assert found.recipes == (recipe(1),)
    assert "max_size_mb" in found.why[recipe(0)]


def test_without_search_rows_speed_and_size_say_whom_to_judge() -> None:
    found = chosen([(math.nan, 2.0, 5), (math.nan, 4.0, 5)], most=1, rows=0)
    assert found.recipes == (recipe(1),)
    assert not [why for why in found.why.values() if "not numbers" in why]


def test_a_search_learns_of_a_candidate_that_one_target_does_not_take() -> None:
    everywhere = Entry(recipe(0), trials={SERVER: trial(0.8, 2.0, 5), EDGE: trial(0.8, 2.0, 5)})
    somewhere = Entry(recipe(1), trials={SERVER: trial(0.8, 2.0, 5)})
    told, less = (entry.losses([SERVER, EDGE], True) for entry in (everywhere, somewhere))
    assert told is not None
    assert less is not None
    assert told[:2] == less[:2]
    assert told[2] < less[2]
    assert Entry(recipe(2)).losses([SERVER, EDGE], True) is None


@pytest.mark.parametrize(("quality", "rows", "known"), [(math.nan, 0, True), (math.nan, 9, False), (0.5, 9, True)])
def test_only_what_has_no_rows_may_lack_a_quality(quality: float, rows: int, known: bool) -> None:
    entry = Entry(recipe(0), trials={SERVER: trial(quality, 2.0, 5, rows)})
    assert (entry.losses([SERVER], True) is not None) is known
