"""The whole stack on PostgreSQL, with Dask's workers: it decides what one process decides on files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Postgres, until
from tests.test_stack import SECONDS, Stack, environment, lay_down, rows, up

pytestmark = [pytest.mark.servers("postgresql"), pytest.mark.timeout(1500)]

RUNNER = ("--set", "runner={kind: dask, workers: 2}")
"""What ``trimtab up`` is told: two processes of Dask build the candidates of a round."""


def decided(status: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on where it is kept."""
    return {
        "windows": [(w["window"], w["rows"], w["decision"], w["champion"]) for w in status["windows"]],
        "rounds": [(r["operation"], r["cause"], r["outcome"]) for r in status["rounds"]],
        "promotions": [(p["epoch"], p["version"], p["kind"]) for p in status["promotions"]],
        "champion": status["champion"],
        "aliases": status["aliases"],
    }


def winner(status: dict[str, Any]) -> dict[str, float]:
    """What was measured of the candidate that the first round promoted."""
    done = next(r for r in status["rounds"] if r["outcome"] == "promoted")
    (won,) = [c for c in done["candidates"] if c["won"]]
    metrics: dict[str, float] = won["metrics"]
    return metrics


def on_files(folder: Path) -> dict[str, Any]:
    """Give the same rows, in the same order, to a project without any server."""
    lay_down(folder)
    alone = Stack(folder, None, folder / "log", environment())  # type: ignore[arg-type]
    for name, count, seed in (("", 0, 0), ("01", 800, 1), ("02", 800, 2)):
        if name:
            alone.write(name, rows(count, seed, moved=True))
        done = alone.run("watch", "p.yaml", "--direct")
        assert done.returncode == 0, done.stderr
    status: dict[str, Any] = alone.status()
    return status


def test_it_decides_on_postgresql_what_it_decides_on_files(tmp_path: Path, postgresql: Postgres) -> None:
    folder = tmp_path / "stack"
    lay_down(folder)
    told = {
        "TRIMTAB_JOURNAL__URL": postgresql.database(),
        "TRIMTAB_REGISTRY__URL": postgresql.database(),
        "PREFECT_API_DATABASE_CONNECTION_URL": postgresql.database().replace("+psycopg:", "+asyncpg:"),
    }
    with up(folder, "p.yaml", *RUNNER, **told) as stack:
        status = stack.status

        def log() -> str:
            return stack.log.read_text() + stack.supervisor.said("worker", 40)

        until(lambda: status()["champion"] == 1 and len(status()["windows"]) == 1, SECONDS, log)
        stack.write("01", rows(800, 1, moved=True))
        until(lambda: (status()["champion"] or 0) > 1 and len(status()["windows"]) == 3, SECONDS, log)
        stack.write("02", rows(800, 2, moved=True))
        until(lambda: len(status()["windows"]) == 5 and all(r["outcome"] for r in status()["rounds"]), SECONDS, log)
        found = status()
        commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        runs = stack.ask("prefect", "/api/flow_runs/filter", {})
        assert {r["state_name"] for r in runs if r["parameters"].get("operation")} == {"Completed"}
    alone = on_files(tmp_path / "alone")
    assert decided(found) == decided(alone)
    mine, first = winner(found), winner(alone)
    assert first["quality_low"] <= mine["quality"] <= first["quality_high"]
    assert mine["speedup_low"] <= first["speedup_high"]
    assert first["speedup_low"] <= mine["speedup_high"]
    # all of it was kept there, and nobody was told how
    assert not [path for path in folder.rglob("*.db*") if path.is_file()]
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "supervisord.conf"]
    assert len(kept) > 20
    assert not [path for path in kept if postgresql.PASSWORD.encode() in path.read_bytes()]
    assert "mlflow server" in commands
    assert postgresql.PASSWORD not in commands
    assert sys.executable in commands
