"""Which recipes a round tries: each fits, none twice, the cheap ones first, no more than asked for."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fakes
from trimtab.errors import SettingsError
from trimtab.search import converter, plan


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def names(*techniques: tuple[str, dict[str, Any]], candidates: int = 99) -> list[str]:
    return [recipe.name for recipe in plan(techniques, candidates)]


def test_the_recipes_of_a_round_in_their_order() -> None:
    assert names(("recentre", {}), ("drop", {}), ("mimic", {}), ("convert", {}), ("spoil", {})) == [
        "convert > spoil",
        "recentre > convert",
        "recentre > convert > spoil",
        "recentre > drop > mimic > convert",
        "recentre > drop > mimic > convert > spoil",
    ]


def test_a_list_means_try_each_and_every_combination_of_two() -> None:
    assert names(("recentre", {}), ("drop", {"columns": [1, 2]}), ("convert", {})) == [
        "recentre > convert",
        "recentre > drop(columns=1) > convert",
        "recentre > drop(columns=2) > convert",
    ]


def test_without_training_there_is_compressing_and_nothing_else() -> None:
    assert names(("convert", {}), ("spoil", {})) == ["convert > spoil"]


def test_without_conversion_it_says_what_is_missing() -> None:
    with pytest.raises(SettingsError, match=r"none of \['recentre'\] gives onnx, .* add export"):
        plan([("recentre", {})], 9)


def test_from_nothing_that_changes_a_model_nothing_can_be_built() -> None:
    with pytest.raises(SettingsError, match="nothing trains and nothing compresses"):
        plan([("convert", {})], 9)


def test_the_first_converter_is_taken() -> None:
    assert converter([("recentre", {}), ("convert", {}), ("convert", {})]).technique == "convert"


def test_a_wrong_setting_is_told_before_the_round() -> None:
    with pytest.raises(SettingsError, match=r"optimize\.techniques\.drop: unknown setting 'rate'"):
        plan([("recentre", {}), ("drop", {"rate": 2}), ("convert", {})], 9)


@given(
    st.sets(st.sampled_from(["recentre", "drop", "mimic", "spoil"]), min_size=1),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    st.integers(1, 12),
)
def test_every_recipe_fits_is_new_and_within_the_budget(chosen: set[str], columns: list[int], most: int) -> None:
    choices = [(name, {"columns": columns} if name == "drop" else {}) for name in sorted(chosen)] + [("convert", {})]
    if not chosen & {"recentre", "spoil"}:
        return
    recipes, everything = plan(choices, most), plan(choices, 999)
    assert recipes == everything[:most]
    assert len({r.name for r in everything}) == len(everything)
    for recipe in everything:
        assert recipe.check()
    if "spoil" in chosen and "recentre" in chosen:
        assert recipes[0].name == "convert > spoil"
