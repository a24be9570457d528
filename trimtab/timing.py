"""Paired, interleaved timing of a challenger beside the champion."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
from scipy import stats

from trimtab.data import Rows
from trimtab.intervals import Interval
from trimtab.runtime import Session

__all__ = ["Latency", "measuring_lock", "race"]

CONTENDED = 0.20
"""Relative width of a speed-up's interval beyond which the machine was not quiet enough to say."""


@dataclass(frozen=True)
class Latency:
    """Timing of one model beside the champion.

    Parameters
    ----------
    p50_ms, p95_ms
        Milliseconds of one call.
    speedup
        Champion's time over this model's: the median of paired blocks with a bootstrap interval.
    contended
        Whether the interval is too wide to say anything.
    """

    p50_ms: float
    p95_ms: float
    speedup: Interval
    contended: bool


@contextmanager
def measuring_lock(timeout: float = 600.0) -> Iterator[None]:
    """Hold the machine-wide lock under which everything that is timed is timed."""
    path = Path(tempfile.gettempdir()) / "trimtab-measuring.lock"
    with filelock.FileLock(str(path), timeout=timeout, mode=0o666):
        yield


def race(
    champion: Session,
    rivals: Mapping[str, Session],
    rows: Rows,
    *,
    batch: int = 1,
    blocks: int = 60,
    calls: int = 8,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Latency]:
    """Time every rival beside the champion, interleaved, on real rows.

    Each block times ``calls`` calls of the champion and of the rival, in random order, so that load
    on the machine meets both alike; the speed-up is the median over blocks of the ratio of the
    blocks' medians. Its interval is a percentile bootstrap over blocks (Efron 1979), since calls
    within a block are not independent.

    Parameters
    ----------
    rows
        Rows to predict; at least ``batch`` of them.
    blocks, calls
        Number of blocks, and of calls of either model in one.
    confidence
        Of each interval.
    """
    rng = np.random.default_rng(seed)
    feeds = _feeds(rows, batch, rng)
    with measuring_lock():
        return {name: _duel(champion, rival, feeds, blocks, calls, confidence, rng) for name, rival in rivals.items()}


def _feeds(rows: Rows, batch: int, rng: np.random.Generator) -> list[dict[str, npt.NDArray[Any]]]:
    draws = [rng.integers(0, len(rows), size=batch) for _ in range(16)]
    return [{k: np.ascontiguousarray(v[index]) for k, v in rows.inputs.items()} for index in draws]


def _duel(
    champion: Session,
    rival: Session,
    feeds: list[dict[str, npt.NDArray[Any]]],
    blocks: int,
    calls: int,
    confidence: float,
    rng: np.random.Generator,
) -> Latency:
    for session in (champion, rival):
        _time(session, feeds, 2 * calls)
    pairs = np.empty((blocks, 2, calls))
    for block in range(blocks):
        order = (0, 1) if rng.random() < 0.5 else (1, 0)
        for side in order:
            pairs[block, side] = _time((champion, rival)[side], feeds, calls)
    medians = np.median(pairs, axis=2)
    ratios = medians[:, 0] / medians[:, 1]
    ci = stats.bootstrap(
        (ratios,), np.median, confidence_level=confidence, n_resamples=2000, method="percentile", rng=rng
    ).confidence_interval
    speedup = Interval(float(np.median(ratios)), float(ci.low), float(ci.high))
    times = pairs[:, 1].ravel()
    width = (speedup.high - speedup.low) / speedup.value
    return Latency(float(np.median(times)), float(np.percentile(times, 95)), speedup, bool(width > CONTENDED))


def _time(session: Session, feeds: list[dict[str, npt.NDArray[Any]]], calls: int) -> npt.NDArray[np.float64]:
    times = np.empty(calls)
    for call in range(calls):
        feed = feeds[call % len(feeds)]
        begin = time.perf_counter_ns()
        session.predict(feed)
        times[call] = (time.perf_counter_ns() - begin) / 1e6
    return times
