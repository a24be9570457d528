"""The whole stack with its real servers: what one command starts finds a drift by itself, answers, and mends itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.browser import chromium
from tests.servers import get, until
from trimtab.supervise import Supervisor

pytestmark = [
    pytest.mark.servers("prometheus", "alertmanager", "chromium"),
    pytest.mark.timeout(1500),
]

PROJECT = {
    "name": "small",
    "source": {"kind": "csv", "path": "data/*.csv", "label": "y"},
    "features": {"a": {}, "b": {}, "c": {}},
    "window": {"every": "400 rows", "start": 800},
    "model": {
        "trainer": "torch.classifier",
        "factory": "trimtab_torch.networks:Mlp",
        "arguments": {"hidden": [16]},
        "epochs": 4,
    },
    "schedule": {"cron": "* * * * *"},
    "trigger": {"on": ["worse"], "cooldown": 0},
    "optimize": {"techniques": ["scratch", "export"], "candidates": 2, "minutes": 2},
    "benchmark": {"seconds": 0.3, "memory": False},
    "gate": {"max_slowdown": 5.0, "max_total_drop": 0.9},
}
SECONDS = 480
"""In which a drift is to be found, answered and told; by schedule, on two cores."""


def rows(count: int, seed: int, *, moved: bool = False) -> pd.DataFrame:
    """Two classes that two columns tell; moved, they lie elsewhere, and each is called what the other was."""
    values = np.random.default_rng(seed).normal(size=(count, 3))
    labels = (values[:, 0] + values[:, 1] > 0) ^ moved
    return pd.DataFrame(values + np.array([2.0 * moved, 0, 0]), columns=list("abc")).assign(
        y=np.where(labels, "yes", "no")
    )


@dataclass
class Stack:
    """A stack that is up in a folder."""

    folder: Path
    process: subprocess.Popen[str]
    log: Path

    @property
    def addresses(self) -> dict[str, str]:
        told: dict[str, str] = json.loads((self.folder / ".trimtab" / "up" / "addresses.json").read_text())
        return told

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.folder / ".trimtab" / "up")

    def write(self, name: str, frame: pd.DataFrame) -> None:
        beside = self.folder / f"{name}.part"
        frame.to_csv(beside, index=False)
        beside.rename(self.folder / "data" / f"{name}.csv")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trimtab", *words]
        return subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False)

    def status(self) -> dict[str, Any]:
        said = self.run("status", "p.yaml", "--json")
        if said.returncode:  # nothing is known of a project before its first run
            return {"champion": None, "windows": [], "rounds": []}
        told: dict[str, Any] = json.loads(said.stdout)
        return told

    def ask(self, service: str, path: str, body: object | None = None) -> Any:
        if body is None:
            return json.loads(get(self.addresses[service] + path)[1])
        request = urllib.request.Request(  # noqa: S310 (our own loopback address)
            self.addresses[service] + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def alerts(self) -> set[str]:
        return {a["labels"]["alertname"] for a in self.ask("alertmanager", "/api/v2/alerts?active=true")}


def environment() -> dict[str, str]:
    """Return an environment that names no server."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TRIMTAB_REGISTRY"))}


@contextmanager
def up(folder: Path) -> Iterator[Stack]:
    log = folder / "up.log"
    with log.open("a") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "trimtab", "up", "p.yaml", "--with-prometheus"],
            cwd=folder,
            env=environment(),
            stdout=told,
            stderr=told,
            text=True,
        )
    try:
        ready = "Ctrl-C ends it"
        until(lambda: process.poll() is not None or ready in log.read_text(), SECONDS, log.read_text)
        assert process.poll() is None, log.read_text()
        yield Stack(folder, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    assert process.returncode == 0, log.read_text()
    assert not Supervisor(folder / ".trimtab" / "up").runs


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "data").mkdir()
    (folder / "p.yaml").write_text(yaml.safe_dump(PROJECT))
    rows(1300, 0).to_csv(folder / "data" / "00.csv", index=False)
    with up(folder) as made:
        yield made


