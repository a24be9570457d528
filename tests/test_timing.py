"""Timing: a slower model is found out, equal ones are not told apart, and two never measure at once."""

import dataclasses
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import pytest

from trimtab.data import Rows
from trimtab.timing import measuring_lock, race
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


class Sleeps(Works):
    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        time.sleep(self.turns / 1e6)
        return super().predict(inputs)


class Names(Works):
    """Writes its name down at each call."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__(20_000)
        self.name, self.order = name, order

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        self.order.append(self.name)
        return super().predict(inputs)


def test_a_slower_rival_is_found_out() -> None:
    latency = race(Sleeps(200), {"slow": Sleeps(800)}, ROWS, seconds=0.3)["slow"]
    assert latency.speedup.high < 0.75
    assert latency.speedup.low <= latency.speedup.value <= latency.speedup.high
    assert latency.p95_ms >= latency.p50_ms >= 0.8


def test_a_faster_rival_is_found_out() -> None:
    assert race(Sleeps(800), {"fast": Sleeps(200)}, ROWS, seconds=0.3)["fast"].speedup.low > 1.3


def test_equal_models_are_not_told_apart_most_of_the_time() -> None:
    apart = 0
    for seed in range(12):
        speedup = race(Works(), {"same": Works()}, ROWS, seconds=0.1, seed=seed)["same"].speedup
        apart += not speedup.low <= 1.0 <= speedup.high
    assert apart <= 4


def test_rivals_are_timed_in_one_go_with_whole_batches() -> None:
    order: list[str] = []
    champion, rivals = Names("c", order), {name: Names(name, order) for name in "ab"}
    timed = race(champion, rivals, ROWS, batch=7, seconds=0.05)
    assert set(timed) == {"a", "b"}
    assert {size for session in (champion, *rivals.values()) for size in session.batches} == {7}
    turns = [name for name, before in zip(order[1:], order, strict=False) if name != before]
    assert {"a", "b", "c"} == set(turns[:3])
    assert all(turns.count(name) >= 20 for name in "abc")


def test_an_interval_that_is_too_wide_is_called_contended() -> None:
    class Restless(Works):
        def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
            self.turns = (self.turns * 7919 + 13) % 400_000
            return super().predict(inputs)

    assert race(Works(2000), {"restless": Restless()}, ROWS, seconds=0.05)["restless"].contended


def test_a_duel_keeps_its_time_unless_more_calls_are_asked_for() -> None:
    begin = time.perf_counter()
    few = race(Sleeps(1000), {"it": Sleeps(1000)}, ROWS, seconds=0.2)["it"]
    assert time.perf_counter() - begin < 2
    assert few.p99_ms is None
    many = race(Sleeps(1000), {"it": Sleeps(1000)}, ROWS, seconds=0.2, calls=300)["it"]
    assert many.calls >= 300 > few.calls
    assert many.p99_ms is not None
    assert many.p99_ms >= many.p95_ms


def test_throughput_is_rows_a_second() -> None:
    latency = race(Sleeps(1000), {"it": Sleeps(1000)}, ROWS, batch=5, seconds=0.1)["it"]
    assert 500 < latency.throughput < 5000


def hold(folder: str, ready: Any) -> None:
    tempfile.tempdir = folder
    with measuring_lock():
        ready.set()
        time.sleep(0.4)


def test_two_processes_never_measure_at_the_same_time(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    holder = fork.Process(target=hold, args=(str(tmp_path), ready))
    holder.start()
    ready.wait(10)
    with pytest.raises(filelock.Timeout), measuring_lock(timeout=0.05):
        raise AssertionError("two held the lock")
    holder.join()
    with measuring_lock(timeout=5):
        assert True
