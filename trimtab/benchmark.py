"""Paired, interleaved measuring of a challenger beside the champion, and the Scores that come of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import filelock
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from trimtab.artifact import Model
from trimtab.data import Rows
from trimtab.window import Arrays

__all__ = ["Interval", "Latency", "Runtime", "Scores", "Session", "Target", "correctness", "race"]

CONTENDED = 0.20
"""Relative width of a speed-up's interval beyond which the machine was not quiet enough to say."""


class Target(BaseModel):
    """What a model must be fast on.

    Parameters
    ----------
    runtime
        Name of an installed runtime.
    threads
        Threads that one call may use.
    batch
        Rows in one call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime: str = "onnxruntime"
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)


class Session(Protocol):
    """A loaded model."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return ``probabilities`` (float32 ``[rows, classes]``) and, where it has one, ``embedding``."""
        ...

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return ``probabilities`` alone: what serving calls and what is timed."""
        ...


class Runtime(Protocol):
    """Loads models of one format for a target."""

    name: ClassVar[str]
    takes: ClassVar[str]

    def load(self, model: Model, target: Target) -> Session:
        """Load a model.

        Raises
        ------
        ArtifactError
            When the file cannot be loaded.
        """
        ...


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


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


@dataclass(frozen=True)
class Scores:
    """What a benchmark says of one model.

    Parameters
    ----------
    judged
        1 where the prediction was right, else 0, on the judge rows (float64 ``[rows]``).
    groups
        Group of each judge row (uint64 ``[rows]``): rows of one group are not independent.
    latency
        Beside the champion.
    size_bytes
        On disk, of what serves.
    searched, search_rows
        Share of right predictions on the search rows, and their number.
    golden
        As ``judged``, on the golden rows; empty where the project names none.
    parameters
        Number of weights, where known.
    """

    judged: npt.NDArray[np.float64]
    groups: npt.NDArray[np.uint64]
    latency: Latency
    size_bytes: int
    searched: float
    search_rows: int = 0
    golden: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    golden_groups: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    parameters: int | None = None

    @property
    def ranking(self) -> tuple[float, int]:
        """Share of right predictions over search and judge rows together, and their number.

        Candidates are ranked by it, after the gate: the gate's intervals hold for all candidates of a
        round at once, so that ranking by the same rows takes nothing from them.
        """
        rows = self.search_rows + len(self.judged)
        return (self.searched * self.search_rows + float(self.judged.sum())) / max(1, rows), rows

    def quality(self, confidence: float) -> Interval:
        """Return the share of right predictions on the judge rows with its Wilson interval."""
        return proportion(self.judged, self.groups, confidence)


def proportion(right: npt.NDArray[np.float64], groups: npt.NDArray[np.uint64], confidence: float) -> Interval:
    """Return a share of successes with its Wilson score interval; all of [0, 1] for no rows.

    Counts are divided by the design effect of the groups, whose rows are not independent.

    Examples
    --------
    >>> f"{proportion(np.array([1.0, 1, 1, 0]), np.arange(4, dtype=np.uint64), 0.95):.2f}"
    '0.75 (0.30 to 0.95)'
    """
    if len(right) == 0:
        return Interval(float("nan"), 0.0, 1.0)
    count = max(1, round(len(right) / design_effect(right, groups)))
    test = stats.binomtest(round(float(right.mean()) * count), count)
    ci = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(right.mean()), float(ci.low), float(ci.high))


def design_effect(values: npt.NDArray[np.float64], groups: npt.NDArray[np.uint64]) -> float:
    """Return how much larger the variance of the mean is than with independent rows; at least 1.

    Examples
    --------
    >>> design_effect(np.array([1.0, 1, -1, -1]), np.array([1, 1, 2, 2], np.uint64))
    2.0
    """
    codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == len(values):
        return 1.0
    if len(sizes) < 2:
        return float(len(values))  # rows of one thing are one observation
    centred = values - values.mean()
    alone = float((centred**2).sum())
    together = float((np.bincount(codes, weights=centred) ** 2).sum())
    return max(1.0, together / alone) if alone > 0 else 1.0


def correctness(session: Session, rows: Rows, batch: int = 256) -> npt.NDArray[np.float64]:
    """Return 1 for each row whose most probable class is its label, else 0 (NaN output is never right)."""
    right = np.zeros(len(rows))
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        probabilities = session.predict({k: v[part] for k, v in rows.inputs.items()})
        sane = np.isfinite(probabilities).all(axis=1)
        right[part] = (probabilities.argmax(axis=1) == rows.labels[part]) & sane
    return right


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
