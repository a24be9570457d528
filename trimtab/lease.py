"""Leases: who holds a round, or the right to look at windows; what a dead holder held frees itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from sqlalchemy import Engine, update

from trimtab.database import clock, reading, writing
from trimtab.errors import ServiceError
from trimtab.tables import Leased, LeaseRow, RoundRow

__all__ = ["LEASE_SECONDS", "Leases"]

LEASE_SECONDS = 90.0


class Leases:
    """The leases of one project in a journal's database.

    Parameters
    ----------
    engine
        Of the database.
    project
        Its name.
    """

    def __init__(self, engine: Engine, project: str) -> None:
        self._engine, self._project = engine, project

    @contextmanager
    def round(self, operation: str, wait: float = 0.0) -> Iterator[bool]:
        """Hold a round: whoever leases it first runs it; a dead holder's lease frees itself.

        Parameters
        ----------
        wait
            Seconds to wait for it where another holds it: a holder that died on another machine
            cannot be known to be dead before its lease ends.

        Yields
        ------
        bool
            False when another process holds it, or it is closed.
        """
        with self._held(RoundRow, operation, wait) as mine:
            yield mine

    @contextmanager
    def watching(self) -> Iterator[Callable[[], bool] | None]:
        """Hold the right to look at the project's windows: two that did would decide on what the other half wrote.

        Yields
        ------
        Callable or None
            Tells whether it is still held: a process that slept for too long has lost it. None when another
            process holds it.
        """
        operation = f"{self._project}:watch"
        with writing(self._engine, self._project) as session:
            if session.get(LeaseRow, operation) is None:
                session.add(LeaseRow(operation=operation, project=self._project, lease_until=0.0))
        with self._held(LeaseRow, operation) as mine:
            yield (lambda: self._holds(operation)) if mine else None

    def _holds(self, operation: str) -> bool:
        with reading(self._engine) as session:
            row = session.get(LeaseRow, operation)
            return row is not None and row.owner == _owner()

    @contextmanager
    def _held(self, kind: type[Leased], operation: str, wait: float = 0.0) -> Iterator[bool]:
        if not self._wait_and_take(kind, operation, wait):
            yield False
            return
        stop = Event()
        heart = Thread(target=self._beat, args=(kind, operation, stop), daemon=True)
        heart.start()
        try:
            yield True
        finally:
            stop.set()
            heart.join()
            with writing(self._engine, self._project) as session:
                mine = (kind.operation == operation, kind.owner == _owner())
                session.execute(update(kind).where(*mine).values(lease_until=0.0))

    def leased(self, operation: str) -> bool:
        """Tell whether somebody holds a round, who may still live."""
        with reading(self._engine) as session:
            row = session.get(RoundRow, operation)
            return row is not None and row.lease_until > clock(session) and _alive(row.owner)

    def _wait_and_take(self, kind: type[Leased], operation: str, wait: float) -> bool:
        deadline = time.time() + wait
        while not self._take(kind, operation):
            if time.time() >= deadline or (kind is RoundRow and self._is_closed(operation)):
                return False
            time.sleep(1.0)
        return True

    def _is_closed(self, operation: str) -> bool:
        with reading(self._engine) as session:
            row = session.get(RoundRow, operation)
            return row is None or row.state == "closed"

    def _take(self, kind: type[Leased], operation: str) -> bool:
        with writing(self._engine, self._project) as session:
            row, present = session.get(kind, operation), clock(session)
            if row is None or (isinstance(row, RoundRow) and row.state == "closed"):
                return False
            if row.lease_until > present and row.owner != _owner() and _alive(row.owner):
                return False
            row.owner, row.lease_until = _owner(), present + LEASE_SECONDS
            if isinstance(row, RoundRow):
                row.state = "running"
            return True

    def _beat(self, kind: type[Leased], operation: str, stop: Event) -> None:
        mine = (kind.operation == operation, kind.owner == _owner())
        while not stop.wait(LEASE_SECONDS / 4):
            # a database that was away for a moment
            with suppress(ServiceError), writing(self._engine, self._project) as session:
                session.execute(update(kind).where(*mine).values(lease_until=clock(session) + LEASE_SECONDS))


def _owner() -> str:
    """Name this process among those of all machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _alive(owner: str | None) -> bool:
    """Tell whether a lease's holder may still live: only a process of this machine can be known to be dead."""
    host, _, pid = (owner or "").rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
