"""How the loop's steps are run and shown: in this process, or by whatever a flow passes in."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, ParamSpec, Protocol, TypeVar

from trimtab.errors import ServiceError

__all__ = ["Direct", "Executor", "Progress", "Silent", "Workers"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class Executor(Protocol):
    """Runs one step of the loop; adds retries, boundaries or another machine, and decides nothing."""

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` under ``name``; a :class:`~trimtab.errors.ServiceError` may be tried again."""
        ...

    def map(self, name: str, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Run ``function`` on each item, several at a time where it can, and yield the results in the items' order."""
        ...


@dataclass(frozen=True)
class Workers:
    """Runs a function on many items: several at a time, in threads or in processes.

    Results come in the items' order, and no more are waited for than there are workers: that many
    more than the one in hand are in memory at most. Processes are started once, at the first use, and
    afresh: they import what they need, and inherit no lock and no thread.

    Parameters
    ----------
    number
        Items at a time; with 1 all run in the caller's thread.
    pool
        ``threads`` or ``processes``; for these function, items and results must be picklable.

    Examples
    --------
    >>> list(Workers(2).map(len, ["a", "bb", "ccc"]))
    [1, 2, 3]
    """

    number: int = 1
    pool: Literal["threads", "processes"] = "threads"

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Yield the function of each item.

        Raises
        ------
        ServiceError
            When a process ends before its work does.
        """
        if self.number == 1 or len(items) == 1:
            yield from map(function, items)
            return
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(self._started.submit(function, item))
                if len(waiting) > self.number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            del self.__dict__["_started"]
            raise ServiceError(
                "a process that looked at a part of a window ended before its work did; it may have run out of memory: "
                "lower monitors.workers, or set monitors.pool: threads"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    @functools.cached_property
    def _started(self) -> concurrent.futures.Executor:
        if self.pool == "threads":
            return ThreadPoolExecutor(self.number)
        return ProcessPoolExecutor(self.number, multiprocessing.get_context("spawn"))


class Direct:
    """Runs each step in this process, once more when a server did not answer.

    Parameters
    ----------
    retries
        Further tries after a :class:`~trimtab.errors.ServiceError`.
    workers
        What the items of a step that has many are given to.

    Examples
    --------
    >>> Direct().call("add", lambda a, b: a + b, 1, 2)
    3
    """

    def __init__(self, retries: int = 1, workers: Workers | None = None) -> None:
        self.retries = retries
        self.workers = workers or Workers()

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the step."""
        for _ in range(self.retries):
            try:
                return function(*args, **kwargs)
            except ServiceError:
                continue
        return function(*args, **kwargs)

    def map(self, name: str, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Run the function on each item."""
        return self.workers.map(function, items)


class Progress(Protocol):
    """Shows how far the loop is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[str], None]]:
        """Open a stage of ``total`` steps; calling what it yields advances it by one and says what is next."""
        ...

    def say(self, message: str) -> None:
        """Show a line that stays."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[str], None]]:
        """Advance nothing."""
        yield lambda _: None

    def say(self, message: str) -> None:
        """Say nothing."""
