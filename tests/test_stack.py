"""The whole stack with its real servers: what one command starts finds a drift by itself, answers, and mends itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.browser import Browser, chromium
from tests.servers import get, send, until
from trimtab.history import Round
from trimtab.journal import Journal
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
SERVERS = {"prefect": "/api/health", "mlflow": "/health", "exporter": ""}
"""What is killed, and the path under which each answers when it is there."""
SECONDS = 480
"""In which a drift is to be found, answered and told; by schedule, on two cores."""


def rows(count: int, seed: int, *, moved: bool = False, strange: bool = False) -> pd.DataFrame:
    """Two classes that two columns tell; moved, they lie elsewhere, and each is called what the other was.

    Strange ones lie where none lay before, and the column tells them that never told anything: whatever a model has
    learned of the others, it does not know them.
    """
    values = np.random.default_rng(seed).normal(size=(count, 3))
    labels = values[:, 2] > 0 if strange else (values[:, 0] + values[:, 1] > 0) ^ moved
    places = values + np.array([2.0 * moved, 4.0 * strange, 0])
    return pd.DataFrame(places, columns=list("abc")).assign(y=np.where(labels, "yes", "no"))


@dataclass
class Stack:
    """A stack that is up in a folder."""

    folder: Path
    process: subprocess.Popen[str]
    log: Path
    environment: dict[str, str]

    @property
    def addresses(self) -> dict[str, str]:
        told: dict[str, str] = json.loads((self.folder / ".trimtab" / "up" / "addresses.json").read_text())
        return told

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.folder / ".trimtab" / "up")

    @property
    def journal(self) -> Journal:
        return Journal(f"sqlite:///{self.folder / '.trimtab' / 'small' / 'journal.db'}", "small")

    def write(self, name: str, frame: pd.DataFrame) -> None:
        beside = self.folder / f"{name}.part"
        frame.to_csv(beside, index=False)
        beside.rename(self.folder / "data" / f"{name}.csv")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trimtab", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def status(self) -> dict[str, Any]:
        said = self.run("status", "p.yaml", "--json")
        if said.returncode:  # nothing is known of a project before its first run
            return {"champion": None, "windows": [], "rounds": []}
        told: dict[str, Any] = json.loads(said.stdout)
        return told

    def ask(self, service: str, path: str, body: object | None = None) -> Any:
        address = self.addresses[service] + path
        return json.loads(get(address)[1] if body is None else send(address, body))

    def alerts(self) -> set[str]:
        return {a["labels"]["alertname"] for a in self.ask("alertmanager", "/api/v2/alerts?active=true")}


def environment() -> dict[str, str]:
    """Return an environment that names no server."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TRIMTAB_REGISTRY"))}


def lay_down(folder: Path) -> None:
    """Write the project and its first rows."""
    (folder / "data").mkdir(parents=True)
    (folder / "p.yaml").write_text(yaml.safe_dump(PROJECT))
    rows(1300, 0).to_csv(folder / "data" / "00.csv", index=False)


@contextmanager
def up(folder: Path, *words: str, **told: str) -> Iterator[Stack]:
    """Keep a stack up, by what the command is told, and an environment that tells it more."""
    log, known = folder / "up.log", environment() | told
    with log.open("a") as told_here:
        process = subprocess.Popen(
            [sys.executable, "-m", "trimtab", "up", *words],
            cwd=folder,
            env=known,
            stdout=told_here,
            stderr=told_here,
            text=True,
        )
    try:
        ready = "Ctrl-C ends it"
        until(lambda: process.poll() is not None or ready in log.read_text(), SECONDS, log.read_text)
        assert process.poll() is None, log.read_text()
        yield Stack(folder, process, log, known)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)
    assert process.returncode == 0, log.read_text()
    assert not Supervisor(folder / ".trimtab" / "up").runs


def shows(page: Browser, words: str, tab: str | None = None) -> bool:
    """Tell whether a page shows words, on the tab that has them."""
    return (tab is None or page.click(tab)) and words in str(page.ask("document.body.innerText"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    lay_down(folder)
    with up(folder, "p.yaml", "--with-prometheus") as made:
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
            words = "small-candidates" if service == "prefect" else "small"
            until(partial(shows, seen, words, "Artifacts" if service == "prefect" else None), 120)
            seen.screenshot(tmp_path / f"{service}.png")


def test_a_round_under_way_outlives_its_servers(stack: Stack) -> None:
    until(lambda: stack.status()["champion"] and stack.status()["windows"], SECONDS, stack.log.read_text)
    # a search that only its minutes end, so that it is under way while servers die
    long = {"techniques": [{"scratch": {"epochs": [*range(30, 430)]}}, "export"], "candidates": 400, "minutes": 2.5}
    (stack.folder / "p.yaml").write_text(yaml.safe_dump(PROJECT | {"optimize": long}))
    known = {r["operation"] for r in stack.status()["rounds"]}
    stack.write("03", rows(800, 3, strange=True))

    def new() -> list[Round]:
        return [r for r in stack.journal.rounds() if r.operation not in known and r.cause != "first"]

    def steps() -> list[Any]:
        told = [d for _, _, d in stack.journal.records("step")]
        return [d["fingerprint"] for d in told if new() and d["round"] == new()[0].operation]

    until(steps, SECONDS, stack.log.read_text)
    for name, path in SERVERS.items():
        assert new()[0].open, f"the round ended before {name} was killed"
        before = stack.supervisor.seen()[name].pid
        os.kill(before, signal.SIGKILL)
        until(lambda: stack.supervisor.seen()[name].pid not in (0, before), 180, stack.log.read_text)  # noqa: B023
        until(lambda: get(stack.addresses[name] + path)[0] == 200, 180, stack.log.read_text)  # noqa: B023
    until(lambda: not new()[0].open, SECONDS, lambda: stack.supervisor.said("worker", 60))
    (done,) = new()
    assert done.outcome == "promoted", done.detail
    assert len(steps()) == len(set(steps())) > 1
    promotions = stack.journal.promotions()
    assert [p.epoch for p in promotions] == [*range(1, len(promotions) + 1)]
    assert [p.operation for p in promotions].count(done.operation) == 1
    found = stack.ask("mlflow", "/api/2.0/mlflow/model-versions/search?filter=name%3D%27small%27")["model_versions"]
    operations = [tag["value"] for v in found for tag in v["tags"] if tag["key"] == "trimtab.operation"]
    assert len(set(operations)) == len(operations) == len(found)
    assert sum(o.startswith(f"{done.operation}:version:") for o in operations) == 1
    alias = stack.ask("mlflow", "/api/2.0/mlflow/registered-models/alias?name=small&alias=champion")
    assert int(alias["model_version"]["version"]) == promotions[-1].version == stack.status()["champion"]
    # and windows are looked at by schedule as ever
    last = max(w["window"] for w in stack.status()["windows"])
    (stack.folder / "p.yaml").write_text(yaml.safe_dump(PROJECT))
    stack.write("04", rows(800, 4, strange=True))
    until(lambda: max(w["window"] for w in stack.status()["windows"]) > last, SECONDS, stack.log.read_text)


def test_what_is_killed_comes_back_and_the_doctor_finds_nothing(stack: Stack) -> None:
    for name in SERVERS:
        os.kill(stack.supervisor.seen()[name].pid, signal.SIGKILL)
    for name in SERVERS:
        until(lambda: f"{name} had ended, and runs again" in stack.log.read_text(), 180, stack.log.read_text)  # noqa: B023
    for name, path in SERVERS.items():
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
