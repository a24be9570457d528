"""Measuring: what counts as right, how sure a share is, and what was measured is kept."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.artifact import Model, write_json
from trimtab.benchmark import Scores
from trimtab.data import Data, Role, Rows
from trimtab.evidence import Bench, keep, read
from trimtab.intervals import Interval, proportion
from trimtab.metric import correctness
from trimtab.runtime import Target
from trimtab.timing import Latency
from trimtab.window import Arrays

ROWS = Rows(
    {"numeric": np.arange(60, dtype=np.float32).reshape(30, 2)},
    np.arange(30) % 2,
    np.arange(30, dtype=np.uint64),
)


@pytest.fixture(autouse=True)
def lock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is being measured on this machine must not hold these tests up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@dataclasses.dataclass
class Works:
    """Works for as many turns of a loop as told: time that a busy machine stretches for both alike."""

    turns: int = 300
    batches: list[int] = dataclasses.field(default_factory=list)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        return {"probabilities": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        self.batches.append(len(inputs["numeric"]))
        for _ in range(self.turns):
            pass
        return np.tile(np.array([[0.2, 0.8]], np.float32), (len(inputs["numeric"]), 1))


# quality


class Says(Works):
    """Gives the probabilities that it was made with, in the order of the first input's first number."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__(0)
        self.table = np.array(table, np.float32)

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        self.batches.append(len(inputs["i"]))
        return self.table[inputs["i"][:, 0].astype(int)]


def numbered(labels: list[int]) -> Rows:
    index = np.arange(len(labels), dtype=np.float32)[:, None]
    return Rows({"i": index}, np.array(labels, np.int64), np.arange(len(labels), dtype=np.uint64))


def test_right_is_where_the_most_probable_class_is_the_label() -> None:
    says = Says([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert correctness(says, numbered([0, 0, 0])).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_right(odd: float) -> None:
    assert correctness(Says([[odd, 0.1], [0.9, odd], [0.9, 0.1]]), numbered([0, 0, 0])).tolist() == [0.0, 0.0, 1.0]


@given(st.integers(0, 40), st.integers(1, 50))
def test_batches_change_nothing(rows: int, batch: int) -> None:
    says = Says([[i % 3 / 3, 0.4] for i in range(max(1, rows))])
    right = correctness(says, numbered([0] * rows), batch)
    assert len(right) == rows
    assert right.tolist() == [float(i % 3 / 3 > 0.4) for i in range(rows)]
    assert sum(says.batches) == rows


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 9)), min_size=1, max_size=60),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_interval_of_a_share_holds_it_and_stays_within_zero_and_one(
    drawn: list[tuple[float, int]], level: float
) -> None:
    right, groups = (np.array(column) for column in zip(*drawn, strict=True))
    interval = proportion(right, groups.astype(np.uint64), level)
    assert 0.0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1.0


def test_no_rows_say_nothing() -> None:
    interval = proportion(np.zeros(0), np.zeros(0, np.uint64), 0.95)
    assert np.isnan(interval.value)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch": 0}, {"thread": 1}])
def test_a_target_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Target.model_validate(wrong)


def test_rows_of_one_group_make_the_interval_of_a_share_wider() -> None:
    right = np.repeat([1.0, 1.0, 1.0, 0.0], 50)
    alone = proportion(right, np.arange(200, dtype=np.uint64), 0.95)
    together = proportion(right, np.repeat(np.arange(4, dtype=np.uint64), 50), 0.95)
    assert together.high - together.low > 4 * (alone.high - alone.low)


# what was measured


SCORES = Scores(
    judged=np.array([1.0, 0.0]),
    groups=np.array([7, 2**63], np.uint64),
    latency=Latency(0.4, 0.6, Interval(1.5, 1.4, 1.6), False),
    size_bytes=1234,
    searched=0.75,
    search_rows=4,
    golden=np.array([1.0]),
    golden_groups=np.array([3], np.uint64),
    parameters=99,
)


def same(one: Scores, other: Scores) -> bool:
    for field in dataclasses.fields(Scores):
        a, b = getattr(one, field.name), getattr(other, field.name)
        equal = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        if not equal:
            return False
    return True


def test_scores_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    keep(tmp_path / "kept", SCORES)
    assert same(read(tmp_path / "kept"), SCORES)
    without = dataclasses.replace(SCORES, golden=np.zeros(0), golden_groups=np.zeros(0, np.uint64), parameters=None)
    keep(tmp_path / "without", without)
    assert same(read(tmp_path / "without"), without)


class Counts:
    """A runtime that counts what it loads."""

    name = "counts"
    takes = ("onnx",)
    loads = 0

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> Works:
        self.loads += 1
        return Works(0)


def bench(tmp_path: Path, runtime: Counts, roles: dict[Role, Rows]) -> tuple[Bench, Model]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"12345")
    write_json(tmp_path / "model" / "facts.json", {"parameters": 17})
    model = Model.at(tmp_path / "model", "onnx")
    data = Data.write(tmp_path / "data", roles)
    return Bench(tmp_path / "evidence", runtime, Target(), model, data, None, 0.95, 0), model


def test_a_model_is_measured_once(tmp_path: Path) -> None:
    runtime = Counts()
    it, model = bench(tmp_path, runtime, {Role.JUDGE: ROWS, Role.SEARCH: ROWS.take(np.arange(9))})
    first, again = it.measure("key", model), it.measure("key", model)
    assert runtime.loads == 2
    assert same(first, again)
    assert (first.size_bytes, first.parameters, first.search_rows) == (5, 17, 9)
    assert first.quality(0.95).value == 0.5


def test_without_judge_rows_speed_is_measured_on_others_and_quality_is_unknown(tmp_path: Path) -> None:
    it, model = bench(tmp_path, Counts(), {Role.TRAIN: ROWS})
    scores = it.measure("key", model)
    assert len(scores.judged) == 0
    assert np.isnan(scores.quality(0.95).value)
    assert scores.latency.p50_ms > 0
