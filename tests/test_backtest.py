"""Replays under several triggers and gates: beside the live project, each step built once, and as a real run."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from tests import fakes, small
from trimtab import loop, status
from trimtab.artifact import sha256_file
from trimtab.backtest import backtest
from trimtab.carrier import DirectCarrier
from trimtab.cli import app
from trimtab.errors import SettingsError
from trimtab.executor import Silent
from trimtab.files import CsvSource
from trimtab.history import Quality
from trimtab.journal import Journal
from trimtab.parts import assemble
from trimtab.registry import MemoryRegistry
from trimtab.settings import Project
from trimtab.stretch import EndingSource, Stretch
from trimtab.trigger import Action, Decision

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

QUICK = ("benchmark.seconds=0.05",)
EAGER, PATIENT = "on=worse; cooldown=0", "on=moved; confirm=2 of 2"


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def written(tmp_path: Path, **changes: Any) -> Path:
    """Write a project of 400 rows for the first champion, a quiet window, and three that moved."""
    rows = [fakes.quiet(400, 1), fakes.quiet(200, 2), *(fakes.moved(200, 10 + i) for i in range(3))]
    few = {"optimize": {"techniques": ["recentre", "convert"], "finalists": 1}}
    plain = fakes.settings(tmp_path / "home", fakes.stream(str(tmp_path), *rows), **few, **changes)
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({**plain, "home": str(plain["home"])}))
    return path


def replayed(config: Path, *triggers: str, **more: Any) -> dict[str, Any]:
    return backtest(config, QUICK, Silent(), triggers=triggers, **more)


def journal_of(row: dict[str, Any]) -> Journal:
    return Journal(f"sqlite:///{row['folder']}/journal.db", "p")


def steps(rows: list[dict[str, Any]], fresh: bool) -> list[str]:
    told = [detail for row in rows for _, _, detail in journal_of(row).records("step")]
    return [str(detail["fingerprint"]) for detail in told if detail["fresh"] is fresh]


def without_places(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows without what takes its own time, lies in a place of its own, or was built by another."""
    rows = [
        {k: v for k, v in row.items() if k not in ("folder", "minutes", "built", "reused")} for row in report["rows"]
    ]
    return [row | {"rounds": [{**r, "minutes": None} for r in row["rounds"]]} for row in rows]


def test_each_trigger_is_a_row_and_what_one_built_the_others_reuse(tmp_path: Path) -> None:
    report = replayed(written(tmp_path), EAGER, PATIENT, "project", beside=True)
    rows = {row["trigger"]: row for row in report["rows"]}
    assert list(rows) == [EAGER, PATIENT, "project", "never", "every window", "every third window"]
    assert report["windows"] == {"first": 1, "last": 4}
    windows = {name: [r["window"] for r in row["rounds"]] for name, row in rows.items()}
    assert windows[EAGER] == windows["project"] == [2]
    assert windows[PATIENT] == windows["every third window"] == [3]
    assert (windows["never"], windows["every window"]) == ([], [1, 2, 3, 4])
    assert rows["never"]["alarms"] == {"moved": [2, 3, 4], "worse": [2, 3, 4], "broken": []}
    assert rows[EAGER]["alarms"] == {"moved": [2], "worse": [2], "broken": []}
    quality = {name: row["quality"]["served"] for name, row in rows.items()}
    assert quality[EAGER] > quality[PATIENT] + 0.05 > quality["never"] + 0.1
    assert quality["never"] == rows["never"]["quality"]["never_replaced"] == rows[EAGER]["quality"]["never_replaced"]
    assert rows["never"]["minutes"] == 0 < rows[EAGER]["minutes"]

    fresh, reused = (steps(report["rows"], fresh) for fresh in (True, False))
    assert len(fresh) == len(set(fresh)) == sum(row["built"] for row in rows.values())
    assert rows["project"]["built"] == 0 < rows["project"]["reused"] == rows[EAGER]["built"]
    assert set(steps([rows["project"]], False)) <= set(fresh) & set(reused)


