"""A small project through a real MLflow registry: two targets on runtimes of their own, settings that change."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import small
from trimtab import champion, first
from trimtab.parts import assemble
from trimtab.round import optimize, request_by_hand
from trimtab.runtime import CHAMPION
from trimtab.settings import Project

pytestmark = pytest.mark.usefixtures("lock_of_its_own")
EDGE = "champion-edge"


def test_one_model_on_two_runtimes_is_two_versions_each_with_its_own_run(tmp_path: Path) -> None:
    config = small.project(
        tmp_path,
        targets=[{"runtime": "onnxruntime"}, {"name": "edge", "runtime": "openvino"}],
        model={"factory": "trimtab_torch.networks:Mlp", "arguments": {"hidden": [256, 256]}, "epochs": 8},
        optimize={"techniques": ["export", "quantize.static"], "finalists": 1},
        gate={"max_quality_drop": 0.2, "max_total_drop": 0.2, "max_slowdown": 99.0, "confidence": 0.6},
    )
    parts = assemble(Project.load(config))
    first.begin(parts)
    assert {p.alias: p.version for p in parts.journal.promotions(None)} == {CHAMPION: 1, EDGE: 2}
    done = optimize(parts, request_by_hand(parts, "smaller"))
    assert done.outcome == "promoted", done.detail
    assert (parts.registry.alias(CHAMPION), parts.registry.alias(EDGE)) == (3, 4)
    again = assemble(Project.load(config))
    champion.reconcile(again)
    assert [champion.load(again, number).setup.runtime for number in (1, 2, 3, 4)] == ["onnxruntime", "openvino"] * 2
    client = MlflowClient(parts.project.registry_url)
    runs = {v.version: client.get_run(v.run_id) for v in client.search_model_versions("name = 'small'")}
    assert len({run.info.run_id for run in runs.values()}) == 4
    assert {run.data.tags["mlflow.runName"].endswith(" on openvino") for run in runs.values()} == {True, False}


def test_settings_of_the_model_that_change_count_from_the_next_round_on(tmp_path: Path) -> None:
    config = small.project(tmp_path, optimize={"techniques": ["finetune", "export"], "finalists": 1})
    first.begin(assemble(Project.load(config)))
    for epochs in (1, 2):
        parts = assemble(Project.load(config, [f"model.epochs={epochs}"]))
        optimize(parts, request_by_hand(parts, f"{epochs} epochs"))
    steps = [detail for _, _, detail in parts.journal.records("step")]
    assert [s["effort"] for s in steps if s["technique"] == "finetune"] == [1, 2]
