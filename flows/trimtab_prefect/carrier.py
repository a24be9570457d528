"""The carrier that runs the loop as Prefect flows, on a configured server or an embedded one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import httpx
from prefect.exceptions import PrefectException

from trimtab.errors import ServiceError
from trimtab.executor import Progress
from trimtab.history import Round
from trimtab.loop import Report
from trimtab.parts import assemble
from trimtab.settings import Project
from trimtab_prefect import server
from trimtab_prefect.carry import carrying, shown
from trimtab_prefect.executor import PrefectExecutor
from trimtab_prefect.optimize import optimized
from trimtab_prefect.watch import watch

__all__ = ["PrefectCarrier"]


class PrefectCarrier:
    """Runs the loop as the flows ``watch`` and ``optimize``, in this process.

    Their server is the one that PREFECT_API_URL names, or an embedded one. An error of trimtab's
    comes out as it was raised; what Prefect knows of it stays in Prefect.
    """

    name: ClassVar[str] = "prefect"

    def watch(self, config: Path, overrides: Sequence[str], replay: bool, progress: Progress) -> list[Report]:
        """Look at windows, as a flow run."""
        with _ready(config, overrides, progress):
            return watch(str(config), shown(overrides), replay)

    def optimize(self, config: Path, overrides: Sequence[str], reason: str, who: str, progress: Progress) -> Round:
        """Run one round, as a flow run."""
        with _ready(config, overrides, progress):
            return optimized(str(config), shown(overrides), reason, who=who)


@contextmanager
def _ready(config: Path, overrides: Sequence[str], progress: Progress) -> Iterator[None]:
    """Connect the parts while the server starts: both take seconds, and a wrong setting need not wait for it."""
    project = Project.load(config, overrides)
    progress.say(f"Prefect: {server.described()}")
    with _quiet(), server.reached() as wait:
        parts = assemble(project, beside=config.parent, executor=PrefectExecutor(), progress=progress)
        wait()
        with _explained(), carrying(parts):
            yield


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        raise ServiceError(
            f"Prefect's server stopped answering ({type(error).__name__}: {error}); the journal keeps what was done, "
            f"and started again the loop goes on there; {server.WAY_OUT}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what runs log (what failed is raised here, and Prefect keeps the rest) and waits."""
    runs = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    senders = [logging.getLogger(name) for name in ("EventsWorker", "APILogWorker")]
    before = [logger.propagate for logger in runs]
    for logger in runs:
        logger.propagate = False
    for logger in senders:
        logger.addFilter(_is_error)
    try:
        yield
    finally:
        for logger in senders:
            logger.removeFilter(_is_error)
        for logger, propagates in zip(runs, before, strict=True):
            logger.propagate = propagates


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
