"""Setting the demo's stage: whether it continues or starts afresh, and that neither needs luck."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.demo import Stage, set_stage


def write_stream(folder: Path, seed: int) -> None:
    (folder / "stream").mkdir(parents=True)
    (folder / "stream" / "rows.txt").write_text(str(seed))


def stage(home: Path, seed: int = 0) -> Stage:
    return set_stage(write_stream, "trimtab_sklearn", home, seed)


def test_the_first_start_is_a_fresh_one(tmp_path: Path) -> None:
    found = stage(tmp_path / "digits", 3)
    assert found.story == "starting afresh with seed 3: no demo has run in this folder"
    assert found.config.read_text().startswith("#")
    assert (tmp_path / "digits" / "data" / "stream" / "rows.txt").read_text() == "3"


def test_one_that_was_cut_off_continues_with_what_it_has(tmp_path: Path) -> None:
    stage(tmp_path / "digits")
    (tmp_path / "digits" / "journal.db").touch()
    assert stage(tmp_path / "digits").story == "continuing the demo that was cut off (seed 0)"
    assert (tmp_path / "digits" / "journal.db").exists()


def test_one_that_ended_is_put_away(tmp_path: Path) -> None:
    stage(tmp_path / "digits").finish()
    (tmp_path / "digits" / "journal.db").touch()
    assert "the last demo ran to its end" in stage(tmp_path / "digits").story
    assert sorted(p.name for p in (tmp_path / "digits").iterdir()) == ["data", "demo.json", "digits.yaml"]
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_another_seed_starts_afresh(tmp_path: Path) -> None:
    stage(tmp_path / "digits", 0)
    assert "the demo that was cut off had seed 0" in stage(tmp_path / "digits", 1).story
    assert (tmp_path / "digits" / "data" / "stream" / "rows.txt").read_text() == "1"


@pytest.mark.parametrize("left", ["mlflow.db", "data/stream/half.txt", "demo.json"])
def test_what_another_process_or_a_crash_left_is_no_obstacle(tmp_path: Path, left: str) -> None:
    path = tmp_path / "digits" / left
    path.parent.mkdir(parents=True)
    path.write_text("{half")
    found = stage(tmp_path / "digits")
    assert found.story.startswith("starting afresh")
    assert found.config.is_file()
    assert (tmp_path / "digits" / "data" / "stream" / "rows.txt").read_text() == "0"
    assert stage(tmp_path / "digits").story.startswith("continuing")
