"""Where steps that have many items are worked on: threads or processes here, or machines that a plugin knows."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from trimtab.discover import look_beside
from trimtab.errors import ServiceError

__all__ = ["Pool", "Processes", "Runner", "Threads", "Workers"]

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Pool:
    """Workers that were started.

    Parameters
    ----------
    executor
        Takes what they are to do, in the way of the standard library. A future whose worker ended before its work
        did raises :class:`concurrent.futures.BrokenExecutor`.
    workers
        Number of items that are given to them at a time.
    """

    executor: concurrent.futures.Executor
    workers: int


class Runner(Protocol):
    """Starts workers; a frozen dataclass whose fields are its settings.

    ``separate`` says whether each worker is a process of its own, in which one step is built at a time: what
    builds a candidate draws from the random state of a process.
    """

    name: ClassVar[str]
    separate: ClassVar[bool]

    def start(self) -> Pool | None:
        """Start the workers, or reach those that run; None: whoever has items works on them, one after another.

        Raises
        ------
        ServiceError
            When what it is to reach does not answer.
        """
        ...


@dataclass(frozen=True)
class Threads:
    """Threads of this process: parts of a large window at the same time, candidates one after another.

    Parameters
    ----------
    workers
        Number of them; with 1 no thread is started.
    """

    workers: int = 1

    name: ClassVar[str] = "threads"
    separate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"threads.workers must be at least 1, got {self.workers}")

    def start(self) -> Pool | None:
        """Start the threads."""
        return None if self.workers == 1 else Pool(ThreadPoolExecutor(self.workers), self.workers)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, started once and afresh: they inherit no lock and no thread.

    Parameters
    ----------
    workers
        Number of them; by default one for each processor core that this process may use.
    """

    workers: int | None = None

    name: ClassVar[str] = "processes"
    separate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"processes.workers must be at least 1, got {self.workers}")

    def start(self) -> Pool:
        """Start the processes."""
        number = self.workers or len(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")
        return Pool(ProcessPoolExecutor(number, context, _end_with_parent), number)


def _end_with_parent() -> None:
    """End this process when the one that started it does, however that one ends: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Workers:
    """A runner's workers, started at the first use, and afresh after one of them died.

    Parameters
    ----------
    runner
        Starts them; none: this thread does everything.
    beside
        Folder whose modules they may import: the project file's.

    Examples
    --------
    >>> list(Workers(Threads(2)).map(len, ["a", "bb", "ccc"]))
    [1, 2, 3]
    """

    def __init__(self, runner: Runner | None = None, beside: Path | None = None) -> None:
        self.runner = runner or Threads()
        self.beside = None if beside is None else beside.absolute()

    @property
    def separate(self) -> bool:
        """Whether each is a process of its own."""
        return self.runner.separate

    @property
    def number(self) -> int:
        """Items that are given to them at a time."""
        return 1 if self._pool is None else self._pool.workers

    def map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Yield the function of each item, in the items' order.

        No more are waited for than there are workers: that many more than the one in hand are in memory at
        most. Where workers are processes, the function, items and results must be picklable. A single item
        is worked on here.

        Raises
        ------
        ServiceError
            When a worker ends before its work does.
        """
        if len(items) == 1 or self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(self.submit(function, item))
                if len(waiting) > self.number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenExecutor as error:
            self.close()
            raise ServiceError(
                f"a worker of runner {self.runner.name!r} ended before its work did; it may have run out of memory: "
                "lower runner.workers, or set runner: threads"
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def submit(self, function: Callable[[A], B], item: A) -> Future[B]:
        """Give the workers one item; see :class:`Pool` for what its future raises.

        Raises
        ------
        ServiceError
            When the runner starts none to give it to.
        """
        work = functools.partial(_beside, self.beside, function, item)
        try:
            return self._executor.submit(work)
        except BrokenExecutor:  # one of them died when there was nothing to do
            self.close()
            return self._executor.submit(work)

    def close(self) -> None:
        """End the workers; the next use starts others."""
        if self.__dict__.pop("_pool", None) is not None:
            self._finalizer()

    @property
    def _executor(self) -> concurrent.futures.Executor:
        if self._pool is None:
            raise ServiceError(f"runner {self.runner.name!r} starts no workers; set runner.workers to 2 or more")
        return self._pool.executor

    @functools.cached_property
    def _pool(self) -> Pool | None:
        pool = self.runner.start()
        if pool is not None:
            self._finalizer = weakref.finalize(self, pool.executor.shutdown, wait=False, cancel_futures=True)
        return pool


def _beside(folder: Path | None, function: Callable[[A], B], item: A) -> B:
    """Work on an item where the project's own modules can be imported."""
    if folder is not None:
        look_beside(folder)
    return function(item)
