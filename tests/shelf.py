"""The fakes with a registry that settings can name: in memory, kept by address; it can be down, or hang."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests import fakes
from trimtab.registry import MemoryRegistry

SHELVES: dict[str, MemoryRegistry] = {}
"""What ``registry.url`` names."""


@dataclass(frozen=True)
class Shelf:
    """The registry of one address."""

    url: str
    model: str = ""
    experiment: str = ""
    artifacts: str = ""

    name: ClassVar[str] = "shelf"

    def __getattr__(self, name: str) -> Any:
        return getattr(SHELVES[self.url], name)


class Hanging(MemoryRegistry):
    """A registry whose server takes the connection and says nothing."""

    def ready(self) -> None:
        time.sleep(60)


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Install the fakes and the shelf as a stranger's plugins."""
    points = {k: {n: f"fakes.{v}" for n, v in names.items()} for k, names in fakes.ENTRY_POINTS.items()}
    with fakes.installed(folder, points | {"registries": {"shelf": "Shelf"}}, __name__):
        yield


def world(home: Path, stream: str, **changes: Any) -> fakes.World:
    """Make a world whose registry its own settings name."""
    url = f"shelf:{home}"
    there = fakes.World(home, stream, {"registry": {"kind": "shelf", "url": url}, **changes})
    SHELVES[url] = there.registry
    return there
