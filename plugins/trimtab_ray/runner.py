"""Workers of Ray (Moritz et al. 2018): of a cluster that runs, or of one that is started on this machine."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported; nothing is sent home

import ray
from ray.exceptions import RayError, RayTaskError

from trimtab.errors import ServiceError
from trimtab.runner import Pool

__all__ = ["Ray"]

T = TypeVar("T")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ray:
    """Workers of Ray; those of other machines need the same packages, and the project's home at the same path.

    A process has one Ray: what it is connected to already is used. Whoever reaches a cluster can have its workers run
    anything: let only machines reach it that may.

    Parameters
    ----------
    url
        Of a cluster that runs: what ``ray.init`` takes as its address, such as ``ray://host:10001``, or ``auto`` on one
        of its machines; None: one is started on this machine, which only it can reach.
    workers
        Processes to start, or items that are given to a running cluster at a time; by default one for each
        processor core that this process may use, or that the cluster has.
    """

    url: str | None = None
    workers: int | None = None

    name: ClassVar[str] = "ray"
    separate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"ray.workers must be at least 1, got {self.workers}")

    def start(self) -> Pool:
        """Start a cluster, or reach the one that runs.

        Raises
        ------
        ServiceError
            When it does not answer.
        """
        own = not ray.is_initialized()
        if own:
            self._begin()
        return Pool(Cluster(own), self.workers or int(ray.cluster_resources().get("CPU", 1)))

    def _begin(self) -> None:
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.url is None:
            cores = self.workers or len(os.sched_getaffinity(0))
            found = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
            ray.init(num_cpus=cores, include_dashboard=False, _node_ip_address=LOOPBACK, runtime_env=found, **quiet)
            return
        try:
            ray.init(address=self.url, **quiet)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            raise ServiceError(
                f"runner.url={self.url!r}: no Ray answers there ({error}); start one with `ray start --head`, "
                "or set runner: processes"
            ) from error


class Cluster(concurrent.futures.Executor):
    """Ray, as the standard library sees who does work.

    Parameters
    ----------
    own
        Whether this process leaves Ray with this.
    """

    def __init__(self, own: bool) -> None:
        self._own = own
        self._run = ray.remote(num_cpus=1, max_retries=0)(_run)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Give the cluster something to do; it does it once."""
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()
        answer.set_running_or_notify_cancel()
        asked = self._run.remote(functools.partial(fn, *args, **kwargs))
        asked.future().add_done_callback(functools.partial(_settle, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; end it where it was started for this."""
        if self._own and ray.is_initialized():
            ray.shutdown()


def _run(work: Callable[[], T]) -> T:
    return work()


def _settle(answer: concurrent.futures.Future[T], asked: concurrent.futures.Future[T]) -> None:
    error = asked.exception()
    if error is None:
        answer.set_result(asked.result())
    elif isinstance(error, RayTaskError):
        answer.set_exception(error.cause if isinstance(error.cause, Exception) else error)
    elif isinstance(error, RayError):
        answer.set_exception(BrokenExecutor(f"Ray lost it: {error}"))
    else:
        answer.set_exception(error)
