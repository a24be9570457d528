"""Labels that come late, in parts and out of order lead to what they would have led to at once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fakes
from trimtab import loop
from trimtab.monitor import Answer, Finding

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

ROWS, FIRST, WINDOWS = 40, 400, 12
"""Too few rows for any window to be judged by itself."""
FLIPPED = (4, 5, 6, 7)
"""Windows in which six labels are wrong."""


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def whole(seed: int = 0) -> pd.DataFrame:
    """The stream with every label: first rows, windows, and one row more by which the last window is closed."""
    frame = fakes.quiet(FIRST + WINDOWS * ROWS + 1, seed)
    for window in FLIPPED:
        wrong = frame.index[FIRST + (window - 1) * ROWS :][: 6 * 5 : 5]
        frame.loc[wrong, "y"] = 1 - frame.loc[wrong, "y"]
    return frame.assign(y=frame["y"].astype(float))


def changes(**trigger: Any) -> dict[str, Any]:
    return {
        "window": {"every": ROWS, "start": FIRST, "label_patience": WINDOWS, "per_year": 52},
        "monitors": {"use": ["guard", "performance"], "performance": {"min_rows": 50}},
        "trigger": {"cooldown": 0, **trigger},
        "optimize": {"techniques": ["recentre", "convert"]},
    }


def watched(home: Path, seen: Mapping[int, Mapping[int, float]], **trigger: Any) -> fakes.World:
    """Watch windows one after the other; ``seen`` says by tick and window which share of its rows has labels."""
    frame, place = whole(), np.random.default_rng(1).random(FIRST + WINDOWS * ROWS + 1)
    there = fakes.World(home, f"labels-{home}", changes(**(trigger or {"on": ["moved"]})))
    for tick in range(1, WINDOWS + 1):
        known = np.ones(len(frame), dtype=bool)
        for window, share in seen.get(tick, {}).items():
            rows = slice(FIRST + (window - 1) * ROWS, FIRST + window * ROWS)
            known[rows] = place[rows] < share
        shown = frame.assign(y=frame["y"].where(known))
        fakes.STREAMS[there.stream] = shown.head(FIRST + tick * ROWS + 1)
        list(loop.watch(there.process()))
    return there


def told(there: fakes.World) -> dict[int, Finding]:
    return {f.window: f for _, f in there.process().journal.findings() if f.monitor == "performance"}


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Finding]:
    return told(watched(tmp_path_factory.mktemp("once"), {}))


def test_a_fall_too_small_for_one_window_is_found_over_several(at_once: dict[int, Finding]) -> None:
    answers = [at_once[n].answer for n in range(1, 8)]
    assert answers == [Answer.UNKNOWN] * 4 + [Answer.WORSE] * 3
    assert at_once[7].reasons[0].startswith("wrong answers since window 4 are above what the reference promises")


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(0, 2)), min_size=7, max_size=7))
@settings(max_examples=8, deadline=None)
def test_when_labels_come_changes_nothing_in_the_end(
    at_once: dict[int, Finding], late: list[tuple[int, float, int]]
) -> None:
    seen: dict[int, dict[int, float]] = {}
    for window, (begins, share, further) in enumerate(late, start=1):
        for tick in range(window, window + begins + further):
            seen.setdefault(tick, {})[window] = share if tick >= window + begins else 0.0
    with TemporaryDirectory() as home:
        found = told(watched(Path(home), seen))
    assert {n: (f.answer, f.scores) for n, f in found.items()} == {
        n: (f.answer, pytest.approx(f.scores)) for n, f in at_once.items()
    }


def test_late_labels_start_one_round_as_soon_as_they_suffice(tmp_path: Path) -> None:
    late = {tick: dict.fromkeys(FLIPPED, float(tick >= 9)) for tick in range(1, WINDOWS)}
    for seen, window in (({}, 5), (late, 9)):
        journal = watched(tmp_path / str(window), seen, on=["worse"], cooldown=99).process().journal
        assert [(r.window, r.cause) for r in journal.rounds()][1:] == [(window, "worse")]


def test_labels_beyond_the_patience_are_left_alone(tmp_path: Path) -> None:
    settings = changes(on=["moved"])
    settings["window"]["label_patience"] = 1
    there = fakes.World(tmp_path, "labels-patience", settings)
    frame = whole()
    for tick in range(1, 6):
        known = np.ones(len(frame), dtype=bool)
        known[FIRST : FIRST + ROWS] = tick >= 4
        fakes.STREAMS[there.stream] = frame.assign(y=frame["y"].where(known)).head(FIRST + tick * ROWS + 1)
        list(loop.watch(there.process()))
    assert sorted(told(there)) == [2, 3, 4, 5]


def test_labels_of_one_class_that_come_first_do_not_keep_the_others_out(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 0).assign(y=lambda f: f["y"].astype(float))
    settings = {"window": {"every": 200, "start": 400}, "monitors": {"use": ["integrity", "accuracy"]}}
    there = fakes.World(tmp_path, "labels-one-class", settings)
    first = (frame["y"] == 1) | (frame.index < 600)
    for known in (first, frame.index >= 0):
        fakes.STREAMS[there.stream] = frame.assign(y=frame["y"].where(known))
        list(loop.watch(there.process(), replay=True))
    journal = there.process().journal
    assert journal.quarantined() == set()
    assert journal.labels()[2].complete


def test_late_labels_of_what_is_fine_again_start_no_round_though_one_ran_in_between(tmp_path: Path) -> None:
    frame = pd.concat([fakes.quiet(600, 1), fakes.noise(200, 2), fakes.quiet(600, 3)], ignore_index=True)
    settings = {
        "window": {"every": 200, "start": 400},
        "monitors": {"use": ["guard", "accuracy"]},
        "trigger": {"on": ["worse", "every 3 windows"], "cooldown": 0},
        "optimize": {"techniques": ["convert", "spoil"]},
    }
    there = fakes.World(tmp_path, "labels-fine-again", settings)
    for closed, late in ((3, slice(600, 799)), (4, slice(1000, None))):
        shown = frame.assign(y=frame["y"].astype(float))
        shown.loc[late, "y"] = np.nan
        fakes.STREAMS[there.stream] = shown.head(400 + closed * 200 + 1)
        list(loop.watch(there.process()))
    journal = there.process().journal
    assert [(r.window, r.cause) for r in journal.rounds()][1:] == [(3, "every")]
    assert {f.window: f.answer for _, f in journal.findings() if f.monitor == "accuracy"}[2] is Answer.WORSE


def test_a_label_that_was_altered_after_it_was_judged_quarantines_its_window_and_the_watch_goes_on(
    tmp_path: Path,
) -> None:
    there = fakes.World(tmp_path, "labels-altered", changes(on=["moved"]))
    frame, late = whole(), FIRST + 3
    fakes.STREAMS[there.stream] = frame.assign(y=frame["y"].where(frame.index != late))
    list(loop.watch(there.process(), replay=True))
    altered = FIRST + 5 * ROWS
    fakes.STREAMS[there.stream] = frame.assign(y=frame["y"].where(frame.index != altered, 7.0))
    (report,) = loop.watch(there.process(), replay=True)
    assert report.problems[0].startswith("window 6: label column 'y' holds 7, which is none of the classes [0, 1]")
    journal = there.process().journal
    assert journal.quarantined() == {6}
    assert journal.labels()[1].complete
