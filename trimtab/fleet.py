"""Many projects: files, and folders of them, are read; one that is broken is told and keeps none of the others back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import SettingsError
from trimtab.settings import Project

__all__ = ["Fleet"]


@dataclass(frozen=True)
class Fleet:
    r"""Projects by the path of their file, and of the files that could not be read why.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> sound = "source: {path: rows.csv}\nwindow: {every: 7d}\nfeatures: {x: {}}\n"
    >>> _ = (folder / "a.yaml").write_text("name: a\n" + sound)
    >>> _ = (folder / "b.yaml").write_text("name: B\n" + sound)
    >>> fleet = Fleet.read([folder])
    >>> [p.name for p in fleet.projects.values()], [path.name for path in fleet.broken]
    (['a'], ['b.yaml'])
    """

    projects: Mapping[Path, Project]
    broken: Mapping[Path, str]

    @classmethod
    def read(cls, paths: Sequence[Path], overrides: Sequence[str] = ()) -> Fleet:
        """Read project files, and every one of the folders named.

        Raises
        ------
        SettingsError
            When there is no file, none is sound, or two have the same name.
        """
        files = list(dict.fromkeys(f for path in paths for f in _files(path)))
        if not files:
            raise SettingsError(
                f"no *.yaml in {', '.join(map(str, paths))}; name a project file, or a folder that holds some"
            )
        projects: dict[Path, Project] = {}
        broken: dict[Path, str] = {}
        for file in files:
            try:
                projects[file] = Project.load(file, overrides)
            except SettingsError as error:
                broken[file] = str(error)
        if not projects:
            raise SettingsError("\n".join(broken.values()))
        _refuse_twins(projects)
        return cls(projects, broken)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.y*ml")) if path.is_dir() else [path]


def _refuse_twins(projects: Mapping[Path, Project]) -> None:
    seen: dict[str, Path] = {}
    for file, project in projects.items():
        if project.name in seen:
            raise SettingsError(
                f"name: {seen[project.name]} and {file} both have the name {project.name!r}, under which journal, "
                "registry and metrics know a project; give each its own"
            )
        seen[project.name] = file
