"""What takes long: an exporter that is scraped all day must not grow."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fakes, shelf
from tests.servers import get
from trimtab import loop
from trimtab.settings import Project
from trimtab_prometheus.exporter import exposed

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("lock_of_its_own")]
SCRAPES = 3000


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path) -> Iterator[None]:
    with shelf.installed(tmp_path / "site"):
        yield


def held() -> tuple[int, int, int]:
    """Memory in pages, open files, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages, len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_an_exporter_that_is_scraped_while_its_journal_is_written_does_not_grow(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", fakes.stream("soak", *(fakes.quiet(200, seed) for seed in range(5))))
    list(loop.watch(there.process(), replay=True))
    journal = there.process().journal
    project = Project.model_validate(fakes.settings(there.home, there.stream, **there.changes))
    with exposed([project], "127.0.0.1", 0) as address:
        seen: list[tuple[int, int, int]] = []
        for number in range(SCRAPES):
            if number % 10 == 0:
                journal.record("soak", {"scrape": number})
            assert get(address)[0] == 200
            if number in (SCRAPES // 3, SCRAPES - 1):
                seen.append(held())
    before, after = seen
    assert after[0] < before[0] * 1.1
    assert after[1] <= before[1] + 8
    assert after[2] <= before[2] + 8
