"""Paired, interleaved timing of rivals beside the champion: in one process, or in one process a model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import numpy as np

from trimtab.data import Rows
from trimtab.duel import Contestant, Latency, Plan, duel
from trimtab.energy import Meter
from trimtab.errors import ArtifactError, ServiceError
from trimtab.loadable import Loadable
from trimtab.runtime import Session
from trimtab.stopwatch import Burst, Feed, Stopwatch, draw_feeds
from trimtab.worker import Worker, keep_feeds

__all__ = ["Latency", "compare", "measuring_lock", "peak_memory", "race"]

SECONDS = 2.0
"""Of timing for each rival: enough to tell 10 % apart at a batch of 32."""
BURST_MS = 2.0
BURST_APART_MS = 10.0
BURSTS = 200
"""Longer between processes, whose thread pools must wake up first and go to sleep afterwards."""
PEAK_CALLS = 5


@contextmanager
def measuring_lock(timeout: float = 1200.0) -> Iterator[None]:
    """Hold the lock under which everything on this machine that is timed is timed.

    Raises
    ------
    ServiceError
        When another process holds it longer than ``timeout`` seconds; a round is then left open, and taken up later.
    """
    path = Path(tempfile.gettempdir()) / "trimtab-measuring.lock"
    lock = filelock.FileLock(str(path), mode=0o666)
    try:
        lock.acquire(timeout)
    except filelock.Timeout as error:
        raise ServiceError(
            f"another process has been measuring on this machine for {timeout:g} s ({path}); wait for it, or end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


class Given:
    """A session that others loaded: it stays where it is."""

    def __init__(self, session: Session, feeds: Sequence[Feed]) -> None:
        self.time = Stopwatch(session, feeds).time

    def load(self) -> None:
        """Keep the session."""


class Here:
    """A model that is loaded in this process."""

    def __init__(self, loadable: Loadable, feeds: Sequence[Feed], threads: int, batch: int) -> None:
        self._loadable, self._feeds, self._threads, self._batch = loadable, feeds, threads, batch

    def load(self) -> float:
        """Load it while the former session still holds its memory, so that the new one lies elsewhere."""
        begin = time.perf_counter()
        self._watch = Stopwatch(self._loadable.load(self._threads, self._batch), self._feeds)
        self._watch.time(0)
        return time.perf_counter() - begin

    def time(self, ms: float) -> Burst:
        """Time calls in a row for ``ms`` milliseconds."""
        return self._watch.time(ms)


def race(
    champion: Session,
    rivals: Mapping[str, Session],
    rows: Rows,
    *,
    batch: int = 1,
    seconds: float = SECONDS,
    calls: int = 0,
    confidence: float = 0.95,
    meter: Meter | None = None,
    seed: int = 0,
) -> dict[str, Latency]:
    """Time sessions that are loaded already; see :func:`trimtab.duel.duel`.

    The interval holds for these sessions as they lie in memory, not for the models: equal ones that
    were loaded once each differ by a per cent, and :func:`compare` loads them again and again instead.

    Parameters
    ----------
    rows
        Rows to predict; at least one.
    batch
        Rows in one call.
    seconds
        Of timing for each rival.
    calls
        Least number of calls of each rival; 299 give ``p99_ms`` at a confidence of 0.95.
    confidence
        Of each interval.
    meter
        Of energy; None: it is not measured.

    Raises
    ------
    ArtifactError
        When a session fails.
    """
    feeds = draw_feeds(rows, batch, np.random.default_rng(seed))
    given = {name: Given(session, feeds) for name, session in rivals.items()}
    with measuring_lock():
        timed = duel(
            Given(champion, feeds), given, Plan(batch, seconds, calls, _burst_ms(1, seconds), confidence, meter, seed)
        )
    if failed := next((found for found in timed.values() if isinstance(found, ArtifactError)), None):
        raise failed
    return {name: found for name, found in timed.items() if isinstance(found, Latency)}


def compare(
    champion: Loadable,
    rivals: Mapping[str, Loadable],
    rows: Rows,
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = SECONDS,
    calls: int = 0,
    confidence: float = 0.95,
    meter: Meter | None = None,
    seed: int = 0,
) -> dict[str, Latency | ArtifactError]:
    """Time models beside the champion; see :func:`trimtab.duel.duel`.

    With one thread all are loaded in this process. With more each has a process of its own, since the
    thread pools of several runtimes disturb each other in one; while one works the others wait.

    Parameters
    ----------
    threads, batch
        Threads that one call may use, and rows in one.
    rows, seconds, calls, confidence, meter, seed
        As for :func:`race`.

    Returns
    -------
    dict
        By rival: its timing, or why there is none; the others are timed all the same.

    Raises
    ------
    ArtifactError
        When the champion does not load or fails.
    """
    feeds = draw_feeds(rows, batch, np.random.default_rng(seed))
    burst_ms = _burst_ms(threads, seconds)
    with measuring_lock(), _contestants([champion, *rivals.values()], feeds, threads, batch) as (first, *others):
        plan = Plan(batch, seconds, calls, burst_ms, confidence, meter, seed)
        return duel(first, dict(zip(rivals, others, strict=True)), plan)


def _burst_ms(threads: int, seconds: float) -> float:
    """Return the length of a burst: shorter where the whole timing is, for there are hundreds of them."""
    return min(BURST_MS if threads == 1 else BURST_APART_MS, 1000 * seconds / BURSTS)


@contextmanager
def _contestants(
    models: Sequence[Loadable], feeds: Sequence[Feed], threads: int, batch: int
) -> Iterator[list[Contestant]]:
    if threads == 1:
        yield [Here(model, feeds, threads, batch) for model in models]
        return
    with keep_feeds(feeds) as path, ExitStack() as stack:
        yield [stack.enter_context(Worker(model, path, threads, batch)) for model in models]


def peak_memory(loadable: Loadable, rows: Rows, *, threads: int = 1, batch: int = 1) -> float:
    """Return the megabytes (10^6 bytes) by which loading a model and calling it make a process grow at most.

    Taken in a process of its own, which has imported the runtime's library and holds the inputs already:
    the growth of its resident high-water mark from before the loading until after 5 calls. It holds the
    weights in whatever form the runtime keeps them, what the runtime sets up for its first model, the
    file while it is read, and the working memory of the calls; neither the library nor the interpreter
    (tens to hundreds of megabytes), nor what a longer life adds. It repeats to about 10 %, and to no less
    than the few hundred kilobytes in which memory is taken from the system.

    Raises
    ------
    ArtifactError
        When the model does not load or fails.
    """
    feeds = draw_feeds(rows, batch, np.random.default_rng(0))
    with keep_feeds(feeds) as path, Worker(loadable, path, threads, batch) as worker:
        return worker.peak(PEAK_CALLS)
