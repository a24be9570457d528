"""The benchmark of techniques: each is placed as the engine allows, refusals are told, and a second run goes on."""

from __future__ import annotations

import dataclasses
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab import discover
from trimtab.data import Role
from trimtab.errors import SettingsError
from trimtab.recipe import Recipe, Step
from trimtab.technique import FLOAT
from trimtab.testing import Material
from trimtab_torch.classifier import Classifier

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import blocks
import figures
import gained
import grounds
import placing
import techniques

SIZE = grounds.Size(images=0, judged=0, widths=(8,), epochs=(1, 1), seconds=0.01, minutes=1, seeds=1)
KNOWN, MISSING = placing.abouts()


def reachable(format: str) -> bool:
    """Tell whether techniques of the default search that compress nothing lead from the float model to a format."""
    have: set[str] = {FLOAT}
    for _ in KNOWN:
        have |= {a.gives for a in KNOWN.values() if a.takes in have and not a.compresses and not a.experimental}
    return format in have


def test_every_installed_technique_is_known_or_said_to_be_missing() -> None:
    assert KNOWN.keys() | MISSING.keys() == set(discover.installed("techniques"))
    assert {"export", "distill", "prune.channel", "quantize.static"} <= KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_a_technique_stands_in_the_shortest_recipe_that_the_engine_allows(name: str) -> None:
    if not reachable(KNOWN[name].takes):
        with pytest.raises(SettingsError, match="nothing that is installed makes that of a torch model"):
            placing.placed(name, KNOWN)
        return
    alone, *recovered = placing.placed(name, KNOWN)
    assert alone.steps[-1].technique == name
    assert all(recipe.steps[:-1] == alone.steps for recipe in recovered)
    assert bool(recovered) == placing.departs(KNOWN[name])
    for left_out in range(len(alone.steps) - 1):
        shorter = Recipe(steps=(*alone.steps[:left_out], *alone.steps[left_out + 1 :]))
        with pytest.raises(SettingsError):
            shorter.check((KNOWN[name].gives,))


def test_what_learns_from_the_parent_comes_after_what_departs_from_it() -> None:
    (recipe,) = placing.placed("distill", KNOWN)
    assert [placing.departs(KNOWN[step.technique]) for step in recipe.steps] == [True, False]
    assert [r.name for r in placing.placed("prune.channel", KNOWN)] == ["prune.channel", "prune.channel > distill"]


def test_a_recipe_ends_in_the_format_of_the_runtime_without_a_step_that_compresses() -> None:
    pruned = Recipe(steps=(Step(technique="prune.channel"),))
    assert placing.ending(pruned, KNOWN, (FLOAT,)) == pruned
    assert placing.ending(pruned, KNOWN, ("onnx",)).name == "prune.channel > export"
    with pytest.raises(SettingsError, match="brings onnx into torch"):
        placing.ending(Recipe(steps=(Step(technique="export"),)), KNOWN, (FLOAT,))


def test_a_technique_to_whose_format_no_way_leads_is_placed_nowhere() -> None:
    with pytest.raises(SettingsError, match="it takes onnx, and nothing that is installed makes that of a torch model"):
        placing.placed("quantize.static", {"quantize.static": KNOWN["quantize.static"]})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> grounds.Ground:
    material = Material()
    rows = {role: material.data.rows(role) for role in Role}
    trainer = Classifier("trimtab_torch.networks:Mlp", {"hidden": [16, 16]}, epochs=2)
    case = grounds.Case(material.schema, rows[Role.TRAIN], rows, trainer)
    return grounds.Ground.lay(case, KNOWN, tmp_path_factory.mktemp("ground"), seed=1, threads=1)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    return tmp_path


def test_a_second_run_measures_what_is_missing_and_a_fresh_one_everything(
    ground: grounds.Ground, results: Path
) -> None:
    def run(names: list[str], fresh: bool = False) -> Any:
        ledger = techniques.Ledger.open("some", 1, SIZE)
        techniques.fill(ledger, "table", ground, SIZE, names, fresh)
        return figures.kept("some")["grounds"]["table"]["rows"]

    first = run(["export"])
    second = run(["export", "recalibrate"])
    assert second["export"] == first["export"]
    assert "no batch norm" in second["recalibrate"]["refused"]
    again = run(["export"], fresh=True)
    assert again["export"] != first["export"]
    assert again["recalibrate"] == second["recalibrate"]

    for runtime, found in first["export"]["runtimes"].items():
        assert found["accuracy"]["value"] == 0, runtime
        assert found["size_ratio"] == 1
        assert found["speed"].keys() == {"1", "32"}
        assert found["speed"]["1"]["speedup"]["low"] <= found["speed"]["1"]["speedup"]["high"]
    assert "torch" not in first["export"]["runtimes"]


def test_what_ran_out_of_time_is_tried_again(ground: grounds.Ground, results: Path) -> None:
    ledger = techniques.Ledger.open("some", 1, SIZE)
    hurried = dataclasses.replace(SIZE, minutes=0)
    techniques.fill(ledger, "table", ground, hurried, ["finetune"], fresh=False)
    assert "minutes were spent" in ledger.figures["grounds"]["table"]["rows"]["finetune"]["refused"]
    techniques.fill(ledger, "table", ground, SIZE, ["finetune"], fresh=False)
    row = figures.kept("some")["grounds"]["table"]["rows"]["finetune"]
    assert row["effort"] == 2
    assert row["runtimes"].keys() == set(ground.floats)


