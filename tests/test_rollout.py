"""Rollout: live windows judge a challenger before it is promoted, and a champion on probation after it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import fakes
from trimtab import champion, decide, loop, status
from trimtab.approval import approve, reject
from trimtab.history import Round
from trimtab.live import judge_live, sound_windows
from trimtab.loop import Report
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.registry import CHALLENGER, CHAMPION
from trimtab.trigger import Action, Decision

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

SHADOW = {"shadow": "2 windows", "probation": 0}
PROBATION = {"probation": "2 windows"}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def world(home: Path, *after: pd.DataFrame, **changes: Any) -> fakes.World:
    """Two quiet windows and one that moved, after which a round proves another champion; then ``after``."""
    rows = [fakes.quiet(400, 0), fakes.quiet(200, 1), fakes.quiet(200, 2), fakes.moved(200, 3), *after]
    return fakes.World(home, fakes.stream(str(home), *rows), changes)


def moved(windows: int, seed: int = 20) -> list[pd.DataFrame]:
    return [fakes.moved(200, seed + n) for n in range(windows)]


def quiet(windows: int, seed: int = 40) -> list[pd.DataFrame]:
    return [fakes.quiet(200, seed + n) for n in range(windows)]


def add(there: fakes.World, *rows: pd.DataFrame) -> None:
    fakes.stream(there.stream, fakes.STREAMS[there.stream], *rows)


def run(parts: Parts) -> list[Report]:
    return list(loop.watch(parts, replay=True))


def rounds(there: fakes.World) -> list[Round]:
    return [r for r in there.process().journal.rounds() if r.cause != "first"]


def kinds(there: fakes.World) -> list[tuple[int, str]]:
    return [(p.version, p.kind) for p in there.process().journal.promotions()]


def test_a_challenger_serves_after_live_windows_have_judged_it(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout=SHADOW)
    run(there.process())
    (waiting,) = rounds(there)
    assert (waiting.window, waiting.outcome) == (3, "shadow")
    assert there.registry.aliases == {CHAMPION: 1, CHALLENGER: 2}
    told = status.describe(there.process().journal, there.registry)
    assert (told["state"], told["waiting"]) == ("serving", None)
    assert told["rollout"] == waiting.waits
    assert "is in shadow: live windows are to say" in told["rollout"]
    add(there, *moved(2, 30))
    reports = run(there.process())
    (done,) = rounds(there)
    assert (done.outcome, done.detail["shadow"]["windows"]) == ("promoted", [4, 5])
    assert done.detail["targets"][CHAMPION]["promoted"]
    assert done.detail["shadow"]["verdicts"][CHAMPION]["outcome"] == "passed"
    assert [r.window for r in reports if r.round is not None and r.round.operation == done.operation] == [5]
    assert {w.number: w.champion for w in there.process().journal.windows()} == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2}
    assert kinds(there) == [(1, "first"), (2, "promote")]
    assert CHALLENGER not in {a for a, v in there.registry.aliases.items() if v is not None}


def test_no_other_round_starts_while_one_is_in_shadow(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout={"shadow": 3}, trigger={"on": ["worse"], "cooldown": 0})
    reports = run(there.process())
    (held,) = [r.decision for r in reports if r.window == 4 and r.decision is not None]
    assert held.action is Action.ALERT
    assert "is in shadow" in held.reasons[0]
    assert len(rounds(there)) == 1


def test_what_live_windows_refute_is_rejected(tmp_path: Path) -> None:
    there = world(tmp_path, *quiet(2), rollout=SHADOW)
    run(there.process())
    (done,) = rounds(there)
    shadow = done.detail["shadow"]
    assert (done.outcome, shadow["refused"], shadow["verdicts"][CHAMPION]["outcome"]) == (
        "rejected",
        [CHAMPION],
        "rejected",
    )
    assert "at most 0.100 allowed" in shadow["verdicts"][CHAMPION]["reasons"][0]
    assert there.registry.alias(CHAMPION) == 1
    agree = [d["agreement"][CHAMPION] for _, _, d in there.process().journal.records("shadow")]
    assert len(agree) == 2
    assert max(agree) < 0.9
    assert there.process().journal.degraded()


def test_labels_that_come_late_are_waited_for(tmp_path: Path) -> None:
    late = {"every": 200, "start": 400, "label_delay": "1 window"}
    there = world(tmp_path, *moved(3), rollout=SHADOW, window=late)
    run(there.process())
    (done,) = rounds(there)
    assert (done.window, done.outcome, done.detail["shadow"]["windows"]) == (4, "promoted", [5, 6])
    assert done.detail["shadow"]["closed"] == 7


def test_what_live_windows_cannot_decide_is_left_to_a_person(tmp_path: Path) -> None:
    blank = [frame.assign(y=np.nan) for frame in moved(2)]
    there = world(tmp_path, *blank, rollout=SHADOW)
    run(there.process())
    (asked,) = rounds(there)
    assert asked.outcome == "proposed"
    assert asked.detail["shadow"]["verdicts"][CHAMPION]["reasons"] == ["accuracy: no rows to judge on"]
    assert approve(there.process(), "ada", "seen by eye").outcome == "promoted"
    assert there.registry.alias(CHAMPION) == 2


def test_where_a_person_promotes_shadow_comes_first_and_its_end_is_when_waiting_begins(tmp_path: Path) -> None:
    manual = {"mode": "manual", "expires": "1 window"}
    there = world(tmp_path, *moved(3), rollout=SHADOW, promotion=manual)
    run(there.process())
    (asked,) = rounds(there)
    assert (asked.outcome, asked.detail["shadow"]["closed"]) == ("proposed", 5)
    add(there, *moved(1, 60))
    run(there.process())
    assert [r.outcome for r in rounds(there)][:1] == ["rejected"]
    assert there.registry.alias(CHAMPION) == 1


def test_a_person_may_end_a_shadow_early(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout=SHADOW)
    run(there.process())
    assert reject(there.process(), "ada", "not now").outcome == "rejected"
    add(there, *moved(1, 60))
    run(there.process())
    assert kinds(there)[:1] == [(1, "first")]
    assert rounds(there)[0].outcome == "rejected"


def test_a_challenger_that_cannot_answer_live_rows_is_rejected_at_once(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout={"shadow": 3})
    run(there.process())
    model = there.registry.fetch(2, tmp_path / "versions" / "2") / "model" / "model.onnx"
    stored = there.registry.folder / "2" / "model" / "model.onnx"
    for path in (model, stored):
        path.chmod(0o644)
        path.write_text("{}")
    add(there, *moved(1, 60))
    run(there.process())
    (done, *_) = rounds(there)
    assert done.outcome == "rejected"
    assert done.detail["shadow"]["verdicts"][CHAMPION]["reasons"][0].startswith("version 2 cannot answer window 5")
    assert there.registry.alias(CHAMPION) == 1


def test_a_shadow_whose_end_was_cut_off_ends_at_the_next_start(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(2), rollout=SHADOW)
    parts = there.process()
    dying = fakes.DiesPromoting(parts.journal, ":worse")
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(parts, journal=dying))
    assert rounds(there)[0].outcome == "shadow"
    (first, *_) = run(there.process())
    assert first.round is not None
    assert first.round.outcome == "promoted"
    assert kinds(there) == [(1, "first"), (2, "promote")]


@dataclasses.dataclass
class DiesPromoted:
    """A journal that never comes back once a round's promotion is written."""

    journal: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def promote(self, operation: str, *rest: Any) -> Any:
        made = self.journal.promote(operation, *rest)
        if operation.endswith(":worse"):
            raise KeyboardInterrupt
        return made


