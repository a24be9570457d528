"""What every test stands on: timings that are short, since no test but those of timing looks at them closely."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("TRIMTAB_BENCHMARK__SECONDS", "0.3")
os.environ.setdefault("TRIMTAB_BENCHMARK__MEMORY", "false")


@pytest.fixture
def lock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a test's timings from waiting for what else is being measured on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
