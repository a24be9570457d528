"""The journal's database: connecting to it, its tables, and what SQLite needs to be durable and not to lose races."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from trimtab.errors import PluginError, ServiceError, SettingsError
from trimtab.tables import SCHEMA_VERSION, Base, Meta

__all__ = ["connect", "explained"]


def connect(url: str) -> Engine:
    """Connect to the database at an address, and make the journal's tables where there are none.

    Raises
    ------
    PluginError
        When the database's driver is not installed.
    ServiceError
        When it does not answer, or its tables are of another schema version.
    SettingsError
        When the address is none.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError(
            "journal.url is no database's address; write one such as sqlite:///journal.db or "
            "postgresql+psycopg://user@host/database"
        ) from error
    if parsed.drivername.startswith("sqlite") and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = create_engine(parsed)
    except (ImportError, NoSuchModuleError) as error:
        raise PluginError(
            f"journal.url {parsed.render_as_string()}: the driver {parsed.drivername!r} is not installed "
            f"({error}); install it, or name another in front of ://"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _make_durable)
        event.listen(engine, "begin", _begin_at_once)
    with explained(engine):
        _create_tables(engine)
    return engine


def _create_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        with Session(connection) as session:
            row = session.get(Meta, "schema_version")
            if row is None:
                session.add(Meta(key="schema_version", value=str(SCHEMA_VERSION)))
                session.commit()
            elif int(row.value) != SCHEMA_VERSION:
                raise ServiceError(
                    f"the journal at {engine.url.render_as_string()} has schema version {row.value}, this trimtab "
                    f"reads {SCHEMA_VERSION}; install the trimtab that wrote it, or name another journal.url"
                )


def _make_durable(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy sends BEGIN itself, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_at_once(connection: Any) -> None:
    """Take SQLite's write lock at the start: a read that turns into a write can lose the race without waiting."""
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def explained(engine: Engine) -> Iterator[None]:
    """Say of whatever the database raises which journal it was and what to look at."""
    try:
        yield
    except SQLAlchemyError as error:
        raise ServiceError(
            f"the journal at {engine.url.render_as_string()} did not take the write or the read "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check journal.url, the disk and its rights"
        ) from error
