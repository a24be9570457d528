"""Measuring: what counts as right, how sure a share is, and what was measured is kept."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fakes
from tests.timed import ROWS, Works
from trimtab.artifact import Model, write_json
from trimtab.benchmark import Quality, Scores
from trimtab.data import Data, Role, Rows
from trimtab.energy import Energy
from trimtab.evidence import Bench, keep, read
from trimtab.intervals import Interval, proportion
from trimtab.loadable import Loadable
from trimtab.metric import Accuracy, Answers, answer
from trimtab.runtime import Target
from trimtab.timing import Latency
from trimtab.window import Arrays

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

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


def hits(session: Says, rows: Rows, batch: int = 256) -> list[float]:
    answers = answer(session, rows, batch)
    assert len(answers) == len(rows)
    return [float(v) for v in Accuracy().values(answers.outputs, answers.labels)]


def test_right_is_where_the_most_probable_class_is_the_label() -> None:
    assert hits(Says([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), numbered([0, 0, 0])) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_right(odd: float) -> None:
    assert hits(Says([[odd, 0.1], [0.9, odd], [0.9, 0.1]]), numbered([0, 0, 0])) == [0.0, 0.0, 1.0]


@given(st.integers(0, 40), st.integers(1, 50))
def test_batches_change_nothing(rows: int, batch: int) -> None:
    says = Says([[i % 3 / 3, 0.4] for i in range(max(1, rows))])
    assert hits(says, numbered([0] * rows), batch) == [float(i % 3 / 3 > 0.4) for i in range(rows)]
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


def interval(value: float) -> Interval:
    return Interval(value, value - 0.1, value + 0.1)


ANSWERS = Answers(
    np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
    np.array([1, 0]),
    np.array([7, 2**63], np.uint64),
    np.array([["site=a"], ["site=b"]]),
)
SCORES = Scores(
    judged=ANSWERS,
    quality=Quality.of(Accuracy(), ANSWERS, ANSWERS, ANSWERS),
    latency=Latency(0.4, 0.6, interval(1.5), False, 0.9, 2500.0, 300, 4, Energy(5.0, None, 0.1, "counter", False)),
    size_bytes=1234,
    golden=ANSWERS,
    parameters=99,
    multiply_adds=12345,
    peak_mb=1.5,
)


def same(one: Scores, other: Scores) -> bool:
    pairs = [(one.judged, other.judged), (one.golden, other.golden)]
    for a, b in pairs:
        if (a is None) != (b is None):
            return False
        if a is not None and b is not None:
            for field in dataclasses.fields(Answers):
                mine, others = getattr(a, field.name), getattr(b, field.name)
                if repr(mine) != repr(others):
                    return False
    plain = [dataclasses.replace(s, judged=ANSWERS, golden=None) for s in (one, other)]
    return repr(plain[0]) == repr(plain[1])


def test_scores_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    keep(tmp_path / "kept", SCORES)
    assert same(read(tmp_path / "kept"), SCORES)
    bare = dataclasses.replace(
        SCORES,
        judged=Answers(ANSWERS.outputs, np.array([0.5, np.nan]), ANSWERS.groups),
        golden=None,
        parameters=None,
        latency=Latency(0.4, 0.6, interval(1.5), True),
    )
    keep(tmp_path / "bare", bare)
    back = read(tmp_path / "bare")
    assert np.isnan(back.judged.labels[1])
    assert same(dataclasses.replace(back, judged=bare.judged), bare)
    assert back.energy is None


class Counts:
    """A runtime that counts what it loads."""

    name = "counts"
    takes = ("onnx",)
    loads: ClassVar[list[str]] = []

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> Works:
        self.loads.append(model.digest)
        return Works(0)


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[None]:
    Counts.loads.clear()
    with fakes.installed(tmp_path / "site", {"runtimes": {"counts": "Counts"}}, __name__):
        yield


def bench(tmp_path: Path, roles: dict[Role, Rows]) -> tuple[Bench, Loadable]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"12345")
    write_json(tmp_path / "model" / "facts.json", {"parameters": 17})
    model = Loadable("counts", Model.at(tmp_path / "model", "onnx"))
    data = Data.write(tmp_path / "data", roles)
    return Bench(tmp_path / "evidence", Target(), model, data, None, Accuracy(), seconds=0.05), model


@pytest.mark.usefixtures("counting")
def test_a_model_is_measured_once(tmp_path: Path) -> None:
    it, model = bench(tmp_path, {Role.JUDGE: ROWS, Role.SEARCH: ROWS.take(np.arange(9))})
    first = it.measure(model, 0.95)
    loads = len(Counts.loads)
    again = it.measure(model, 0.95)
    assert loads == len(Counts.loads) > 0
    assert same(first, again)
    assert (first.size_bytes, first.parameters, first.quality.search_rows) == (5, 17, 9)
    assert first.quality.judged.value == 0.5


@pytest.mark.usefixtures("counting")
def test_without_judge_rows_speed_is_measured_on_others_and_quality_is_unknown(tmp_path: Path) -> None:
    it, model = bench(tmp_path, {Role.TRAIN: ROWS})
    scores = it.measure(model, 0.95)
    assert len(scores.judged) == 0
    assert np.isnan(scores.quality.judged.value)
    assert scores.latency.p50_ms > 0
