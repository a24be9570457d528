"""What a runner hands to flows beside their parameters: things that are no JSON, and settings that hold secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from trimtab.parts import Parts, assemble, workers_of
from trimtab.settings import Project
from trimtab_prefect.executor import PrefectExecutor
from trimtab_prefect.server import masked

__all__ = ["carrying", "open_parts", "shown"]

# User and password of an address, up to the last @: an unquoted password may hold @, / and #.
_CARRIED: ContextVar[Parts | None] = ContextVar("trimtab_prefect_parts", default=None)


@contextmanager
def carrying(parts: Parts) -> Iterator[None]:
    """Let the flows that are called inside work with ``parts``, in place of assembling their own."""
    token = _CARRIED.set(parts)
    try:
        yield
    finally:
        _CARRIED.reset(token)


def open_parts(config: str, overrides: Sequence[str]) -> Parts:
    """Return the parts that a runner carries here, or assemble them from the flow's own parameters."""
    carried = _CARRIED.get()
    if carried is not None:
        return carried
    path = Path(config)
    project = Project.load(path, overrides)
    return assemble(project, beside=path.parent, executor=PrefectExecutor(workers=workers_of(project)))


def shown(overrides: Sequence[str]) -> list[str]:
    """Return overrides as a flow run's parameters show them: without passwords in addresses.

    Examples
    --------
    >>> shown(["seed=1", "registry.url=http://me:secret@host:5000"])
    ['seed=1', 'registry.url=http://me:***@host:5000']
    """
    return [masked(item) for item in overrides]
