"""Workers of Dask (Rocklin 2015): of a cluster that runs, or of one that is started on this machine."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import dask
from distributed import Client, Future, KilledWorker, LocalCluster

from trimtab.errors import ServiceError
from trimtab.runner import Pool

__all__ = ["Dask"]

T = TypeVar("T")
LOOPBACK = "127.0.0.1"
PATIENCE = "15s"
"""How long a scheduler is waited for."""


@dataclass(frozen=True)
class Dask:
    """Workers of Dask; those of other machines need the same packages, and the project's home at the same path.

    Whoever reaches a scheduler can have its workers run anything: let only machines reach it that may, or use ``tls://``.

    Parameters
    ----------
    url
        Of a scheduler that runs, such as ``dask://host:8786`` or ``tls://host:8786``; None: a cluster of processes is
        started on this machine, which only it can reach. Workers of one's own are best started with
        ``--nthreads 1``: a process builds one step at a time.
    workers
        Processes to start, or items that are given to a running cluster at a time; by default one for each
        processor core that this process may use, or for each thread of the cluster's workers.
    """

    url: str | None = None
    workers: int | None = None

    name: ClassVar[str] = "dask"
    separate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"dask.workers must be at least 1, got {self.workers}")

    def start(self) -> Pool:
        """Start a cluster, or reach the one that runs.

        Raises
        ------
        ServiceError
            When the scheduler does not answer, or has no workers.
        """
        if self.url is None:
            return self._local(self.workers or len(os.sched_getaffinity(0)))
        try:
            client = Client(self.url.replace("dask://", "tcp://", 1), timeout=PATIENCE, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise ServiceError(
                f"runner.url={self.url!r}: no Dask scheduler answers there ({error}); start one with `dask scheduler`, "
                "or set runner: processes"
            ) from error
        threads = sum(client.nthreads().values())
        if not threads:
            client.close()
            raise ServiceError(f"runner.url={self.url!r}: the scheduler has no workers; start some with `dask worker`")
        return Pool(Cluster(client, None), self.workers or threads)

    def _local(self, number: int) -> Pool:
        # What kills its worker would kill others before Dask says so; whether it is tried again is the caller's to say.
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
            cluster = LocalCluster(
                n_workers=number,
                threads_per_worker=1,
                host=LOOPBACK,
                dashboard_address=f"{LOOPBACK}:0",
                silence_logs=logging.CRITICAL,
            )
        return Pool(Cluster(Client(cluster, set_as_default=False), cluster), number)


class Cluster(concurrent.futures.Executor):
    """A client, as the standard library sees who does work.

    Parameters
    ----------
    client
        Of the scheduler.
    own
        The cluster, where it ends with this.
    """

    def __init__(self, client: Client, own: LocalCluster | None) -> None:
        self._client, self._own = client, own

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Give the cluster something to do; it does the same thing again when it is asked again."""
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()
        answer.set_running_or_notify_cancel()
        asked = self._client.submit(fn, *args, **kwargs, pure=False)
        asked.add_done_callback(functools.partial(_settle, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; end it where it was started for this."""
        self._client.close()
        if self._own is not None:
            self._own.close()


def _settle(answer: concurrent.futures.Future[T], asked: Future) -> None:
    if asked.status == "finished":
        answer.set_result(asked.result())
        return
    error = asked.exception() if asked.status == "error" else None
    if error is None or isinstance(error, KilledWorker):
        lost = BrokenExecutor(f"Dask lost it: {error or 'its scheduler went away'}")
        answer.set_exception(lost)
    else:
        answer.set_exception(error)
