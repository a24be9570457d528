"""The journal's database: connecting to it, its tables, and what it needs to be durable and not to lose races."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import filelock
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from trimtab.address import masked
from trimtab.errors import PluginError, ServiceError, SettingsError
from trimtab.tables import SCHEMA_VERSION, Base, Meta

__all__ = ["clock", "connect", "is_there", "reading", "writing"]


PATIENCE_SECONDS = 30
"""For a lock that another process holds."""
CONNECT_SECONDS = 10
MAKING = 7_480_001
"""Advisory lock of PostgreSQL under which tables are made: two that find none would both make them."""


def is_there(url: str) -> bool:
    """Tell whether there is a database at an address, as far as that is known without asking: of SQLite's files.

    Who only reads asks it first: to connect makes the file.

    Examples
    --------
    >>> is_there("sqlite:////no/such/journal.db"), is_there("postgresql+psycopg://me@host/journal")
    (False, True)
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        return True  # connecting says what is wrong with it
    if not parsed.drivername.startswith("sqlite") or not parsed.database:
        return True
    return Path(parsed.database).is_file()


def connect(url: str) -> Engine:
    """Connect to the database at an address, and make the journal's tables where there are none.

    A server's engine is shared by all journals of this process there, so that 200 projects need no 200 connections.

    Raises
    ------
    PluginError
        When the database's driver is not installed.
    ServiceError
        When it does not answer, or its tables are of another schema version.
    SettingsError
        When the address is none, or names another database than SQLite or PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "journal.url is no database's address; write one such as sqlite:///journal.db or "
            "postgresql+psycopg://user@host/database"
        ) from error
    if "@" in (parsed.host or ""):
        raise SettingsError("journal.url: write an @ that belongs to the user's name or the password as %40")
    engine = _made(parsed) if parsed.get_backend_name() == "sqlite" else _shared(parsed, os.getpid())
    with explained(engine):
        _create_tables(engine)
    return engine


@functools.cache
def _shared(url: URL, process: int) -> Engine:
    """Return the engine of a server for one process: one that was forked must not use its parent's connections."""
    return _made(url)


def _made(url: URL) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = create_engine(url) if sqlite else create_engine(url, pool_pre_ping=True, connect_args=_timeout(url))
    except (ImportError, NoSuchModuleError) as error:
        raise PluginError(
            f"journal.url {_shown(url)}: the driver {url.drivername!r} is not installed "
            f"({error}); install it (pip install 'trimtab[postgres]' brings postgresql+psycopg), or name another in "
            "front of ://"
        ) from error
    if sqlite:
        event.listen(engine, "connect", _make_durable)
        event.listen(engine, "begin", _begin_at_once)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _bound_waiting)
    else:
        raise SettingsError(
            f"journal.url {_shown(url)}: a journal is kept in SQLite or PostgreSQL; write one such as "
            "postgresql+psycopg://user@host/database"
        )
    return engine


def _shown(url: URL) -> str:
    return masked(url.render_as_string())


def _timeout(url: URL) -> dict[str, Any]:
    """Return how long a connection is waited for, unless the address says it; libpq's drivers take the word."""
    told = "connect_timeout" in url.query or "psycopg" not in url.drivername
    return {} if told else {"connect_timeout": CONNECT_SECONDS}


def _create_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MAKING})
        Base.metadata.create_all(connection)
        with Session(connection) as session:
            row = session.get(Meta, "schema_version")
            if row is None:
                session.add(Meta(key="schema_version", value=str(SCHEMA_VERSION)))
                session.commit()
            elif int(row.value) != SCHEMA_VERSION:
                raise ServiceError(
                    f"the journal at {_shown(engine.url)} has schema version {row.value}, this trimtab "
                    f"reads {SCHEMA_VERSION}; install the trimtab that wrote it, or name another journal.url"
                )


def take_turn(session: Session, project: str) -> None:
    """Begin a write of a project: others wait until its end, so that what is read within it holds; it is counted too.

    SQLite lets one process write at a time, and PostgreSQL one a project, by the lock on the row that counts.
    """
    session.execute(
        text(
            "INSERT INTO changes (project, number) VALUES (:project, 1) "
            "ON CONFLICT (project) DO UPDATE SET number = changes.number + 1"
        ),
        {"project": project},
    )


def clock(session: Session) -> float:
    """Return the time (seconds since 1970) by which leases end: a server's own, as clocks of machines differ."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()
    return float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _make_durable(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy sends BEGIN itself, below
    for pragma in (f"busy_timeout={PATIENCE_SECONDS}000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        return
    # a new file: SQLite waits for no lock here, and of two processes that make it at once one would fail
    (_, _, file) = connection.execute("PRAGMA database_list").fetchone()
    with filelock.FileLock(f"{file}.lock", timeout=PATIENCE_SECONDS) if file else nullcontext():
        connection.execute("PRAGMA journal_mode=WAL")


def _bound_waiting(connection: Any, _: Any) -> None:
    """Wait as long for a lock as SQLite does, and let a process that stopped in the middle of a write hold none up."""
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = '{PATIENCE_SECONDS}s'")
    cursor.execute(f"SET idle_in_transaction_session_timeout = '{2 * PATIENCE_SECONDS}s'")
    cursor.close()
    connection.commit()


def _begin_at_once(connection: Any) -> None:
    """Take SQLite's write lock at the start: a read that turns into a write can lose the race without waiting."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def explained(engine: Engine) -> Iterator[None]:
    """Say of whatever the database raises which journal it was and what to look at."""
    try:
        yield
    except (SQLAlchemyError, filelock.Timeout) as error:
        raise ServiceError(
            f"the journal at {_shown(engine.url)} did not take the write or the read "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check journal.url, the disk and its rights"
        ) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Read as of one moment."""
    with explained(engine), Session(engine.execution_options(reading=True), expire_on_commit=False) as session:
        yield session


@contextmanager
def writing(engine: Engine, project: str) -> Iterator[Session]:
    """Write something of a project, all of it or nothing, while nobody else writes of it."""
    with explained(engine), Session(engine, expire_on_commit=False) as session, session.begin():
        take_turn(session, project)
        yield session
