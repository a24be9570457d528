"""The demo as a new user runs it: one command, real parts, and what journal and MLflow say afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from trimtab.artifact import sha256_file

TRIMTAB = Path(sys.executable).with_name("trimtab")


def trimtab(folder: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "COLUMNS": "200"}
    return subprocess.run(
        [TRIMTAB, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, trimtab(folder, "demo")


@pytest.fixture(scope="module")
def status(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    folder, done = demo
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(trimtab(folder, "status", "--json").stdout)
    return found


def test_the_demo_says_what_it_does_and_what_was_gained(
    demo: tuple[Path, subprocess.CompletedProcess[str]], status: dict[str, Any]
) -> None:
    out, err = demo[1].stdout, demo[1].stderr
    assert "starting afresh" in err
    assert "Traceback" not in err
    for words in (
        "Windows",
        "Candidates of the round after window 6",
        "v2 against v1",
        "mlflow ui",
        "report on window",
    ):
        assert words in out


def test_windows_tell_the_story(status: dict[str, Any]) -> None:
    story = [(w["finding"], w["decision"], w["champion"]) for w in status["windows"]]
    assert story[:4] == [("fine", "ignore", 1)] * 4
    assert story[4] == ("moved", "alert", 1)
    assert story[5] == ("worse", "optimize", 1)
    assert story[6:] == [("fine", "ignore", 2)] * 2
    assert any("image." in reason for reason in status["windows"][4]["reasons"])
    assert [r["window"] for r in status["rounds"]] == [6]


def test_what_was_gained(status: dict[str, Any]) -> None:
    gained = status["gained"]
    assert gained["windows"] == [7, 8]
    assert gained["quality_after"] - gained["quality_before"] >= 0.20
    assert gained["size_ratio"] <= 1 / 3


def test_candidates_are_judged_with_reasons(status: dict[str, Any]) -> None:
    candidates = status["rounds"][0]["candidates"]
    assert len(candidates) >= 8
    assert all(c["reasons"] for c in candidates)
    assert {c["outcome"] for c in candidates} - {"passed"}
    assert [c["outcome"] for c in candidates if c["won"]] == ["passed"]
    assert all(
        c["metrics"]["speedup_low"] <= c["metrics"]["speedup"] <= c["metrics"]["speedup_high"]
        for c in candidates
        if c["metrics"]
    )


def test_journal_and_mlflow_agree(
    demo: tuple[Path, subprocess.CompletedProcess[str]], status: dict[str, Any], tmp_path: Path
) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{demo[0] / '.trimtab' / 'digits' / 'mlflow.db'}")
    models = client.search_registered_models()
    assert [m.name for m in models] == ["digits"]
    champion = client.get_model_version_by_alias("digits", "champion")
    assert int(champion.version) == status["champion"] >= 2
    assert status["aliases"] == {"champion": status["champion"], "previous": 1}

    run = client.get_run(champion.run_id)
    asked = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert asked.data.tags["trimtab.outcome"] == "promoted"
    experiments = [asked.info.experiment_id]
    rivals = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{asked.info.run_id}'")
    recipes = {c["recipe"] for c in status["rounds"][0]["candidates"]}
    assert {r.data.tags["trimtab.recipe"] for r in rivals} == recipes
    assert {i.tags[0].value for i in asked.inputs.dataset_inputs} == {"training", "reference"}


def test_every_versions_files_match_their_tags(
    demo: tuple[Path, subprocess.CompletedProcess[str]], status: dict[str, Any]
) -> None:
    for version in status["versions"]:
        package = demo[0] / ".trimtab" / "digits" / "versions" / str(version["version"])
        names = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()}
        assert names == set(version["files"])
        assert {"model/model.onnx", "parent/model.safetensors", "parent/spec.json", "schema.json"} <= names
        assert all(sha256_file(package / name) == digest for name, digest in version["files"].items())


def test_a_second_demo_starts_afresh_and_one_cut_off_continues(
    demo: tuple[Path, subprocess.CompletedProcess[str]], status: dict[str, Any]
) -> None:
    folder = demo[0]
    with pytest.raises(subprocess.TimeoutExpired):  # subprocess.run kills -9 what outlasts its time
        trimtab(folder, "demo", "--direct", timeout=35)
    again = trimtab(folder, "demo", "--direct")
    assert again.returncode == 0, again.stderr
    assert "continuing the demo that was cut off" in again.stderr
    after = json.loads(trimtab(folder, "status", "--json").stdout)
    assert [(w["finding"], w["champion"]) for w in after["windows"]] == [
        (w["finding"], w["champion"]) for w in status["windows"]
    ]
    assert after["aliases"]["champion"] == 2
    assert len(after["versions"]) == 2
