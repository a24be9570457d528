"""Several targets from one round: each has its own winner, its own runtime, its own alias; none disturbs another."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fakes
from trimtab import champion, loop, status
from trimtab.errors import ArtifactError, InputError, SettingsError
from trimtab.parts import Parts
from trimtab.round import optimize, request_by_hand
from trimtab.runtime import CHAMPION
from trimtab.settings import Project

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

EDGE, BATCH = "champion-edge", "champion-batch"
SERVER = {"runtime": "numpy", "prefer": "quality"}
TARGETS = [SERVER, {"name": "edge", "runtime": "numpy", "max_size_mb": 0.00012, "max_quality_drop": 0.3}]
NARROW = {"techniques": ["recentre", {"drop": {"columns": [1, 2]}}, "convert"]}
GAIN_IN_SIZE = {"max_slowdown": 99.0, "min_gain": 0.05, "max_quality_drop": 0.05, "max_total_drop": 0.4}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def world(tmp_path: Path, **changes: Any) -> fakes.World:
    rows = [fakes.quiet(400, 1), fakes.quiet(200, 2), *(fakes.moved(200, 10 + i) for i in range(3))]
    plain = {"targets": TARGETS, "optimize": NARROW, "gate": GAIN_IN_SIZE}
    return fakes.World(tmp_path / "home", fakes.stream("targets", *rows), {**plain, **changes})


def run(parts: Parts) -> list[loop.Report]:
    return list(loop.watch(parts, replay=True))


def test_one_round_gives_each_target_its_own_champion(tmp_path: Path) -> None:
    there = world(tmp_path)
    done = next(r.round for r in run(there.process()) if r.round is not None)
    aliases = there.registry.aliases
    assert done.outcome == "promoted"
    assert aliases[CHAMPION] != aliases[EDGE] != 1
    parts = there.process()
    server, edge = (champion.load(parts, aliases[a]) for a in (CHAMPION, EDGE))
    assert edge.model.size_bytes <= 120 < server.model.size_bytes
    assert done.detail["targets"][EDGE]["winner"] == "recentre > drop(columns=2) > convert"
    told = status.describe(parts.journal, there.registry)
    assert told["targets"] == {CHAMPION: aliases[CHAMPION], EDGE: aliases[EDGE]}


def test_what_breaks_a_targets_bound_is_not_judged_there_and_says_why(tmp_path: Path) -> None:
    there = world(tmp_path)
    done = next(r.round for r in run(there.process()) if r.round is not None)
    whole = next(c for c in done.detail["candidates"] if c["recipe"] == "recentre > convert")
    assert whole["targets"][EDGE]["outcome"] == "behind"
    assert "allowed (max_size_mb)" in whole["targets"][EDGE]["reasons"][0]
    assert whole["targets"][CHAMPION]["outcome"] == "passed"


def test_the_runtime_is_part_of_the_search_and_kept_with_the_version(tmp_path: Path) -> None:
    either = [{"runtime": ["slow", "numpy"]}, {"name": "batch", "runtime": "slow", "batch": 32}]
    there = world(tmp_path, targets=either, optimize={"techniques": ["recentre", "convert"]})
    run(there.process())
    parts = there.process()
    assert champion.load(parts, there.registry.aliases[CHAMPION]).setup.runtime == "numpy"
    assert champion.load(parts, there.registry.aliases[BATCH]).setup.runtime == "slow"
    assert there.registry.aliases[CHAMPION] != there.registry.aliases[BATCH]


def test_targets_that_choose_the_same_share_a_version(tmp_path: Path) -> None:
    twins = [{"runtime": "numpy"}, {"name": "batch", "runtime": "numpy", "batch": 8}]
    there = world(tmp_path, targets=twins, optimize={"techniques": ["recentre", "convert"]})
    run(there.process())
    assert there.registry.aliases[CHAMPION] == there.registry.aliases[BATCH] == 2


def test_a_target_that_is_added_later_begins_with_the_first_ones_champion(tmp_path: Path) -> None:
    there = world(tmp_path, targets=[SERVER])
    run(there.process())
    now = there.registry.aliases[CHAMPION]
    there.changes["targets"] = TARGETS
    champion.reconcile(there.process())
    assert there.registry.aliases[EDGE] == now


def test_a_target_that_is_added_while_a_round_is_open_is_part_of_it(tmp_path: Path) -> None:
    there = world(tmp_path, targets=[SERVER])
    rows = there.process()
    for report in loop.watch(rows, replay=True):
        if report.window == 1:
            break
    asked = request_by_hand(there.process(), "curious")
    there.changes["targets"] = TARGETS
    done = optimize(there.process(), asked)
    assert done.outcome in ("promoted", "kept")
    assert all({CHAMPION, EDGE} <= set(c["targets"]) for c in done.detail["candidates"] if c["outcome"] != "stopped")
    promotions = there.process().journal.promotions(None)
    assert [p.alias for p in promotions[:2]] == [CHAMPION, EDGE]


def test_a_candidate_that_fails_on_one_target_is_judged_on_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = world(tmp_path, targets=[SERVER, {"name": "batch", "runtime": "slow"}])
    for report in loop.watch(there.process(), replay=True):
        if report.window == 1:
            break
    known = champion.load(there.process(), 1).model.digest
    load = fakes.SlowRuntime.load

    def refuse(runtime: Any, model: Any, *rest: int) -> Any:
        if model.digest != known:
            raise ArtifactError("no kernel for it")
        return load(runtime, model, *rest)

    monkeypatch.setattr(fakes.SlowRuntime, "load", refuse)
    done = next(r.round for r in run(there.process()) if r.round is not None)
    assert done.outcome == "promoted"
    assert set(done.detail["targets"]) == {CHAMPION}
    told = [c["targets"] for c in done.detail["candidates"] if CHAMPION in c["targets"]]
    assert told
    assert {t[BATCH]["outcome"] for t in told} == {"failed"}
    assert {t[BATCH]["reasons"][0] for t in told} == {"no kernel for it"}


def test_a_round_before_every_target_has_its_first_champion_is_refused(tmp_path: Path) -> None:
    there = world(tmp_path)
    there.wrap = DiesOnce
    with pytest.raises(KeyboardInterrupt):
        run(there.process())
    there.wrap = lambda registry: registry
    parts = there.process()
    with pytest.raises(InputError, match="the first champion is not complete"):
        optimize(parts, request_by_hand(parts, "too soon"))


def test_killed_between_two_promotions_both_targets_follow_one_decision(tmp_path: Path) -> None:
    there = world(tmp_path)
    parts = there.process()
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(parts, journal=fakes.DiesPromoting(parts.journal, EDGE)))  # type: ignore[arg-type]
    decided = next(d for _, _, d in parts.journal.records("decided"))
    assert set(decided["versions"]) == {CHAMPION, EDGE}
    assert there.registry.aliases[EDGE] == 1
    there.changes["optimize"] = {"techniques": ["recentre", "convert"], "candidates": 1}  # it would decide otherwise
    run(there.process())
    assert {alias: there.registry.aliases[alias] for alias in (CHAMPION, EDGE)} == decided["versions"]


def test_rolling_back_one_target_leaves_the_other(tmp_path: Path) -> None:
    there = world(tmp_path)
    run(there.process())
    before = dict(there.registry.aliases)
    champion.rollback(there.process(), "back", "too coarse", EDGE)
    assert there.registry.aliases[EDGE] == 1
    assert there.registry.aliases[CHAMPION] == before[CHAMPION]
    champion.reconcile(there.process())
    assert there.registry.aliases[EDGE] == 1


def test_a_lost_journal_is_rebuilt_for_every_target(tmp_path: Path) -> None:
    there = world(tmp_path)
    run(there.process())
    before = dict(there.registry.aliases)
    (there.home / "journal.db").unlink()
    champion.reconcile(there.process())
    assert there.registry.aliases == before
    assert {p.alias for p in there.process().journal.promotions(None)} == {CHAMPION, EDGE}


def test_a_damaged_champion_of_one_target_falls_back_there_alone(tmp_path: Path) -> None:
    there = world(tmp_path)
    run(there.process())
    before = dict(there.registry.aliases)
    shutil.rmtree(there.home / "versions" / str(before[EDGE]))
    (there.registry.folder / str(before[EDGE]) / "model" / "model.onnx").write_text('{"centroids"')
    champion.reconcile(there.process())
    assert there.registry.aliases[CHAMPION] == before[CHAMPION]
    assert there.registry.aliases[EDGE] == 1
    with pytest.raises(ArtifactError):
        champion.load(there.process(), before[EDGE])


def test_a_round_by_hand_on_a_quiet_stream_moves_only_the_target_that_gains(tmp_path: Path) -> None:
    rows = [fakes.quiet(400, 1), *(fakes.quiet(200, 2 + i) for i in range(3))]
    there = fakes.World(
        tmp_path / "home",
        fakes.stream("still", *rows),
        {"targets": TARGETS, "optimize": NARROW, "gate": GAIN_IN_SIZE | {"min_gain": 0.2}},
    )
    run(there.process())
    parts = there.process()
    done = optimize(parts, request_by_hand(parts, "smaller"))
    assert done.detail["targets"][EDGE]["promoted"]
    assert there.registry.aliases[EDGE] != 1


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([SERVER, {"runtime": "numpy"}], "every target but the first needs a name"),
        ([SERVER, TARGETS[1], TARGETS[1]], "targets share a name: .*; give each its own"),
        ([{"runtime": {"a": {}, "b": {}}}], "a runtime is a name, or one name with a mapping"),
        ([{"runtime": "numpy", "max_size_mb": 0}], "greater than 0"),
    ],
)
def test_targets_that_cannot_be_told_apart_are_refused(tmp_path: Path, targets: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Project.model_validate(fakes.settings(tmp_path, "none", targets=targets))


def test_a_target_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    project = Project.model_validate(fakes.settings(tmp_path, "none", targets=TARGETS))
    with pytest.raises(SettingsError, match=r"no target is named 'edje'; targets: edge\. Did you mean 'edge'\?"):
        project.alias_of("edje")


class DiesOnce:
    """A registry whose first ``tag_version`` never returns: the first target has its champion, the second none yet."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry

    def __getattr__(self, name: str) -> Any:
        if name == "tag_version":
            raise KeyboardInterrupt
        return getattr(self.registry, name)


def test_killed_between_two_first_promotions_each_target_still_gets_its_own_version(tmp_path: Path) -> None:
    other = [{"runtime": "numpy"}, {"name": "batch", "runtime": "slow"}]
    there = world(tmp_path, targets=other)
    there.wrap = DiesOnce
    with pytest.raises(KeyboardInterrupt):
        run(there.process())
    assert [p.alias for p in there.process().journal.promotions(None)] == [CHAMPION]
    there.wrap = lambda registry: registry
    run(there.process())
    parts = there.process()
    first_of_batch = parts.journal.promotions(BATCH)[0].version
    assert champion.load(parts, first_of_batch).setup.runtime == "slow"