def test_what_one_measured_the_others_reuse(tmp_path: Path) -> None:
    config = written(tmp_path)
    eager = replayed(config, EAGER)["rows"][0]
    evidence = tmp_path / "home" / "backtest" / "store" / "evidence" / "champion"
    before = {path.name: path.stat().st_mtime_ns for path in evidence.iterdir()}
    same = replayed(config, "project")["rows"][0]
    assert {path.name: path.stat().st_mtime_ns for path in evidence.iterdir()} == before
    assert len(before) >= 5
    assert same["rounds"] == eager["rounds"]  # with their minutes, which are those that it took the other
    told = [detail["what"] for _, _, detail in journal_of(same).records("measured")]
    assert set(told) <= set(before)


def test_a_gate_is_tried_too_and_every_pair_is_a_row(tmp_path: Path) -> None:
    strict = "max_total_drop=0.0; max_quality_drop=0.0; confidence=0.999999"
    report = replayed(written(tmp_path), EAGER, PATIENT, gates=["project", strict])
    assert [(row["gate"], row["trigger"]) for row in report["rows"]] == [
        ("project", EAGER),
        ("project", PATIENT),
        (strict, EAGER),
        (strict, PATIENT),
    ]
    assert len({row["folder"] for row in report["rows"]}) == 4
    assert [row["built"] for row in report["rows"]][2:] == [0, 0]  # the gate changes no step


@pytest.mark.parametrize("trigger", [EAGER, PATIENT])
def test_its_figures_are_those_of_a_run_with_the_same_trigger(tmp_path: Path, trigger: str) -> None:
    config = written(tmp_path, window={"every": 200, "start": 400, "label_delay": 1})
    replayed(config, EAGER, PATIENT, "project")  # so that the store is full
    row = replayed(config, trigger)["rows"][0]
    same = [f"trigger.{part.strip()}" for part in trigger.replace("on=worse", "on=[worse]").split(";")]
    same = [part.replace("on=moved", "on=[moved]") for part in same]
    project = Project.load(config, [*QUICK, *same, f"home={tmp_path / 'live'}"])
    parts = assemble(project, registry=MemoryRegistry(tmp_path / "registry"))
    list(loop.watch(parts, replay=True))
    assert row["quality"] == status.mean_quality(parts.journal)
    live = [r for r in parts.journal.rounds() if r.cause != "first"]
    assert [(r["window"], r["cause"], r["outcome"]) for r in row["rounds"]] == [
        (r.window, r.cause, r.outcome) for r in live
    ]
    replay = [r for r in journal_of(row).rounds() if r.cause != "first"]
    prints = [[[c["fingerprint"] for c in r.detail["candidates"]] for r in rounds] for rounds in (live, replay)]
    assert prints[0] == prints[1]
    assert prints[0][0]


def test_a_window_counts_by_its_rows_though_few_of_them_are_judged() -> None:
    journal = Journal("sqlite://", "p")
    journal.begin("{}", "key")
    for version, kind in ((1, "first"), (2, "promote")):
        journal.promote(kind, version, version - 1, kind, {})
    for number, rows, served, judged in ((1, 300, 1, 300), (2, 100, 2, 10)):
        journal.record_window(number, "", "", rows, served, Decision(number, Action.IGNORE), 0.0)
        for version in (1, 2):
            journal.record_quality(Quality(number, version, 0.9 if version == 2 else 0.5, judged))
    assert status.mean_quality(journal) == {"windows": 2, "served": pytest.approx(0.6), "never_replaced": 0.5}


