"""The space that techniques span: each recipe fits, none twice, and what is wrong is told before anything runs."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fakes
from trimtab.errors import SettingsError
from trimtab.recipe import Recipe, Step
from trimtab.sampler import Grid
from trimtab.space import Space, converter

Choices = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def every(space: Space) -> list[Recipe]:
    draws = Grid().begin(space.parameters, 1, 0)
    points = iter(draws.ask, None)
    return [recipe for point in points if (recipe := space.recipe(point)) is not None]


def names(*techniques: tuple[str, dict[str, Any]], formats: tuple[str, ...] = ("onnx",)) -> list[str]:
    return [recipe.name for recipe in every(Space(techniques, formats))]


def test_recipes_take_one_technique_of_each_kind_in_order() -> None:
    assert names(("recentre", {}), ("drop", {}), ("mimic", {}), ("convert", {}), ("spoil", {})) == [
        "recentre > convert",
        "recentre > convert > spoil",
        "recentre > drop > mimic > convert",
        "recentre > drop > mimic > convert > spoil",
    ]


def test_where_nothing_trains_the_parent_is_compressed_as_it_is() -> None:
    assert names(("drop", {}), ("mimic", {}), ("convert", {}), ("spoil", {})) == [
        "convert > spoil",
        "drop > mimic > convert",
        "drop > mimic > convert > spoil",
    ]


def test_a_list_means_each_and_a_range_with_a_step_each_of_its_values() -> None:
    assert names(("recentre", {}), ("drop", {"columns": [1, 3]}), ("convert", {})) == [
        "recentre > convert",
        "recentre > drop(columns=1) > convert",
        "recentre > drop(columns=3) > convert",
    ]
    stepped = {"columns": {"low": 1, "high": 3, "step": 2}}
    assert names(("recentre", {}), ("drop", stepped), ("convert", {}))[1:] == [
        "recentre > drop(columns=1) > convert",
        "recentre > drop(columns=3) > convert",
    ]


def test_a_technique_listed_twice_is_two() -> None:
    both = Space([("recentre", {}), ("drop", {"columns": 1}), ("drop", {"columns": 2}), ("convert", {})])
    assert next(p for p in both.parameters if p.name == "shrink").options == ("none", "drop#1", "drop#2")


def test_the_cheap_recipes_are_those_that_train_nothing() -> None:
    space = Space([("recentre", {}), ("drop", {}), ("convert", {}), ("spoil", {})])
    assert [r.name for r in space.untrained()] == ["convert > spoil"]
    assert space.rungs == (3,)
    assert [r.name for r in space.adapted(3)] == [
        "champion > recentre > convert",
        "champion > recentre > convert > spoil",
    ]


def test_a_way_into_a_format_that_trains_is_in_no_cheap_recipe() -> None:
    listed = ("recalibrate", "finetune", "export", "quantize.static", "quantize.aware")
    space = Space([(name, {}) for name in listed])
    assert [r.name for r in space.untrained()] == ["export > quantize.static"]
    cheap, full = ([r.name for r in space.adapted(rung)] for rung in (1, 3))
    assert cheap == ["champion > recalibrate > export", "champion > recalibrate > export > quantize.static"]
    assert "champion > finetune > quantize.aware" in full
    recipe = Recipe(steps=(Step(technique="prune.channel"), Step(technique="quantize.aware", settings={"epochs": 3})))
    probe = space.probe(recipe)
    assert probe is not None
    assert probe.steps[-1].settings == {"epochs": 0}


def test_the_probe_of_a_recipe_is_its_shape_without_training() -> None:
    space = Space([("recentre", {}), ("drop", {}), ("mimic", {}), ("convert", {}), ("spoil", {})])
    found = {r.name: p.name if (p := space.probe(r)) is not None else None for r in every(space)}
    assert found["recentre > convert > spoil"] is None
    assert found["recentre > drop > mimic > convert > spoil"] == "drop > convert > spoil"


def test_the_probe_of_pruning_in_rounds_does_not_train_between_them() -> None:
    settings = {"ratio": 0.5, "rounds": 3, "recovery_epochs": 2}
    space = Space([("prune.channel", settings), ("distill", {}), ("export", {})])
    probe = space.probe(every(space)[0])
    assert probe is not None
    assert probe.name == "prune.channel(ratio=0.5, recovery_epochs=0, rounds=3) > export"


@pytest.mark.parametrize(
    ("techniques", "words"),
    [
        ([("recentre", {})], r"none of \['recentre'\] gives onnx, which the runtimes of the targets take"),
        ([("convert", {})], "nothing trains and nothing compresses"),
        ([("recentre", {}), ("drop", {"rate": 2}), ("convert", {})], r"techniques\.drop: unknown setting 'rate'"),
        ([("recentre", {}), ("drop", {"columns": []}), ("convert", {})], "columns: an empty list leaves nothing"),
        (
            [("recentre", {}), ("drop", {"columns": {"low": -1, "high": 2}}), ("convert", {})],
            "drop.columns must be at least 0, got -1",
        ),
        (
            [("recentre", {}), ("drop", {"columns": {"low": 3, "high": 2}}), ("convert", {})],
            "drop.columns: low must be a number below high, got 3 and 2",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(techniques: Choices, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Space(techniques)


def test_a_range_without_a_step_cannot_be_tried_value_by_value() -> None:
    settings = {"ratio": {"low": 0.2, "high": 0.8}}
    space = Space([("prune.channel", settings), ("distill", {}), ("export", {})])
    with pytest.raises(SettingsError, match=r"prune\.channel\.ratio: a range of 0\.2 to 0\.8 .* give it a step"):
        every(space)


def test_each_runtime_gets_models_in_its_own_format_and_none_is_compressed_twice_on_the_way() -> None:
    techniques: Choices = [("finetune", {}), ("export", {}), ("quantize.static", {}), ("quantize.nncf", {})]
    assert names(*techniques, formats=("onnx", "openvino")) == [
        "finetune > export",
        "finetune > export > quantize.static",
        "finetune > export > quantize.nncf",
    ]
    assert names(*techniques, formats=("torch", "onnx"))[0] == "finetune"


def test_a_technique_that_no_recipe_has_room_for_is_named() -> None:
    trains, learns, converts, other = ("finetune", {}), ("distill", {}), ("export", {}), ("quantize.nncf", {})
    assert Space([trains, ("prune.channel", {}), learns, converts]).unused == {}
    student, runtime = Space([trains, learns, converts, other]).unused.values()
    assert student.startswith("distill is in no recipe: it learns from the float parent")
    assert runtime.startswith("quantize.nncf is in no recipe: it takes onnx and gives openvino")
    assert Space([trains, converts, other], ("onnx", "openvino")).unused == {}
    (astray,) = Space([trains, ("quantize.static", {})], ("torch", "onnx")).unused.values()
    assert "add a technique that gives onnx, such as export" in astray


def test_the_converter_is_the_first_way_that_compresses_nothing() -> None:
    steps = converter([("recentre", {}), ("convert", {}), ("spoil", {}), ("convert", {})], ("onnx",))
    assert [s.technique for s in steps] == ["convert"]


@given(
    st.sets(st.sampled_from(["recentre", "drop", "mimic", "spoil"]), min_size=1),
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
)
def test_every_recipe_of_a_space_fits_and_is_there_once(chosen: set[str], columns: list[int]) -> None:
    choices = [(name, {"columns": columns} if name == "drop" else {}) for name in sorted(chosen)] + [("convert", {})]
    if not chosen & {"recentre", "spoil", "drop"}:
        return
    recipes = every(Space(choices))
    assert len({r.name for r in recipes}) == len(recipes)
    for recipe in recipes:
        assert recipe.check()


def test_a_list_is_one_value_of_a_setting_that_takes_lists_and_a_list_of_lists_several() -> None:
    one = Space([("export", {}), ("quantize.static", {"keep_float": ["network.head", "stem"]})])
    assert [p.name for p in one.parameters] == ["finish"]
    assert one.untrained()[0].steps[-1].settings == {"keep_float": ["network.head", "stem"]}
    several = Space([("export", {}), ("quantize.static", {"keep_float": [["network.head"], []]})])
    assert [p.name for p in several.parameters] == ["finish", "quantize.static.keep_float"]
