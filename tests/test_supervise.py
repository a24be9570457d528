"""Processes are kept alive: started, started again when they die, ended together, found again by their folder."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trimtab.errors import InputError
from trimtab.supervise import Program, Supervisor

SECONDS = 60.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "stack")
    yield made
    made.end()
    assert not made.runs


def waits(name: str, **environment: str) -> Program:
    """A program that writes its environment, starts a child, and waits."""
    code = (
        "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '600']); "
        "print(os.environ.get('WORD'), child.pid, flush=True); time.sleep(600)"
    )
    return Program(name, (sys.executable, "-c", code), environment)


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_what_has_ended_may_be_stopped_and_what_runs_may_be_started(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.begin([waits("one")], tmp_path)
    supervisor.stop("one")  # it ended by itself since it was looked at
    supervisor.start("one")
    until(lambda: supervisor.seen()["one"].runs)
    supervisor.stop("one")
    supervisor.stop("one")
    assert not supervisor.seen()["one"].runs


def test_what_dies_is_started_again_and_all_end_together(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.begin([waits("one", WORD="50% of it, said she")], tmp_path)
    supervisor.start("one")
    until(lambda: supervisor.seen()["one"].runs and "said" in supervisor.said("one"))
    first = supervisor.seen()["one"].pid
    assert "50% of it, said she" in supervisor.said("one")
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.seen()["one"].runs and supervisor.seen()["one"].pid != first)
    until(lambda: len((supervisor.folder / "one.log").read_text().splitlines()) == 2)
    child = int(supervisor.said("one", 1).split()[-1])
    assert alive(child)
    supervisor.end()
    until(lambda: not alive(child))


def test_another_finds_it_and_what_is_unchanged_lives_on(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.begin([waits("kept"), waits("changed"), waits("gone")], tmp_path)
    for name in ("kept", "changed", "gone"):
        supervisor.start(name)
    until(lambda: all(seen.runs for seen in supervisor.seen().values()))
    before = {name: seen.pid for name, seen in supervisor.seen().items()}
    other = Supervisor(supervisor.folder)
    assert other.runs
    other.begin([waits("kept"), waits("changed", WORD="new"), waits("added")], tmp_path)
    for name in ("kept", "changed", "added"):
        other.start(name)
    until(lambda: all(seen.runs for seen in other.seen().values()))
    after = {name: seen.pid for name, seen in other.seen().items()}
    assert sorted(after) == ["added", "changed", "kept"]
    assert after["kept"] == before["kept"]
    assert after["changed"] != before["changed"]
    until(lambda: not alive(before["gone"]))
    other.stop("kept")
    assert not alive(before["kept"])
    other.start("kept")
    until(lambda: other.seen()["kept"].runs)
    assert other.seen()["kept"].pid != before["kept"]


def test_the_configuration_is_for_its_owner_alone_and_holds_what_it_can(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.begin([], tmp_path)
    assert (supervisor.folder / "supervisord.conf").stat().st_mode & 0o777 == 0o600
    assert supervisor.seen() == {}
    assert supervisor.said("nobody") == "nothing"
    with pytest.raises(InputError, match=r"^WORD: a quotation mark, a backslash or a line break"):
        supervisor.begin([waits("one", WORD='say "it"')], tmp_path)
