"""A long-lived exporter over journals and registries: a dead flow leaves no stale number, a dead registry no gap."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from trimtab.errors import InputError, ServiceError
from trimtab.journal import Journal
from trimtab.parts import registry_of
from trimtab.registry import Overview
from trimtab.settings import Project
from trimtab_prometheus.metrics import families
from trimtab_prometheus.reading import Reading, Told, read

__all__ = ["exposed", "serve"]

SCRAPE_SECONDS = 2.0
FIRST_SECONDS = 30.0
SETTLED_SECONDS = 2.0
STALE_SECONDS = 30.0

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
    twice = sorted(name for name, count in Counter(p.name for p in projects).items() if count > 1)
    if twice:
        raise InputError(
            f"several project files have the name {', '.join(twice)}; metrics are told apart by it: rename"
        )
    registry = CollectorRegistry()
    registry.register(_Scrape(projects))
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

    def __init__(self, projects: Sequence[Project]) -> None:
        self.projects = projects
        self.written = {p.journal_url: _Written() for p in projects}
        readers = {p.name: _JournalReader(p, self.written[p.journal_url]) for p in projects}
        self.journals = {p.name: _Kept(p.journal_url, f"the journal of {p.name}", readers[p.name]) for p in projects}
        self.registries = dict(_registries(projects))
        self._read(FIRST_SECONDS)  # a registry's client may take seconds to import and to connect

    def collect(self) -> Iterator[Metric]:
        """Return the metric families of this moment."""
        return families(self._read(SCRAPE_SECONDS))

    def _read(self, seconds: float) -> list[Reading]:
        for written in self.written.values():
            written.forget()
        for journal in self.journals.values():
            journal.ask()
        for registry in {*self.registries.values()}:
            registry.ask()
        deadline = time.monotonic() + seconds
        return [self._reading(project, deadline) for project in self.projects]

    def _reading(self, project: Project, deadline: float) -> Reading:
        told = self.journals[project.name].answer(deadline)
        named = self.registries[project.name].answer(deadline)
        return Reading(project, told, None if named is None else _of(project, named.get(project.name, {})))


def _of(project: Project, named: Mapping[str, int]) -> dict[str, int]:
    """Return the versions that the aliases of a project's champions name."""
    return {alias: named[alias] for alias in project.aliases if alias in named}


Named = Mapping[str, Mapping[str, int]]
"""Versions by project and alias."""


def _registries(projects: Sequence[Project]) -> Iterator[tuple[str, _Kept[Named]]]:
    """Yield whom to ask for each project's aliases: one that knows many models is asked once for all of them."""
    shared: dict[tuple[str, str], list[Project]] = {}
    for project in projects:
        shared.setdefault((project.registry.kind, project.registry_url), []).append(project)
    for (_, url), group in shared.items():
        registry = registry_of(group[0])
        names = [p.name for p in group]
        if isinstance(registry, Overview):
            lag = STALE_SECONDS if len(names) > 1 else 0.0
            at_once = _Kept(url, f"the registry of {', '.join(names)}", partial(registry.aliases_of, names), lag)
            yield from ((name, at_once) for name in names)
        else:
            yield from ((p.name, _Kept(url, f"the registry of {p.name}", partial(_aliases, p))) for p in group)


def _aliases(project: Project) -> Named:
    registry = registry_of(project)
    registry.ready()
    found = {alias: registry.alias(alias) for alias in project.aliases}
    return {project.name: {alias: version for alias, version in found.items() if version is not None}}


class _JournalReader:
    """Reads a project's journal: a file on a connection of its own each time, a server when somebody wrote since.

    The journal's statements are kept ready, unless its file was replaced by another. An exporter creates no file.
    """

    def __init__(self, project: Project, written: _Written) -> None:
        self.project = project
        self.written = written
        self.file = _sqlite_file(project.journal_url)
        self.open: tuple[int, Journal] | None = None
        self.told: tuple[int, Told] | None = None

    def __call__(self) -> Told:
        inode = self._inode()
        if self.open is None or self.open[0] != inode:
            self.open = inode, Journal(self.project.journal_url, self.project.name)
        journal = self.open[1]
        if self.file is None:
            return self._since(journal)
        try:
            return read(journal)
        finally:
            journal.engine.dispose()

    def _since(self, journal: Journal) -> Told:
        """Return what was told before, unless the journal was written to since: what a file's marks say of a file."""
        changes = self.written.of(journal)
        if self.told is None or self.told[0] != changes:
            self.told = changes, read(journal)
        return self.told[1]

    def _inode(self) -> int:
        if self.file is None:
            return 0
        if not self.file.is_file():
            raise ServiceError(f"there is no journal at {self.file}: the project has not run")
        return self.file.stat().st_ino


