"""Timing: a slower model is found out, equal ones are not told apart, and two never measure at once."""

import dataclasses
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests import fakes, told
from tests.timed import ROWS, Works
from trimtab.artifact import Model, write_json
from trimtab.data import Rows
from trimtab.duel import Latency
from trimtab.errors import ArtifactError, PluginError, ServiceError
from trimtab.loadable import Loadable
from trimtab.memory import growth
from trimtab.timing import compare, measuring_lock, peak_memory, race
from trimtab.window import Arrays

pytestmark = pytest.mark.usefixtures("lock_of_its_own")


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
    with pytest.raises(ServiceError, match="another process has been measuring"), measuring_lock(timeout=0.05):
        raise AssertionError("two held the lock")
    holder.join()
    with measuring_lock(timeout=5):
        assert True


def time_and_tell(folder: str, tell: Any) -> None:
    tempfile.tempdir = folder
    moments: list[float] = []

    class Tells(Works):
        def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
            moments.append(time.monotonic())
            return super().predict(inputs)

    race(Tells(), {"it": Tells()}, ROWS, seconds=0.1)
    tell.put((moments[0], moments[-1]))


def test_two_processes_that_time_take_turns(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    tell = fork.Queue()
    processes = [fork.Process(target=time_and_tell, args=(str(tmp_path), tell)) for _ in range(2)]
    for process in processes:
        process.start()
    (_, end), (begin, _) = sorted(tell.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert end < begin


# models that are loaded, here or in processes of their own


@pytest.fixture(autouse=True)
def told_is_installed(tmp_path: Path) -> Iterator[None]:
    with fakes.installed(tmp_path / "plugins", {"runtimes": {"told": "Told"}}, told.__name__):
        yield


def tell(folder: Path, patience: float = 0.0, **tale: Any) -> Loadable:
    folder.mkdir()
    write_json(folder / "tale.json", tale)
    return Loadable("told", Model.at(folder, "told"), {"patience": patience})


def timed(found: Latency | ArtifactError) -> Latency:
    assert isinstance(found, Latency), found
    return found


def pids(folder: Path) -> set[int]:
    return {int(p.stem) for p in folder.glob("*.pid")}


def test_with_one_thread_models_are_loaded_here_again_and_again(tmp_path: Path) -> None:
    champion = tell(tmp_path / "c", turns=2000)
    slow = tell(tmp_path / "slow", turns=4000)
    found = compare(champion, {"slow": slow, "same": champion}, ROWS, seconds=0.2)
    assert timed(found["slow"]).speedup.high < 0.8
    assert timed(found["same"]).speedup.low > 0.8
    assert timed(found["slow"]).loads == 16
    assert pids(tmp_path / "slow") == {os.getpid()}


def test_a_model_that_takes_long_to_load_is_loaded_once(tmp_path: Path) -> None:
    champion = tell(tmp_path / "c")
    found = compare(champion, {"slow to load": tell(tmp_path / "slow", patience=0.15)}, ROWS, seconds=0.1)
    assert timed(found["slow to load"]).loads == 1


def test_with_more_threads_each_model_has_a_process_of_its_own_that_ends(tmp_path: Path) -> None:
    champion, slow = tell(tmp_path / "c", turns=20_000), tell(tmp_path / "slow", turns=60_000)
    found = timed(compare(champion, {"slow": slow}, ROWS, threads=2, seconds=0.3)["slow"])
    assert found.speedup.high < 0.8
    assert found.p95_ms >= found.p50_ms > 0
    assert found.loads > 1
    workers = [*pids(tmp_path / "c"), *pids(tmp_path / "slow")]
    assert len(set(workers)) == 2
    assert os.getpid() not in workers
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_that_does_not_load_is_named_and_the_others_go_on(tmp_path: Path, threads: int) -> None:
    champion, broken = tell(tmp_path / "c"), tell(tmp_path / "b", broken=True)
    found = compare(champion, {"b": broken, "good": champion}, ROWS, threads=threads, seconds=0.05)
    assert str(found["b"]) == "b cannot be timed: its file is broken"
    assert timed(found["good"]).p50_ms > 0
    with pytest.raises(ArtifactError, match="the champion cannot be timed: its file is broken"):
        compare(broken, {"good": champion}, ROWS, threads=threads, seconds=0.05)


def test_a_model_that_kills_its_process_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    champion, dies = tell(tmp_path / "c"), tell(tmp_path / "d", dies=True)
    found = compare(champion, {"d": dies, "good": champion}, ROWS, threads=2, seconds=0.05)
    assert isinstance(found["d"], ArtifactError)
    assert "d cannot be timed" in str(found["d"])
    assert "died (exit code 7: no such instruction)" in str(found["d"])
    assert timed(found["good"]).p50_ms > 0


def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path) -> None:
    champion = tell(tmp_path / "c")
    other = dataclasses.replace(champion, runtime="tolt")
    found = compare(champion, {"other": other}, ROWS, seconds=0.05)["other"]
    assert "no runtime named 'tolt'" in str(found)
    assert isinstance(found, ArtifactError)
    assert isinstance(found.__cause__, PluginError)


def test_text_reaches_a_worker_as_it_is(tmp_path: Path) -> None:
    champion = tell(tmp_path / "c", says="Grüße")
    words = Rows({"word": np.array([["Grüße"]] * 3)}, np.zeros(3, np.int64), np.arange(3, dtype=np.uint64))
    assert timed(compare(champion, {"it": champion}, words, threads=2, seconds=0.05)["it"]).calls > 0


def test_peak_memory_holds_what_loading_and_calling_take(tmp_path: Path) -> None:
    heavy = tell(tmp_path / "heavy", holds_mb=40, takes_mb=20)
    assert 58 < peak_memory(heavy, ROWS) < 66
    assert peak_memory(tell(tmp_path / "light"), ROWS) < 6
    with pytest.raises(ArtifactError, match="broken"):
        peak_memory(tell(tmp_path / "broken", broken=True), ROWS)


def test_memory_is_watched_where_the_kernel_sets_no_mark_back(tmp_path: Path) -> None:
    def work() -> None:
        block = np.ones(200_000_000, np.uint8)
        time.sleep(0.05)
        del block

    # a kernel that takes idle pages back meanwhile moves what this process holds by megabytes
    assert 180e6 < growth(work, marks=tmp_path / "nothing" / "here") < 220e6


def products(folder: Path, count: int) -> Loadable:
    """A graph of so many products with a matrix of 256 x 256, a quarter of a megabyte each."""
    folder.mkdir()
    weight = np.random.default_rng(count).normal(size=(256, 256)).astype(np.float32) / 16
    names = ["numeric", *(f"h{at}" for at in range(count - 1)), "probabilities"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", [a, f"w{at}"], [b]) for at, (a, b) in enumerate(itertools.pairwise(names))],
        "products",
        [onnx.helper.make_tensor_value_info("numeric", onnx.TensorProto.FLOAT, ["rows", 256])],
        [onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["rows", 256])],
        [onnx.numpy_helper.from_array(weight, f"w{at}") for at in range(count)],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(proto, str(folder / "model.onnx"))
    return Loadable("onnxruntime", Model.at(folder, "onnx"))


@pytest.mark.parametrize("threads", [1, 2])
def test_models_in_onnx_runtime_are_timed_and_weighed(tmp_path: Path, threads: int) -> None:
    small, large = products(tmp_path / "small", 4), products(tmp_path / "large", 40)
    rows = Rows({"numeric": np.ones((8, 256), np.float32)}, np.zeros(8, np.int64), np.arange(8, dtype=np.uint64))
    found = compare(large, {"small": small}, rows, threads=threads, batch=8, seconds=0.3)
    assert timed(found["small"]).speedup.low > 2
    weights = 36 * 256 * 256 * 4 / 1e6
    more = peak_memory(large, rows, threads=threads) - peak_memory(small, rows, threads=threads)
    assert 0.8 * weights < more < 4 * weights
