"""Windows of the past: what was left out or mended is looked at, once and in order, and no round is started for it."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests import fakes, shelf
from trimtab import cli, loop
from trimtab.acts import acts
from trimtab.backfill import Backfilled, backfill
from trimtab.errors import InputError, SettingsError
from trimtab.monitor import Answer
from trimtab.parts import Parts

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

ALERT_ONLY: dict[str, Any] = {"trigger": {"on": ["worse"], "cooldown": 0}}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


def world(home: Path, *windows: pd.DataFrame, **changes: Any) -> fakes.World:
    stream = fakes.stream(f"backfilled-{home}", fakes.quiet(400, 0), *windows)
    return shelf.world(home, stream, **{**ALERT_ONLY, **changes})


def after_an_outage(home: Path, *windows: pd.DataFrame) -> fakes.World:
    """A project that looked at the newest closed window alone; the last one is not closed."""
    there = world(home, *windows, fakes.quiet(200, 99), schedule={"catch_up": "latest"})
    reports = list(loop.watch(there.process()))
    assert [r.window for r in reports] == [len(windows)]
    return there


def filled(parts: Parts, begin: str | None = None, end: str | None = None) -> list[Backfilled]:
    return list(backfill(parts, begin, end, "ada"))


def gist(parts: Parts) -> dict[int, tuple[Any, ...]]:
    """What was found in each window under the first champion, by monitor."""
    found: dict[int, list[tuple[str, str, Any]]] = {}
    for _, f in parts.journal.findings():
        found.setdefault(f.window, []).append((f.monitor, str(f.answer), f.scores))
    return {window: tuple(sorted(told, key=str)) for window, told in found.items()}


def test_what_was_left_out_is_looked_at_once_in_order_and_found_as_it_would_have_been(tmp_path: Path) -> None:
    windows = [fakes.quiet(200, n) for n in (1, 2)] + [fakes.noise(200, 3)] + [fakes.quiet(200, n) for n in (4, 5)]
    there = after_an_outage(tmp_path / "outage", *windows)
    done = filled(there.process(), "2", "4")
    assert [(b.window, b.did) for b in done if b.did != "labels judged"] == [(n, "looked at") for n in (2, 3, 4)]
    journal = there.process().journal
    assert [w.number for w in journal.windows()] == [2, 3, 4, 5]
    assert [r.cause for r in journal.rounds()] == ["first"]  # though window 3 was worse
    assert {f.window for _, f in journal.findings() if f.answer is Answer.WORSE} == {3}
    assert {q.window for q in journal.qualities()} == {2, 3, 4, 5}
    assert all("no round: looked at later, as ada asked for" in w.reasons for w in journal.windows()[:3])
    again = filled(there.process(), "1", "5")
    assert [(b.window, b.did) for b in again if b.did != "labels judged"] == [
        (1, "looked at"),
        *((n, "known") for n in (2, 3, 4, 5)),
    ]
    before = gist(there.process())
    assert {b.did for b in filled(there.process())} == {"known"}
    assert gist(there.process()) == before
    # and as it would have been, had nothing been left out
    whole = world(tmp_path / "whole", *windows, fakes.quiet(200, 99), trigger={"on": []})
    list(loop.watch(whole.process()))
    assert gist(whole.process()) == before
    assert {act["act"] for act in acts(there.process().journal)} == {"looked again at"}
    # nothing is left for the next watch to make good
    assert [r for r in loop.watch(there.process()) if r.round is not None] == []


def test_a_mended_window_leaves_quarantine_and_one_that_is_broken_stays(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.quiet(200, 1), fakes.broken(200, 2), fakes.broken(200, 3), fakes.quiet(200, 4))
    list(loop.watch(there.process(), replay=True))
    assert there.process().journal.quarantined() == {2, 3}
    fakes.STREAMS[there.stream].loc[600:799, "a"] = np.asarray(fakes.quiet(200, 2)["a"])
    done = {b.window: b.did for b in filled(there.process()) if b.did != "labels judged"}
    assert done == {1: "known", 2: "mended", 3: "still broken", 4: "known"}
    journal = there.process().journal
    assert journal.quarantined() == {3}
    assert journal.released()[2]["who"] == "ada"
    assert {q.window for q in journal.qualities()} == {1, 2, 4}
    assert [r.cause for r in journal.rounds()] == ["first"]
    assert {b.window: b.did for b in filled(there.process(), "2", "3")} == {2: "known", 3: "still broken"}


def test_labels_of_filled_windows_are_judged_though_one_was_cut_off_before(tmp_path: Path) -> None:
    there = after_an_outage(tmp_path, *(fakes.quiet(200, n) for n in range(1, 9)))
    begun = backfill(there.process(), "1", "2", "ada")
    assert [next(begun).window, next(begun).window] == [1, 2]
    begun.close()  # killed before the labels
    assert {q.window for q in there.process().journal.qualities()} == {8}
    assert [b.did for b in filled(there.process(), "1", "2")][:2] == ["known", "known"]
    assert {q.window for q in there.process().journal.qualities()} == {1, 2, 8}  # far beyond label_patience


def test_what_cannot_be_filled_is_named(tmp_path: Path) -> None:
    there = after_an_outage(tmp_path / "a", fakes.quiet(200, 1), fakes.quiet(200, 2))
    with pytest.raises(SettingsError, match="only those up to 2 were reached yet"):
        filled(there.process(), "1", "3")
    with pytest.raises(SettingsError, match="comes before"):
        filled(there.process(), "2", "1")
    new = world(tmp_path / "b", fakes.quiet(200, 1))
    with pytest.raises(InputError, match="no champion yet"):
        filled(new.process())


def test_while_windows_are_looked_at_by_another_none_is_filled_in(tmp_path: Path) -> None:
    there = after_an_outage(tmp_path, *(fakes.quiet(200, n) for n in (1, 2)))
    fork = multiprocessing.get_context("fork")
    holds, done = fork.Event(), fork.Event()

    def hold() -> None:
        with there.process().journal.watching():
            holds.set()
            done.wait(60)

    other = fork.Process(target=hold)
    other.start()
    assert holds.wait(60)
    with pytest.raises(InputError, match="another process looks at the windows"):
        filled(there.process(), "1", "1")
    done.set()
    other.join(60)
    assert [b.did for b in filled(there.process(), "1", "1")][:1] == ["looked at"]


def test_the_command_tells_each_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = after_an_outage(tmp_path, fakes.quiet(200, 1), fakes.quiet(200, 2))
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump({**fakes.settings(tmp_path, there.stream, **there.changes), "home": str(tmp_path)}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["backfill", str(file), "--from", "1", "--who", "bob"])
    assert ended.value.code == 0
    assert "window 1: looked at (guard fine, means fine)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["backfill", str(file), "--from", "1", "--json"])
    assert [b["did"] for b in json.loads(capsys.readouterr().out)] == ["known", "known"]
    assert {act["who"] for act in acts(there.process().journal)} == {"bob"}
