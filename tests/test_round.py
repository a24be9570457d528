"""One round from the inside: the ladder, what is tried first, what is built once, and what failing comes to."""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fakes
from trimtab import champion, loop
from trimtab.errors import PluginError
from trimtab.history import Round
from trimtab.pareto import order
from trimtab.parts import Parts
from trimtab.registry import MemoryRegistry
from trimtab.round import TAKES, _rungs, optimize, request_by_hand
from trimtab.runtime import CHAMPION
from trimtab.search import by_quality

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

ALL = ["follow", "recentre", {"drop": {"columns": [1, 2]}}, "mimic", "convert", "spoil"]


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def world(tmp_path: Path, **optimize: Any) -> fakes.World:
    rows = [fakes.quiet(400, 1), fakes.quiet(200, 2), *(fakes.moved(200, 10 + i) for i in range(3))]
    settings = {"techniques": ALL, "candidates": 20, "finalists": 8, **optimize}
    return fakes.World(tmp_path / "home", fakes.stream(str(tmp_path), *rows), {"optimize": settings})


def first_round(parts: Parts) -> Round:
    return next(r.round for r in loop.watch(parts, replay=True) if r.round is not None)


def recipes(asked: Round) -> list[str]:
    return [c["recipe"] for c in asked.detail["candidates"]]


def built(parts: Parts) -> list[str]:
    return [str(detail["technique"]) for _, _, detail in parts.journal.records("step")]


def test_a_ladder_ends_at_the_first_rung_that_mends_and_says_what_the_others_would_have_cost(tmp_path: Path) -> None:
    there = world(tmp_path, ladder=True)
    asked = first_round(there.process())
    assert asked.outcome == "promoted"
    assert asked.detail["targets"][CHAMPION]["winner"] == "champion > follow > convert"
    assert recipes(asked) == ["champion > follow > convert", "champion > follow > convert > spoil"]
    assert len(asked.detail["spared"]) == 2
    assert all(line.startswith("spared: up to ") for line in asked.detail["spared"])
    assert "recentre" in asked.detail["spared"][0]


def test_a_rung_that_does_not_mend_is_followed_by_the_next(tmp_path: Path) -> None:
    techniques = [{"drop": {"columns": [1, 2]}}, "recentre", "convert", "spoil"]
    there = world(tmp_path, ladder=True, techniques=techniques)
    asked = first_round(there.process())
    assert asked.detail["targets"][CHAMPION]["winner"] == "champion > recentre > convert"
    assert recipes(asked)[:2] == ["champion > recentre > convert", "champion > recentre > convert > spoil"]
    assert not any("drop" in name for name in recipes(asked))


def test_without_a_ladder_the_cheap_ones_come_first_and_everything_is_tried(tmp_path: Path) -> None:
    asked = first_round(world(tmp_path).process())
    assert recipes(asked)[:3] == [
        "champion > follow > convert",
        "champion > follow > convert > spoil",
        "convert > spoil",
    ]
    assert "recentre > drop(columns=2) > mimic > convert" in recipes(asked)


def test_the_last_winner_is_tried_first_in_the_next_round(tmp_path: Path) -> None:
    there = world(tmp_path, techniques=["recentre", {"drop": {"columns": [1, 2]}}, "convert"], recipes=[])
    there.changes["targets"] = [{"runtime": "numpy", "prefer": "size"}]
    winner = first_round(there.process()).detail["targets"][CHAMPION]["winner"]
    assert "drop" in winner
    parts = there.process()
    again = optimize(parts, request_by_hand(parts, "once more"))
    assert recipes(again)[0] == winner


def test_the_same_search_again_builds_nothing_and_one_more_technique_only_its_own_steps(tmp_path: Path) -> None:
    gate = {"max_slowdown": 99.0, "min_gain": 99.0, "max_quality_drop": 0.0, "max_total_drop": 0.0}
    rows = [fakes.quiet(400, 1), fakes.quiet(200, 2)]
    changes = {"optimize": {"techniques": ["recentre", "convert"], "candidates": 20}, "gate": gate}
    there = fakes.World(tmp_path / "home", fakes.stream(str(tmp_path), *rows), changes)
    list(loop.watch(there.process(), replay=True))

    def round_of(reason: str) -> list[str]:
        parts = there.process()
        before = len(built(parts))
        asked = optimize(parts, request_by_hand(parts, reason))
        assert asked.outcome == "kept"
        return built(parts)[before:]

    assert round_of("one") == ["recentre", "convert"]
    assert round_of("two") == []
    there.changes["optimize"] = {"techniques": ["recentre", "convert", "spoil"], "candidates": 20}
    assert sorted(round_of("three")) == ["spoil", "spoil"]  # of the parent, and of what was trained
    assert round_of("four") == []


