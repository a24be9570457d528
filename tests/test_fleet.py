"""Many projects at once: files and folders are read, what is broken is told, and one table tells of all."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests import fakes, shelf
from trimtab import cli, loop
from trimtab.console import fleet_table
from trimtab.errors import SettingsError
from trimtab.fleet import Fleet
from trimtab.journal import Journal
from trimtab.overview import overview
from trimtab.round import request_by_hand

pytestmark = pytest.mark.usefixtures("lock_of_its_own")


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


def write(folder: Path, file: str, **changes: Any) -> fakes.World:
    """A project of its own home, and its file in the folder."""
    name = changes.pop("name", file)
    rows = changes.pop("rows", (fakes.quiet(200, 1),))
    home = folder / "homes" / file
    there = shelf.world(home, fakes.stream(f"fleet-{home}", fakes.quiet(400, 0), *rows), name=name, **changes)
    text = yaml.safe_dump({**fakes.settings(home, there.stream, **there.changes), "home": str(home)})
    (folder / f"{file}.yaml").write_text(text)
    return there


def test_one_broken_file_keeps_no_other_back_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("a", "b"):
        write(tmp_path, file)
    (tmp_path / "c.yaml").write_text("name: c\nwindwo: {every: 7d}\n")
    fleet = Fleet.read([tmp_path])
    assert [p.name for p in fleet.projects.values()] == ["a", "b"]
    assert "windwo: unknown key" in fleet.broken[tmp_path / "c.yaml"]
    served: list[str] = []
    monkeypatch.setattr("trimtab_prometheus.exporter.serve", lambda ps, *_: served.extend(p.name for p in ps))
    with pytest.raises(SystemExit) as ended:
        cli.main(["metrics", str(tmp_path)])
    assert ended.value.code == 0
    said = capsys.readouterr().err
    assert served == ["a", "b"]
    assert f"left out {tmp_path / 'c.yaml'}" in said
    with pytest.raises(SettingsError, match="windwo"):
        Fleet.read([tmp_path / "c.yaml"])


def test_names_that_collide_are_refused_with_both_files(tmp_path: Path) -> None:
    write(tmp_path, "a", name="same")
    write(tmp_path, "b", name="same")
    with pytest.raises(SettingsError, match=r"a\.yaml and .*b\.yaml both have the name 'same'"):
        Fleet.read([tmp_path])
    assert len(Fleet.read([tmp_path / "a.yaml", tmp_path / "a.yaml"]).projects) == 1


def test_a_folder_without_a_project_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no \*\.yaml in"):
        Fleet.read([tmp_path])


def test_one_table_tells_of_every_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "new")
    moved = [fakes.quiet(200, 1), *(fakes.moved(200, n) for n in (3, 4))]
    worlds = {
        "calm": write(tmp_path, "calm", trigger={"budget": {"rounds": 3, "minutes": 60}}),
        "waits": write(tmp_path, "waits", rows=moved, promotion="manual"),
        "busy": write(tmp_path, "busy"),
        "ill": write(tmp_path, "ill"),
    }
    for there in worlds.values():
        list(loop.watch(there.process(), replay=True))
    request_by_hand(worlds["busy"].process(), "curious")
    (worlds["ill"].home / "journal.db").write_bytes(b"no database" * 100)
    for beside in worlds["ill"].home.glob("journal.db-*"):
        beside.unlink()
    rows = {row["project"]: row for row in overview(Fleet.read([tmp_path]).projects)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "new": "new",
        "calm": "serving",
        "waits": "waiting",
        "busy": "optimizing",
        "ill": "unknown",
    }
    assert not (worlds["calm"].home.parent / "new" / "journal.db").exists()
    assert (rows["calm"]["champion"], rows["calm"]["window"], rows["calm"]["decision"]) == (1, 1, "ignore")
    assert (rows["calm"]["rounds"], rows["calm"]["most_rounds"], rows["calm"]["most_minutes"]) == (0, 3, 60)
    assert rows["busy"]["open"] == "busy:round:1:manual-2"
    assert rows["waits"]["proposed"].startswith("waits:round:")
    assert "journal" in rows["ill"]["error"]
    for words in (["status", str(tmp_path)], ["status", *map(str, sorted(tmp_path.glob("*.yaml")))]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        told = capsys.readouterr()
        assert ended.value.code == 2  # one journal does not answer
        assert all(
            name in told.out for name in (*rows, "0 of 3", "0 of 60", "5 projects", "busy:round:1:manual-2 runs")
        )
        assert "problem ill: " in told.err
    narrow = Console(width=80, file=io.StringIO())
    narrow.print(fleet_table(list(rows.values())))
    lines = narrow.file.getvalue().splitlines()
    for name, row in rows.items():  # no word that matters is broken in a terminal of eighty columns
        assert any(line.split()[:2] == [name, row["state"]] for line in lines)
    assert any("0 of 3" in line and "0 of 60" in line for line in lines)
    with pytest.raises(SystemExit):
        cli.main(["status", str(tmp_path), "--json"])
    assert [row["project"] for row in json.loads(capsys.readouterr().out)["projects"]] == sorted(rows)


def test_a_window_that_nobody_looked_at_in_time_is_told_as_late(tmp_path: Path) -> None:
    there = write(tmp_path, "late", window={"every": "1d", "start": "2026-01-05"}, source={"kind": "csv", "path": "x"})
    (file,) = Fleet.read([tmp_path]).projects
    project = Fleet.read([tmp_path]).projects[file]
    journal = Journal(project.journal_url, project.name)
    journal.begin(project.model_dump_json(), "key")
    journal.fix_start(1_767_571_200 * 10**9)
    (row,) = overview({file: project})
    assert row["overdue"] > 86400
    assert there.home.exists()