def test_windows_from_and_to_are_replayed_as_if_they_were_all(tmp_path: Path) -> None:
    config = written(tmp_path)
    report = replayed(config, EAGER, begin="2", end="3")
    row = report["rows"][0]
    assert report["windows"] == {"first": 2, "last": 3}
    assert [w["window"] for w in row["over_time"]] == [2, 3]
    assert [r["window"] for r in row["rounds"]] == [2]
    first = next(r for r in journal_of(row).rounds() if r.cause == "first")
    roles = ("train", "calibration", "search", "judge")
    assert sum(first.detail["rows"][role] for role in roles) == 600  # 400, and those of window 1
    for begin, end, message in (
        ("3", "2", "--to names window 2, which comes before window 3"),
        ("9", None, "--from 9: there is no such window; the stream has windows 1 to 4"),
        (None, "0", "--to 0: there is no such window"),
        ("2026-01-05", None, "windows of a number of rows have no dates"),
        ("soon", None, "neither a window's number nor an instant"),
    ):
        with pytest.raises(SettingsError, match=message):
            replayed(config, begin=begin, end=end)


def test_a_window_is_named_by_an_instant_in_it(tmp_path: Path) -> None:
    at = pd.date_range("2026-01-05", periods=70, freq="12h")
    pd.DataFrame({"at": at, "x": range(70)}).to_csv(tmp_path / "rows.csv", index=False)
    source = CsvSource("rows.csv", every="7d", timestamp="at", base=str(tmp_path))
    start = source.begins()  # 2026-01-12

    def stretch(begin: str | None, end: str | None) -> tuple[int, int]:
        found = Stretch.of(source, start, begin, end)
        return found.first, found.last

    assert stretch(None, None) == (1, 4)
    assert stretch("2026-01-19", "2026-01-26T00:00:01") == (2, 3)
    assert stretch("2026-01-25T23:59+01:00", "2026-02-01") == (2, 3)
    assert stretch("2026-01-26T00:30+01:00", None) == (2, 4)
    with pytest.raises(SettingsError, match="no such window"):
        stretch("2026-01-11", None)
    with pytest.raises(SettingsError, match="no such window"):
        stretch(None, "2026-03-11")
    ending = EndingSource(source, 2)
    assert (ending.last(start), ending.untyped, ending.begins()) == (2, True, start)
    assert ending.read(2, start).frame["x"].tolist() == source.read(2, start).frame["x"].tolist()


class CutsOff(Silent):
    """Ends the process the first time that the loop says how far it is with something."""

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[str], None]]:
        def advance(done: str) -> None:
            if (name, done) not in self.told:
                self.told.add((name, done))
                raise KeyboardInterrupt

        yield advance


def test_cut_off_anywhere_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    config, progress = written(tmp_path), CutsOff()
    for starts in itertools.count(1):
        try:
            report = backtest(config, QUICK, progress, triggers=[EAGER, PATIENT])
            break
        except KeyboardInterrupt:
            assert starts < 50
    assert starts > len(progress.told) > 10
    assert {"first champion", "windows", "build candidates", "judge for champion"} <= {
        name for name, _ in progress.told
    }
    fresh = steps(report["rows"], True)
    assert len(fresh) == len(set(fresh)) > 0
    whole = replayed(config, EAGER, PATIENT, afresh=True)
    assert without_places(whole) == without_places(report)
    assert steps(whole["rows"], True) == []  # nothing is built again, though all is replayed


def test_a_setting_that_changed_begins_anew_and_the_same_settings_do_not(tmp_path: Path) -> None:
    config = written(tmp_path)
    once, again = (replayed(config, EAGER) for _ in range(2))
    assert once == again
    changed = backtest(config, [*QUICK, "monitors.false_alarms=0.01"], Silent(), triggers=[EAGER])
    assert changed["rows"][0]["folder"] != once["rows"][0]["folder"]
    assert replayed(config, EAGER, end="3")["rows"][0]["folder"] != once["rows"][0]["folder"]


