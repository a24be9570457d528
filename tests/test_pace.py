"""A champion that got slower is found; a machine that is busy is not taken for that."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fakes
from trimtab import champion, loop
from trimtab.monitor import Answer
from trimtab.pace import Pace, keeps_pace, machine

pytestmark = pytest.mark.usefixtures("lock_of_its_own")


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def world(tmp_path: Path, *on: str) -> fakes.World:
    rows = [fakes.quiet(400, 1), *(fakes.quiet(200, n) for n in range(2, 5))]
    changes = {
        "trigger": {"on": [*on], "cooldown": 0},
        "benchmark": {"seconds": 0.2, "memory": False, "again": "2 windows"},
        "gate": {"max_slowdown": 1.0, "min_gain": 99.0},
        "optimize": {"techniques": ["recentre", "convert"]},
    }
    return fakes.World(tmp_path, fakes.stream(f"pace-{tmp_path}", *rows), changes)


def test_it_is_timed_when_due_and_only_where_that_is_asked_for(tmp_path: Path) -> None:
    parts = world(tmp_path / "asked", "slower").process()
    list(loop.watch(parts, replay=True))
    timed = [f for _, f in parts.journal.findings() if f.monitor == "pace"]
    assert [f.window for f in timed] == [1, 3]
    assert all(f.answer is Answer.FINE and f.scores["p50_ms"] > 0 for f in timed)
    silent = world(tmp_path / "not", "worse").process()
    list(loop.watch(silent, replay=True))
    assert not [f for _, f in silent.journal.findings() if f.monitor == "pace"]


def test_a_slower_champion_is_found_and_starts_a_round(tmp_path: Path) -> None:
    there = world(tmp_path, "slower")
    parts = there.process()
    next(iter(loop.watch(parts, replay=True)))
    ((_, _, first),) = parts.journal.records("pace")
    serving = champion.load(parts, 1)
    slow = dataclasses.replace(serving, setup=dataclasses.replace(serving.setup, runtime="slow"))
    (found,) = keeps_pace(parts, slow, 3)
    assert found.answer is Answer.SLOWER
    assert found.scores["p50_ms"] > 2 * first["p50_ms"]
    assert f"{first['p50_ms']:.3f} after window 1" in found.reasons[0]
    assert parts.project.trigger.decide(3, [found]).cause == "slower"


def test_a_slowdown_that_was_found_in_a_look_that_was_cut_off_is_found_again(tmp_path: Path) -> None:
    parts = world(tmp_path, "slower").process()
    next(iter(loop.watch(parts, replay=True)))
    serving = champion.load(parts, 1)
    slow = dataclasses.replace(serving, setup=dataclasses.replace(serving.setup, runtime="slow"))
    assert [[f.answer for f in keeps_pace(parts, slow, 3)] for _ in range(2)] == [[Answer.SLOWER]] * 2
    assert len(parts.journal.records("pace")) == 2


def test_it_is_timed_again_when_the_machine_changed(tmp_path: Path) -> None:
    parts = world(tmp_path, "slower").process()
    next(iter(loop.watch(parts, replay=True)))
    serving = champion.load(parts, 1)
    assert keeps_pace(parts, serving, 2) == []
    before = Pace(1, 1, 1e9, 0.1, 1e9, {**machine(), "packages": "others"})
    parts.journal.record("pace", dataclasses.asdict(before))
    (found,) = keeps_pace(parts, serving, 2)
    assert found.answer is Answer.FINE


def test_what_slows_everything_is_not_the_champion() -> None:
    here = machine()
    then, busy = Pace(1, 1, 1.0, 9.0, 11.0, here), Pace(1, 5, 3.0, 8.0, 10.0, here)
    assert not busy.slower(then, 0.05)
    assert dataclasses.replace(busy, low=3.0, high=4.0).slower(then, 0.05)
    assert dataclasses.replace(busy, machine={**here, "processor": "another"}).slower(then, 0.05)