def test_a_round_whose_every_candidate_fails_lists_the_errors_and_leaves_the_champion(tmp_path: Path) -> None:
    there = world(tmp_path, techniques=["convert", "explode"])
    asked = first_round(there.process())
    assert asked.outcome == "degraded"
    assert [(c["recipe"], c["outcome"]) for c in asked.detail["candidates"]] == [("convert > explode", "failed")]
    assert "explode" in asked.detail["candidates"][0]["reasons"][0]
    assert "on purpose" in asked.detail["candidates"][0]["reasons"][0]
    assert there.registry.aliases == {CHAMPION: 1}


class Refuses:
    """A registry that takes no version any more."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self.registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self.registry, name)

    def create_version(self, candidate_id: str, operation: str, *rest: Any) -> Any:
        if self.registry.versions():
            raise PluginError("no more versions")
        return self.registry.create_version(candidate_id, operation, *rest)


def test_a_round_that_raises_is_closed_in_the_journal_and_in_the_registry(tmp_path: Path) -> None:
    there = world(tmp_path)
    there.wrap = Refuses
    parts = there.process()
    list(loop.watch(parts, replay=True))
    _, *asked = parts.journal.rounds()
    assert [(r.state, r.outcome, r.detail) for r in asked] == [("closed", "failed", {"error": "no more versions"})] * 2
    assert list(there.registry.outcomes.values()) == ["promoted", "failed", "failed"]


def test_a_failed_candidate_is_one_row_and_not_the_end(tmp_path: Path) -> None:
    there = world(tmp_path, techniques=["recentre", "convert", "explode"])
    asked = first_round(there.process())
    assert asked.outcome == "promoted"
    assert {c["outcome"] for c in asked.detail["candidates"]} == {"passed", "failed"}


def test_a_round_ends_in_its_minutes_with_the_best_so_far(tmp_path: Path) -> None:
    many = ["recentre", {"linger": {"which": list(range(60))}}, "convert"]
    there = world(tmp_path, techniques=many, candidates=99, minutes=0.1)
    parts = there.process()
    begin = time.monotonic()
    asked = next(r.round for r in loop.watch(parts, replay=True) if r.round is not None)
    assert time.monotonic() - begin < 20
    outcomes = [c["outcome"] for c in asked.detail["candidates"]]
    assert outcomes[-1] == "stopped"
    assert len(outcomes) < 50
    assert asked.outcome == "promoted"


def test_a_round_that_goes_on_has_only_the_minutes_that_are_left(tmp_path: Path) -> None:
    there = world(tmp_path, techniques=["recentre", "convert", "spoil"], minutes=1)
    parts = there.process()
    for report in loop.watch(parts, replay=True):
        if report.window == 1:
            break
    asked = request_by_hand(there.process(), "curious")
    step = {"round": asked.operation, "fingerprint": "f", "technique": "recentre", "effort": 0}
    parts.journal.record("step", {**step, "begun": 0.0, "seconds": 61.0})
    done = optimize(there.process(), asked)
    assert [c["outcome"] for c in done.detail["candidates"]] == ["stopped"] * len(done.detail["candidates"])
    assert "the round's minutes were spent" in done.detail["candidates"][0]["reasons"][0]
    assert done.outcome == "kept"


def test_what_was_decided_before_a_crash_is_carried_out_as_it_stands(tmp_path: Path) -> None:
    there = world(tmp_path)
    parts = there.process()
    with pytest.raises(KeyboardInterrupt):
        first_round(dataclasses.replace(parts, journal=fakes.DiesPromoting(parts.journal, ":round:")))  # type: ignore[arg-type]
    decided = next(d for _, _, d in parts.journal.records("decided"))
    before, versions = built(parts), len(parts.registry.versions())
    there.changes["optimize"] = {"techniques": ["recentre", "convert"], "candidates": 1}  # it would decide otherwise
    asked = first_round(there.process())
    assert asked.outcome == "promoted"
    assert [c["recipe"] for c in asked.detail["candidates"]] == [c["recipe"] for c in decided["detail"]["candidates"]]
    assert there.registry.aliases[CHAMPION] == decided["versions"][CHAMPION]
    assert (built(there.process()), len(there.registry.versions())) == (before, versions)


def test_cheap_recipes_leave_room_for_what_is_drawn(tmp_path: Path) -> None:
    asked = first_round(world(tmp_path, candidates=4).process())
    assert [c["outcome"] == "stopped" for c in asked.detail["candidates"]] == [False] * 4 + [True]
    assert "optimize.candidates: 4 were tried" in asked.detail["candidates"][4]["reasons"][0]
    assert recipes(asked)[:2] == ["champion > follow > convert", "champion > follow > convert > spoil"]
    assert not recipes(asked)[2].startswith("champion")
    assert "recentre" in recipes(asked)[2]


def test_recipes_beyond_the_number_of_candidates_are_listed_as_not_begun(tmp_path: Path) -> None:
    own = [
        {"steps": [{"technique": "convert"}, {"technique": "spoil", "settings": {}}]},
        {"steps": [{"technique": "recentre"}, {"technique": "convert"}]},
    ]
    asked = first_round(world(tmp_path, candidates=1, recipes=own).process())
    assert [c["outcome"] for c in asked.detail["candidates"]][1] == "stopped"
    assert "optimize.candidates: 1 were tried" in asked.detail["candidates"][1]["reasons"][0]


def test_killed_in_the_middle_of_a_search_no_finished_step_is_built_again(
    tmp_path: Path, databases: Callable[[], str]
) -> None:
    there, asked = long_search(tmp_path / "killed", databases())
    parts = there.process()
    child = multiprocessing.get_context("fork").Process(target=lambda: optimize(there.process(), asked))
    child.start()
    while len(prints(parts)) < 8:
        assert child.is_alive(), "it ended before it could be killed"
        time.sleep(0.02)
    child.kill()
    child.join()
    before = prints(parts)
    done = optimize(there.process(), asked)
    after = prints(parts)
    assert done.outcome in ("promoted", "kept")
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert len(after) == len(set(after))
    other, same = long_search(tmp_path / "undisturbed", databases())
    assert recipes(done) == recipes(optimize(other.process(), same))


def long_search(tmp_path: Path, journal: str) -> tuple[fakes.World, Round]:
    """A round of many slow steps that was asked for, and one that fails and is not tried again."""
    tmp_path.mkdir()
    many = ["recentre", {"linger": {"which": list(range(12))}}, "convert", "explode"]
    there = world(tmp_path, techniques=many, candidates=40, finalists=2)
    there.changes["journal"] = {"url": journal}
    for report in loop.watch(there.process(), replay=True):
        if report.window == 1:
            break
    return there, request_by_hand(there.process(), "curious")


def prints(parts: Parts) -> list[str]:
    return [str(detail["fingerprint"]) for _, _, detail in parts.journal.records("step")]


def test_a_round_that_ends_its_process_again_and_again_is_given_up(tmp_path: Path, database: str) -> None:
    there = world(tmp_path, techniques=["recentre", "convert"])
    there.changes["journal"] = {"url": database}
    for report in loop.watch(there.process(), replay=True):
        if report.window == 1:
            break
    asked = request_by_hand(there.process(), "curious")
    for _ in range(TAKES):
        parts = there.process()
        with pytest.raises(KeyboardInterrupt):
            optimize(dataclasses.replace(parts, executor=Dying()), asked)
    with pytest.raises(PluginError, match="taken up 5 times in a row"):
        optimize(there.process(), asked)
    assert [r.outcome for r in there.process().journal.rounds() if r.operation == asked.operation] == ["failed"]


class Dying:
    """An executor whose process ends before anything is built."""

    def call(self, name: str, function: Any, *arguments: Any) -> Any:
        if name == "log round":
            return function(*arguments)
        raise KeyboardInterrupt


def test_a_round_that_a_promotion_overtook_is_closed_in_the_registry_too(tmp_path: Path) -> None:
    there = world(tmp_path)
    for report in loop.watch(there.process(), replay=True):
        if report.window == 1:
            break
    asked = request_by_hand(there.process(), "curious")
    with pytest.raises(KeyboardInterrupt):
        optimize(dataclasses.replace(there.process(), executor=Dying()), asked)
    parts = there.process()
    champion.promote(parts, "by hand", 1, parts.journal.promotions()[-1].epoch, "rollback", {})
    assert optimize(parts, asked).outcome == "lost"
    assert list(there.registry.outcomes.values()) == ["promoted", "lost"]


def test_what_another_process_decided_first_is_carried_out(tmp_path: Path, database: str) -> None:
    there = world(tmp_path)
    there.changes["journal"] = {"url": database}
    for report in loop.watch(there.process(), replay=True):
        if report.window == 1:
            break
    asked = request_by_hand(there.process(), "curious")
    nobody = {"rows": {}, "candidates": [], "targets": {}, "spared": [], "version": None, "champion": 1}
    first = {"versions": {}, "challenger": None, "repair": False, "detail": nobody}

    class Slept(MemoryRegistry):
        """While this process slept, another one decided that nothing wins."""

        def log_candidate(self, *given: Any) -> str:
            decided = {"round": asked.operation, "run": asked.operation, **first}
            there.process().journal.record("decided", decided, f"decided:{asked.operation}")
            return there.registry.log_candidate(*given)

    slept = Slept(there.home / "registry")
    slept.__dict__ |= {k: v for k, v in there.registry.__dict__.items() if k != "log_candidate"}
    done = optimize(dataclasses.replace(there.process(), registry=slept), asked)
    assert done.outcome == "kept"
    assert there.registry.aliases == {CHAMPION: 1}


def test_the_ladder_takes_no_room_from_what_only_compresses(tmp_path: Path) -> None:
    there = world(tmp_path, techniques=["follow", "convert", "spoil"], ladder=True, candidates=2)
    rungs = _rungs(there.process())
    assert "convert > spoil" in [r.name for r in rungs[-1].given]


def test_where_every_target_prefers_quality_the_search_goes_by_it(tmp_path: Path) -> None:
    there = world(tmp_path)
    assert _rungs(there.process())[-1].rank is order
    there.changes["targets"] = [{"runtime": "numpy", "prefer": "quality"}]
    assert _rungs(there.process())[-1].rank is by_quality