def test_a_replay_that_fails_is_a_row_with_its_reason(tmp_path: Path) -> None:
    config = written(tmp_path)
    kept = replayed(config, EAGER, PATIENT)["rows"]
    for model in Path(kept[0]["folder"]).glob("versions/*/model/model.onnx"):
        model.write_text("{}")
    asked = ["backtest", str(config), "--set", *QUICK, "--trigger", EAGER, "--trigger", PATIENT]
    done = CliRunner().invoke(app, asked, env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert "on=worse; cooldown=0: none of the versions [1, 2] loads" in " ".join(done.output.split())
    report = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [bool(row["failed"]) for row in report["rows"]] == [True, False]
    assert report["rows"][1]["quality"] == kept[1]["quality"]


def test_a_trigger_is_read_as_in_the_project_file(tmp_path: Path) -> None:
    config = written(tmp_path, trigger={"confirm": "4 of 4", "cooldown": 3})
    own = Project.load(config).trigger
    for given, message in {
        "confrim=2 of 3": "trigger.confrim: unknown key; .*Did you mean 'confirm'",
        "on=worse,mooved": "trigger.on.1: .*got 'mooved'",
        "confirm=5 of 3": "must be 'm of k'",
        "worse": "--trigger 'worse': 'worse' is not of the form key=value",
    }.items():
        with pytest.raises(SettingsError, match=message):
            replayed(config, given)
    with pytest.raises(SettingsError, match=r"gate\.max_quality_dorp: unknown key"):
        replayed(config, gates=["max_quality_dorp=0.1"])
    assert not (tmp_path / "home").exists()
    row = replayed(config, "on=moved", end="1")["rows"][0]
    used = json.loads(journal_of(row).config())["trigger"]
    assert used == own.model_copy(update={"on": ("moved",)}).model_dump(mode="json")  # the rest is as in the file


def held(home: Path) -> dict[Path, str]:
    """Every file's digest, without what SQLite keeps while somebody reads."""
    files = (path for path in sorted(home.rglob("*")) if path.is_file())
    return {path: sha256_file(path) for path in files if not path.name.endswith(("-shm", "-wal"))}


def test_a_real_project_is_left_as_it_is_and_its_figures_come_out(tmp_path: Path) -> None:
    config = small.project(
        tmp_path,
        optimize={"techniques": ["finetune", "export"], "candidates": 3},
        gate={"max_slowdown": 99.0, "min_gain": 99.0, "max_quality_drop": 0.5, "max_total_drop": 0.5},
        trigger={"on": ["every 2 windows"], "cooldown": 0},
    )
    DirectCarrier().watch(config, (), True, Silent())
    home, project = tmp_path / "home", Project.load(config)
    journal = Journal(project.journal_url, "small")
    live = status.describe(journal, None)
    assert live["rounds"]
    journal.engine.dispose()
    gc.collect()  # the run's own connection
    with contextlib.closing(sqlite3.connect(home / "journal.db")) as settled:
        settled.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = held(home)
    done = CliRunner().invoke(app, ["backtest", str(config), "--trigger", "project", "--trigger", "on=moved", "--json"])
    assert done.exit_code == 0, done.output
    row, moved = json.loads(done.stdout)["rows"]
    after = held(home)
    assert {path: digest for path, digest in after.items() if home / "backtest" not in path.parents} == before
    assert len(after) > len(before)

    assert row["quality"] == live["quality"]
    assert [w["quality"] for w in row["over_time"]] == [w["quality"] for w in live["windows"]]
    assert [w["decision"] for w in row["over_time"]] == [w["decision"] for w in live["windows"]]
    assert [(r["window"], r["cause"], r["outcome"]) for r in row["rounds"]] == [
        (r["window"], r["cause"], r["outcome"]) for r in live["rounds"]
    ]
    assert row["promotions"] == sum(p["kind"] == "promote" for p in live["promotions"])
    assert row["built"] == 0 < row["reused"]  # the live project had built it all
    assert moved["rounds"] == []
