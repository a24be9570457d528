"""What trimtab asks of a tracker and model registry, and an in-memory one that keeps every promise for tests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import pandas as pd

from trimtab.artifact import Model, fill_folder, sha256_file, verify
from trimtab.errors import ArtifactError, ServiceError
from trimtab.runtime import CHAMPION, Setup

__all__ = [
    "CHALLENGER",
    "PREVIOUS",
    "CandidateLog",
    "DatasetLog",
    "MemoryRegistry",
    "Overview",
    "Registry",
    "RoundLog",
    "Version",
    "beside",
    "digests_of",
]

PREVIOUS = "previous"
CHALLENGER = "challenger"


@dataclass(frozen=True)
class DatasetLog:
    """Rows that a round used: ``context`` says for what (train, judge, reference, ...), ``frame`` holds them."""

    name: str
    context: str
    frame: pd.DataFrame
    source: str
    label: str | None = None


@dataclass(frozen=True)
class RoundLog:
    """A round as it is logged: one run, found again by ``operation``.

    Parameters
    ----------
    reports
        Pages about the windows that led to it, HTML files to keep with it.
    """

    operation: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    datasets: Sequence[DatasetLog] = ()
    reports: Sequence[Path] = ()


@dataclass(frozen=True)
class CandidateLog:
    """A candidate as it is logged: one nested run, found again by ``operation``; also a failed or rejected one.

    Parameters
    ----------
    model
        The exported model, or None where it was never built.
    example
        Inputs of a few rows, for the signature: arrays by input name.
    setup
        The runtime that loads it, or None where it was never loaded.
    failed
        Whether it ended in an error.
    """

    operation: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    model: Model | None = None
    example: Mapping[str, object] = field(default_factory=dict)
    outputs: Mapping[str, object] = field(default_factory=dict)
    setup: Setup | None = None
    failed: bool = False


@dataclass(frozen=True)
class Version:
    """One registered version of the project's model.

    Parameters
    ----------
    number
        1, 2, 3, ...
    operation
        The operation id that created it; creating it again gives the same version.
    tags
        Ancestry: trigger, parent version, recipe, fingerprint, data digest, epoch.
    digests
        SHA-256 of every file of its package by relative name.
    """

    number: int
    operation: str
    tags: Mapping[str, str]
    digests: Mapping[str, str]


def beside(alias: str, word: str) -> str:
    """Return the alias of another version on the same target.

    Examples
    --------
    >>> beside("champion", "previous"), beside("champion-edge", "challenger")
    ('previous', 'challenger-edge')
    """
    return word + alias.removeprefix(CHAMPION)


def digests_of(package: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below ``package`` by relative name."""
    files = (p for p in sorted(package.rglob("*")) if p.is_file())
    return {p.relative_to(package).as_posix(): sha256_file(p) for p in files}


