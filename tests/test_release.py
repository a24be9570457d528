"""What a person does about quarantined windows: releases them, or is asked for when the same breaks again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests import fakes
from trimtab import loop, status
from trimtab.errors import InputError
from trimtab.loop import Report
from trimtab.monitor import Answer
from trimtab.parts import Parts
from trimtab.release import release
from trimtab.trigger import Action
from trimtab_prometheus.metrics import families
from trimtab_prometheus.reading import Reading, read

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

WATCHED: dict[str, Any] = {
    "monitors": {"use": ["integrity", "means", "accuracy"]},
    "features": {"a": {"minimum": -4}, "b": {}, "c": {}},
    "data": {"train": 8, "replay": 0},
}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def strange(seed: int) -> pd.DataFrame:
    """Rows beyond the declared bound, which the model can read; the labels are right."""
    frame = fakes.quiet(200, seed)
    return frame.assign(a=frame["a"].where(frame.index != 7, -5.0))


def unreadable(seed: int) -> pd.DataFrame:
    frame = fakes.quiet(200, seed)
    return frame.assign(b=frame["b"].where(frame.index != 7, float("inf")))


def world(tmp_path: Path, *windows: pd.DataFrame, **changes: Any) -> fakes.World:
    stream = fakes.stream(str(tmp_path), fakes.quiet(400, 0), *windows)
    return fakes.World(tmp_path / "home", stream, {**WATCHED, **changes})


def run(parts: Parts) -> list[Report]:
    return list(loop.watch(parts, replay=True))


def test_a_released_window_is_looked_at_judged_and_trained_on(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.quiet(200, 1), strange(2), fakes.quiet(200, 3))
    run(there.process())
    assert there.process().journal.quarantined() == {2}
    assert {q.window for q in there.process().journal.qualities()} == {1, 3}
    parts = there.process()
    problems, findings = release(parts, 2, "ada", "a new sensor goes lower")
    assert problems == []
    assert [(f.monitor, f.window, f.answer) for f in findings] == [("means", 2, Answer.FINE)]
    assert set(findings[0].scores) == {"a", "b", "c"}
    again = there.process()
    assert again.journal.quarantined() == set()
    assert {k: v for k, v in again.journal.released()[2].items() if k != "at"} == {
        "window": 2,
        "who": "ada",
        "reason": "a new sensor goes lower",
    }
    run(again)
    journal = there.process().journal
    assert {q.window for q in journal.qualities()} == {1, 2, 3}
    assert [w.labelled for w in journal.windows()] == [True] * 3
    fakes.stream(there.stream, fakes.STREAMS[there.stream], fakes.moved(200, 4), fakes.moved(200, 5))
    done = next(r.round for r in run(there.process()) if r.round is not None)
    assert done.detail["rows"]["windows"] == [0, 1, 2, 3, 4]
    rows = {row["window"]: row for row in status.window_rows(journal)}
    assert (rows[2]["decision"], rows[2]["released"]["who"]) == ("quarantine", "ada")
    assert rows[1]["released"] is None


def test_what_moved_in_a_quarantined_window_counts_once_it_is_released(tmp_path: Path) -> None:
    def beyond(seed: int) -> pd.DataFrame:
        frame = fakes.moved(200, seed)
        return frame.assign(a=frame["a"].where(frame.index != 7, -5.0))

    only_moved = {"monitors": {"use": ["integrity", "means"]}, "trigger": {"confirm": "2 of 2"}}
    actions = {}
    for released in (False, True):
        folder = tmp_path / str(released)
        folder.mkdir()
        there = world(folder, fakes.quiet(200, 1), beyond(2), **only_moved)
        (_, second, *_) = run(there.process())
        assert {(f.monitor, f.answer) for f in second.findings} == {
            ("integrity", Answer.BROKEN),
            ("means", Answer.MOVED),
        }
        assert second.decision is not None
        assert second.decision.action is Action.QUARANTINE
        if released:
            release(there.process(), 2, "ada", "it is right")
        fakes.stream(there.stream, fakes.STREAMS[there.stream], fakes.moved(200, 3))
        decision = run(there.process())[0].decision
        assert decision is not None
        actions[released] = decision.action
    assert actions == {False: Action.ALERT, True: Action.OPTIMIZE}


def test_a_released_window_is_compared_with_what_it_was_compared_with_before(tmp_path: Path) -> None:
    def windy(seed: int) -> pd.DataFrame:
        frame = fakes.quiet(200, seed)
        return frame.assign(c=frame["c"] + 2.0)

    beyond = windy(4).assign(a=strange(4)["a"])
    seasons = {"use": ["integrity", "means"], "reference": "season 2 windows"}
    there = world(tmp_path, fakes.quiet(200, 1), windy(2), fakes.quiet(200, 3), beyond, monitors=seasons)
    reports = run(there.process())
    before = {f.monitor: f for f in reports[3].findings}
    assert (before["integrity"].answer, before["means"].answer) == (Answer.BROKEN, Answer.FINE)
    _, (found,) = release(there.process(), 4, "ada", "it is right")
    assert (found.answer, found.against) == (Answer.FINE, 2)


def test_rows_that_no_model_can_be_fitted_to_stay_in_quarantine_until_they_are_mended(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.quiet(200, 1), unreadable(2), fakes.quiet(200, 3).drop(columns="c"))
    run(there.process())
    with pytest.raises(InputError, match=r"window 2 stays in quarantine: input 'numeric' holds infinite .* in rows 7;"):
        release(there.process(), 2, "ada", "hopeful")
    fakes.STREAMS[there.stream].loc[800:, "c"] = "n. a."
    with pytest.raises(InputError, match=r"window 3 stays in quarantine: column 'c' is numeric .* at position 0"):
        release(there.process(), 3, "ada", "hopeful")
    assert there.process().journal.quarantined() == {2, 3}
    assert there.process().journal.released() == {}
    fakes.STREAMS[there.stream].loc[607, "b"] = 0.0
    release(there.process(), 2, "ada", "mended")
    assert there.process().journal.quarantined() == {3}


def test_labels_of_a_released_window_that_come_late_and_wrong_are_told_and_not_used(tmp_path: Path) -> None:
    late = strange(2).assign(y=float("nan"))
    there = world(tmp_path, fakes.quiet(200, 1), late)
    run(there.process())
    release(there.process(), 2, "ada", "it is right")
    fakes.STREAMS[there.stream].loc[600:, "y"] = 7
    told = [problem for report in run(there.process()) for problem in report.problems]
    assert len(told) == 1
    assert told[0].startswith("window 2 was released, and its labels are not used: label column 'y' holds 7")
    assert {q.window for q in there.process().journal.qualities()} == {1}
    fakes.STREAMS[there.stream].loc[600:, "y"] = fakes.quiet(200, 2)["y"].to_numpy()
    assert [problem for report in run(there.process()) for problem in report.problems] == []
    assert {q.window for q in there.process().journal.qualities()} == {1, 2}


def test_a_window_that_late_labels_broke_is_judged_by_what_they_were_mended_to(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.quiet(200, 1), fakes.quiet(200, 2).assign(y=float("nan")))
    run(there.process())
    fakes.STREAMS[there.stream].loc[600:, "y"] = 7
    run(there.process())
    assert there.process().journal.quarantined() == {2}
    fakes.STREAMS[there.stream].loc[600:, "y"] = fakes.quiet(200, 2)["y"].to_numpy()
    release(there.process(), 2, "ada", "mended")
    run(there.process())
    journal = there.process().journal
    assert {q.window for q in journal.qualities()} == {1, 2}
    assert journal.labels()[2].rows == 200


def test_a_window_that_is_released_late_is_judged_all_the_same(tmp_path: Path) -> None:
    patience = {"window": {"every": 200, "start": 400, "label_patience": 1}}
    there = world(tmp_path, strange(1), *(fakes.quiet(200, seed) for seed in range(2, 6)), **patience)
    run(there.process())
    release(there.process(), 1, "ada", "it is right")
    run(there.process())
    journal = there.process().journal
    assert {q.window for q in journal.qualities()} == {1, 2, 3, 4, 5}
    assert journal.labels()[1].rows == 200


def test_what_is_not_quarantined_cannot_be_released(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.quiet(200, 1), strange(2))
    parts = there.process()
    with pytest.raises(InputError, match="window 1 was not looked at yet: none was; see trimtab status"):
        release(parts, 1, "ada", "")
    run(parts)
    with pytest.raises(InputError, match="window 9 was not looked at yet: windows 1 to 2 were"):
        release(parts, 9, "ada", "")
    with pytest.raises(InputError, match="window 1 is not quarantined; quarantined are: 2"):
        release(parts, 1, "ada", "")
    release(parts, 2, "ada", "it is right")
    with pytest.raises(InputError, match=r"window 2 was released already, by ada at 20.*: it is right"):
        release(there.process(), 2, "bob", "me too")
    assert len(parts.journal.records("release")) == 1


# a quarantine that repeats


def test_a_quarantine_that_repeats_asks_for_a_person_until_one_comes(tmp_path: Path) -> None:
    windows = [strange(2), unreadable(3), *(strange(seed) for seed in (4, 5, 6))]
    there = world(tmp_path, *windows)
    reports = [r for r in run(there.process()) if r.decision is not None]
    assert [r.decision.asks for r in reports if r.decision] == [False, False, False, False, True]
    (asks, *others) = reports[-1].problems
    assert asks.startswith("a person is needed: 'a' broken in 3 windows in a row, up to 5; mend the source, release")
    assert "trimtab release CONFIG WINDOW" in asks
    assert reports[-1].decision is not None
    assert reports[-1].decision.reasons[0] == asks
    assert not any("a person is needed" in p for p in others)
    assert told(there) == ("waiting", asks, 1.0)
    release(there.process(), 5, "ada", "it is right")
    assert told(there) == ("serving", None, 0.0)
    fakes.stream(there.stream, fakes.STREAMS[there.stream], strange(7), strange(8), strange(9))
    again = [r.decision.asks for r in run(there.process()) if r.decision is not None]
    assert again == [False, False, True]


def test_a_sound_window_ends_the_row_and_the_setting_says_how_long_it_is(tmp_path: Path) -> None:
    windows = [strange(2), strange(3), fakes.quiet(200, 4), strange(5), strange(6)]
    there = world(tmp_path, *windows, trigger={"confirm": "2 of 2", "ask_after": "2 windows"})
    asked = [r.decision.asks for r in run(there.process()) if r.decision is not None]
    assert asked == [False, True, False, False, True]


def told(there: fakes.World) -> tuple[str, str | None, float]:
    """State and request as status and metrics tell them."""
    journal = there.process().journal
    described = status.describe(journal, there.registry)
    samples = {
        s.name: s.value
        for family in families([Reading(there.process().project, read(journal))])
        for s in family.samples
    }
    return described["state"], described["waiting"], samples["trimtab_project_waiting"]