class _Written:
    """How often each project of a server's journal was written to, asked for all of them once a scrape."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[str, int] | None = None

    def forget(self) -> None:
        """Ask again from now on."""
        self.known = None

    def of(self, journal: Journal) -> int:
        """Return how often the journal's project was written to."""
        with self.lock:
            known = self.known = journal.changes() if self.known is None else self.known
        return known.get(journal.project, 0)


def _sqlite_file(url: str) -> Path | None:
    try:
        parsed = make_url(url)
    except ArgumentError:
        return None  # no database's address: a server's, or a stranger's registry
    return Path(parsed.database) if parsed.drivername.startswith("sqlite") and parsed.database else None


Mark = tuple[tuple[int, int, int] | None, ...]


def _mark(file: Path) -> Mark | None:
    """Return what changes when a SQLite file is written; None while it was written so lately that more may follow.

    The clock of a file system is coarse: two writes of one moment may leave the same mark.
    """
    marks: list[tuple[int, int, int] | None] = []
    for path in (file, file.with_name(f"{file.name}-wal")):
        try:
            found = path.stat()
        except OSError:
            marks.append(None)
            continue
        if abs(time.time() - found.st_mtime) < SETTLED_SECONDS:
            return None
        marks.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(marks)


class _Kept(Generic[T]):
    """An answer that is kept while the SQLite file that it came from stays as it is; others are asked each time."""

    def __init__(self, url: str, whom: str, question: Callable[[], T], lag: float = 0.0) -> None:
        self.file = _sqlite_file(url)
        self.question = _Question(whom, partial(self._asked, question), lag)
        self.kept: tuple[Mark, T] | None = None
        self.fresh = False

    def _asked(self, question: Callable[[], T]) -> T:
        mark = self._now()
        answer = question()
        self.kept = None if mark is None else (mark, answer)  # also one that comes too late for this scrape
        return answer

    def _now(self) -> Mark | None:
        return None if self.file is None else _mark(self.file)

    def ask(self) -> None:
        """Ask, unless nothing was written since."""
        kept = self.kept
        self.fresh = kept is not None and kept[0] == self._now()
        if not self.fresh:
            self.question.ask()

    def answer(self, deadline: float) -> T | None:
        """Return the answer; None when there was none by the deadline (monotonic seconds), or it was an error."""
        kept = self.kept
        return kept[1] if self.fresh and kept is not None else self.question.answer(deadline)


class _Question(Generic[T]):
    """A question that may hang: asked in a thread, waited for only so long, and never asked twice at a time.

    With ``lag`` it is not waited for while the answer before is younger than so many seconds, and no error came since:
    what is asked for many projects takes a server longer than a scrape may.
    """

    def __init__(self, whom: str, question: Callable[[], T], lag: float = 0.0) -> None:
        self.whom = whom
        self.question = question
        self.lag = lag
        self.said: tuple[float, T] | None = None
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
        """Return the answer, or None when there was none by the deadline or it was an error.

        One that is late, and not an error, leaves the answer before standing for :data:`STALE_SECONDS`.
        """
        with self.lock:
            asked = self.asked
        if asked is None:
            return None
        if (before := self._before(self.lag)) is not None:
            return before
        try:
            answer = asked.result(max(0.0, deadline - time.monotonic()))
        except Exception as error:  # whatever a registry's client raises, the scrape says that it is down
            if (before := self._before(STALE_SECONDS)) is not None:
                return before
            self._say_once(f"{type(error).__name__}: {error}")
            return None
        self._say_once("")
        return answer

    def _before(self, seconds: float) -> T | None:
        """Return the last answer where it is younger than so many seconds; an error wipes it out."""
        said = self.said
        return said[1] if said is not None and time.monotonic() - said[0] < seconds else None

    def _say_once(self, why: str) -> None:
        """Log a silence when it begins, and not at every scrape."""
        if why and why != self.silent:
            logger.warning("%s did not answer: %s", self.whom, why)
        self.silent = why

    def _work(self, asked: Future[T]) -> None:
        try:
            answer = self.question()
        except Exception as error:  # handed to whoever waits
            self.said = None
            asked.set_exception(error)
        else:
            self.said = (time.monotonic(), answer)
            asked.set_result(answer)
