"""The whole loop on the smallest parts: quiet, drift, no winner, broken rows, no registry, a kill at every write."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from tests import fakes
from tests.servers import Postgres
from trimtab import champion, loop, status
from trimtab.artifact import verify
from trimtab.errors import ArtifactError, DataError, PluginError, ServiceError
from trimtab.journal import Journal
from trimtab.loop import Report
from trimtab.monitor import Answer
from trimtab.parts import Parts
from trimtab.registry import CHALLENGER, PREVIOUS, MemoryRegistry
from trimtab.round import optimize, request_by_hand
from trimtab.runtime import CHAMPION
from trimtab.tables import Base
from trimtab.trigger import Action
from trimtab.window import Window

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

ONE_CANDIDATE = {"optimize": {"techniques": ["recentre", "convert"]}}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def calm(seed: int, *further: Any) -> str:
    """400 rows for the first champion, then two quiet windows, then what is given."""
    rows = [fakes.quiet(400, seed), fakes.quiet(200, seed + 1), fakes.quiet(200, seed + 2), *further]
    return fakes.stream(f"stream-{seed}-{len(further)}", *rows)


def drift(seed: int = 0) -> str:
    return calm(seed, *(fakes.moved(200, seed + i) for i in (3, 4, 5)))


def world(tmp_path: Path, stream: str, **changes: Any) -> fakes.World:
    return fakes.World(tmp_path / "home", stream, changes)


def run(parts: Parts) -> list[Report]:
    return list(loop.watch(parts, replay=True))


def test_a_quiet_stream_does_nothing(tmp_path: Path) -> None:
    there = world(tmp_path, calm(100))
    reports = run(there.process())
    assert [r.decision.action for r in reports if r.decision] == [Action.IGNORE, Action.IGNORE]
    assert [r.problems for r in reports] == [(), (), ()]
    assert there.registry.aliases == {CHAMPION: 1}
    journal = there.process().journal
    assert [p.kind for p in journal.promotions()] == ["first"]
    assert [r.outcome for r in journal.rounds()] == ["promoted"]
    assert status.describe(journal, there.registry)["state"] == "serving"


def test_drift_makes_the_model_worse_and_a_round_promotes_a_better_one(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    reports = run(there.process())
    assert [r.decision.action for r in reports if r.decision] == [
        Action.IGNORE,
        Action.IGNORE,
        Action.OPTIMIZE,
        Action.IGNORE,
        Action.IGNORE,
    ]
    done = reports[2].round
    assert done is not None
    assert (done.outcome, done.cause) == ("promoted", "worse")
    assert there.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}
    by_recipe = {c["recipe"]: c for c in done.detail["candidates"]}
    assert by_recipe["recentre > convert"]["won"]
    assert by_recipe["recentre > convert"]["reasons"][0].startswith("superior in quality")
    assert not by_recipe["recentre > convert > spoil"]["won"]
    described = status.describe(there.process().journal, there.registry)
    assert described["quality"]["served"] > described["quality"]["never_replaced"] + 0.1
    assert described["gained"]["quality_after"] > described["gained"]["quality_before"] + 0.2


def test_a_stream_seen_twice_is_looked_at_once(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    run(there.process())
    before = remembered(there.process())
    again = run(there.process())
    assert [r.decision for r in again] == [None]
    assert remembered(there.process()) == before


def test_late_labels_are_judged_when_they_come(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), window={"every": 200, "start": 400, "label_delay": 1}, trigger={"on": ["worse"]})
    reports = run(there.process())
    worse = [r for r in reports if any(f.answer is Answer.WORSE for f in r.findings)]
    assert [(r.window, f.window) for r in worse for f in r.findings if f.answer is Answer.WORSE] == [(4, 3)]
    assert there.registry.alias(CHAMPION) == 2


def test_a_round_is_run_once_when_there_are_many_more_rows_to_train_on(tmp_path: Path) -> None:
    there = world(
        tmp_path,
        calm(60, *(fakes.quiet(200, 70 + i) for i in range(8))),
        data={"train": "all"},
        trigger={"on": ["worse", "grown 2x"], "cooldown": 0},
        optimize={"techniques": ["convert", "spoil"]},
    )
    done = [(r.window, r.round.cause, r.round.outcome) for r in run(there.process()) if r.round is not None]
    assert done == [(2, "grown", "kept"), (6, "grown", "kept")]  # 400 rows, 800, 1600: though nothing better was found
    ((_, reason),) = [(w.number, w.reasons[0]) for w in there.process().journal.windows() if w.number == 2]
    assert reason == "there are 800 labelled rows to train on, 400 at the last round (grown 2x)"


def test_after_an_outage_the_latest_window_alone_is_looked_at_where_that_is_asked(tmp_path: Path) -> None:
    stream = calm(80, *(fakes.quiet(200, 90 + i) for i in range(3)))
    there = world(tmp_path, stream, schedule={"catch_up": "latest"})
    reports = list(loop.watch(there.process()))
    assert [r.window for r in reports] == [4]
    journal = there.process().journal
    assert [w.number for w in journal.windows()] == [4]
    assert [(d["from"], d["to"]) for _, _, d in journal.records("left out")] == [(1, 3)]
    assert list(loop.watch(there.process())) == []


def test_a_round_is_not_run_again_for_rows_that_are_no_longer_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, newest = fakes.Frames.read, [0]

    def kept_for_two_windows(source: fakes.Frames, number: int, start: int) -> Window:
        newest[0] = max(newest[0], number)
        window = whole(source, number, start)
        gone = window.frame[:0] if 0 < number < newest[0] - 1 else window.frame
        return Window.of(window.span, window.start, window.end, gone)

    monkeypatch.setattr(fakes.Frames, "read", kept_for_two_windows)
    there = world(
        tmp_path,
        calm(110, *(fakes.quiet(200, 110 + i) for i in range(3, 13))),
        data={"train": "all"},
        monitors={"use": ["guard"]},
        trigger={"on": ["grown 2x"], "cooldown": 0},
        **ONE_CANDIDATE,
    )
    done = [r.window for r in run(there.process()) if r.round is not None]
    assert done == [2, 6]  # of 1,600 labelled rows the second could read 800


def test_rows_that_grow_after_a_change_start_no_round_on_those_before_it(tmp_path: Path) -> None:
    before = [fakes.quiet(200, 90 + i) for i in range(6)]
    after = [frame.assign(y=1 - frame["y"]) for frame in (fakes.quiet(200, 80 + i) for i in range(3))]
    there = world(
        tmp_path,
        calm(80, *before, *after),
        data={"train": "since change", "replay": 0},
        monitors={"use": ["guard", "accuracy"]},
        trigger={"on": ["worse", "grown 4x"], "cooldown": 0},
        **ONE_CANDIDATE,
    )
    done = [(r.window, r.round.cause, r.round.outcome) for r in run(there.process()) if r.round is not None]
    assert done == [(6, "grown", "kept"), (9, "worse", "promoted")]  # and not (10, "grown", ...) on the eight newest
    assert min(q.value for q in there.process().journal.qualities() if q.version == 2) > 0.9


def test_moved_is_confirmed_before_a_round_starts(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), monitors={"use": ["guard", "means"]})
    reports = run(there.process())
    assert [r.decision.action for r in reports if r.decision][2:4] == [Action.ALERT, Action.OPTIMIZE]
    assert reports[3].round is not None
    assert reports[3].round.cause == "moved"


def test_without_a_winner_the_project_is_degraded_and_the_best_so_far_waits(tmp_path: Path) -> None:
    stream = calm(20, *(fakes.noise(200, 23 + i) for i in range(2)))
    there = world(tmp_path, stream)
    reports = run(there.process())
    done = next(r.round for r in reports if r.round is not None)
    assert done.outcome == "degraded"
    assert there.registry.aliases == {CHAMPION: 1, CHALLENGER: 2}
    assert status.describe(there.process().journal, there.registry)["state"] == "degraded"


def test_a_round_that_was_only_drift_and_finds_nothing_better_keeps_the_champion(tmp_path: Path) -> None:
    there = world(tmp_path, calm(30), optimize={"techniques": ["convert", "spoil"]})
    parts = there.process()
    run(parts)
    done = optimize(parts, request_by_hand(parts, "curious"))
    assert done.outcome == "kept"
    assert there.registry.aliases == {CHAMPION: 1}
    assert len(there.registry.versions()) == 1


def test_a_round_that_failed_is_run_again_for_what_moved_once_that_is_mended(tmp_path: Path) -> None:
    golden = fakes.stream("golden-mended", fakes.quiet(200, 150))
    there = world(
        tmp_path,
        drift(140),
        data={"train": 1, "golden": golden},
        monitors={"use": ["guard", "evidently.drift"]},
        trigger={"on": ["moved"], "confirm": "1 of 1", "cooldown": 0},
        **ONE_CANDIDATE,
    )
    watch = loop.watch(there.process(), replay=True)
    rounds = [next(watch).round, next(watch).round]
    fakes.STREAMS[golden] = fakes.quiet(200, 150).drop(columns="c")
    rounds.append(next(watch).round)
    fakes.STREAMS[golden] = fakes.quiet(200, 150)
    rounds.append(next(watch).round)
    assert [r and r.outcome for r in rounds] == [None, None, "failed", "kept"]


def test_a_broken_window_is_quarantined_and_never_trained_on(tmp_path: Path) -> None:
    stream = calm(40, fakes.broken(200, 43), fakes.moved(200, 44), fakes.moved(200, 45))
    there = world(tmp_path, stream, data={"train": 8, "replay": 0}, trigger={"on": ["worse"]})
    reports = run(there.process())
    assert reports[2].decision is not None
    assert reports[2].decision.action is Action.QUARANTINE
    assert reports[2].problems == ("column 'a' is empty",)
    done = next(r.round for r in reports if r.round is not None)
    assert done.detail["rows"]["windows"] == [0, 1, 2, 4]
    journal = there.process().journal
    assert journal.quarantined() == {3}
    assert 3 not in {q.window for q in journal.qualities()}


def test_a_window_without_the_column_of_its_segments_is_quarantined_and_no_round_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fakes.Frames.read

    def without(source: fakes.Frames, number: int, start: int) -> Window:
        window = whole(source, number, start)
        frame = window.frame.assign(site=np.where(window.frame["b"] > 0, "north", "south"))
        return Window.of(window.span, window.start, window.end, frame.drop(columns=["site"] if number == 2 else []))

    monkeypatch.setattr(fakes.Frames, "read", without)
    there = world(
        tmp_path,
        calm(130, fakes.quiet(200, 133), fakes.quiet(200, 134)),
        data={"train": 8, "segments": ["site"]},
        monitors={"use": ["integrity", "evidently.drift", "performance"]},
        trigger={"on": ["every 3 windows"]},
        **ONE_CANDIDATE,
    )
    reports = run(there.process())
    assert [r.decision.action for r in reports if r.decision] == ["ignore", "quarantine", "optimize", "ignore"]
    assert reports[1].problems[0].startswith("column 'site' (setting data.segments) is not in the rows")
    assert [r.round.outcome for r in reports if r.round is not None] == ["kept"]
    assert {f.monitor: f.answer for f in reports[1].findings}["evidently.drift"] is Answer.FINE


def test_a_monitor_that_raises_is_told_and_the_others_still_look(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), monitors={"use": ["guard", "raises", "accuracy"]})
    reports = run(there.process())
    assert reports[0].problems == ("monitor 'raises' raised RuntimeError on window 1: no luck today",)
    assert [(f.monitor, f.answer) for f in reports[0].findings] == [
        ("guard", Answer.FINE),
        ("raises", Answer.UNKNOWN),
        ("accuracy", Answer.FINE),
    ]
    assert there.registry.alias(CHAMPION) == 2


def test_a_technique_that_raises_costs_its_candidates_only(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), optimize={"techniques": ["recentre", "convert", "explode"]})
    done = next(r.round for r in run(there.process()) if r.round is not None)
    assert done.outcome == "promoted"
    failed = [c for c in done.detail["candidates"] if c["outcome"] == "failed"]
    assert len(failed) == 2
    assert all("technique 'explode' raised ZeroDivisionError: on purpose" in c["reasons"][0] for c in failed)
    assert sum(log.failed for _, log in there.registry.candidates.values()) == 2


def test_rows_of_a_new_class_are_broken_and_not_a_crash(tmp_path: Path) -> None:
    strange = fakes.quiet(200, 53).assign(y=7)
    there = world(tmp_path, calm(50, strange, fakes.quiet(200, 54)))
    reports = run(there.process())
    assert reports[2].decision is not None
    assert reports[2].decision.action is Action.QUARANTINE
    assert "none of the classes" in reports[2].problems[0]
    assert reports[3].decision is not None
    assert reports[3].decision.action is Action.IGNORE


def test_without_rows_before_the_stream_it_says_what_to_set(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), window={"every": 200, "start": 0})
    with pytest.raises(DataError, match=r"window\.start"):
        run(there.process())
    assert there.registry.aliases == {}


def test_a_trainer_that_raises_is_named(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), model={"trainer": "centroid", "digits": 5})
    parts = there.process()
    broken_trainer = dataclasses.replace(parts, trainer=fakes.RaisingTrainer())
    with pytest.raises(PluginError, match="raised OverflowError: too much"):
        run(broken_trainer)
    assert run(parts)[-1].decision is None


def test_windows_close_by_the_clock_or_by_the_rows_after_them(tmp_path: Path) -> None:
    there = world(tmp_path, calm(10))
    assert [r.window for r in loop.watch(there.process())] == [1]
    fakes.stream(there.stream, fakes.STREAMS[there.stream], fakes.quiet(1, 13))
    assert [r.window for r in loop.watch(there.process())] == [2]
    assert [r.window for r in loop.watch(there.process())] == []


def test_what_is_not_built_in_time_is_left_out_and_says_so(tmp_path: Path) -> None:
    hurried = {"techniques": ["recentre", "convert", "spoil"], "minutes": 1e-9}
    there = world(tmp_path, drift(), optimize=hurried)
    done = next(r.round for r in run(there.process()) if r.round is not None)
    assert done.outcome == "degraded"
    assert there.registry.aliases == {CHAMPION: 1}
    told = {c["recipe"]: (c["outcome"], c["reasons"]) for c in done.detail["candidates"]}
    assert len(told) > 1  # as many as are built together
    assert {outcome for outcome, _ in told.values()} == {"stopped"}
    assert all("was not begun: the round's minutes were spent" in reason for _, (reason,) in told.values())


def test_a_round_after_which_another_promotion_came_first_is_lost(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    parts = there.process()
    run(parts)
    asked = request_by_hand(parts, "curious")
    champion.rollback(parts, "undo", "somebody's wish")
    done = optimize(there.process(), asked)
    assert (done.state, done.outcome) == ("closed", "lost")
    assert there.registry.aliases == {CHAMPION: 1}
    assert len(there.registry.versions()) == 2


def test_a_round_that_loses_the_epoch_at_its_end_yields_and_a_later_one_judges_again(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    parts = there.process()
    for report in loop.watch(parts, replay=True):
        if report.window == 2:
            break
    meddling = dataclasses.replace(there.process(), registry=Meddling(there))
    rounds = [r.round for r in run(meddling) if r.round is not None]
    assert [(r.window, r.outcome) for r in rounds] == [(3, "lost"), (5, "promoted")]
    assert [p.operation for p in parts.journal.promotions()] == ["p:first", "somebody", rounds[1].operation]
    assert there.registry.aliases == {CHAMPION: 3, PREVIOUS: 1}


class Meddling:
    """A registry during whose ``create_version`` somebody else promotes."""

    def __init__(self, there: fakes.World) -> None:
        self.there = there

    def __getattr__(self, name: str) -> Any:
        if name == "create_version":
            self.there.process().journal.promote("somebody", 1, after=1, kind="approved", detail={})
        return getattr(self.there.registry, name)


# the registry


def test_while_the_registry_is_down_nothing_is_promoted_and_nothing_is_lost(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    parts = there.process()
    for report in loop.watch(parts, replay=True):
        if report.window == 2:
            there.registry.down = True
            break
    with pytest.raises(ServiceError):
        run(there.process())
    there.registry.down = False
    assert there.registry.aliases == {CHAMPION: 1}
    assert [p.version for p in there.process().journal.promotions()] == [1]
    run(there.process())
    assert there.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}


def test_a_registry_that_goes_down_within_a_round_leaves_the_round_open(tmp_path: Path) -> None:
    there = world(tmp_path, drift(), **ONE_CANDIDATE)
    parts = there.process()
    for report in loop.watch(parts, replay=True):
        if report.window == 2:
            break
    faulty = dataclasses.replace(there.process(), registry=Down(there.registry, "create_version"))
    with pytest.raises(ServiceError):
        run(faulty)
    assert there.registry.aliases == {CHAMPION: 1}
    open_rounds = [r for r in there.process().journal.rounds() if r.state != "closed"]
    assert [r.cause for r in open_rounds] == ["worse"]
    assert status.describe(there.process().journal, there.registry)["state"] == "optimizing"
    run(there.process())
    assert there.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}


class Down:
    """A registry on which one method finds no server."""

    def __init__(self, inner: MemoryRegistry, method: str) -> None:
        self.inner, self.method = inner, method

    def __getattr__(self, name: str) -> Any:
        if name == self.method:
            raise ServiceError("the registry went away")
        return getattr(self.inner, name)


# damage


def test_a_damaged_champion_falls_back_to_the_one_before(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    run(there.process())
    shutil.rmtree(there.home / "versions" / "2")
    (there.registry.folder / "2" / "model" / "model.onnx").write_text('{"centroids"')
    serving = champion.reconcile(there.process())
    assert serving is not None
    assert serving.version == 1
    assert there.registry.alias(CHAMPION) == 1
    journal = there.process().journal
    assert [p.kind for p in journal.promotions()] == ["first", "promote", "repair"]
    assert "model.onnx" in journal.records("error")[-1][2]["message"]
    champion.reconcile(there.process())
    assert len(there.process().journal.promotions()) == 3


def test_when_no_version_loads_it_says_so(tmp_path: Path) -> None:
    there = world(tmp_path, calm(60))
    run(there.process())
    shutil.rmtree(there.home / "versions")
    (there.registry.folder / "1" / "schema.json").unlink()
    with pytest.raises(ArtifactError, match=r"none of the versions \[1\] loads"):
        champion.reconcile(there.process())


def test_a_package_kept_here_that_rots_is_found_at_the_next_start(tmp_path: Path) -> None:
    there = world(tmp_path, drift())
    run(there.process())
    (there.home / "versions" / "2" / "parent" / "model.json").write_text("{}")
    serving = champion.reconcile(there.process())
    assert serving is not None
    assert serving.version == 1


# a kill at every write

JOURNAL_WRITES = {
    "begin",
    "record_window",
    "mark_labelled",
    "record_findings",
    "record_quality",
    "seal",
    "request_round",
    "close_round",
    "promote",
    "record",
}
REGISTRY_WRITES = {
    "log_round",
    "log_candidate",
    "close_round",
    "create_version",
    "set_alias",
    "tag_version",
}


class Killed(BaseException):
    """No handler in the loop may catch it."""


class Mortal:
    """Passes calls on, and dies right after the write whose turn it is."""

    def __init__(self, inner: Any, writes: set[str], turns: Iterator[int], dies_after: int) -> None:
        self.inner, self.writes, self.turns, self.dies_after = inner, writes, turns, dies_after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self._counted(found) if name in self.writes else found

    def _counted(self, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if next(self.turns) == self.dies_after:
                raise Killed(method.__name__)
            return result

        return call


def mortal(parts: Parts, dies_after: int) -> Parts:
    turns = itertools.count()
    return dataclasses.replace(
        parts,
        journal=Mortal(parts.journal, JOURNAL_WRITES, turns, dies_after),
        registry=Mortal(parts.registry, REGISTRY_WRITES, turns, dies_after),
    )


def remembered(parts: Parts) -> dict[str, Any]:
    """Everything that must be the same whether the loop was cut off or not."""
    journal, registry = parts.journal, parts.registry
    return {
        "promotions": [(p.epoch, p.version, p.operation, p.kind) for p in journal.promotions()],
        "windows": [(w.number, w.champion, w.labelled, w.action, w.reasons) for w in journal.windows()],
        "findings": journal.findings(),
        "qualities": journal.qualities(),
        "rounds": [(r.operation, r.window, r.cause, r.reasons, r.state, r.outcome, r.epoch) for r in journal.rounds()],
        "told": [
            (r.detail["targets"], [(c["recipe"], c["outcome"], c["won"]) for c in r.detail["candidates"]])
            for r in journal.rounds()
        ],
        "aliases": {name: registry.alias(name) for name in (CHAMPION, PREVIOUS, CHALLENGER)},
        "versions": [(v.number, v.operation, v.digests, v.tags) for v in registry.versions()],
        "outcomes": registry.outcomes,
        "records": {(kind, str(detail)) for _, kind, detail in records_without_paths(journal)},
        "runs": {k: (r, log.params, log.failed) for k, (r, log) in registry.candidates.items()},
    }


def records_without_paths(journal: Journal) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What was told apart from repairs, which only a kill calls for, where this home lies, and what was timed."""
    for at, kind, detail in journal.records():
        if kind != "repair":
            yield (
                at,
                kind,
                {key: value for key, value in detail.items() if key not in ("path", "begun", "seconds", "detail")},
            )


