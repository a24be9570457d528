"""Windows in parts: the same cuts always, and the same result to the last bit whoever looks at the parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import fakes
from trimtab import loop, tablefile
from trimtab.errors import ReadError, ServiceError
from trimtab.files import CsvSource, ParquetSource
from trimtab.monitor import Never, Sample, Summary
from trimtab.parts import assemble
from trimtab.registry import MemoryRegistry
from trimtab.runner import Processes, Runner, Threads, Workers
from trimtab.settings import Project
from trimtab.survey import survey
from trimtab.window import Feature, Schema, Window
from trimtab_evidently.drift import Drift

ROWS = 5000
RUNNERS: list[Runner] = [Threads(3), Processes(2)]


def rows(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    numbers = rng.lognormal(sigma=3, size=(ROWS, 2))  # whose sums depend on the order of adding
    frame = pd.DataFrame(numbers, columns=["a", "b"]).assign(c=rng.choice(["x", "y", "z"], ROWS))
    frame.loc[rng.random(ROWS) < 0.05, "a"] = np.nan
    return frame


SCHEMA = Schema.freeze({"a": Feature(), "b": Feature(), "c": Feature(kind="categorical")}, rows())


def window(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> Window:
    """Return all rows but the first and the last hundred, of three files that are read a part at a time."""
    monkeypatch.setattr(tablefile, "PIECE", 400)
    monkeypatch.setattr(tablefile, "LARGE", 0)
    for opened in (tablefile.open_csv, tablefile.open_parquet):
        monkeypatch.setattr(opened, "__defaults__", (0,))
    for number, part in enumerate(np.array_split(np.arange(ROWS), 3)):
        frame = rows().iloc[part]
        if kind == "csv":
            frame.to_csv(folder / f"{number}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{number}.parquet", row_group_size=150)
    source = (CsvSource if kind == "csv" else ParquetSource)(f"*.{kind}", every=ROWS - 200, base=str(folder))
    return source.read(1, 100)


@pytest.fixture(scope="module")
def teams() -> dict[Runner, Workers]:
    return {runner: Workers(runner) for runner in RUNNERS}


@pytest.mark.parametrize(("kind", "count"), [("csv", 3), ("parquet", 12)])
def test_partitions_are_the_rows_in_order_and_cut_in_the_same_places(
    tmp_path: Path, kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, again = (window(tmp_path, kind, monkeypatch) for _ in range(2))
    assert [p.first for p in once.partitions] == [p.first for p in again.partitions]
    assert len(once.partitions) == count
    whole = rows().iloc[100:-100].reset_index(drop=True)
    for partition, end in zip(once.partitions, [p.first for p in once.partitions[1:]] + [len(whole)], strict=True):
        frame = pd.concat(list(partition.batches()), ignore_index=True)
        expected = whole.iloc[partition.first : end].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame, expected)
    pd.testing.assert_frame_equal(once.frame, whole)


def same_rows(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    return one.equals(other) and [*one.dtypes] == [*other.dtypes]


def same_bits(one: Summary, other: Summary) -> bool:
    return list(one) == list(other) and all(
        one[k].dtype == other[k].dtype and one[k].tobytes() == other[k].tobytes() for k in one
    )


class Odd:
    """Keeps the rows whose place is odd; it can be pickled."""

    def __call__(self, batch: pd.DataFrame, first: int) -> np.ndarray[Any, Any]:
        return (np.arange(len(batch)) + first) % 2 == 1


@pytest.mark.parametrize("team", RUNNERS, ids=str)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_whoever_looks_the_result_is_the_same_to_the_last_bit(
    tmp_path: Path,
    kind: str,
    team: Runner,
    teams: dict[Runner, Workers],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monitor, there = Drift(joint=False), window(tmp_path, kind, monkeypatch)
    fitted = monitor.fit(Sample(SCHEMA, rows(1), inputs=SCHEMA.encode(rows(1))))
    for keep in (None, Odd()):
        alone, together = (
            survey(there.partitions, SCHEMA, 1, [(monitor, fitted)], 1000, keep, each)
            for each in (map, teams[team].map)
        )
        assert alone.rows == together.rows == ROWS - 200
        assert same_rows(alone.frame, together.frame)
        assert len(alone.frame) == 1000
        assert same_bits(alone.seen[monitor.name], together.seen[monitor.name])
    assert alone.seen[monitor.name]


class OddError(Exception):
    """Cannot be pickled: it needs two arguments and keeps one."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


