"""Servers of the whole stack: how each is started, seen to be ready, and what those after it need of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from trimtab.settings import Project

__all__ = ["Command", "Ground", "Service"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ground:
    """What a service is planned on.

    Parameters
    ----------
    folder
        Where a service keeps what it must; its own subfolder is made by itself.
    projects
        By the path of the project file.
    overrides
        ``key.key=value`` each, of every project.
    environment
        What the services before it give.
    addresses
        Of the services before it, by name.
    """

    folder: Path
    projects: Mapping[Path, Project]
    overrides: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)

    def own(self, name: str) -> Path:
        """Return a service's own folder, which is there then."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder.absolute()


@dataclass(frozen=True)
class Command:
    """How a service is started.

    Parameters
    ----------
    argv
        The program and its arguments.
    address
        Where people and other services find it; None: nowhere.
    ready
        What answers a GET once it works; None: it works when it stays alive.
    environment
        Of its process, beside what is there.
    gives
        Environment of the services after it.
    """

    argv: tuple[str, ...]
    address: str | None = None
    ready: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    gives: Mapping[str, str] = field(default_factory=dict)


class Service(Protocol):
    """A server that ``trimtab up`` starts where none is given.

    Parameters
    ----------
    name
        That people read.
    after
        Names of the services that must be ready before it.
    port
        Of the loopback that it takes where that is free; 0: any that is free; None: it listens nowhere.
    optional
        Whether it is started only when it is asked for.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]]
    port: ClassVar[int | None]
    optional: ClassVar[bool]

    def given(self, ground: Ground) -> str | None:
        """Return the address of the one that the environment or the projects name: it is used, and none started."""
        ...

    def command(self, ground: Ground, port: int) -> Command:
        """Return how it is started on a port of the loopback.

        Raises
        ------
        InputError
            When it cannot be, naming what is missing.
        """
        ...
