"""What a scrape of many projects costs: journals of 100 windows each, and one MLflow server with all their models.

A scrape is timed from outside, over HTTP, after nobody wrote, after one project in twenty wrote, and after all did.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from figures import save
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table
from servers import LOOPBACK, answered, free_port, running

from trimtab.history import Labelled, Quality
from trimtab.journal import Journal
from trimtab.monitor import Answer, Finding
from trimtab.settings import Project
from trimtab.trigger import Action, Decision
from trimtab_prometheus.exporter import SETTLED_SECONDS, exposed

PROJECTS, WINDOWS, COLUMNS, TIMES = 200, 100, 25, 5
TABLES = (
    "projects",
    "windows",
    "findings",
    "labels",
    "qualities",
    "splits",
    "rounds",
    "promotions",
    "records",
    "changes",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 projects")
    projects = 20 if parser.parse_args().quick else PROJECTS
    with tempfile.TemporaryDirectory() as place, mlflow_server(Path(place), projects) as url:
        found = measure(Path(place), projects, url)
    table = Table("a scrape", "seconds (median)", "longest", title=f"{projects} projects of {WINDOWS} windows")
    for name in ("nobody wrote", "one in twenty wrote", "all wrote"):
        table.add_row(name, f"{found[name]['median_s']:.3f}", f"{found[name]['longest_s']:.3f}")
    Console().print(table, f"{found['samples']} samples, {found['bytes'] / 1e6:.1f} MB")
    if projects == PROJECTS:
        print(save("scrape", found, 0))


def measure(place: Path, number: int, url: str) -> dict[str, Any]:
    written(place / "p0" / "journal.db")
    projects = [made(place, n, url) for n in range(number)]
    found: dict[str, Any] = {"projects": number, "windows": WINDOWS, "columns": COLUMNS}
    with exposed(projects, "127.0.0.1", 0) as address:
        time.sleep(2 * SETTLED_SECONDS)
        scrape(address)
        for name, step in (("nobody wrote", 0), ("one in twenty wrote", 20), ("all wrote", 1)):
            taken = []
            for _ in range(TIMES):
                for project in projects[:: step or number + 1] if step else []:
                    Journal(project.journal_url, project.name).record("error", {"message": "a benchmark"})
                time.sleep(2 * SETTLED_SECONDS if step == 0 else 0.5)
                seconds, text = scrape(address)
                lines = [line for line in text.splitlines() if not line.startswith("#")]
                up = sum(
                    line.endswith(" 1.0")
                    for line in lines
                    if line.startswith(("trimtab_journal_up", "trimtab_registry_up"))
                )
                taken.append((seconds, up))
            found[name] = {
                "median_s": statistics.median(s for s, _ in taken),
                "longest_s": max(s for s, _ in taken),
                "least_up": min(up for _, up in taken) / (2 * number),
            }
            found |= {"samples": len(lines), "bytes": len(text)}
    return found


def scrape(address: str) -> tuple[float, str]:
    begin = time.perf_counter()
    with urllib.request.urlopen(address, timeout=60) as response:  # noqa: S310 (our own loopback address)
        text = response.read().decode()
    return time.perf_counter() - begin, text


def made(place: Path, number: int, url: str) -> Project:
    """Return a project whose journal is a copy of the first's."""
    name, home = f"p{number}", place / f"p{number}"
    if number:
        home.mkdir()
        shutil.copy(place / "p0" / "journal.db", home)
        rename(home / "journal.db", name)
    return Project.model_validate(
        {
            "name": name,
            "home": home,
            "source": {"path": "rows.parquet", "timestamp": "at", "label": "y"},
            "features": {f"c{n}": {} for n in range(COLUMNS)},
            "window": {"every": "1d"},
            "registry": {"url": url},
        }
    )


def rename(journal: Path, name: str) -> None:
    """Make a copy of one project's journal another project's."""
    with sqlite3.connect(journal) as database:
        database.execute("PRAGMA foreign_keys=OFF")
        for table in TABLES:
            column = "name" if table == "projects" else "project"
            database.execute(f"UPDATE {table} SET {column} = ?", (name,))  # noqa: S608 (a list of ours)
    database.close()


def written(file: Path) -> None:
    """Write the journal of a project that was watched for a while."""
    file.parent.mkdir()
    journal, rng = Journal(f"sqlite:///{file}", "p0"), np.random.default_rng(0)
    journal.begin("{}", "key")
    journal.fix_start(1_767_225_600 * 10**9)
    journal.promote("first", 1, 0, "first", {})
    for number in range(1, WINDOWS + 1):
        scores = {f"c{n}": float(rng.uniform()) for n in range(COLUMNS)}
        drift = Finding(
            "evidently.drift", number, Answer.FINE, (), scores | {f"{k}.p": 0.5 for k in scores}, alpha=0.05
        )
        others = (Finding("integrity", number, Answer.FINE), Finding("performance", number, Answer.FINE))
        journal.record_findings([drift, *others], 1, number)
        journal.record_window(number, "", "", 1000, 1, Decision(number, Action.IGNORE), 0.5)
        journal.record_quality(Quality(number, 1, 0.9, 1000))
        journal.record_labels(number, Labelled(1000, True))
    journal.engine.dispose()


@contextmanager
def mlflow_server(place: Path, number: int) -> Iterator[str]:
    store = f"sqlite:///{place / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=store, registry_uri=store)
    for name in (f"p{n}" for n in range(number)):
        client.create_registered_model(name)
        for _ in range(3):
            client.create_model_version(name, source=str(place), run_id=None)
        client.set_registered_model_alias(name, "champion", "3")
    port, where = free_port(), ["--backend-store-uri", store, "--artifacts-destination", str(place)]
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    with (place / "mlflow.log").open("w") as log, running([*command, *where], {**os.environ}, log.fileno()):
        url = f"http://{LOOPBACK}:{port}"
        answered(f"{url}/health")
        yield url


if __name__ == "__main__":
    main()
