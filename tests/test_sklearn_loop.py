"""Estimators of scikit-learn through the whole loop: drift, a round, and a promoted file that predicts as they do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import yaml

from tests import estimators
from trimtab import cli
from trimtab.artifact import Model, read_json
from trimtab.window import Schema
from trimtab_sklearn.fitted import Fitted

SHARED = Path(os.environ.get("TRIMTAB_SHARED", Path(__file__).parents[2] / "shared"))
STREAM = SHARED / "data" / "electricity.csv.gz"
CONFIG = Path(__file__).parents[1] / "configs" / "electricity.yaml"
HISTORY, EVERY = 800, 500
MONTH = 1344
BEFORE, AFTER = 9 * MONTH, 20 * MONTH
"""From May 1997 on, in the fifth window between them, the prices of the neighbouring state are there too."""
GATE = {"max_quality_drop": 0.02, "max_total_drop": 0.2, "max_slowdown": 1.0, "max_growth": 3.0}


def followed(
    folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """Run a project to the end of its stream, and return its status."""
    monkeypatch.chdir(folder)
    (folder / "p.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(SystemExit) as end:
        cli.main(["run", "p.yaml", "--direct", "--json"])
    told = capsys.readouterr()
    assert not end.value.code, told.err
    status: dict[str, Any] = json.loads(told.out)
    return status


def predicts_as_its_parent(package: Path, frame: pd.DataFrame) -> np.ndarray:
    """Ask the promoted file alone, and the estimator that it was converted from; return the file's answers."""
    served = read_json(package / "serving.json")
    assert (served["format"], served["parent"]) == ("onnx", "sklearn")
    inputs = Schema.model_validate(read_json(package / "schema.json")).encode(frame)
    session = onnxruntime.InferenceSession(package / "model" / "model.onnx")
    found = np.asarray(session.run(["probabilities"], dict(inputs))[0])
    lean = package / "lean" if (package / "lean").is_dir() else package / "parent"
    expected = Fitted.load(Model.at(lean, "sklearn")).answer(inputs)
    assert np.abs(found - expected).max() <= 1e-5
    return found


def test_a_pipeline_with_text_and_categories_is_replaced_when_words_change_their_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [HISTORY, EVERY, EVERY, EVERY, EVERY, EVERY]
    rows = [estimators.claims(size, seed, turned=seed > 2) for seed, size in enumerate(sizes)]
    pd.concat(rows).to_parquet(tmp_path / "claims.parquet", index=False)
    settings = {
        "name": "claims",
        "source": {"path": "claims.parquet", "label": "bad"},
        "features": {name: feature.model_dump(exclude_defaults=True) for name, feature in estimators.FEATURES.items()},
        "window": {"every": f"{EVERY} rows", "start": HISTORY},
        "data": {"train": "last 1 window", "replay": 0, "split": {"train": 0.4, "judge": 0.4}},
        "model": {"trainer": "sklearn.classifier", "factory": "tests.estimators:logistic"},
        "trigger": {"on": ["worse"]},
        "optimize": {
            "techniques": ["sklearn.fit", {"prune.trees": {"keep": 0.5}}, "sklearn.export"],
            "candidates": 2,
        },
        "gate": GATE,
    }
    status = followed(tmp_path, settings, monkeypatch, capsys)
    found = [(w["finding"], w["champion"]) for w in status["windows"]]
    assert found[:2] == [("fine", 1), ("fine", 1)]
    assert found[2][0] == "worse"
    assert status["champion"] == 2
    done = status["rounds"][0]
    assert done["outcome"] == "promoted"
    by_recipe = {c["recipe"]: c for c in done["candidates"]}
    assert by_recipe["sklearn.fit > sklearn.export"]["won"]
    pruned = by_recipe["sklearn.fit > prune.trees(keep=0.5) > sklearn.export"]
    assert (pruned["outcome"], pruned["won"]) == ("failed", False)
    assert "prune.trees removes trees from forests and boostings, not from a LogisticRegression" in pruned["reasons"][0]
    assert status["gained"]["quality_after"] > status["gained"]["quality_before"] + 0.2
    fresh = estimators.claims(400, 77, turned=True)
    answers = predicts_as_its_parent(tmp_path / ".trimtab" / "claims" / "versions" / "2", fresh)
    assert (answers.argmax(axis=1) == fresh["bad"]).mean() > 0.75


@pytest.mark.skipif(not STREAM.is_file(), reason="set TRIMTAB_SHARED to a folder with data/electricity.csv.gz")
def test_a_gradient_boosting_follows_the_electricity_market(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(STREAM)
    rows.iloc[BEFORE:AFTER].to_csv(tmp_path / "electricity.csv", index=False)
    settings = yaml.safe_load(CONFIG.read_text()) | {
        "model": {"trainer": "sklearn.classifier", "family": "gradient_boosting", "arguments": {"n_estimators": 60}},
        "optimize": {
            "techniques": ["sklearn.fit", {"prune.trees": {"keep": 0.5}}, "sklearn.export", "quantize.static"],
            "candidates": 4,
        },
        "trigger": {"on": ["worse", "moved"], "cooldown": "2 windows"},
        "gate": GATE,
    }
    settings["source"]["path"] = "electricity.csv"
    status = followed(tmp_path, settings, monkeypatch, capsys)
    promoted = [r for r in status["rounds"] if r["outcome"] == "promoted"]
    assert promoted
    assert status["champion"] > 1
    for done in promoted:
        outcomes = {c["recipe"]: (c["outcome"], " ".join(c["reasons"])) for c in done["candidates"]}
        quantized = [told for recipe, told in outcomes.items() if "quantize.static" in recipe]
        assert quantized
        assert all(outcome == "failed" and "finds nothing to quantize" in why for outcome, why in quantized), outcomes
    package = tmp_path / ".trimtab" / "electricity" / "versions" / str(status["champion"])
    predicts_as_its_parent(package, rows.iloc[AFTER : AFTER + MONTH])
    nodes = [n.op_type for n in onnx.load(package / "model" / "model.onnx").graph.node]
    assert nodes.count("TreeEnsembleClassifier") == 1