def short_drift() -> str:
    rows = [fakes.quiet(400, 70), fakes.quiet(200, 71), fakes.moved(200, 72), fakes.moved(200, 73)]
    return fakes.stream("short-drift", *rows)


def broken_and_hopeless() -> str:
    return fakes.stream("hopeless", fakes.quiet(400, 80), fakes.broken(200, 81), fakes.noise(200, 82))


@pytest.mark.parametrize(
    ("stream", "aliases", "actions"),
    [
        (short_drift, {CHAMPION: 2, PREVIOUS: 1, CHALLENGER: None}, ["ignore", "optimize", "ignore"]),
        (broken_and_hopeless, {CHAMPION: 1, PREVIOUS: None, CHALLENGER: 2}, ["quarantine", "optimize"]),
    ],
)
def test_killed_after_any_write_and_started_again_it_ends_the_same(
    tmp_path: Path,
    databases: Callable[[], str],
    stream: Callable[[], str],
    aliases: dict[str, int | None],
    actions: list[str],
) -> None:
    unharmed = fakes.World(tmp_path / "unharmed", stream(), ONE_CANDIDATE)
    run(unharmed.process())
    expected = remembered(unharmed.process())
    assert expected["aliases"] == aliases
    assert [action for _, _, _, action, _ in expected["windows"]] == actions
    differing: dict[str, list[str]] = {}
    # a server differs in how it writes, not in what: each fourth write is enough there
    for dies_after in itertools.count(step=4 if "postgresql" in databases() else 1):
        kept = {"journal": {"url": databases()}}
        there = fakes.World(tmp_path / f"killed-{dies_after}", stream(), ONE_CANDIDATE | kept)
        try:
            run(mortal(there.process(), dies_after))
            break
        except Killed as death:
            check_alias(there)
            run(there.process())
            check_alias(there)
            now = remembered(there.process())
            wrong = [f"{key}: {now[key]} != {expected[key]}" for key in expected if now[key] != expected[key]]
            if wrong:
                differing[f"after write {dies_after} ({death})"] = wrong
        shutil.rmtree(there.home)
    assert dies_after > 25
    assert not differing, "\n".join(f"{where}: {' | '.join(what)}" for where, what in differing.items())


