"""The demo's data is the same for the same seed, keeps its scans apart, and drifts in week 5 and not before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trimtab.files import ParquetSource
from trimtab_sklearn import digits

STREAM = "stream/*.parquet"
WINDOWS = [f"window-{number}" for number in range(1, 9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    digits.write_stream(folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def frames(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in folder.rglob("*.parquet")}


def pixels(frame: pd.DataFrame) -> np.ndarray:
    return np.stack(frame["image"].to_list())


def digest(folder: Path) -> list[tuple[str, str]]:
    return [(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in sorted(folder.rglob("*.parquet"))]


def test_same_seed_writes_the_same_files_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    digits.write_stream(tmp_path / "again", seed=3)
    digits.write_stream(tmp_path / "other", seed=4)
    assert digest(tmp_path / "again") == digest(folder)
    assert not set(digest(tmp_path / "other")) & set(digest(folder))


def test_files_rows_and_columns(frames: dict[str, pd.DataFrame]) -> None:
    assert sorted(frames) == ["golden", "history", *WINDOWS]
    assert {name: len(frame) for name, frame in frames.items()} == {
        "golden": 1500,
        "history": 3200,
        **dict.fromkeys(WINDOWS, 800),
    }
    for frame in frames.values():
        assert list(frame.columns) == ["captured_at", "row_id", "scan_id", "image", "digit"]
        assert str(frame["captured_at"].dtype) == "datetime64[us, UTC]"
        assert sorted(frame["digit"].unique()) == list(range(10))
        images = pixels(frame)
        assert images.dtype == np.float32
        assert images.shape == (len(frame), 1024)
        assert 0 <= images.min() < images.max() <= 1


def test_row_ids_are_unique_over_all_files(frames: dict[str, pd.DataFrame]) -> None:
    ids = pd.concat([frame["row_id"] for frame in frames.values()])
    assert ids.is_unique


def test_every_row_is_a_fresh_capture(frames: dict[str, pd.DataFrame]) -> None:
    captures = pd.concat(list(frames.values()))["image"].map(lambda image: image.tobytes())
    assert captures.is_unique


def test_a_scan_keeps_its_digit(frames: dict[str, pd.DataFrame]) -> None:
    rows = pd.concat(list(frames.values()))
    assert (rows.groupby("scan_id")["digit"].nunique() == 1).all()


def test_history_and_stream_share_no_scan(frames: dict[str, pd.DataFrame]) -> None:
    history = set(frames["history"]["scan_id"])
    pool = set().union(*(frames[name]["scan_id"] for name in WINDOWS))
    assert len(history) == 800
    assert not history & pool
    assert set(frames["golden"]["scan_id"]) & history
    assert set(frames["golden"]["scan_id"]) & pool


def test_no_scan_comes_twice_in_a_window(frames: dict[str, pd.DataFrame]) -> None:
    assert all(frames[name]["scan_id"].is_unique for name in [*WINDOWS, "golden"])


def test_the_new_scanner_begins_at_window_5(frames: dict[str, pd.DataFrame]) -> None:
    def level(name: str) -> tuple[float, float]:
        images = pixels(frames[name])
        return float(images.mean()), float(images.std(axis=1).mean())

    mean, contrast = level("history")
    for name in [*WINDOWS[:4], "golden"]:
        assert level(name) == pytest.approx((mean, contrast), abs=0.01)
    for name in WINDOWS[4:]:
        assert level(name)[0] == pytest.approx(0.65 * mean + 0.10, abs=0.02)
        assert level(name)[1] < 0.75 * contrast


def test_a_source_cuts_the_stream_at_the_files_bounds(folder: Path, frames: dict[str, pd.DataFrame]) -> None:
    source = ParquetSource(STREAM, every="7d", timestamp="captured_at", label="digit", base=str(folder))
    start = source.begins()
    assert source.read(1, start).start == "2026-01-12T00:00:00+00:00"
    assert source.last(source.begins()) == 8
    for number, name in enumerate(["history", *WINDOWS]):
        assert source.read(number, start).frame["row_id"].tolist() == frames[name]["row_id"].tolist()
