"""Who did what: each thing that a person does is kept by name, and told by status and explain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests import fakes, shelf
from trimtab import approval, champion, cli, loop
from trimtab.acts import acts
from trimtab.journal import Journal
from trimtab.round import optimize, request_by_hand

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

QUIET = (fakes.quiet(200, 1),)
MOVED = (fakes.quiet(200, 1), fakes.moved(200, 3), fakes.moved(200, 4))


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


def watched(home: Path, rows: tuple[pd.DataFrame, ...], **changes: Any) -> tuple[fakes.World, str]:
    """A project whose windows were looked at, and its file."""
    there = shelf.world(home, fakes.stream(f"acts-{home}", fakes.quiet(400, 0), *rows), **changes)
    list(loop.watch(there.process(), replay=True))
    file = home / "p.yaml"
    file.write_text(yaml.safe_dump({**fakes.settings(home, there.stream, **there.changes), "home": str(home)}))
    return there, str(file)


def told(there: fakes.World) -> list[tuple[str, str, str]]:
    return [(act["who"], act["act"], act["reason"]) for act in acts(there.process().journal)]


def trimtab(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("words", "rows", "changes", "act"),
    [
        (["optimize", "--direct", "--reason", "because"], QUIET, {}, "asked for"),
        (["ack", "means", "--expected", "because", "--until", "9"], MOVED, {}, "acknowledged"),
        (["rollback", "--reason", "because"], MOVED, {}, "rolled back"),
        (["promote", "--reason", "because"], MOVED, {"promotion": "manual"}, "promoted"),
        (["reject", "--reason", "because"], MOVED, {"promotion": "manual"}, "rejected"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_who_is_the_login_name_unless_another_is_given_and_status_says_it(
    words: list[str],
    rows: tuple[pd.DataFrame, ...],
    changes: dict[str, Any],
    act: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    command, *rest = words
    for who, more in (("ada", []), ("bob", ["--who", "bob"])):
        there, file = watched(tmp_path / who, rows, **changes)
        trimtab(command, file, *rest, *more)
        ((name, did, reason),) = told(there)
        assert (name, did, reason.removeprefix("asked for: ")) == (who, act, "because")
        capsys.readouterr()
        trimtab("status", file)
        assert f": {who} {act} " in capsys.readouterr().out
        trimtab("status", file, "--json")
        assert [a["who"] for a in json.loads(capsys.readouterr().out)["acts"]] == [who]


def test_explain_says_who_released_a_window_and_who_answered_its_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, file = watched(tmp_path, MOVED, promotion="manual")
    window = there.process().journal.waiting()
    assert window is not None
    approval.reject(there.process(), "ada", "too soon")
    there.process().journal.release(1, "bob", "it was mended")
    optimize(there.process(), request_by_hand(there.process(), "curious", "eve"))
    trimtab("explain", file, str(window.window))
    assert f"ada rejected what {window.operation} proposed: too soon" in " ".join(capsys.readouterr().out.split())
    trimtab("explain", file, "1")
    assert "bob released window 1: it was mended" in capsys.readouterr().out
    assert told(there)[-1] == ("eve", "asked for", "asked for: curious")


def test_what_nobody_did_is_nobodys_act(tmp_path: Path) -> None:
    there, _ = watched(tmp_path, MOVED)
    parts = there.process()
    champion.rollback(parts, "by-itself", "a regression")
    assert [p.kind for p in parts.journal.promotions()] == ["first", "promote", "rollback"]
    assert acts(Journal(parts.project.journal_url, "p")) == []
