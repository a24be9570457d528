"""Timing the calls of one loaded model, in whatever process it is loaded."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.data import Rows
from trimtab.runtime import Session

__all__ = ["Burst", "Feed", "Stopwatch", "draw_feeds"]

Feed = Mapping[str, npt.NDArray[Any]]

FEEDS = 16
COLD = 1 / 8
LONGEST = 500
SHORTEST_MS = 1e-4


@dataclass(frozen=True)
class Burst:
    """Calls in a row.

    Parameters
    ----------
    ms
        Milliseconds of each call that was timed (float64 ``[calls]``).
    calls, cpu_seconds
        Number of all calls, also those not timed, and their processor time over all cores.
    """

    ms: npt.NDArray[np.float64]
    calls: int
    cpu_seconds: float


class Stopwatch:
    """Times a session's ``predict``.

    Parameters
    ----------
    session
        A loaded model.
    feeds
        Inputs of its calls, which take turns.
    """

    def __init__(self, session: Session, feeds: Sequence[Feed]) -> None:
        self._session = session
        self._feeds = itertools.cycle(feeds)
        self._usual_ms = math.inf

    def time(self, ms: float, most: int = LONGEST) -> Burst:
        """Time calls in a row for ``ms`` milliseconds: at least one, at most ``most``.

        Calls for an eighth of that time come before and are not timed, where that is at least one: they
        find the caches as another model left them.
        """
        cold = min(int(ms * COLD / self._usual_ms), most)
        times: list[int] = []
        cpu = time.process_time()
        for _ in range(cold):
            self._session.predict(next(self._feeds))
        end = time.perf_counter_ns() + int(ms * 1e6)
        while not times or (len(times) < most and time.perf_counter_ns() < end):
            feed = next(self._feeds)
            begin = time.perf_counter_ns()
            self._session.predict(feed)
            times.append(time.perf_counter_ns() - begin)
        burst = Burst(np.array(times) / 1e6, cold + len(times), time.process_time() - cpu)
        self._usual_ms = max(float(np.median(burst.ms)), SHORTEST_MS)
        return burst


def draw_feeds(rows: Rows, batch: int, rng: np.random.Generator) -> list[dict[str, npt.NDArray[Any]]]:
    """Draw the inputs of calls of ``batch`` rows each, with replacement."""
    draws = [rng.integers(0, len(rows), size=batch) for _ in range(FEEDS)]
    return [{k: np.ascontiguousarray(v[index]) for k, v in rows.inputs.items()} for index in draws]