class Stumbles(Never):
    """Raises in the middle of the window."""

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        if (batch.frame["b"] == rows()["b"].iloc[3000]).any():
            raise OddError("row ", "3000")
        return {}


@pytest.mark.parametrize("team", RUNNERS, ids=str)
def test_a_monitor_that_raises_on_a_part_is_named_and_hides_no_other(
    tmp_path: Path, team: Runner, teams: dict[Runner, Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, there = Drift(joint=False), window(tmp_path, "parquet", monkeypatch)
    fitted = monitor.fit(Sample(SCHEMA, rows(1), inputs=SCHEMA.encode(rows(1))))
    looked = survey(there.partitions, SCHEMA, 1, [(Stumbles(), {}), (monitor, fitted)], 50, None, teams[team].map)
    assert list(looked.seen) == [monitor.name]
    assert "row 3000" in str(looked.failed["never"])


def test_results_come_in_order_and_few_are_waited_for() -> None:
    begun: list[int] = []

    def begin(item: int) -> int:
        begun.append(item)
        return -item

    results = Workers(Threads(2)).map(begin, range(100))
    assert [next(results) for _ in range(10)] == [-n for n in range(10)]
    assert len(begun) <= 10 + 3
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 10 + 3
    with pytest.raises(ReadError, match="no such file"):
        list(Workers(Threads(2)).map(refuse, [1, 2, 3]))


def refuse(item: int) -> int:
    raise ReadError(f"no such file: {item}")


def test_a_process_that_ends_early_is_told_and_the_next_look_has_new_ones() -> None:
    workers = Workers(Processes(2))
    with pytest.raises(ServiceError, match=r"lower runner\.workers"):
        list(workers.map(os._exit, [1, 1, 1]))
    assert list(workers.map(abs, [-1, -2, -3])) == [1, 2, 3]


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[None]:
    with fakes.installed(tmp_path / "site"):
        yield


@pytest.mark.usefixtures("plugins", "lock_of_its_own")
def test_a_project_finds_the_same_with_more_workers(tmp_path: Path) -> None:
    parts = [fakes.quiet(400, 1), fakes.quiet(200, 2), fakes.moved(200, 3), fakes.broken(200, 4)]
    whole = pd.concat(parts, ignore_index=True)
    for number, part in enumerate(np.array_split(np.arange(1000), 9)):
        whole.iloc[part].to_csv(tmp_path / f"{number}.csv", index=False)

    def found(runner: str | dict[str, Any]) -> Sequence[Any]:
        home = tmp_path / str(len(str(runner)))
        source = {"kind": "csv", "path": str(tmp_path / "*.csv"), "label": "y", "id": "id"}
        use = ["guard", "means", "accuracy", "evidently.drift"]
        changes = {"source": source, "monitors": {"use": use}, "trigger": {"on": []}, "runner": runner}
        plain = fakes.settings(home, "", **changes)
        project = Project.model_validate(plain)
        there = assemble(project, registry=MemoryRegistry(home / "registry"))
        list(loop.watch(there, replay=True))
        return [json.dumps(f.to_json()) for _, f in there.journal.findings()]

    alone, together = found("threads"), found({"kind": "threads", "workers": 3})
    assert alone == together
    assert any("broken" in finding for finding in alone)
    assert any("moved" in finding for finding in alone)
