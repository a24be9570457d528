"""What every test stands on: timings that are short, since no test but those of timing looks at them closely."""

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests import servers
from tests.servers import SERVERS, Postgres, lacking

os.environ.setdefault("TRIMTAB_BENCHMARK__SECONDS", "0.3")
os.environ.setdefault("TRIMTAB_BENCHMARK__MEMORY", "false")

STACKS = "/test_stack"
"""Begins the names of files whose tests start whole stacks."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"servers(*names): runs real servers, of {', '.join(SERVERS)}; skipped where their programs are missing, "
        "and failed there with TRIMTAB_REQUIRE=servers",
    )
    config.addinivalue_line("markers", "soak: takes long and looks for what grows; only `make soak` runs it")


class StacksInTurn(LoadFileScheduling):
    """Gives each process whole files, and whole stacks to one of them: two at once would want more than two cores."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "stacks" if STACKS in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> StacksInTurn:
    return StacksInTurn(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the stacks, which take as long as everything else."""
    items.sort(key=lambda item: STACKS not in item.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("servers"):
        lack = lacking(mark.args)
        if lack is not None and "servers" in os.environ.get("TRIMTAB_REQUIRE", "").split(","):
            pytest.fail(lack, pytrace=False)
        if lack is not None:
            pytest.skip(lack)


@pytest.fixture
def lock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test's timings from waiting for what else is being measured on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Small tensors wait longer for a second thread than they work."""
    import torch  # which tests of the engine alone need not wait for

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    """Run one server for the whole session; only for tests that are marked as needing it."""
    with servers.postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers("postgresql"))])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Give the address of a new database at each call, of each kind that a journal is kept in."""
    numbers = count()
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/deep/{next(numbers)}.db"
    server: Postgres = request.getfixturevalue("postgresql")
    return server.database


@pytest.fixture
def database(databases: Callable[[], str]) -> str:
    """Give the address of a new database."""
    return databases()
