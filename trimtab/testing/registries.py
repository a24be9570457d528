"""What a registry promises."""

# ruff: noqa: D401 (the docstring of a check says what is lost, which is no command)

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from trimtab.errors import ArtifactError
from trimtab.registry import CandidateLog, Registry, RoundLog
from trimtab.runtime import CHAMPION
from trimtab.testing.material import (
    Material,
    files_in,
)
from trimtab.testing.promise import require


def check_writes_happen_once(registry: Registry, material: Material) -> None:
    """After a crash the same version is registered twice, and nobody knows which one serves."""
    registry.ready()
    made = [_register(registry, material, "once") for _ in range(2)]
    require(made[0].number == made[1].number, f"one operation made versions {made[0].number} and {made[1].number}")
    numbers = [v.number for v in registry.versions()]
    require(numbers.count(made[0].number) == 1, f"versions() are {numbers}")


def _register(registry: Registry, material: Material, operation: str) -> Any:
    package = material.base / f"package-{operation}"
    (package / "parent").mkdir(parents=True, exist_ok=True)
    for name in ("schema.json", "parent/spec.json"):
        (package / name).write_text(f'{{"operation": "{operation}"}}')
    run = registry.log_round(RoundLog(f"{operation}:round", operation, {"trimtab.trigger": "worse"}, {"seed": "1"}))
    example = material.rows.take(np.arange(2)).inputs
    log = CandidateLog(
        operation=f"{operation}:candidate",
        name=operation,
        tags={},
        params={"recipe": "export"},
        metrics={"quality": 0.5},
        model=material.exported,
        example=example,
        outputs=material.serving.load(material.exported).run(example),
    )
    candidate = registry.log_candidate(run, log)
    version = registry.create_version(candidate, operation, package, {"trimtab.epoch": "1"}, "a version of the checks")
    registry.close_round(run, "promoted", {"trimtab.outcome": "promoted"})
    return version


def check_package_comes_back(registry: Registry, material: Material) -> None:
    """The champion cannot be loaded on another machine, or is another one there."""
    version = _register(registry, material, "package")
    folder = registry.fetch(version.number, material.job("fetched").folder / "package")
    found = {p.relative_to(folder).as_posix() for p in files_in(folder)}
    require(found == set(version.digests), f"the package came back with {sorted(found)}, not {sorted(version.digests)}")
    with contextlib.suppress(ArtifactError):
        registry.fetch(version.number + 1000, material.job("unknown").folder / "package")
        require(False, "a version that does not exist was fetched")


def check_alias_follows(registry: Registry, material: Material) -> None:
    """Serving reads the alias and loads yesterday's champion."""
    first, second = (_register(registry, material, f"alias-{i}").number for i in (1, 2))
    for number in (first, second, second, first):
        registry.set_alias(CHAMPION, number)
        require(registry.alias(CHAMPION) == number, f"alias was set to {number} and is {registry.alias(CHAMPION)}")
    registry.set_alias(CHAMPION, None)
    registry.set_alias(CHAMPION, None)
    require(registry.alias(CHAMPION) is None, "an alias that was removed is still there")


def check_tags_are_added(registry: Registry, material: Material) -> None:
    """A journal that was lost cannot be rebuilt from the registry."""
    version = _register(registry, material, "tags")
    registry.tag_version(version.number, {"trimtab.more": "2"})
    tags = next(v.tags for v in registry.versions() if v.number == version.number)
    require(
        tags.get("trimtab.epoch") == "1" and tags.get("trimtab.more") == "2",
        f"tags trimtab.epoch=1 and trimtab.more=2 were set; the version has {dict(tags)}",
    )
