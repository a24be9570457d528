"""What a carrier hands to flows beside their parameters: things that are no JSON, and settings that hold secrets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from prefect.runtime import flow_run

from trimtab.address import masked
from trimtab.journal import Journal
from trimtab.parts import Parts, assemble
from trimtab.settings import Project
from trimtab_prefect.executor import PrefectExecutor

__all__ = ["by_run", "carries", "carrying", "open_journal", "open_parts", "shown"]

_CARRIED: ContextVar[Parts | None] = ContextVar("trimtab_prefect_parts", default=None)


@contextmanager
def carrying(parts: Parts) -> Iterator[None]:
    """Let the flows that are called inside work with ``parts``, in place of assembling their own."""
    token = _CARRIED.set(parts)
    try:
        yield
    finally:
        _CARRIED.reset(token)


def carries() -> bool:
    """Tell whether a runner carries parts here: a person waits for the result, or another flow does."""
    return _CARRIED.get() is not None


def open_parts(config: str, overrides: Sequence[str]) -> Parts:
    """Return the parts that a carrier brings, or assemble them from the flow's own parameters."""
    carried = _CARRIED.get()
    if carried is not None:
        return carried
    path = Path(config)
    project = Project.load(path, overrides)
    return assemble(project, beside=path.parent, executor=PrefectExecutor())


def open_journal(config: str, overrides: Sequence[str]) -> Journal:
    """Return the journal of the parts that a runner carries here, or of the project; nothing else is assembled."""
    carried = _CARRIED.get()
    if carried is not None:
        return carried.journal
    project = Project.load(Path(config), overrides)
    return Journal(project.journal_url, project.name)


def by_run() -> str:
    """Return who asked for what a flow run does, where no person is named: Prefect knows who started the run."""
    return f"flow run {flow_run.name}"


def shown(overrides: Sequence[str]) -> list[str]:
    """Return overrides as a flow run's parameters show them: without passwords in addresses.

    Examples
    --------
    >>> shown(["seed=1", "registry.url=http://me:secret@host:5000"])
    ['seed=1', 'registry.url=http://me:***@host:5000']
    """
    return [masked(item) for item in overrides]
