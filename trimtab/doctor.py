"""Does the stack really work? Each check does what it asks about, and says what to mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trimtab import discover
from trimtab.errors import TrimtabError
from trimtab.journal import Journal
from trimtab.parts import registry_of
from trimtab.settings import Project

__all__ = ["Check", "Examine", "aliases", "examine"]


@dataclass(frozen=True)
class Check:
    """What was tried, and what is wrong.

    Parameters
    ----------
    what
        In words.
    problem
        With the way out; None: it works.
    """

    what: str
    problem: str | None = None


class Examine(Protocol):
    """Tries one part of the stack."""

    def __call__(self, projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
        """Yield what was tried.

        Parameters
        ----------
        projects
            By the path of the project file.
        addresses
            Of the stack's services, by name, where it is up.
        """
        ...


def examine(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    """Yield every check of every installed part; one that raises is a problem itself."""
    for name in sorted(discover.installed("doctors")):
        try:
            yield from discover.find("doctors", name)(projects, addresses)
        except TrimtabError as error:
            yield Check(name, str(error))
        except Exception as error:  # a stranger's check, or a server's answer that nobody foresaw
            yield Check(name, f"the check itself failed with {type(error).__name__}: {error}")


def aliases(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    """Read each champion's alias, and compare it with the journal."""
    for path, project in projects.items():
        for alias in project.aliases:
            what = f"{project.name}: the alias {alias} names the champion"
            try:
                yield Check(what, _misnamed(path, project, alias))
            except TrimtabError as error:  # of this project: the others are looked at
                yield Check(what, str(error))


def _misnamed(path: Path, project: Project, alias: str) -> str | None:
    """Say what is wrong with an alias, and the way out; None where it names the journal's champion."""
    promotions = Journal(project.journal_url, project.name).promotions(alias)
    if not promotions:
        return f"there is no champion yet: trimtab watch {path} makes the first one"
    version, said = promotions[-1].version, registry_of(project).alias(alias)
    if said == version:
        return None
    have = "nothing" if said is None else f"version {said}"
    way = f"trimtab watch {path} puts it right at its start; find out who moved it"
    return f"it names {have}, and the journal's champion is version {version}; {way}"
