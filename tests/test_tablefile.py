"""Files that are too large to hold give the same rows as those that are held, a part at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal

from trimtab import tablefile
from trimtab.tablefile import TableFile, open_csv, open_parquet
from trimtab.window import stacked

ROWS = 1000


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "number": rng.normal(size=ROWS),
            "late": np.where(np.arange(ROWS) < 900, np.nan, 1.0),
            "word": rng.choice(["a", "b"], ROWS),
            "mixed": [f"x{i}" if i > 950 else i for i in range(ROWS)],
            "flag": [None if i == 700 else i % 2 == 0 for i in range(ROWS)],
            "when": pd.date_range("2026-01-01", periods=ROWS, freq="min"),
        }
    )


def written(path: Path, kind: str) -> Path:
    frame = rows()
    if kind == "csv":
        frame.to_csv(path, index=False)
    else:
        nested = frame.drop(columns="mixed").assign(image=list(np.arange(ROWS * 4.0).reshape(ROWS, 2, 2).tolist()))
        nested.to_parquet(path, row_group_size=170)
    return path


def pair(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[TableFile, TableFile]:
    monkeypatch.setattr(tablefile, "BATCH", 64)
    open_ = open_csv if kind == "csv" else open_parquet
    return open_(written(path, kind)), open_(path, large=0)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_any_rows_are_the_same_held_or_not(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held, large = pair(tmp_path / "rows", kind, monkeypatch)
    assert type(held) is not type(large)
    assert (held.count, held.columns) == (large.count, large.columns) == (ROWS, held.columns)
    assert held.column("when").tolist() == large.column("when").tolist()
    for first, end in ((0, ROWS), (0, 1), (63, 65), (169, 171), (500, 900), (ROWS - 1, ROWS)):
        parts = list(large.rows(first, end))
        assert all(0 < len(part) <= 64 for part in parts)
        whole, other = (stacked(list(file.rows(first, end))).reset_index(drop=True) for file in (held, large))
        if "image" in whole:
            assert np.array_equal(np.stack(whole.pop("image")), np.stack(other.pop("image")))
        assert whole.pop("flag").tolist() == other.pop("flag").tolist()  # which is of objects where one is missing
        assert_frame_equal(whole, other, check_dtype=kind == "parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_rows_have_the_columns(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in pair(tmp_path / "rows", kind, monkeypatch):
        (none,) = file.rows(5, 5)
        assert (len(none), [str(c) for c in none.columns]) == (0, file.columns)


def test_a_large_parquet_file_is_read_in_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    path, values = tmp_path / "large.parquet", np.random.default_rng(0).normal(size=1 << 21)
    pd.DataFrame({"x": values}).to_parquet(path, row_group_size=1 << 17)
    file, before = open_parquet(path, large=0), pa.total_allocated_bytes()
    read, most = 0, 0
    for batch in file.rows(0, file.count):
        read += len(batch)
        most = max(most, pa.total_allocated_bytes() - before)
    assert read == len(values)
    assert most < values.nbytes / 3  # of 16 groups of rows a few
