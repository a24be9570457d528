"""The demo's project on the whole stack: one command, then its windows, and everything else by itself."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium
from tests.servers import ROOT, until
from tests.test_stack import Stack, shows, up
from trimtab_sklearn.digits import DRIFT_WINDOW, write_stream

pytestmark = [
    pytest.mark.soak,
    pytest.mark.servers("prometheus", "alertmanager", "chromium"),
    pytest.mark.timeout(1800),
]

CONFIG = "configs/digits.yaml"
SECONDS = 480
"""From the first window to the end of the alert, on two cores."""


def test_digits_find_their_drift_and_answer_it_without_a_further_command(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    (folder / "configs").mkdir(parents=True)
    shutil.copy(ROOT / CONFIG, folder / CONFIG)
    with up(folder, CONFIG, "--with-prometheus") as stack:
        write_stream(folder / "draft", 0)
        begin = time.monotonic()
        home = folder / ".trimtab" / "digits"
        home.mkdir(parents=True, exist_ok=True)
        (folder / "draft").rename(home / "data")
        spent: dict[str, float] = {}
        until(lambda: "TrimtabModelWorse" in stack.alerts(), SECONDS, lambda: told(stack))
        spent["alert fires"] = time.monotonic() - begin
        until(lambda: (status(stack)["champion"] or 0) > 1, SECONDS, lambda: told(stack))
        spent["champion changes"] = time.monotonic() - begin
        until(lambda: "TrimtabModelWorse" not in stack.alerts(), SECONDS, lambda: told(stack))
        spent["alert is resolved"] = time.monotonic() - begin
        print({what: round(seconds) for what, seconds in spent.items()})
        (done,) = [r for r in status(stack)["rounds"] if r["outcome"] == "promoted"]
        assert (done["cause"], done["window"]) == ("worse", DRIFT_WINDOW + 1)  # labels come a window later
        alias = stack.ask("mlflow", "/api/2.0/mlflow/registered-models/alias?name=digits&alias=champion")
        version = int(alias["model_version"]["version"])
        assert version == status(stack)["champion"]
        runs = stack.ask("prefect", "/api/flow_runs/filter", {"flows": {"name": {"any_": ["optimize"]}}})
        ran = [r for r in runs if r["parameters"].get("operation") == done["operation"] and r["deployment_id"]]
        assert [r["state_name"] for r in ran] == ["Completed"]
        assert "automation" in str(ran[0]["created_by"]).lower()
        see(stack, tmp_path, ran[0]["id"], version)
        assert spent["alert is resolved"] < SECONDS


def see(stack: Stack, folder: Path, run: str, version: int) -> None:
    """Keep pictures of the three pages."""
    pages = {
        "prefect": f"/runs/flow-run/{run}?tab=Artifacts",
        "mlflow": f"/#/models/digits/versions/{version}",
        "prometheus": "/consoles/trimtab.html",
    }
    with chromium() as seen:
        for service, page in pages.items():
            seen.visit(stack.addresses[service] + page, 1200)
            words = "digits-candidates" if service == "prefect" else "digits"
            until(partial(shows, seen, words, "Artifacts" if service == "prefect" else None), 120)
            seen.screenshot(folder / f"{service}.png")
            assert (folder / f"{service}.png").stat().st_size > 10_000


def status(stack: Stack) -> dict[str, Any]:
    said = stack.run("status", CONFIG, "--json")
    if said.returncode:  # nothing is known before its first run
        return {"champion": None, "windows": [], "rounds": []}
    known: dict[str, Any] = json.loads(said.stdout)
    return known


def told(stack: Stack) -> str:
    known = status(stack)
    return json.dumps([known["rounds"], stack.log.read_text()[-2000:]], default=str)
