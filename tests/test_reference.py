"""What windows are compared with: held-back rows, the last good window, or the same season."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests import fakes
from trimtab import champion, loop
from trimtab.errors import SettingsError
from trimtab.monitor import Answer, Finding
from trimtab.reference import reference_of
from trimtab.settings import Project

pytestmark = pytest.mark.usefixtures("lock_of_its_own")


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def shifted(seed: int, by: float) -> pd.DataFrame:
    frame = fakes.quiet(200, seed)
    return frame.assign(c=frame["c"] + by)


def told(home: Path, reference: str, *windows: pd.DataFrame) -> dict[int, Finding]:
    changes = {
        "monitors": {"use": ["guard", "evidently.drift"], "reference": reference, "evidently.drift": {"joint": False}},
        "trigger": {"on": []},
        "optimize": {"techniques": ["recentre", "convert"]},
    }
    there = fakes.World(home, fakes.stream(f"reference-{home}", fakes.quiet(400, 1), *windows), changes)
    list(loop.watch(there.process(), replay=True))
    return {f.window: f for _, f in there.process().journal.findings() if f.monitor == "evidently.drift"}


def test_a_season_is_no_drift_beside_the_same_season(tmp_path: Path) -> None:
    """The third column is up in every second window."""
    windows = [shifted(n, 2.0 * (n % 2)) for n in range(2, 10)]
    fixed = told(tmp_path / "fixed", "fixed", *windows)
    assert [fixed[n].answer is Answer.MOVED for n in range(1, 9)] == [n % 2 == 0 for n in range(1, 9)]
    season = told(tmp_path / "season", "season 2 windows", *windows)
    assert [season[n].against for n in range(1, 9)] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert [season[n].answer for n in range(3, 9)] == [Answer.FINE] * 6


def test_a_slow_change_is_no_drift_beside_the_last_good_window(tmp_path: Path) -> None:
    windows = [shifted(n, 0.1 * n) for n in range(2, 8)]
    fixed = told(tmp_path / "fixed", "fixed", *windows)
    last = told(tmp_path / "last", "last good", *windows)
    assert fixed[6].answer is Answer.MOVED
    assert last[6].answer is Answer.FINE
    jump = told(tmp_path / "jump", "last good", *(shifted(n, 3.0 * (n >= 5)) for n in range(2, 8)))
    assert [(jump[n].answer, jump[n].against) for n in (3, 4, 5, 6)] == [
        (Answer.FINE, 2),
        (Answer.MOVED, 3),
        (Answer.MOVED, 3),
        (Answer.MOVED, 3),
    ]


def test_broken_windows_stand_for_nothing(tmp_path: Path) -> None:
    windows = [fakes.quiet(200, 2), fakes.broken(200, 3), fakes.quiet(200, 4), fakes.quiet(200, 5)]
    assert [f.against for n, f in told(tmp_path, "last good", *windows).items() if n >= 3] == [1, 3]


def test_rows_of_groups_that_the_champion_was_fitted_to_stand_for_nothing(tmp_path: Path) -> None:
    frame = fakes.quiet(2000, 1).assign(person=[f"p{i % 60}" for i in range(2000)])
    changes = {
        "window": {"every": 600, "start": 400},
        "monitors": {"use": ["guard", "means"], "reference": "last good"},
        "data": {"train": 1, "group": "person"},
    }
    there = fakes.World(tmp_path, fakes.stream("reference-groups", frame), changes)
    list(loop.watch(there.process(), replay=True))
    parts = there.process()
    serving = champion.load(parts, 1)
    reference = reference_of(parts, serving, 3)
    assert (reference.number, len(reference) > 100) == (2, True)
    assert reference.groups is not None
    assert not set(reference.groups.tolist()) & set(serving.fitted.tolist())


@pytest.mark.parametrize("words", ["yesterday", "season", "season 2 weeks", "last"])
def test_a_reference_that_does_not_exist_is_refused(words: str, tmp_path: Path) -> None:
    settings = fakes.settings(tmp_path, "none", monitors={"use": ["guard"], "reference": words})
    with pytest.raises((ValueError, SettingsError), match="reference"):
        Project.model_validate(settings)
