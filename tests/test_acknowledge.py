"""A person explains an alarm away, and asks why a window was decided as it was."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fakes
from trimtab import loop
from trimtab.acknowledge import acknowledge
from trimtab.console import explanation
from trimtab.errors import InputError, SettingsError
from trimtab.explain import explain
from trimtab.trigger import Action

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

TRIGGER = {"on": ["moved"], "confirm": "1 of 1", "cooldown": 0}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def world(home: Path, *parts: object, monitors: tuple[str, ...] = ("guard", "evidently.drift")) -> fakes.World:
    frames = [fakes.quiet(400, 1), *parts]
    return fakes.World(
        home,
        fakes.stream(f"ack-{home.name}", *frames),  # type: ignore[arg-type]
        {"monitors": {"use": [*monitors]}, "trigger": TRIGGER, "optimize": {"techniques": ["recentre", "convert"]}},
    )


def shifted(seed: int) -> object:
    frame = fakes.quiet(200, seed)
    return frame.assign(c=frame["c"] + 3.0)


def test_an_acknowledged_alarm_stays_in_the_journal_and_starts_no_round(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.quiet(200, 2), shifted(3), shifted(4))
    parts = there.process()
    watch = loop.watch(parts, replay=True)
    next(watch)
    moved = next(watch)
    assert moved.decision is not None
    assert moved.decision.action is Action.OPTIMIZE
    parts.journal.close_round(parts.journal.rounds()[-1].operation, "kept", {})
    for alarm in ("evidently.drift:c", "evidently.drift"):
        said = acknowledge(parts, alarm, "a new sensor", "window 40", "ann")
    assert said.until == 40
    last = next(watch)
    assert last.decision is not None
    assert last.decision.action is Action.IGNORE
    assert "a new sensor" in last.decision.reasons[0]
    assert [f.answer.value for f in last.findings if f.monitor == "evidently.drift"] == ["moved"]
    assert [detail["expected"] for _, _, detail in parts.journal.records("ack")] == ["a new sensor"] * 2


def test_what_was_expected_starts_no_round_when_its_time_is_over(tmp_path: Path) -> None:
    there = world(tmp_path, shifted(2), shifted(3), shifted(4), fakes.quiet(200, 5), fakes.quiet(200, 6))
    there.changes["trigger"] = {**TRIGGER, "confirm": "2 of 3"}
    parts = there.process()
    watch = loop.watch(parts, replay=True)
    next(watch)
    acknowledge(parts, "evidently.drift", "a promotion", "window 3", "ann")
    actions = [r.decision.action for r in watch if r.decision is not None]
    assert actions == [Action.IGNORE] * 4


def test_what_never_alarmed_and_what_has_no_end_is_refused(tmp_path: Path) -> None:
    parts = world(tmp_path, fakes.quiet(200, 2), shifted(3)).process()
    list(loop.watch(parts, replay=True))
    with pytest.raises(SettingsError, match=r"no alarm 'evidently.drift:d'; have alarmed: evidently.drift, .*:c"):
        acknowledge(parts, "evidently.drift:d", "why", "5", "ann")
    with pytest.raises(SettingsError, match="--until 'soon' is neither a day"):
        acknowledge(parts, "evidently.drift", "why", "soon", "ann")
    with pytest.raises(SettingsError, match="--until '2026-01-01' is a day, but windows of 200 rows carry no time"):
        acknowledge(parts, "evidently.drift", "why", "2026-01-01", "ann")
    with pytest.raises(SettingsError, match="--expected is empty"):
        acknowledge(parts, "evidently.drift", " ", "5", "ann")


def test_a_window_is_explained_with_scores_rates_and_what_was_weighed(tmp_path: Path) -> None:
    parts = world(tmp_path, fakes.quiet(200, 2), shifted(3)).process()
    list(loop.watch(parts, replay=True))
    told = explain(parts.journal, 2)
    assert json.loads(json.dumps(told)) == told
    assert told["window"]["action"] == "optimize"
    assert 0 < told["window"]["weighed"]["level"] <= 1
    (drift,) = [f for f in told["findings"] if f["monitor"] == "evidently.drift"]
    assert drift["alpha"] == 0.05
    assert drift["statistics"][0]["alarms"]
    assert drift["statistics"][0]["p"] <= drift["alpha"]
    assert [r["cause"] for r in told["rounds"]] == ["moved"]
    assert len(list(explanation(told))) >= 4
    with pytest.raises(InputError, match=r"window 9 was not looked at; windows 1 to 2 were"):
        explain(parts.journal, 9)