def check_alias(there: fakes.World) -> None:
    """Whatever happened: where there is a champion, it names a complete version that loads."""
    number = there.registry.aliases.get(CHAMPION)
    if number is not None:
        version = next(v for v in there.registry.versions() if v.number == number)
        verify(there.registry.folder / str(number), version.digests)
        champion.load(there.process(), number)


def test_two_loops_at_once_promote_once(tmp_path: Path, database: str) -> None:
    there = world(tmp_path, short_drift(), journal={"url": database}, **ONE_CANDIDATE)
    one, other = there.process(), there.process()
    reports = [loop.watch(parts, replay=True) for parts in (one, other)]
    for pair in itertools.zip_longest(*reports):
        assert any(report is not None for report in pair)
    assert [p.kind for p in one.journal.promotions()] == ["first", "promote"]
    assert len(there.registry.versions()) == 2


def test_the_journal_is_rebuilt_from_the_registry(tmp_path: Path, databases: Callable[[], str]) -> None:
    there = world(tmp_path, drift(), journal={"url": databases()})
    run(there.process())
    there.changes["journal"] = {"url": databases()}  # the other is lost
    serving = champion.reconcile(there.process())
    assert serving is not None
    assert serving.version == 2
    journal = Journal(there.process().project.journal_url, "p")
    assert [(p.epoch, p.version, p.kind) for p in journal.promotions()] == [(1, 1, "first"), (2, 2, "promote")]
    assert there.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}


@pytest.mark.servers("postgresql")
def test_the_password_of_a_journal_is_kept_nowhere(
    tmp_path: Path, postgresql: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    there = world(tmp_path, short_drift(), journal={"url": postgresql.database()}, **ONE_CANDIDATE)
    run(there.process())
    journal = there.process().journal
    with journal.engine.connect() as connection:
        rows = {name: connection.execute(select(table)).all() for name, table in Base.metadata.tables.items()}
    assert all(rows[name] for name in ("projects", "windows", "rounds", "promotions", "records"))
    files = [path.read_bytes() for path in there.home.rglob("*") if path.is_file()]
    told = [rows, status.describe(journal, there.registry), vars(there.registry), caplog.text]
    assert "trimtab:***@127.0.0.1" in str(rows["projects"])
    assert postgresql.PASSWORD not in str(told)
    assert not [file for file in files if postgresql.PASSWORD.encode() in file]
