"""A long-lived exporter over journals and registries: a dead flow leaves no stale number, a dead registry no gap."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import make_url

from trimtab.errors import InputError, ServiceError
from trimtab.journal import Journal
from trimtab.parts import registry_of
from trimtab.registry import Registry
from trimtab.runtime import CHAMPION
from trimtab.settings import Project
from trimtab_prometheus.metrics import Reading, families, read

__all__ = ["exposed", "serve"]

SCRAPE_SECONDS = 2.0
FIRST_SECONDS = 30.0

T = TypeVar("T")
logger = logging.getLogger(__name__)


def serve(projects: Sequence[Project], host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the metrics of ``projects`` until interrupted.

    Parameters
    ----------
    host
        Address to bind to.
    port
        Port to bind to; 0 takes a free one.
    say
        Told the address once the server listens.

    Raises
    ------
    InputError
        When the address cannot be bound, or a project names a registry that there cannot be.
    """
    with exposed(projects, host, port) as address:
        say(address)
        threading.Event().wait()


@contextmanager
def exposed(projects: Sequence[Project], host: str, port: int) -> Iterator[str]:
    """Serve the metrics of ``projects`` in a thread, and yield the address (``http://host:port/metrics``)."""
    registry = CollectorRegistry()
    registry.register(_Scrape([_Watched(p, registry_of(p)) for p in projects]))
    try:
        httpd, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); name an address of this machine and a port "
            "of 0 to 65535 that is not in use, or 0 for a free one"
        ) from error
    try:
        yield f"http://{host}:{httpd.server_port}/metrics"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


class _Scrape(Collector):
    """Reads every project when Prometheus asks, all at once and within :data:`SCRAPE_SECONDS`."""

    def __init__(self, watched: Sequence[_Watched]) -> None:
        self.watched = watched
        self._read(FIRST_SECONDS)  # a registry's client may take seconds to import and to connect

    def collect(self) -> Iterator[Metric]:
        """Return the metric families of this moment."""
        return families(self._read(SCRAPE_SECONDS))

    def _read(self, seconds: float) -> list[Reading]:
        for project in self.watched:
            project.ask()
        deadline = time.monotonic() + seconds
        return [project.reading(deadline) for project in self.watched]


class _Watched:
    """One project's journal and registry, each asked in a thread of its own."""

    def __init__(self, project: Project, registry: Registry) -> None:
        self.name = project.name
        self.journal = _Question(f"the journal of {project.name}", partial(_read_journal, project))
        self.registry = _Question(f"the registry of {project.name}", partial(_alias, registry))

    def ask(self) -> None:
        """Ask both."""
        self.journal.ask()
        self.registry.ask()

    def reading(self, deadline: float) -> Reading:
        """Return what both answered by the deadline (monotonic seconds)."""
        reading = self.journal.answer(deadline) or Reading(self.name)
        answered = self.registry.answer(deadline)
        if answered is None:
            return reading
        return replace(reading, registry_up=True, alias=answered[0])


def _alias(registry: Registry) -> tuple[int | None]:
    registry.ready()
    return (registry.alias(CHAMPION),)


def _read_journal(project: Project) -> Reading:
    """Read a project's journal, opened anew each time (its file may have been replaced); an exporter creates none."""
    url = make_url(project.journal_url)
    if url.drivername.startswith("sqlite") and url.database and not Path(url.database).is_file():
        raise ServiceError(f"there is no journal at {url.database}: the project has not run")
    journal = Journal(project.journal_url, project.name)
    try:
        return read(journal)
    finally:
        journal.engine.dispose()


class _Question(Generic[T]):
    """A question that may hang: asked in a thread, waited for only so long, and never asked twice at a time."""

    def __init__(self, whom: str, question: Callable[[], T]) -> None:
        self.whom = whom
        self.question = question
        self.lock = threading.Lock()
        self.asked: Future[T] | None = None
        self.silent = ""

    def ask(self) -> None:
        """Ask, unless an earlier answer is still awaited."""
        with self.lock:
            if self.asked is None or self.asked.done():
                self.asked = Future()
                threading.Thread(target=self._work, args=(self.asked,), daemon=True).start()

    def answer(self, deadline: float) -> T | None:
        """Return the answer, or None when there was none by the deadline or it was an error."""
        with self.lock:
            asked = self.asked
        if asked is None:
            return None
        try:
            answer = asked.result(max(0.0, deadline - time.monotonic()))
        except Exception as error:  # whatever a registry's client raises, the scrape says that it is down
            self._say_once(f"{type(error).__name__}: {error}")
            return None
        self._say_once("")
        return answer

    def _say_once(self, why: str) -> None:
        """Log a silence when it begins, and not at every scrape."""
        if why and why != self.silent:
            logger.warning("%s did not answer: %s", self.whom, why)
        self.silent = why

    def _work(self, asked: Future[T]) -> None:
        try:
            asked.set_result(self.question())
        except Exception as error:  # handed to whoever waits
            asked.set_exception(error)
