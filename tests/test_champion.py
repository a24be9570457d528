"""The champion: loaded whole or not at all, promoted in order, rolled back, and put right after a stranger's hand."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import fakes
from trimtab import champion, loop
from trimtab.artifact import read_json, write_json
from trimtab.errors import ArtifactError, InputError
from trimtab.history import Promotion
from trimtab.registry import CHALLENGER, PREVIOUS, digests_of
from trimtab.runtime import CHAMPION

STREAM = [fakes.quiet(400, 90), fakes.quiet(200, 91), fakes.moved(200, 92), fakes.moved(200, 93)]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


@pytest.fixture
def there(plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fakes.World:
    """A project whose second version replaced the first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream = fakes.stream("champion", *STREAM)
    world = fakes.World(tmp_path / "home", stream, {"optimize": {"techniques": ["recentre", "convert"]}})
    list(loop.watch(world.process(), replay=True))
    assert world.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}
    return world


def test_a_version_is_loaded_with_all_that_it_was_judged_on(there: fakes.World) -> None:
    serving = champion.load(there.process(), 2)
    assert serving.model.format == "onnx"
    assert serving.parent.format == "torch"
    assert serving.schema.classes == (0, 1)
    assert serving.reference.number == 0
    assert serving.reference.probabilities is not None
    assert serving.reference.probabilities.shape == (len(serving.reference), 2)


def test_a_version_is_loaded_once_a_process(there: fakes.World) -> None:
    parts = there.process()
    assert champion.load(parts, 2) is champion.load(parts, 2)


def test_a_version_that_is_not_registered_does_not_load(there: fakes.World) -> None:
    with pytest.raises(ArtifactError, match="version 9 is not registered"):
        champion.load(there.process(), 9)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_what_does_not_load_is_not_promoted(there: fakes.World) -> None:
    parts = there.process()
    version = spoilt_version(there)
    with pytest.raises(ArtifactError, match="not numbers on its own reference"):
        champion.promote(parts, "spoilt", version, 2, "promote", {})
    assert [p.epoch for p in parts.journal.promotions()] == [1, 2]
    assert there.registry.alias(CHAMPION) == 2


def spoilt_version(there: fakes.World) -> int:
    """A registered version whose digests are right and whose model predicts no number."""
    package = there.home / "spoilt"
    shutil.copytree(there.registry.folder / "2", package)
    model = read_json(package / "model" / "model.onnx")
    write_json(package / "model" / "model.onnx", {"centroids": [[1e308] * 3, [1e308] * 3], "ballast": model["ballast"]})
    return there.registry.create_version("run", "spoilt", package, {}, "").number


def test_a_promotion_that_comes_late_changes_nothing(there: fakes.World) -> None:
    parts = there.process()
    assert champion.promote(parts, "late", 1, 1, "promote", {}) is None
    assert there.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}


def test_a_challenger_that_becomes_champion_is_no_challenger_any_more(there: fakes.World) -> None:
    parts = there.process()
    parts.registry.set_alias(CHALLENGER, 1)
    champion.promote(parts, "back", 1, 2, "approved", {})
    assert there.registry.aliases == {CHAMPION: 1, PREVIOUS: 2}


def test_rolling_back_makes_the_predecessor_champion_and_never_goes_forward(there: fakes.World) -> None:
    first = champion.rollback(there.process(), "undo", "it was worse")
    assert first is not None
    assert (first.epoch, first.version, first.kind) == (3, 1, "rollback")
    assert there.registry.aliases == {CHAMPION: 1}
    assert champion.rollback(there.process(), "undo", "it was worse") == first
    with pytest.raises(InputError, match="no earlier champion"):
        champion.rollback(there.process(), "further", "it was worse too")
    assert there.registry.aliases == {CHAMPION: 1}


def test_a_rollback_passes_over_a_predecessor_that_does_not_load(there: fakes.World) -> None:
    parts = there.process()
    package = parts.registry.fetch(2, there.home / "versions" / "2")
    third = parts.registry.create_version("run", "third", package, {}, "")
    champion.promote(parts, "third", third.number, champion.newest_epoch(parts), "approved", {})
    shutil.rmtree(package)
    (there.registry.folder / "2" / "schema.json").unlink()
    promotion = champion.rollback(there.process(), "undo", "why not")
    assert promotion is not None
    assert promotion.version == 1