def test_a_shadow_that_was_cut_off_after_its_promotion_ends_by_what_was_judged_before(tmp_path: Path) -> None:
    strict = {"max_slowdown": 99.0, "min_gain": 99.0, "max_quality_drop": 0.001, "max_total_drop": 0.2}
    there = world(tmp_path, *moved(2), rollout=SHADOW, gate=strict)
    parts = there.process()
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(parts, journal=DiesPromoted(parts.journal)))
    assert (kinds(there)[-1], rounds(there)[0].outcome) == ((2, "promote"), "shadow")
    run(there.process())
    (done,) = rounds(there)
    assert done.outcome == "promoted"
    assert "rose" in done.detail["shadow"]["verdicts"][CHAMPION]["reasons"][0]


def test_a_champion_that_is_worse_than_its_predecessor_is_rolled_back(tmp_path: Path) -> None:
    there = world(tmp_path, *quiet(1), rollout=PROBATION)
    reports = run(there.process())
    (decision,) = [r.decision for r in reports if r.window == 4 and r.decision is not None]
    assert decision.action is Action.ALERT
    assert decision.reasons[0].startswith(
        "rolled back: version 2 beside its predecessor 1, on probation: accuracy fell"
    )
    assert kinds(there) == [(1, "first"), (2, "promote"), (1, "rollback")]
    assert there.registry.alias(CHAMPION) == 1
    (done,) = rounds(there)
    assert done.outcome == "rolled back"
    assert "accuracy fell" in done.detail["rolled_back"]
    assert there.process().journal.degraded()


def test_it_is_rolled_back_once_and_what_came_before_goes_on(tmp_path: Path) -> None:
    there = world(tmp_path, *quiet(1), rollout=PROBATION)
    run(there.process())
    add(there, *quiet(4, 70))
    reports = run(there.process())
    assert [p for p in kinds(there) if p[1] == "rollback"] == [(1, "rollback")]
    assert {r.decision.action for r in reports if r.decision is not None} == {Action.IGNORE}


