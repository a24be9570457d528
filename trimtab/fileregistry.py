"""A registry of files alone, for a replay that must not touch the project's own and goes on after being cut off."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import filelock

from trimtab.artifact import fill_folder, read_json, verify, write_json
from trimtab.errors import ArtifactError
from trimtab.registry import CandidateLog, RoundLog, Version, digests_of

__all__ = ["FileRegistry"]


class FileRegistry:
    """Keeps versions and aliases as files in a folder; of rounds and candidates the journal tells enough.

    Parameters
    ----------
    folder
        Holds ``aliases.json`` and, for each version, ``NUMBER/package/`` and ``NUMBER/version.json``.

    Examples
    --------
    >>> import tempfile
    >>> base = Path(tempfile.mkdtemp())
    >>> (base / "package").mkdir()
    >>> first = FileRegistry(base / "registry").create_version("", "round:1", base / "package", {}, "")
    >>> FileRegistry(base / "registry").create_version("", "round:1", base / "package", {}, "") == first
    True
    """

    name: ClassVar[str] = "files"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ready(self) -> None:
        """Make the folder on first use."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def log_round(self, log: RoundLog) -> str:
        """Return the round's operation id."""
        return log.operation

    def log_candidate(self, round_id: str, log: CandidateLog) -> str:
        """Return the candidate's operation id."""
        return log.operation

    def close_round(self, round_id: str, outcome: str, tags: Mapping[str, str]) -> None:
        """Write nothing."""

    def create_version(
        self, candidate_id: str, operation: str, package: Path, tags: Mapping[str, str], description: str
    ) -> Version:
        """Copy the package, once an operation, and write down its digests."""
        with self._alone():
            made = self.versions()
            found = next((v for v in made if v.operation == operation), None)
            if found is not None:
                return found
            version = Version(len(made) + 1, operation, dict(tags), digests_of(package))
            with fill_folder(self.folder / str(version.number)) as draft:
                shutil.copytree(package, draft / "package")
                write_json(draft / "version.json", dataclasses.asdict(version))
            return version

    def versions(self) -> list[Version]:
        """Return every version, oldest first."""
        written = [Version(**read_json(path)) for path in self.folder.glob("[0-9]*/version.json")]
        return sorted(written, key=lambda version: version.number)

    def fetch(self, number: int, folder: Path) -> Path:
        """Copy a version's package to ``folder``, once, and check it."""
        version = self._known(number)
        if not folder.is_dir():
            with fill_folder(folder) as draft:
                shutil.copytree(self.folder / str(number) / "package", draft, dirs_exist_ok=True)
        verify(folder, version.digests)
        return folder

    def alias(self, name: str) -> int | None:
        """Return the version that the alias names, or None."""
        return self._aliases().get(name)

    def set_alias(self, name: str, number: int | None) -> None:
        """Point the alias at a version, or remove it."""
        with self._alone():
            others = {alias: version for alias, version in self._aliases().items() if alias != name}
            named = {} if number is None else {name: self._known(number).number}
            write_json(self.folder / "aliases.json", others | named)

    def tag_version(self, number: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with self._alone():
            version = self._known(number)
            told = dataclasses.replace(version, tags={**version.tags, **tags})
            write_json(self.folder / str(number) / "version.json", dataclasses.asdict(told))

    def links(self) -> Mapping[str, str]:
        """Return nothing: there is nothing to see."""
        return {}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.ready()
        with filelock.FileLock(str(self.folder / "registry.lock")):
            yield

    def _aliases(self) -> dict[str, int]:
        path = self.folder / "aliases.json"
        read: Any = read_json(path) if path.is_file() else {}
        return dict(read)

    def _known(self, number: int) -> Version:
        versions = self.versions()
        found = next((v for v in versions if v.number == number), None)
        if found is None:
            raise ArtifactError(f"version {number} is not registered in {self.folder}; registered: {len(versions)}")
        return found