def test_a_repair_does_not_go_forward_to_what_was_rolled_back(there: fakes.World) -> None:
    parts = there.process()
    package = parts.registry.fetch(2, there.home / "versions" / "2")
    third = parts.registry.create_version("run", "third", package, {}, "")
    champion.promote(parts, "third", third.number, champion.newest_epoch(parts), "approved", {})
    champion.rollback(parts, "undo", "it was worse")
    shutil.rmtree(package)
    (there.registry.folder / "2" / "schema.json").unlink()
    serving = champion.reconcile(there.process())
    assert serving is not None
    assert serving.version == 1


def test_a_rollback_that_another_promotion_overtakes_says_so(
    there: fakes.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = there.process()
    monkeypatch.setattr(champion, "newest_epoch", lambda _parts: 1)
    with pytest.raises(InputError, match="another promotion came first"):
        champion.rollback(parts, "undo", "it was worse")
    assert there.registry.aliases[CHAMPION] == 2


def test_the_first_champion_has_no_predecessor(plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    world = fakes.World(tmp_path / "home", fakes.stream("short", *STREAM[:2]))
    list(loop.watch(world.process(), replay=True))
    with pytest.raises(InputError, match="no earlier champion to roll back to"):
        champion.rollback(world.process(), "undo", "why not")


@pytest.mark.parametrize("instead", [1, None])
def test_an_alias_that_a_stranger_moved_or_dropped_is_put_back_and_told(
    there: fakes.World, instead: int | None
) -> None:
    there.registry.set_alias(CHAMPION, instead)
    there.registry.set_alias(PREVIOUS, None)
    serving = champion.reconcile(there.process())
    assert serving is not None
    assert serving.version == 2
    assert there.registry.aliases == {CHAMPION: 2, PREVIOUS: 1}
    assert [detail for _, _, detail in there.process().journal.records("repair")] == [{"alias": CHAMPION, "version": 2}]


def test_reconciling_what_is_right_changes_nothing(there: fakes.World) -> None:
    before = (dict(there.registry.aliases), there.registry.versions())
    for _ in range(2):
        champion.reconcile(there.process())
    assert (there.registry.aliases, there.registry.versions()) == before
    assert there.process().journal.records("repair") == []


def test_before_the_first_champion_there_is_none(plugins: None, tmp_path: Path) -> None:
    world = fakes.World(tmp_path / "home", fakes.stream("short", *STREAM[:2]))
    assert champion.reconcile(world.process()) is None


def test_drafts_that_a_crash_left_are_cleared_away(there: fakes.World) -> None:
    old, young = (there.home / "steps" / name for name in (".abc.1234", ".def.5678"))
    for draft in (old, young):
        draft.mkdir()
    os.utime(old, (0, 0))
    champion.reconcile(there.process())
    assert not old.exists()
    assert young.exists()  # another process may be filling it


def test_the_anchor_is_what_a_person_approved_last() -> None:
    def row(epoch: int, kind: str) -> Promotion:
        return Promotion(epoch, 10 + epoch, str(epoch), kind, {}, "")

    grown = [row(1, "first"), row(2, "promote"), row(3, "rollback")]
    assert champion.anchor(grown) == 11
    assert champion.anchor([*grown, row(4, "approved"), row(5, "promote")]) == 14


def test_rows_that_the_version_was_fitted_to_are_not_watched(
    plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    frames = [frame.assign(scan=np.arange(len(frame)) % 50) for frame in STREAM[:2]]
    world = fakes.World(
        tmp_path / "home", fakes.stream("scans", *frames), {"data": {"train": 1, "replay": 0, "group": "scan"}}
    )
    parts = world.process()
    list(loop.watch(parts, replay=True))
    serving = champion.load(parts, 1)
    frame = parts.window(1).frame
    frame = frame[champion.unseen(parts, serving, 0)(frame, 0)]
    assert 0 < len(frame) < 200
    assert len(serving.fitted) + frame["scan"].nunique() == 50
    assert not set(serving.reference.frame["scan"]) & (set(range(50)) - set(frame["scan"]))


def test_a_packages_digests_are_of_every_file(there: fakes.World) -> None:
    package = there.registry.folder / "2"
    version = there.registry.versions()[1]
    assert dict(version.digests) == digests_of(package)
    assert {"model/model.onnx", "parent/model.json", "schema.json", "reference.parquet", "recipe.json"} <= set(
        version.digests
    )
