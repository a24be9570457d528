"""Reaching MLflow: checking an address, opening a client on it once, and one place that words its failures."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

import mlflow
import requests
import sqlalchemy as sa
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from trimtab.address import masked
from trimtab.errors import ArtifactError, InternalError, ServiceError, SettingsError, TrimtabError

__all__ = [
    "GLOBAL_STATE",
    "accepted",
    "as_default",
    "check_url",
    "is_missing",
    "is_served",
    "open_client",
    "probe",
    "reports",
    "sqlite_file",
]

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https")
PROBE_SECONDS = 4.0
MESSAGE_LENGTH = 400
# User and password of an address, up to the last @: an unquoted password may hold @, / and #.
SECRET = re.compile(r"(?<=://)([^:/@]*):(.*)@")
# Statuses that say "not now" or "not you" rather than "you asked for something impossible".
REFUSALS = (401, 403, 408, 429)

GLOBAL_STATE = threading.RLock()

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self", bound="HasUrl")


class HasUrl(Protocol):
    """Whatever carries the setting ``registry.url``."""

    @property
    def url(self) -> str:
        """Where MLflow is."""
        ...


def check_url(url: str) -> None:
    """Check that the setting ``registry.url`` names a kind of place that MLflow can keep a registry in.

    Raises
    ------
    SettingsError
        Naming the setting, its value and the addresses that work.

    Examples
    --------
    >>> check_url("sqlite:///trimtab.db")
    >>> check_url("mlruns")
    Traceback (most recent call last):
    ...
    trimtab.errors.SettingsError: registry.url must be a database or an MLflow server, got 'mlruns'; write ...
    """
    scheme, separator, rest = url.partition("://")
    known = scheme.split("+")[0] in DATABASES or scheme in SERVERS
    if known and separator and rest.strip("/") and (scheme not in SERVERS or urlsplit(url).hostname):
        return
    raise SettingsError(
        f"registry.url must be a database or an MLflow server, got {masked(url)!r}; write "
        "sqlite:///trimtab.db, postgresql://user@host/database or http://host:5000"
    )


def is_served(url: str) -> bool:
    """Return whether an MLflow server answers at ``url``, rather than a database."""
    return url.split("://")[0] in SERVERS


def sqlite_file(url: str) -> Path | None:
    """Return the file that a SQLite address names, or None for any other address.

    Examples
    --------
    >>> sqlite_file("sqlite:///mine/trimtab.db").as_posix()
    'mine/trimtab.db'
    """
    if not url.startswith("sqlite"):
        return None
    database = sa.make_url(url).database
    return Path(database) if database and database != ":memory:" else None


def probe(url: str) -> None:
    """Ask once whether anything answers at ``url``, within about ten seconds.

    MLflow itself tries a database ten times (102 s) and a server as often as it is told to.

    Raises
    ------
    SettingsError
        When the database's driver is not installed.
    Exception
        What the driver or the HTTP client raises when nothing answers; :func:`reports` words it.
    """
    if is_served(url):
        requests.get(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS).raise_for_status()
        return
    _make_room(url)
    try:
        engine = sa.create_engine(url, connect_args=_patience(url))
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"registry.url={masked(url)!r} needs the database driver {error.name!r}, which is not installed; "
            f"pip install it beside trimtab, or name another driver (postgresql+psycopg://...)"
        ) from error
    try:
        with engine.connect():
            pass
    finally:
        engine.dispose()


def _make_room(url: str) -> None:
    file = sqlite_file(url)
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            f"registry.url={url!r}: the folder {file.parent} cannot be made ({error}); name a place you can write to"
        ) from error


def _patience(url: str) -> dict[str, Any]:
    """Return the driver's own word for a connection timeout; drivers that have none keep their default."""
    server = url.startswith(("postgresql", "mysql"))
    return {"connect_timeout": int(PROBE_SECONDS)} if server else {}


def open_client(url: str) -> MlflowClient:
    """Return a client on ``url``; a new database gets its tables, by one process at a time."""
    probe(url)
    with _upgrading(url):
        client = MlflowClient(tracking_uri=url, registry_uri=url)
        client.search_experiments(max_results=1)
    return client


def _upgrading(url: str) -> AbstractContextManager[object]:
    """Hold the lock beside a SQLite file: MLflow's own lies in the temporary folder, which containers do not share."""
    file = sqlite_file(url)
    return nullcontext() if file is None else FileLock(f"{file}.lock")


@contextmanager
def as_default(url: str) -> Iterator[None]:
    """Make ``url`` MLflow's process-wide address for the moment, one thread at a time, and put the old one back.

    Needed where a database store resolves ``models:/...``: it asks a client on the default address.
    """
    with GLOBAL_STATE:
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        variable = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(url)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if variable is not None:
                os.environ["MLFLOW_TRACKING_URI"] = variable


def accepted(values: Mapping[str, R]) -> dict[str, R]:
    """Replace what MLflow does not take in the name of a tag, parameter or metric.

    Examples
    --------
    >>> accepted({"prune.channel[0]": "0.5"})
    {'prune.channel_0_': '0.5'}
    """
    return {re.sub(r"[^\w\-. :/]", "_", key): value for key, value in values.items()}


def is_missing(error: MlflowException) -> bool:
    """Return whether MLflow says that what was asked for does not exist."""
    return bool(error.get_http_status_code() == 404)


def reports(method: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Turn what MLflow and the libraries below it raise into trimtab's errors, naming ``registry.url``."""

    @functools.wraps(method)
    def wrapped(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except TrimtabError:
            raise
        except (MlflowException, requests.RequestException, sa.exc.SQLAlchemyError, OSError) as error:
            raise _worded(error, self.url) from error

    return wrapped


def _worded(error: Exception, url: str) -> TrimtabError:
    place = f"registry.url={masked(url)!r}"
    said = _first_line(error, url)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        if status == 404:
            return ArtifactError(f"MLflow at {place} has no such thing: {said}; name one that it has")
        if 400 <= status < 500 and status not in REFUSALS:
            return InternalError(f"MLflow at {place} refused what trimtab asked: {said}")
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"a file is missing: {said}")
    return ServiceError(
        f"MLflow at {place} does not answer: {said}; start it, free the disk it writes to, or correct registry.url"
    )


def _first_line(error: Exception, url: str) -> str:
    """Return the first line of a message, without the address's password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    secret = SECRET.search(url)
    line = lines[0].replace(url, masked(url))
    return (line.replace(secret[2], "***") if secret and secret[2] else line)[:MESSAGE_LENGTH]