class Registry(Protocol):
    """Tracks rounds and candidates, and holds the registered versions and their aliases.

    Every write carries an operation id, and doing it again changes nothing. A server that does not
    answer is a :class:`~trimtab.errors.ServiceError`.

    A version's *package* is a folder: ``model/`` (what serves), ``parent/`` (the float model it was
    cut from), ``schema.json``, ``reference.parquet``, ``recipe.json`` and ``fitted.npz`` (the groups
    that it was trained on, and those of the reference's rows). An alias or a tag for an unknown version
    is an ArtifactError.
    """

    name: ClassVar[str]

    def ready(self) -> None:
        """Check that the registry answers, and create what it needs on first use."""
        ...

    def log_round(self, log: RoundLog) -> str:
        """Open (or find) the run of a round and return its id."""
        ...

    def log_candidate(self, round_id: str, log: CandidateLog) -> str:
        """Log (or find) a candidate's nested run under its round, with its model, and return its id."""
        ...

    def close_round(self, round_id: str, outcome: str, tags: Mapping[str, str]) -> None:
        """End the round's run with its outcome."""
        ...

    def create_version(
        self, candidate_id: str, operation: str, package: Path, tags: Mapping[str, str], description: str
    ) -> Version:
        """Register (or find) the version that ``operation`` creates, with every file of ``package`` and its digest."""
        ...

    def versions(self) -> list[Version]:
        """Return every registered version that is complete, oldest first."""
        ...

    def fetch(self, number: int, folder: Path) -> Path:
        """Bring a version's package to ``folder`` (once), check every digest, and return it.

        Raises
        ------
        ArtifactError
            When the version is unknown, or a file is missing or differs from its digest.
        """
        ...

    def alias(self, name: str) -> int | None:
        """Return the version that the alias names, or None."""
        ...

    def set_alias(self, name: str, number: int | None) -> None:
        """Point the alias at a version, or remove it."""
        ...

    def tag_version(self, number: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        ...

    def links(self) -> Mapping[str, str]:
        """Return commands or addresses under which a person sees it, by title."""
        ...


@runtime_checkable
class Overview(Protocol):
    """A registry that tells of many projects' models in one answer."""

    def aliases_of(self, models: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """Return the versions that the aliases of each model name; nothing of a model that there is not."""
        ...


class MemoryRegistry:
    """Keeps everything in this object and the packages in a folder; for tests of the loop.

    Parameters
    ----------
    folder
        Where packages are copied to.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rounds: dict[str, RoundLog] = {}
        self.outcomes: dict[str, str] = {}
        self.candidates: dict[str, tuple[str, CandidateLog]] = {}
        self.aliases: dict[str, int] = {}
        self._versions: list[Version] = []
        self.down = False

    def ready(self) -> None:
        """Raise when ``down`` was set, as a server would."""
        if self.down:
            raise ServiceError("the registry is down")

    def log_round(self, log: RoundLog) -> str:
        """Remember the round under its operation id."""
        self.ready()
        self.rounds.setdefault(log.operation, log)
        return log.operation

    def log_candidate(self, round_id: str, log: CandidateLog) -> str:
        """Remember the candidate under its operation id."""
        self.ready()
        self.candidates.setdefault(log.operation, (round_id, log))
        return log.operation

    def close_round(self, round_id: str, outcome: str, tags: Mapping[str, str]) -> None:
        """Remember the outcome."""
        self.ready()
        self.outcomes[round_id] = outcome

    def create_version(
        self, candidate_id: str, operation: str, package: Path, tags: Mapping[str, str], description: str
    ) -> Version:
        """Copy the package and remember its digests."""
        self.ready()
        found = next((v for v in self._versions if v.operation == operation), None)
        if found is not None:
            return found
        version = Version(len(self._versions) + 1, operation, dict(tags), digests_of(package))
        shutil.copytree(package, self.folder / str(version.number))
        self._versions.append(version)
        return version

    def versions(self) -> list[Version]:
        """Return every version, oldest first."""
        self.ready()
        return list(self._versions)

    def fetch(self, number: int, folder: Path) -> Path:
        """Copy a version's package to ``folder`` and check it."""
        self.ready()
        self._known(number)
        version = next(v for v in self._versions if v.number == number)
        if not folder.is_dir():
            with fill_folder(folder) as draft:
                shutil.copytree(self.folder / str(number), draft, dirs_exist_ok=True)
        verify(folder, version.digests)
        return folder

    def alias(self, name: str) -> int | None:
        """Return the version that the alias names, or None."""
        self.ready()
        return self.aliases.get(name)

    def set_alias(self, name: str, number: int | None) -> None:
        """Point the alias at a version, or remove it."""
        self.ready()
        if number is None:
            self.aliases.pop(name, None)
        else:
            self.aliases[name] = self._known(number)

    def tag_version(self, number: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        self._known(number)
        self._versions = [replace(v, tags={**v.tags, **tags}) if v.number == number else v for v in self._versions]

    def _known(self, number: int) -> int:
        self.ready()
        if all(v.number != number for v in self._versions):
            raise ArtifactError(f"version {number} is not registered; registered: {len(self._versions)}")
        return number

    def links(self) -> Mapping[str, str]:
        """Return nothing: there is nothing to see."""
        return {}
