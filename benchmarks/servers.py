"""Real servers for a benchmark: MLflow and Prefect on the loopback, in a folder of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

LOOPBACK = "127.0.0.1"


@contextmanager
def servers(folder: Path) -> Iterator[str]:
    """Run both until the end of the block, let Prefect's flows use one, and yield the address of MLflow's."""
    folder.mkdir(parents=True)
    mlflow, prefect = free_port(), free_port()
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "kept"),
    ]
    at = ["server", "--host", LOOPBACK, "--port", str(mlflow), "--workers", "1", *store]
    start = ["server", "start", "--host", LOOPBACK, "--port", str(prefect)]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    settings = {PREFECT_API_URL: f"http://{LOOPBACK}:{prefect}/api", PREFECT_HOME: folder / "prefect"}
    with ExitStack() as stack:
        for name, port, arguments in (("mlflow", mlflow, at), ("prefect", prefect, start)):
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            environment = {**os.environ, **quiet, "PREFECT_HOME": str(folder / "prefect")}
            stack.enter_context(running([sys.executable, "-m", name, *arguments], environment, log.fileno()))
            answered(f"http://{LOOPBACK}:{port}/{'health' if name == 'mlflow' else 'api/health'}")
        stack.enter_context(temporary_settings(settings))
        yield f"http://{LOOPBACK}:{mlflow}"


@contextmanager
def running(command: Sequence[str], environment: dict[str, str], log: int) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield
    finally:
        server.terminate()
        server.wait(30)


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as free:
        return int(free.getsockname()[1])


def answered(url: str) -> None:
    """Wait for the first answer, two minutes at most."""
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 (our own loopback address)
            return
        except OSError:
            time.sleep(1)
    raise TimeoutError(f"{url} did not answer")