def test_probation_that_is_passed_changes_nothing_and_ends(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout=PROBATION)
    run(there.process())
    told = status.describe(there.process().journal, there.registry)
    assert told["rollout"] == "version 2 is on probation: 1 of 2 windows are judged"
    add(there, *moved(3, 80))
    run(there.process())
    looks = [d for _, _, d in there.process().journal.records("probation")]
    assert [(d["windows"], d["outcome"]) for d in looks] == [([4], "passed"), ([4, 5], "passed")]
    assert kinds(there) == [(1, "first"), (2, "promote")]
    assert status.describe(there.process().journal, there.registry)["rollout"] is None


def test_without_probation_nothing_is_rolled_back(tmp_path: Path) -> None:
    there = world(tmp_path, *quiet(2), rollout={"probation": 0})
    run(there.process())
    assert kinds(there)[:2] == [(1, "first"), (2, "promote")]
    assert "rollback" not in {kind for _, kind in kinds(there)}


def test_labels_that_come_late_roll_back_when_they_come(tmp_path: Path) -> None:
    late = {"every": 200, "start": 400, "label_delay": "1 window"}
    there = world(tmp_path, *moved(1), *quiet(2), rollout=PROBATION, window=late)
    reports = run(there.process())
    (told,) = [r for r in reports if r.decision is not None and "rolled back" in " ".join(r.decision.reasons)]
    assert told.window == 6
    assert kinds(there)[-1] == (1, "rollback")


def test_a_quarantined_window_judges_nobody(tmp_path: Path) -> None:
    there = world(tmp_path, fakes.broken(200, 90), *moved(2), rollout=SHADOW)
    run(there.process())
    (done,) = rounds(there)
    assert (done.outcome, done.detail["shadow"]["windows"]) == ("promoted", [5, 6])


def test_a_rollback_that_was_cut_off_before_the_round_knew_is_told_to_it(tmp_path: Path) -> None:
    there = world(tmp_path, rollout=PROBATION)
    run(there.process())
    (done,) = rounds(there)
    champion.rollback(there.process(), f"probation:{done.operation}", "worse on live rows")
    add(there, *quiet(1))
    run(there.process())
    (done,) = rounds(there)
    assert (done.outcome, done.detail["rolled_back"]) == ("rolled back", "worse on live rows")


def test_what_a_person_approved_and_live_windows_refuted_is_no_anchor(tmp_path: Path) -> None:
    there = world(tmp_path, rollout=PROBATION, promotion="manual")
    run(there.process())
    approve(there.process(), "ada", "fine")
    assert champion.anchor(there.process().journal.promotions()) == 2
    add(there, *quiet(1))
    run(there.process())
    assert kinds(there) == [(1, "first"), (2, "approved"), (1, "rollback")]
    assert champion.anchor(there.process().journal.promotions()) == 1


def spoil(there: fakes.World, version: int) -> None:
    """Alter the model of a version, in the store and where it was copied to."""
    for folder in (there.home / "versions", there.registry.folder):
        model = folder / str(version) / "model" / "model.onnx"
        if model.exists():
            model.chmod(0o644)
            model.write_text("{}")


def test_a_challenger_that_is_gone_when_labels_come_is_rejected_and_the_watch_goes_on(tmp_path: Path) -> None:
    late = {"every": 200, "start": 400, "label_delay": "1 window"}
    there = world(tmp_path, *moved(3), rollout=SHADOW, window=late)
    next(r for r in loop.watch(there.process(), replay=True) if r.window == 6)
    assert rounds(there)[0].outcome == "shadow"
    spoil(there, 2)
    add(there, fakes.broken(200, 90))  # no window to try it out on: it is missed when it is judged
    run(there.process())
    (done, *_) = rounds(there)
    (reason,) = done.detail["shadow"]["verdicts"][CHAMPION]["reasons"]
    assert done.outcome == "rejected"
    assert reason.startswith("version 2 cannot answer window 5")


def test_a_predecessor_that_is_gone_tells_nothing_of_a_champion_on_probation(tmp_path: Path) -> None:
    there = world(tmp_path, rollout=PROBATION)
    run(there.process())
    spoil(there, 1)
    add(there, *quiet(1))
    run(there.process())
    (look, *_) = [d for _, _, d in there.process().journal.records("probation")]
    assert (look["outcome"], look["rolled_back"]) == ("unknown", None)
    assert look["reasons"][0].startswith("version 1 cannot answer window 4")