def test_rows_of_a_technique_that_is_gone_go_too(ground: grounds.Ground, results: Path) -> None:
    ledger = techniques.Ledger.open("some", 1, SIZE)
    ledger.on("table", ground)["rows"] |= {"gone": {"technique": "gone"}, "head": {"technique": "head"}}
    assert ledger.on("table", ground)["rows"].keys() == {"head"}


def test_figures_of_another_size_or_of_another_network_are_not_gone_on_with(
    ground: grounds.Ground, results: Path
) -> None:
    ledger = techniques.Ledger.open("some", 1, SIZE)
    ledger.on("table", ground)["rows"]["export"] = {"technique": "export"}
    ledger.save()
    assert techniques.Ledger.open("some", 1, SIZE).on("table", ground)["rows"]
    assert not techniques.Ledger.open("some", 2, SIZE).figures["grounds"]
    assert not techniques.Ledger.open("some", 1, grounds.QUICK).figures["grounds"]
    ledger.figures["grounds"]["table"]["digest"] = "another"
    ledger.save()
    assert not techniques.Ledger.open("some", 1, SIZE).on("table", ground)["rows"]


def test_a_searched_network_is_set_beside_a_pruned_one_that_trained_as_long(ground: grounds.Ground) -> None:
    found = blocks.duel(ground, "scratch", SIZE)
    assert found["recipe"] == "scratch"
    assert found["epochs"] == 2
    assert found["pruned"] == f"prune.channel(ratio={found['ratio']}) > distill(epochs=2)"
    gain = found["accuracy"]["it"] - found["accuracy"]["pruned"]
    assert found["gain"]["value"] == pytest.approx(gain)
    assert found["gain"]["low"] <= gain <= found["gain"]["high"]


def test_the_table_shows_what_served_and_says_why_the_rest_did_not() -> None:
    def speed(value: float, contended: bool = False) -> dict[str, Any]:
        return {"speedup": {"value": value, "low": value, "high": value}, "contended": contended}

    gain = {"value": -0.01, "low": -0.02, "high": 0.005}
    served = {"accuracy": gain, "size_ratio": 0.26, "speed": {"1": speed(2.0), "32": speed(3.0, True)}}
    told = {
        "batches": [1, 32],
        "size_bytes": {"fast": 10, "slow": 20},
        "rows": {
            "prune": {"seconds": 90.0, "runtimes": {"fast": served, "slow": {"refused": "no such operator"}}},
            "calm": {"refused": "nothing to calm"},
        },
    }
    assert gained.head(told) == ["recipe", "accuracy", "fast 1", "fast 32", "slow 1", "slow 32", "bytes", "minutes"]
    assert list(gained.lines(told)) == [["prune", "-0.010 (-0.020 to +0.005)", "2.00", "~3.00", "", "", "0.26", "1.5"]]
    assert list(gained.refusals(told)) == [("calm", "nothing to calm"), ("prune on slow", "no such operator")]
    page = gained.markdown(told)
    assert "| `prune` | -0.010 (-0.020 to +0.005) | 2.00 | ~3.00 |  |  | 0.26 | 1.5 |" in page
    assert page.endswith("- `calm`: nothing to calm\n- `prune on slow`: no such operator")


def test_the_page_of_techniques_takes_the_figures_that_are_kept(ground: grounds.Ground, results: Path) -> None:
    page = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "generate.py"))["technique_figures"]
    assert page(results / "some.json") == "No figures are kept here yet."
    ledger = techniques.Ledger.open("some", 1, SIZE)
    ledger.on("table", ground)["rows"]["export"] = {"technique": "export", "refused": "no paper"}
    ledger.save()
    told = page(results / "some.json")
    assert told.startswith("table, where the float network is ")
    assert told.endswith("- `export`: no paper")


def test_searched_blocks_are_told_in_a_sentence_for_each_seed() -> None:
    gain, speed = {"value": 0.02, "low": 0.01, "high": 0.03}, {"value": 1.1, "low": 1.0, "high": 1.2}
    found = {"recipe": "blocks", "pruned": "thin", "epochs": 8, "gain": gain, "speedup": speed}
    assert list(gained.sentences({"0": found, "1": {"refused": "no blocks here"}})) == [
        "seed 0: blocks beside thin, 8 epochs each: accuracy +0.020 (+0.010 to +0.030), 1.10 times as fast",
        "seed 1: no blocks here",
    ]


def test_the_electricity_network_is_judged_on_days_that_it_never_saw() -> None:
    stream = grounds.cifar.SHARED / "data" / "electricity.csv.gz"
    if not stream.is_file():
        pytest.skip("set TRIMTAB_SHARED to a folder with data/electricity.csv.gz")
    case = grounds.electricity(0, SIZE)
    days = {role: set(rows.groups.tolist()) for role, rows in case.now.items()}
    seen = set(case.before.groups.tolist())
    assert all(days[a].isdisjoint(days[b]) for a in days for b in days if a != b)
    assert all(seen.isdisjoint(of) for of in days.values())
    assert len(case.before) == grounds.MOVED - grounds.BEGIN
    assert np.unique(case.before.inputs["numeric"][:, grounds.COLUMNS.index("vicprice")]).size > 1
