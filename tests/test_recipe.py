"""Recipes: checked before anything runs, built once, and the same after a journey through YAML."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests import fakes
from trimtab import discover
from trimtab.artifact import FLOAT, Model, sha256_folder
from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, OutOfTimeError, PluginError, SettingsError
from trimtab.recipe import Kitchen, Recipe, Step
from trimtab.technique import Job
from trimtab.window import Feature, Schema


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def recipe(*words: str) -> Recipe:
    return Recipe(steps=tuple(Step(technique=word) for word in words))


def data_of(folder: Path, seed: int = 1) -> tuple[Data, Schema]:
    frame = fakes.quiet(90, seed)
    schema = Schema.freeze({name: Feature() for name in "abc"}, frame, label="y")
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(90, dtype=np.uint64))
    return Data.write(folder, {Role.TRAIN: rows}), schema


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    data, schema = data_of(tmp_path / "data")
    (tmp_path / "parent").mkdir()
    parent = fakes.CentroidTrainer().fit(data, Job(tmp_path / "parent", 0, schema))
    return Kitchen(parent, parent, data, schema, tmp_path / "steps", seed=0)


def steps_in(kitchen: Kitchen) -> set[str]:
    return {p.name for p in kitchen.store.iterdir()} if kitchen.store.is_dir() else set()


def test_a_candidate_knows_its_parent_and_its_steps(kitchen: Kitchen) -> None:
    candidate = kitchen.build(recipe("recentre", "drop", "mimic", "convert"))
    assert candidate.name == "recentre > drop > mimic > convert"
    assert candidate.model.format == "onnx"
    assert candidate.parent.format == FLOAT
    assert candidate.parent.folder.parent.name == candidate.steps[0].fingerprint
    assert candidate.lean.folder.parent.name == candidate.steps[2].fingerprint
    assert candidate.fingerprint == candidate.steps[-1].fingerprint
    assert len({step.fingerprint for step in candidate.steps}) == 4
    assert all(step.fresh for step in candidate.steps)


def test_without_training_the_parent_stays_the_champions(kitchen: Kitchen) -> None:
    assert kitchen.build(recipe("drop", "mimic", "convert")).parent == kitchen.parent


def test_what_is_built_is_not_built_again(kitchen: Kitchen) -> None:
    first = kitchen.build(recipe("recentre", "convert"))
    before = sha256_folder(kitchen.store)
    again = kitchen.build(recipe("recentre", "convert"))
    assert (again.model, again.parent, again.seconds) == (first.model, first.parent, first.seconds)
    assert not any(step.fresh for step in again.steps)
    assert sha256_folder(kitchen.store) == before
    kitchen.build(recipe("recentre", "convert", "spoil"))
    assert len(steps_in(kitchen)) == 3


def test_a_step_that_raises_leaves_nothing_and_names_itself(kitchen: Kitchen) -> None:
    with pytest.raises(PluginError, match="'explode' raised ZeroDivisionError: on purpose; mend it, or leave it out"):
        kitchen.build(recipe("convert", "explode"))
    (only,) = steps_in(kitchen)
    assert only == kitchen.build(recipe("convert")).fingerprint


def test_an_error_of_ours_keeps_its_kind(kitchen: Kitchen, tmp_path: Path) -> None:
    nothing = kitchen.data.rows(Role.TRAIN).take(np.zeros(0, dtype=np.int64))
    starved = dataclasses.replace(kitchen, data=Data.write(tmp_path / "none", {Role.TRAIN: nothing}))
    with pytest.raises(DataError, match="no row to train on"):
        starved.build(recipe("recentre", "convert"))
    assert steps_in(kitchen) == set()


def test_a_fingerprint_follows_from_all_that_the_result_follows_from(kitchen: Kitchen, tmp_path: Path) -> None:
    other_data, _ = data_of(tmp_path / "other", seed=2)
    (tmp_path / "other-parent").mkdir()
    other_parent = fakes.CentroidTrainer().fit(other_data, Job(tmp_path / "other-parent", 0, kitchen.schema))

    def print_of(kitchen: Kitchen, step: Step, model: Model | None = None, teacher: Model | None = None) -> str:
        return kitchen.fingerprint(model or kitchen.parent, teacher or kitchen.parent, step, step.load())

    learns, cuts = Step(technique="recentre"), Step(technique="drop", settings={"columns": 1})
    assert print_of(kitchen, learns) == print_of(kitchen, learns)
    others = {
        "model": print_of(kitchen, learns, model=other_parent),
        "teacher": print_of(kitchen, learns, teacher=other_parent),
        "data": print_of(dataclasses.replace(kitchen, data=other_data), learns),
        "seed": print_of(dataclasses.replace(kitchen, seed=1), learns),
        "training": print_of(dataclasses.replace(kitchen, training={"epochs": 2}), learns),
        "technique": print_of(kitchen, cuts),
        "settings": print_of(kitchen, Step(technique="drop", settings={"columns": 2})),
    }
    assert len({print_of(kitchen, learns), *others.values()}) == 8
    assert print_of(dataclasses.replace(kitchen, data=other_data), cuts) == others["technique"]
    assert print_of(kitchen, Step(technique="drop")) == others["technique"]
    assert print_of(dataclasses.replace(kitchen, training={"epochs": 2}), cuts) == others["technique"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("recentre", "spoil"), "spoil takes onnx, the step before gives torch; put a technique between them"),
        (("convert", "drop"), "drop takes torch, the step before gives onnx"),
        (("recentre",), "ends in format torch, the targets' runtimes take onnx; add a technique that converts"),
        (("mimic", "convert"), "mimic learns from the float parent, and nothing before it departs"),
        (("recentre", "mimic", "convert"), "mimic learns from the float parent"),
    ],
)
def test_steps_that_do_not_fit_are_told_before_anything_is_built(
    kitchen: Kitchen, words: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        kitchen.build(recipe(*words))
    assert steps_in(kitchen) == set()


def test_from_the_champion_nothing_is_compressed_again_and_the_parent_stays(kitchen: Kitchen, tmp_path: Path) -> None:
    (tmp_path / "lean").mkdir()
    narrow = fakes.save(tmp_path / "lean", FLOAT, fakes.centroids_in(kitchen.parent) * [1, 1, 0], 9)
    served = dataclasses.replace(kitchen, served=narrow)
    with pytest.raises(SettingsError, match="nothing is compressed twice"):
        served.build(Recipe(start="champion", steps=recipe("drop", "convert").steps))
    adapted = served.build(Recipe(start="champion", steps=recipe("recentre", "convert").steps))
    assert adapted.name == "champion > recentre > convert"
    assert adapted.parent == kitchen.parent


def test_what_trains_a_compressed_model_leaves_the_parent_a_full_one(kitchen: Kitchen) -> None:
    candidate = kitchen.build(recipe("drop", "recentre", "mimic", "convert"))
    assert candidate.parent == kitchen.parent
    trained_first = kitchen.build(recipe("recentre", "drop", "recentre", "convert"))
    assert trained_first.parent.folder.parent.name == trained_first.steps[0].fingerprint
    assert trained_first.lean.folder.parent.name == trained_first.steps[2].fingerprint


def test_what_is_not_begun_in_time_says_so_and_what_is_built_is_taken_however_late(kitchen: Kitchen) -> None:
    kitchen.build(recipe("recentre", "convert"))
    late = time.monotonic() - 1
    assert kitchen.build(recipe("recentre", "convert"), deadline=late).model.format == "onnx"
    with pytest.raises(OutOfTimeError, match="spoil was not begun: the round's minutes were spent"):
        kitchen.build(recipe("recentre", "convert", "spoil"), deadline=late)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"colums": 1}, r"drop: unknown setting 'colums'; drop has columns. Did you mean 'columns'\?"),
        ({"columns": -1}, "drop.columns must be at least 0, got -1"),
        ({"columns": "many"}, "drop.columns: Input should be a valid integer, .* got 'many'"),
    ],
)
def test_a_wrong_setting_of_a_technique_is_told(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        Step(technique="drop", settings=settings).load()


def test_a_technique_that_is_not_installed_is_told_with_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"no technique named 'recenter'.* Did you mean 'recentre'\?"):
        recipe("recenter").check()


VALUES = st.one_of(st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text())
STEPS = st.builds(
    lambda technique, settings: Step(technique=technique, settings=settings),
    st.text(min_size=1),
    st.dictionaries(st.text(min_size=1), st.one_of(VALUES, st.lists(VALUES, max_size=3)), max_size=3),
)


@given(st.lists(STEPS, max_size=4))
def test_a_recipe_is_the_same_after_a_journey_through_yaml(steps: list[Step]) -> None:
    before = Recipe(steps=tuple(steps))
    after = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(before.model_dump(mode="json"))))
    assert after == before
    assert after.name == before.name
    assert hash(after) == hash(before)


def test_a_network_whose_code_changed_is_built_anew(kitchen: Kitchen, tmp_path: Path) -> None:
    discover.look_beside(tmp_path)
    code = tmp_path / "nets_that_change.py"
    code.write_text("def make(): return 1")
    named = {"factory": "nets_that_change:make"}
    first = dataclasses.replace(kitchen, **named).build(recipe("recentre", "convert"))  # type: ignore[arg-type]
    again = dataclasses.replace(kitchen, **named).build(recipe("recentre", "convert"))  # type: ignore[arg-type]
    code.write_text("def make(): return 2")
    changed = dataclasses.replace(kitchen, **named).build(recipe("recentre", "convert"))  # type: ignore[arg-type]
    assert first.fingerprint == again.fingerprint
    assert changed.fingerprint != first.fingerprint
