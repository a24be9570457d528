"""Prefect's API for one run: the server that PREFECT_API_URL names, or an embedded one that dies with this process.

Prefect's own temporary server is a process that outlives a killed parent. :mod:`trimtab_prefect.served` does not.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO

from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

from trimtab.address import masked
from trimtab.errors import ServiceError

__all__ = ["described", "reached"]

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0
STOP_SECONDS = 10.0
WAY_OUT = "run with --direct to do without Prefect"


def described() -> str:
    """Say which server the flows will run against."""
    url = PREFECT_API_URL.value()
    return (
        masked(url)
        if url
        else "starting an embedded server (set PREFECT_API_URL to use your own, --direct to run without)"
    )


@contextmanager
def reached() -> Iterator[Callable[[], None]]:
    """Make Prefect's API reachable for the flows that run inside.

    Where PREFECT_API_URL is set (environment or Prefect profile) that server is used. Elsewhere one is
    started in a process of its own, on a free port of this machine's loopback; it keeps its records
    in PREFECT_HOME.

    Yields
    ------
    Callable
        Waits until the API answers; what can be done meanwhile may be done before.

    Raises
    ------
    ServiceError
        From the callable, when the API does not answer.
    """
    url = PREFECT_API_URL.value()
    if url:
        yield lambda: _check(url)
        return
    with (
        _embedded() as (own, wait),
        temporary_settings(
            # Nothing looks at heartbeats here, and each flow run would wait a second for its own.
            {PREFECT_API_URL: own, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        ),
    ):
        try:
            yield wait
        finally:
            EventsWorker.drain_all(timeout=STOP_SECONDS, at_exit=False)


def _check(url: str) -> None:
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise ServiceError(
            f"Prefect's server at PREFECT_API_URL={masked(url)} does not answer "
            f"({type(error).__name__}: {error}); start it, "
            f"unset PREFECT_API_URL for an embedded one, or {WAY_OUT}"
        )


@contextmanager
def _embedded() -> Iterator[tuple[str, Callable[[], None]]]:
    with tempfile.TemporaryFile() as log, socket.create_server((LOOPBACK, 0)) as listening:
        url = f"http://{LOOPBACK}:{listening.getsockname()[1]}/api"
        process = _spawn(listening, log)
        listening.close()  # with the child alone holding it, a dead child refuses at once
        try:
            yield url, lambda: _await(url, process, log)
        finally:
            _stop(process)


def _spawn(listening: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(  # noqa: S603 (our own module)
        [sys.executable, "-m", "trimtab_prefect.served", str(listening.fileno())],
        env={"PREFECT_SERVER_ANALYTICS_ENABLED": "false", **os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=[listening.fileno()],
        start_new_session=True,  # an interrupt at the terminal is for us: the run's end is still to be recorded
    )


def _await(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Wait for the first answer; the socket listens from the start, so that one request waits for the start."""
    begin = time.monotonic()
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=START_SECONDS):  # noqa: S310 (our own loopback address)
            return
    except (OSError, HTTPException) as error:
        waited = time.monotonic() - begin
        _stop(process)
        log.seek(0)
        said = " | ".join(log.read().decode(errors="replace").strip().splitlines()[-3:]) or "no output"
        raise ServiceError(
            f"Prefect's embedded server did not start within {waited:.0f} s ({error}): {said}; "
            f"check PREFECT_HOME={get_current_settings().home} and the disk, or {WAY_OUT}"
        ) from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