def test_probation_waits_for_labels_that_come_later_than_they_should(tmp_path: Path) -> None:
    there = world(tmp_path, *(f.assign(y=np.nan) for f in quiet(2)), rollout=PROBATION)
    run(there.process())
    told = status.describe(there.process().journal, there.registry)["rollout"]
    assert told == "version 2 is on probation: 0 of 2 windows are judged"
    rows = fakes.STREAMS[there.stream]
    fakes.stream(there.stream, rows.iloc[:-400], *quiet(2), *moved(1, 60))
    run(there.process())
    (look,) = [d for _, _, d in there.process().journal.records("probation")]
    assert (look["windows"], look["outcome"]) == ([4, 5], "rejected")
    assert kinds(there)[2] == (1, "rollback")


def test_only_windows_that_there_are_try_a_challenger_out(tmp_path: Path) -> None:
    late = {"every": 200, "start": 400, "label_delay": "2 windows"}
    there = world(tmp_path, *moved(4), rollout={"shadow": 4}, window=late)
    run(there.process())
    journal = there.process().journal
    tried = [d["window"] for _, _, d in journal.records("shadow")]
    assert tried == [7]
    assert max(w.number for w in journal.windows()) == 7


@pytest.mark.parametrize(("kind", "tried"), [("rollback", {"a"}), ("repair", set())])
def test_drift_that_led_to_a_champion_that_was_rolled_back_asks_for_no_other_like_it(
    tmp_path: Path, kind: str, tried: set[str]
) -> None:
    there = fakes.World(tmp_path, fakes.stream(str(tmp_path), fakes.quiet(400, 0), fakes.quiet(200, 1)))
    run(there.process())
    parts = there.process()
    parts.journal.record_findings([Finding("drift", 2, Answer.MOVED, ("a moved",), alarms=("a",))], 1, 2)
    parts.journal.request_round("p:round:2:moved", 2, "moved", ["a moved"])
    parts.journal.promote("p:round:2:moved", 2, 1, "promote", {})
    parts.journal.close_round("p:round:2:moved", "promoted", {})
    parts.journal.promote("back", 1, 2, kind, {})
    known = decide.state(parts, champion.load(parts, 1), 3, [r for r in parts.journal.rounds() if r.cause != "first"])
    assert known.tried == tried


def test_a_window_without_a_row_judges_nobody(tmp_path: Path) -> None:
    parts = world(tmp_path).process()
    for number, rows in ((1, 0), (2, 200)):
        parts.journal.record_window(number, "", "", rows, 1, Decision(number, Action.IGNORE), 0.0)
    assert sound_windows(parts, 0, 9) == [2]


TWO = [{"runtime": "numpy"}, {"name": "edge", "runtime": "slow"}]
EDGE = "champion-edge"


def test_a_fault_on_one_target_refuses_no_winner_of_another(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout=SHADOW, targets=TWO)
    run(there.process())
    versions = next(d for _, _, d in there.process().journal.records("decided"))["versions"]
    before = there.registry.alias(EDGE)
    assert len({before, *versions.values()}) == 3
    spoil(there, versions[EDGE])
    add(there, *moved(1, 30))
    run(there.process())
    (done, *_) = rounds(there)
    assert (done.outcome, done.detail["shadow"]["refused"]) == ("promoted", [EDGE])
    assert there.registry.alias(CHAMPION) == versions[CHAMPION]
    assert there.registry.alias(EDGE) == before


def test_a_rollback_on_another_target_is_told_and_the_round_stands(tmp_path: Path) -> None:
    there = world(tmp_path, rollout=PROBATION, targets=TWO)
    run(there.process())
    parts = there.process()
    first = parts.journal.promotions()[-1].version
    champion.rollback(parts, "by-hand", "only edge is on probation", CHAMPION)
    champion.promote(parts, "by-hand-again", first, champion.newest_epoch(parts), "promote", {})
    add(there, *quiet(1))
    reports = run(there.process())
    (told,) = [r.decision for r in reports if r.decision is not None and r.window == 4]
    assert told.reasons[0].startswith("rolled back: version")
    assert there.process().journal.promotions(EDGE)[-1].kind == "rollback"
    assert rounds(there)[0].outcome == "promoted"


def test_rows_that_either_was_fitted_to_are_left_out_for_both(tmp_path: Path) -> None:
    there = world(tmp_path, *moved(1), rollout={"probation": 0})
    run(there.process())
    parts = there.process()
    span, frame = parts.window(4).span, parts.window(4).frame
    for version, known in ((1, frame.index < 50), (2, frame.index >= 150)):
        serving = champion.load(parts, version)
        groups = champion.groups_of(parts, serving, frame, np.arange(span.start, span.end))
        parts.loaded[version] = dataclasses.replace(serving, fitted=np.unique(groups[known]))
    (reason,) = judge_live(parts, 2, 1, [4], CHAMPION).reasons
    assert "on 100 rows" in reason
