"""Checking a project before it runs: every problem at once, each with its setting and the way out."""

from pathlib import Path

import pytest

from tests import small
from trimtab.check import examine
from trimtab.parts import assemble
from trimtab.round import _rungs
from trimtab.settings import Project


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return small.project(tmp_path)


def test_a_trainer_that_is_not_there_is_one_problem_of_many(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: p\nsource: {path: rows.csv}\nfeatures: {x: {}}\n"
        "window: {every: 10 rows}\nmodel: {trainer: torch.classifer}\n"
    )
    problems = examine(path)["problems"]
    assert [p for p in problems if "torch.classifer" in p and "torch.classifier" in p]
    assert [p for p in problems if "rows.csv" in p]


def test_a_project_without_a_problem_says_what_the_gate_needs(config: Path) -> None:
    told = examine(config)
    assert told["problems"] == []
    assert told["notes"][0].startswith("300 rows before window 1, 3 windows of about 200 rows")
    assert any("the gate needs about" in note for note in told["notes"])


def test_a_technique_that_is_in_no_recipe_is_told(config: Path) -> None:
    told = examine(config, ["optimize.techniques=[finetune, distill, export]"])
    assert told["problems"] == []
    assert any(note.startswith("distill is in no recipe") for note in told["notes"])


def test_every_problem_is_named_at_once(config: Path) -> None:
    wrong = ["{finetune: {epochs: 0}}", "{prune.channel: {ratio: {low: 0.3, high: 1.5}}}", "exprot", "quantize.static"]
    told = examine(
        config,
        [
            f"optimize.techniques=[{', '.join(wrong)}]",
            "targets=[{runtime: onnxruntme}]",
            "monitors.use=[integrty]",
        ],
    )
    problems = "\n".join(told["problems"])
    for words in (
        "finetune.epochs must be",
        "prune.channel.ratio must be in [0, 1), got 1.5",
        "exprot",
        "onnxruntme",
        "integrty",
    ):
        assert words in problems, words
    assert problems.count("prune.channel.ratio must be") == 1


def test_early_stopping_goes_by_the_trainers_own_epochs_where_none_are_written(tmp_path: Path) -> None:
    halving = {"techniques": ["finetune", "export"], "halving": {}}
    config = small.project(tmp_path, model={"factory": "trimtab_torch.networks:Mlp"}, optimize=halving)
    search = _rungs(assemble(Project.load(config)))[-1]
    first = search.ask()
    assert first is not None
    assert search.defaults["epochs"] > 1
    assert first.recipe.steps[0].settings["epochs"] < search.defaults["epochs"]