def test_a_drift_is_found_answered_and_told_without_a_further_command(stack: Stack, tmp_path: Path) -> None:
    until(lambda: stack.status()["champion"] == 1 and stack.status()["windows"], SECONDS, stack.log.read_text)
    stack.write("01", rows(800, 1, moved=True))
    until(lambda: "TrimtabModelWorse" in stack.alerts(), SECONDS)
    until(lambda: (stack.status()["champion"] or 0) > 1, SECONDS, lambda: json.dumps(stack.status()["rounds"]))
    done = [r for r in stack.status()["rounds"] if r["outcome"] == "promoted"]
    assert [r["cause"] for r in done] == ["worse"]
    stack.write("02", rows(1200, 2, moved=True))
    until(lambda: "TrimtabModelWorse" not in stack.alerts(), SECONDS)
    # by the servers' own words
    name = urllib.parse.quote("small")
    alias = stack.ask("mlflow", f"/api/2.0/mlflow/registered-models/alias?name={name}&alias=champion")
    version = int(alias["model_version"]["version"])
    assert version == stack.status()["champion"]
    runs = stack.ask("prefect", "/api/flow_runs/filter", {"flows": {"name": {"any_": ["optimize"]}}})
    ran = [r for r in runs if r["parameters"].get("operation") == done[0]["operation"]]
    assert [r["state_name"] for r in ran] == ["Completed"]
    assert any("automation" in str(r["created_by"]).lower() for r in ran)
    artifacts = stack.ask("prefect", "/api/artifacts/filter", {})
    assert {"small-candidates", "small-decision"} <= {a["key"] for a in artifacts}
    with chromium() as seen:
        pages = {
            "prefect": f"/runs/flow-run/{ran[0]['id']}?tab=Artifacts",
            "mlflow": f"/#/models/small/versions/{version}",
            "prometheus": "/consoles/trimtab.html",
        }
        for service, page in pages.items():
            seen.visit(stack.addresses[service] + page, 1200)
            until(lambda: "small" in str(seen.ask("document.body.innerText")), 60)
            seen.screenshot(tmp_path / f"{service}.png")


def test_what_is_killed_comes_back_and_the_doctor_finds_nothing(stack: Stack) -> None:
    for name in ("mlflow", "prefect", "exporter"):
        os.kill(stack.supervisor.seen()[name].pid, signal.SIGKILL)
    for name in ("mlflow", "prefect", "exporter"):
        until(lambda: f"{name} had ended, and runs again" in stack.log.read_text(), 180, stack.log.read_text)  # noqa: B023
    ready = {"mlflow": "/health", "prefect": "/api/health", "exporter": ""}
    for name, path in ready.items():
        until(lambda: get(stack.addresses[name] + path)[0] == 200, 180, stack.log.read_text)  # noqa: B023
    told: list[subprocess.CompletedProcess[str]] = []

    def works() -> bool:
        told.append(stack.run("doctor", "p.yaml"))
        return told[-1].returncode == 0

    until(works, SECONDS, lambda: told[-1].stdout + told[-1].stderr)
    assert told[-1].stdout.count("works") == 7


def test_the_doctor_names_a_stale_scrape(stack: Stack) -> None:
    stack.supervisor.stop("exporter")
    try:
        until(lambda: _age(stack) is None, 420)
        said = stack.run("doctor", "p.yaml")
    finally:
        stack.supervisor.start("exporter")
    assert said.returncode == 2
    assert "Prometheus has fresh numbers: the last scrape was" in said.stdout
    assert "the exporter tells of every project: " in said.stdout
    assert said.stdout.count("problem") == 2


def _age(stack: Stack) -> float | None:
    asked = urllib.parse.urlencode({"query": "time() - timestamp(trimtab_registry_up)"})
    found = stack.ask("prometheus", f"/api/v1/query?{asked}")["data"]["result"]
    return float(found[0]["value"][1]) if found else None
