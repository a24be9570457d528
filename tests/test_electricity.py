"""The electricity stream: a table, windows of four weeks, labels one window late."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trimtab import cli

SHARED = Path(os.environ.get("TRIMTAB_SHARED", Path(__file__).parents[2] / "shared"))
STREAM = SHARED / "data" / "electricity.csv.gz"
CONFIG = Path(__file__).parents[1] / "configs" / "electricity.yaml"


@pytest.mark.skipif(not STREAM.is_file(), reason="set TRIMTAB_SHARED to a folder with data/electricity.csv.gz")
def test_following_the_stream_beats_never_replacing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["run", str(CONFIG), "--direct", "--json", "--set", f"source.path={STREAM}"])
    assert not end.value.code
    status = json.loads(capsys.readouterr().out)
    quality = status["quality"]
    assert quality["windows"] == 33
    assert quality["served"] > quality["never_replaced"] + 0.02
    promoted = [r for r in status["rounds"] if r["outcome"] == "promoted"]
    assert 1 <= len(promoted) == len(status["promotions"]) - 1
