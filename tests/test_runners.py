"""Runners: the same candidates, verdicts and sketches whoever works, and a worker that dies costs no round."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import fakes
from tests.servers import free_port, until
from trimtab import discover, loop, tablefile
from trimtab.builder import Builder
from trimtab.candidate import Candidate
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, OutOfTimeError, PluginError, ReadError, ServiceError, SettingsError
from trimtab.executor import Direct
from trimtab.files import CsvSource
from trimtab.history import Round
from trimtab.parts import Parts
from trimtab.recipe import Kitchen, Recipe, Step
from trimtab.runner import Processes, Runner, Workers
from trimtab.settings import Project
from trimtab.survey import survey
from trimtab.technique import FLOAT
from trimtab.window import Feature, Schema

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

NAMES = ["threads", "processes", "dask", "cluster", "ray"]
"""``cluster`` is Dask's too, in processes that others started."""


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory, marks: Path) -> Iterator[None]:
    """Install the parts of these tests where other processes find them too."""
    with pytest.MonkeyPatch.context() as patch, fakes.installed(tmp_path_factory.mktemp("site")):
        patch.setenv(fakes.MARKS, str(marks))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), *sys.path])))
        yield


@pytest.fixture(scope="module")
def scheduler(plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Dask scheduler with two workers, that were started by somebody else in another folder."""
    folder, port = tmp_path_factory.mktemp("dask"), free_port()
    address = f"127.0.0.1:{port}"
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    worker = [f"tcp://{address}", "--nworkers", "2", "--nthreads", "1", *here]
    with ExitStack() as stack:
        for name, arguments in (("scheduler", ["--port", str(port), *here]), ("worker", worker)):
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments]
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if name == "scheduler":
                until(lambda: listens(port), 60)
        until(lambda: (folder / "worker.log").read_text().count("Registered to:") == 2, 60)
        yield f"dask://{address}"


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=NAMES)
def runner(request: pytest.FixtureRequest, plugins: None) -> str | dict[str, Any]:
    """What a project file says of its runner."""
    if request.param == "cluster":
        address: str = request.getfixturevalue("scheduler")
        return address
    return {"kind": request.param, "workers": 2}


@pytest.fixture(scope="module")
def workers(runner: str | dict[str, Any]) -> Iterator[Workers]:
    settings = Project.model_validate(fakes.settings(Path(), "", runner=runner)).runner
    made: Runner = discover.build("runners", settings.kind, settings.settings, "runner")
    workers = Workers(made, Path(__file__).parent)
    yield workers
    workers.close()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab_dask.runner.PATIENCE", "1s")
    made = discover.build("runners", "dask", {"url": f"dask://127.0.0.1:{free_port()}"}, "runner")
    with pytest.raises(ServiceError, match=r"runner\.url='dask://.*no Dask scheduler answers there"):
        list(Workers(made).map(abs, [1, 2]))


# the same whoever works


def rows(seed: int, count: int = 2000) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.lognormal(sigma=3, size=(count, 2)), columns=["a", "b"])


def test_sketches_are_the_same_to_the_last_bit(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tablefile.open_csv, "__defaults__", (0,))
    for number in range(6):
        rows(number).to_csv(tmp_path / f"{number}.csv", index=False)
    monkeypatch.chdir(tmp_path)  # relative paths mean something else where others work
    window = CsvSource("*.csv", every=12_000).read(1, 0)
    schema = Schema.freeze({"a": Feature(), "b": Feature()}, rows(9))
    alone, together = (
        survey(window.partitions, schema, 1, [(fakes.Sums(), {})], 500, None, each) for each in (map, workers.map)
    )
    assert len(window.partitions) == 6
    assert alone.rows == together.rows == 12_000
    pd.testing.assert_frame_equal(alone.frame, together.frame, check_exact=True)
    assert alone.seen["never"]["sums"].tobytes() == together.seen["never"]["sums"].tobytes()


TECHNIQUES = ["recentre", {"drop": {"columns": [1, 3]}}, "mimic", "convert", "spoil"]


def round_of(tmp_path: Path, runner: str | dict[str, Any], workers: Workers | None, **optimize: Any) -> Round:
    stream = fakes.stream(
        str(tmp_path), fakes.quiet(400, 1), fakes.quiet(200, 2), *map(fakes.moved, [200] * 3, [3, 4, 5])
    )
    settings = {"techniques": TECHNIQUES, "candidates": 9, "finalists": 9, **optimize}
    world = fakes.World(tmp_path / "home", stream, {"optimize": settings, "runner": runner})
    parts = world.process()
    if workers is not None:
        parts = with_workers(parts, workers)
    return next(report.round for report in loop.watch(parts, replay=True) if report.round is not None)


def with_workers(parts: Parts, workers: Workers) -> Parts:
    assert type(parts.workers.runner) is type(workers.runner)
    return dataclasses.replace(parts, workers=workers)


@pytest.fixture(scope="module")
def alone(plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Round:
    return round_of(tmp_path_factory.mktemp("alone"), "threads", None)


def test_a_round_tries_the_same_and_comes_to_the_same(
    runner: str | dict[str, Any], workers: Workers, alone: Round, tmp_path: Path
) -> None:
    asked = round_of(tmp_path, runner, workers)
    assert len(asked.detail["candidates"]) == 7
    assert (asked.outcome, told(asked)) == (alone.outcome, told(alone))
    assert asked.outcome == "promoted"


def told(asked: Round) -> list[tuple[str, str, str]]:
    return [(c["recipe"], c["fingerprint"], c["outcome"]) for c in asked.detail["candidates"]]


# at the same time


def kitchen(folder: Path) -> Kitchen:
    frame = fakes.quiet(60, 1)
    schema = Schema.freeze({name: Feature() for name in "abc"}, frame, label="y", id="id")
    labelled = Rows(schema.encode(frame), frame["y"].to_numpy(), np.arange(60, dtype=np.uint64))
    (folder / "parent").mkdir(parents=True)
    parent = fakes.save(folder / "parent", FLOAT, fakes.CENTRES, 9)
    data = Data.write(folder / "data", {Role.TRAIN: labelled})
    return Kitchen(parent, parent, data, schema, folder / "steps", seed=0)


def recipe(*steps: str | tuple[str, dict[str, Any]]) -> Recipe:
    pairs = ((step, {}) if isinstance(step, str) else step for step in steps)
    return Recipe(steps=tuple(Step(technique=name, settings=settings) for name, settings in pairs))


def built(kitchen: Kitchen, workers: Workers, recipes: list[Recipe], minutes: float = 5) -> tuple[list[Any], list[Any]]:
    told: list[Mapping[str, Any]] = []
    builder = Builder(kitchen, ("onnx",), workers, Direct(), told.append)
    return list(builder.build(recipes, time.monotonic() + 60 * minutes)), told


def test_a_step_that_recipes_share_is_built_once_and_each_elsewhere(
    workers: Workers, tmp_path: Path, marks: Path
) -> None:
    recipes = [recipe("recentre", ("whose", {"which": n}), "convert") for n in (1, 2, 3, 1)]
    came, told = built(kitchen(tmp_path), workers, [*recipes, recipe("convert", "convert")])
    candidates = [c for c in came if isinstance(c, Candidate)]
    assert [c.name for c in candidates] == [r.name for r in recipes]
    assert candidates[0].fingerprint == candidates[3].fingerprint
    assert isinstance(came[4], SettingsError)
    fresh = [step["technique"] for step in told if step["fresh"]]
    assert sorted(fresh) == ["convert"] * 3 + ["recentre"] + ["whose"] * 3
    pids = {int(mark.suffix[1:]) for mark in marks.glob("[123].*")}
    assert (os.getpid() in pids) is not workers.separate
    for mark in marks.iterdir():
        mark.unlink()


def test_errors_come_as_they_were_raised(workers: Workers, tmp_path: Path) -> None:
    there = kitchen(tmp_path)
    (late,), _ = built(there, workers, [recipe("convert")], minutes=-1)
    assert isinstance(late, OutOfTimeError)
    (raised, fine), _ = built(there, workers, [recipe("convert", "explode"), recipe("convert")])
    assert isinstance(raised, PluginError)
    assert "'explode' raised ZeroDivisionError: on purpose" in str(raised)
    assert isinstance(fine, Candidate)
    with pytest.raises(ReadError, match="no such file: 1"):
        list(workers.map(refuse, [1, 2, 3]))


def refuse(item: int) -> int:
    raise ReadError(f"no such file: {item}")


# workers that die, and places that differ


@pytest.fixture(scope="module")
def processes(plugins: None) -> Iterator[Workers]:
    workers = Workers(Processes(2))
    yield workers
    workers.close()


@pytest.mark.parametrize("kind", ["processes", "dask", "ray"])
def test_a_worker_that_dies_costs_one_candidate(kind: str, plugins: None, tmp_path: Path, marks: Path) -> None:
    workers = Workers(discover.build("runners", kind, {"workers": 2}, "runner"))
    recipes = [recipe(("whose", {"which": 4}), "convert"), recipe("deadly", "convert"), recipe("recentre", "convert")]
    try:
        came, _ = built(kitchen(tmp_path), workers, recipes)
    finally:
        workers.close()
    assert [type(c) for c in came] == [Candidate, PluginError, Candidate]
    assert "a worker that built deadly died, and so did another" in str(came[1])
    for mark in marks.iterdir():
        mark.unlink()


def test_a_step_whose_worker_was_killed_once_is_built_by_another(
    processes: Workers, tmp_path: Path, marks: Path
) -> None:
    came, _ = built(kitchen(tmp_path), processes, [recipe(("deadly", {"times": 1}), "convert"), recipe("convert")])
    assert [type(c) for c in came] == [Candidate, Candidate]
    for mark in marks.iterdir():
        mark.unlink()


def test_a_round_outlives_its_workers(processes: Workers, tmp_path: Path, marks: Path) -> None:
    techniques = ["recentre", "deadly", "convert"]
    asked = round_of(tmp_path, "processes", processes, techniques=techniques, together=2)
    assert asked.outcome == "promoted"
    failed = [c for c in asked.detail["candidates"] if c["outcome"] == "failed"]
    assert failed
    assert all("deadly" in c["recipe"] for c in failed)
    for mark in marks.iterdir():
        mark.unlink()


def test_a_round_with_workers_ends_in_its_minutes_with_the_best_so_far(processes: Workers, tmp_path: Path) -> None:
    list(processes.map(abs, [1, 2, 3]))  # they are there
    many = ["recentre", {"linger": {"which": list(range(600))}}, "convert"]
    asked = round_of(tmp_path, "processes", processes, techniques=many, candidates=999, minutes=0.6)
    assert asked.seconds is not None
    assert asked.seconds < 100
    outcomes = [c["outcome"] for c in asked.detail["candidates"]]
    assert "stopped" in outcomes
    assert len(outcomes) < 600
    assert asked.outcome == "promoted"


WAITS = """
import os, time
from trimtab.runner import Processes, Workers

def who(_):
    return os.getpid()

if __name__ == "__main__":
    workers = Workers(Processes(1))
    print(workers.submit(who, 0).result(), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_the_loop_however_that_ends(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), *sys.path]))
    command = [sys.executable, str(tmp_path / "waits.py")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(worker, 0)
        process.kill()
    until(lambda: not Path(f"/proc/{worker}").exists() or state(worker) == "Z", 30)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_machine_that_sees_other_folders_or_has_other_versions_builds_nothing(plugins: None, tmp_path: Path) -> None:
    there = kitchen(tmp_path)
    order = next(there.walk(recipe("recentre", "convert"))).anywhere()
    order.check()
    with pytest.raises(PluginError, match="would build recentre otherwise"):
        dataclasses.replace(order, fingerprint="of other versions").check()
    gone = dataclasses.replace(order, model=dataclasses.replace(order.model, folder=tmp_path / "elsewhere"))
    with pytest.raises(ArtifactError, match=r"elsewhere is not on .* share the project's home"):
        gone.check()
    (there.parent.folder / "model.json").write_text("{}")
    with pytest.raises(ArtifactError, match="holds other files"):
        order.check()


def test_a_wrong_number_of_workers_is_refused() -> None:
    for kind in ("threads", "processes", "dask", "ray"):
        with pytest.raises(SettingsError, match=f"{kind}.workers must be at least 1, got 0"):
            discover.build("runners", kind, {"workers": 0}, "runner")
