"""What every test stands on: timings that are short, since no test but those of timing looks at them closely."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.servers import SERVERS, lacking

os.environ.setdefault("TRIMTAB_BENCHMARK__SECONDS", "0.3")
os.environ.setdefault("TRIMTAB_BENCHMARK__MEMORY", "false")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"servers(*names): runs real servers, of {', '.join(SERVERS)}; skipped where their programs are missing, "
        "and failed there with TRIMTAB_REQUIRE=servers",
    )
    config.addinivalue_line("markers", "soak: takes long and looks for what grows; only `make soak` runs it")


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
