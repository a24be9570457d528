"""The doctor: every installed part is tried, what fails is told, and nothing that fails hides the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import fakes, shelf
from trimtab import loop
from trimtab.doctor import Check, aliases, examine
from trimtab.errors import ServiceError
from trimtab.registry import CHAMPION
from trimtab.settings import Project
from trimtab_prometheus.doctor import examine as examine_scrapes


def well(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    yield Check("it is well")


def fails(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    yield Check("begun")
    raise ZeroDivisionError("no luck today")


def silent(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    raise ServiceError("the server is gone; start it")
    yield


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    points = {kind: {n: f"fakes.{v}" for n, v in names.items()} for kind, names in fakes.ENTRY_POINTS.items()}
    points |= {"registries": {"shelf": "shelf.Shelf"}}
    points |= {"doctors": {"a-well": "well", "b-fails": "fails", "c-silent": "silent"}}
    with fakes.installed(tmp_path_factory.mktemp("site"), points, __name__):
        yield


def watched(home: Path) -> tuple[fakes.World, dict[Path, Project]]:
    there = shelf.world(home, fakes.stream(f"doctor-{home}", fakes.quiet(400, 0), fakes.quiet(200, 1)))
    return there, {home / "p.yaml": there.process().project}


def test_one_that_fails_is_told_and_the_others_are_tried(tmp_path: Path) -> None:
    _, projects = watched(tmp_path)
    told = {c.what: c.problem for c in examine(projects, {})}
    assert (told["it is well"], told["begun"]) == (None, None)
    assert told["b-fails"] == "the check itself failed with ZeroDivisionError: no luck today"
    assert told["c-silent"] == "the server is gone; start it"


@pytest.mark.usefixtures("lock_of_its_own")
def test_an_alias_that_is_missing_or_moved_is_told(tmp_path: Path) -> None:
    there, projects = watched(tmp_path)
    (before,) = aliases(projects, {})
    assert "there is no champion yet" in str(before.problem)
    list(loop.watch(there.process(), replay=True))
    assert [c.problem for c in aliases(projects, {})] == [None]
    del there.registry.aliases[CHAMPION]
    (missing,) = aliases(projects, {})
    assert "it names nothing, and the journal's champion is version 1" in str(missing.problem)
    there.registry.aliases[CHAMPION] = 9
    (moved,) = aliases(projects, {})
    assert "it names version 9" in str(moved.problem)


@pytest.mark.usefixtures("lock_of_its_own")
def test_a_registry_that_is_away_hides_no_other_projects_aliases(tmp_path: Path) -> None:
    (away, first), (there, second) = watched(tmp_path / "away"), watched(tmp_path / "there")
    for one in (away, there):
        list(loop.watch(one.process(), replay=True))
    away.registry.down = True
    told = [c.problem for c in aliases({**first, **second}, {})]
    assert told == ["the registry is down", None]


def test_an_exporter_that_is_not_there_is_told(tmp_path: Path) -> None:
    _, projects = watched(tmp_path)
    (none,) = examine_scrapes(projects, {})
    assert "none is up" in str(none.problem)
    gone = {"exporter": "http://127.0.0.1:9/metrics", "prometheus": "http://127.0.0.1:9"}
    assert all("does not answer" in str(c.problem) for c in examine_scrapes(projects, gone))
