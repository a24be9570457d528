"""Two processes that watch one project at the same time: every window is looked at once, every epoch promoted once."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from tests import fakes
from trimtab import loop
from trimtab.executor import Direct
from trimtab.fileregistry import FileRegistry
from trimtab.journal import Journal
from trimtab.parts import Parts, assemble
from trimtab.settings import Project

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

FORK = multiprocessing.get_context("fork")
WINDOWS = 50
P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


class Noting(Direct):
    """Notes every step in a file that processes share."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self.file.open("a") as notes:
            notes.write(f"{os.getpid()} {name}\n")
        return super().call(name, function, *args, **kwargs)


def changing() -> str:
    """Quiet rows, and three times another world after some windows: three rounds."""
    kinds = [fakes.moved if 12 <= n < 25 or n >= 38 else fakes.quiet for n in range(1, WINDOWS + 2)]
    rows = [kind(100, 1000 + n) for n, kind in enumerate(kinds)]
    return fakes.stream("two-schedulers", fakes.quiet(400, 999), *rows)


def process(home: Path, journal: str) -> Parts:
    """Open the project as a scheduled run does."""
    changes: dict[str, Any] = {
        "window": {"every": 100, "start": 400},
        "journal": {"url": journal},
        "trigger": {"on": ["worse"], "cooldown": 1},
        "optimize": {"techniques": ["recentre", "convert"]},
    }
    project = Project.model_validate(fakes.settings(home, changing(), **changes))
    return assemble(project, registry=FileRegistry(home / "registry"), executor=Noting(home / "notes"))


def decided(parts: Parts) -> dict[str, Any]:
    """What must not depend on how many watched."""
    journal = parts.journal
    return {
        "windows": [(w.number, w.champion, w.labelled, w.action, w.reasons) for w in journal.windows()],
        "findings": journal.findings(),
        "qualities": journal.qualities(),
        "promotions": [(p.epoch, p.version, p.operation, p.kind) for p in journal.promotions()],
        "rounds": [(r.operation, r.window, r.cause, r.outcome, r.epoch) for r in journal.rounds()],
        "versions": [(v.number, v.operation) for v in parts.registry.versions()],
    }


def noted(home: Path) -> list[tuple[int, str]]:
    """Return every step with the process that ran it."""
    lines = [line.split(" ", 1) for line in (home / "notes").read_text().splitlines()]
    return [(int(process), name) for process, name in lines]


def notes(home: Path) -> Counter[str]:
    return Counter(name for _, name in noted(home))


def test_two_schedulers_on_one_project_do_what_one_does(tmp_path: Path, databases: Callable[[], str]) -> None:
    alone = process(tmp_path / "alone", databases())
    list(loop.watch(alone))
    expected = decided(alone)
    assert [n for n, *_ in expected["windows"]] == [*range(1, WINDOWS + 1)]
    assert [(epoch, kind) for epoch, _, _, kind in expected["promotions"]] == [
        (1, "first"),
        (2, "promote"),
        (3, "promote"),
        (4, "promote"),
    ]
    home, journal, start = tmp_path / "both", databases(), FORK.Barrier(2)

    def keep_watching() -> None:
        start.wait()
        while len(Journal(journal, "p").windows()) < WINDOWS:
            for _ in loop.watch(process(home, journal)):
                break  # a window a time, so that the other's turn comes
            time.sleep(0.01)
        os._exit(0)

    processes = [FORK.Process(target=keep_watching) for _ in range(2)]
    for started in processes:
        started.start()
    for started in processes:
        started.join(300)
    assert [p.exitcode for p in processes] == [0, 0]
    both = process(home, journal)
    assert decided(both) == expected
    steps = notes(tmp_path / "alone")
    assert [steps[f"check window {n}"] for n in range(1, WINDOWS + 1)] == [1] * WINDOWS
    assert notes(home) == steps
    assert {pid for pid, name in noted(home) if name.startswith("check window")} == {p.pid for p in processes}
