"""Models timed in turn, in several sittings, so that what disturbs the machine meets all of them alike."""

from __future__ import annotations

import itertools
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from trimtab.energy import Energy, Meter, Usage
from trimtab.errors import ArtifactError
from trimtab.intervals import Interval
from trimtab.stopwatch import Burst

__all__ = ["Contestant", "Latency", "Plan", "duel"]

CONTENDED = 0.20
"""Relative width of a speed-up's interval beyond which the machine was not quiet enough to say."""
SITTINGS = 16
TRIM = 0.2
WARM_UP = 2.5
"""Bursts that a model warms up for after it was loaded."""
CAUTION = 4
"""How many times rarer than asked an interval is to miss: sittings on one machine are not quite independent."""
QUARTILE = 0.25


@dataclass(frozen=True)
class Latency:
    """Timing of one model beside the champion.

    Parameters
    ----------
    p50_ms, p95_ms
        Milliseconds of one call.
    speedup
        Champion's time over this model's, with its interval.
    contended
        Whether the interval is too wide to say anything: more than 20 % of the speed-up.
    p99_ms
        What 99 of 100 calls stay below, with the interval's confidence: a bound and no point, since the
        point would rest on the few slowest calls. None where there are too few calls for one (299 at
        a confidence of 0.95).
    throughput
        Rows a second, one call after the other at the target's batch.
    calls
        Number of calls that were timed.
    loads
        Number of times that the model was loaded afresh; 1 where loading takes too long for more, so
        that the interval holds for the model as it lay in memory then.
    energy
        Of its calls; None where no meter is named.
    host
        Name of the machine on which both were timed.
    """

    p50_ms: float
    p95_ms: float
    speedup: Interval
    contended: bool
    p99_ms: float | None = None
    throughput: float = 0.0
    calls: int = 0
    loads: int = 1
    energy: Energy | None = None
    host: str = field(default_factory=platform.node)


@dataclass(frozen=True)
class Plan:
    """How long and how to time.

    Parameters
    ----------
    batch
        Rows in one call.
    seconds
        Of timing for each rival; as many again may go into loading each model.
    calls
        Least number of calls of each rival, however long they take.
    burst_ms
        Milliseconds of calls in a row.
    confidence
        Of each interval.
    meter
        Of energy; None: it is not measured.
    seed
        Of the orders.
    """

    batch: int = 1
    seconds: float = 2.0
    calls: int = 0
    burst_ms: float = 2.0
    confidence: float = 0.95
    meter: Meter | None = None
    seed: int = 0


class Contestant(Protocol):
    """A model that can be loaded and timed, here or in another process."""

    def load(self) -> float | None:
        """Load the model afresh, make its first call, and return the seconds it took; None where it cannot be."""
        ...

    def time(self, ms: float) -> Burst:
        """Time calls in a row for ``ms`` milliseconds; at least one."""
        ...


@dataclass
class Lane:
    """One contestant, and what was measured of it."""

    name: str
    contestant: Contestant
    plan: Plan
    loading: float = 0.0
    loads: int = 0
    error: ArtifactError | None = None
    sittings: list[list[npt.NDArray[np.float64]]] = field(default_factory=list)
    rows: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joules: float | None = 0.0

    def sit_down(self) -> None:
        """Load afresh, unless loading would take longer than timing may."""
        if self.loads == 0 or self.loading * (1 + 1 / self.loads) <= self.plan.seconds:
            spent = self.contestant.load()
            self.loading += math.inf if spent is None else spent
            self.loads += 1
        self.contestant.time(WARM_UP * self.plan.burst_ms)
        self.sittings.append([])

    def go(self) -> None:
        """Time one burst."""
        meter = self.plan.meter
        before = meter.counter() if meter else None
        begin = time.perf_counter()
        burst = self.contestant.time(self.plan.burst_ms)
        self.seconds += time.perf_counter() - begin
        after = meter.counter() if meter else None
        counted = None if before is None or after is None else after - before
        self.joules = None if self.joules is None or counted is None else self.joules + counted
        self.cpu_seconds += burst.cpu_seconds
        self.rows += burst.calls * self.plan.batch
        self.sittings[-1].append(burst.ms)

    def attempt(self, work: Callable[[Lane], None]) -> None:
        """Do ``work``, and keep what goes wrong as the error that takes this contestant out."""
        if self.error is not None:
            return
        try:
            work(self)
        except Exception as error:  # a stranger's runtime may raise anything, and the others go on
            self.error = ArtifactError(f"{self.name} cannot be timed: {error}")
            self.error.__cause__ = error

    @property
    def quartiles(self) -> list[float]:
        """Lower quartile of the milliseconds of each sitting's calls."""
        return [float(np.quantile(np.concatenate(sitting), QUARTILE)) for sitting in self.sittings]

    @property
    def usage(self) -> Usage:
        """What all its calls took."""
        return Usage(self.rows, self.seconds, self.cpu_seconds, self.joules)


def duel(champion: Contestant, rivals: Mapping[str, Contestant], plan: Plan) -> dict[str, Latency | ArtifactError]:
    """Time rivals in turn with the champion; one that fails is left out, and its error takes its place.

    In each of 16 sittings all models are loaded afresh, in random order: two copies of one model differ
    by a per cent for as long as they are loaded, by where their weights came to lie. Then come blocks
    of bursts, all models in random order and back again (A B B A), until the sitting's share of the
    time is over. The sitting's speed-up is the ratio of the lower quartiles of the calls, since what
    else runs on the machine only ever adds time (Chen and Revels 2016). The interval is taken over the
    sittings, the level at which measurements repeat independently (Kalibera and Jones 2013); see
    :func:`over_sittings`.

    Raises
    ------
    ArtifactError
        When the champion fails.
    """
    rng = np.random.default_rng(plan.seed)
    lanes = [Lane(name, it, plan) for name, it in [("the champion", champion), *rivals.items()]]
    for _ in range(SITTINGS):
        _sit(lanes, plan, rng)
        if lanes[0].error is not None:
            raise lanes[0].error
    return {lane.name: lane.error or _latency(lanes[0], lane) for lane in lanes[1:]}


def _sit(lanes: Sequence[Lane], plan: Plan, rng: np.random.Generator) -> None:
    for at in rng.permutation(len(lanes)):
        lanes[at].attempt(Lane.sit_down)
    end = time.perf_counter() + plan.seconds * (len(lanes) - 1) / SITTINGS
    for block in itertools.count():
        running = [lane for lane in lanes if lane.error is None]
        if lanes[0] not in running or len(running) == 1:
            return
        enough = min(sum(map(len, lane.sittings[-1])) for lane in running) >= plan.calls / SITTINGS
        if block and enough and time.perf_counter() >= end:
            return
        order = rng.permutation(len(running))
        for at in [*order, *order[::-1]]:
            running[at].attempt(Lane.go)


def _latency(champion: Lane, rival: Lane) -> Latency:
    plan = rival.plan
    pairs = zip(champion.quartiles, rival.quartiles, strict=True)
    speedup = over_sittings([theirs / ours for theirs, ours in pairs], plan.confidence)
    times = np.concatenate([ms for sitting in rival.sittings for ms in sitting])
    return Latency(
        p50_ms=float(np.median(times)),
        p95_ms=float(np.percentile(times, 95)),
        speedup=speedup,
        contended=bool(speedup.high - speedup.low > CONTENDED * speedup.value),
        p99_ms=quantile_bound(times, 0.99, plan.confidence),
        throughput=1e3 * plan.batch * len(times) / float(times.sum()),
        calls=len(times),
        loads=rival.loads,
        energy=plan.meter.energy(rival.usage) if plan.meter else None,
    )


def over_sittings(ratios: Sequence[float], confidence: float) -> Interval:
    """Return the geometric mean of positive ratios with its interval, both without the fifth at either end.

    A trimmed mean's interval by Student's t (Yuen 1974) over the logarithms, for a sitting may fall into
    a moment in which the machine did something else. It is taken at a quarter of the error that
    ``confidence`` allows, so that the share of intervals that miss stays below what was asked for with
    room to spare.

    Examples
    --------
    >>> f"{over_sittings([1.9, 2.0, 2.1, 2.0, 7.0], 0.95):.2f}"
    '2.03 (1.70 to 2.43)'
    """
    logs = np.log(ratios)
    low, high = stats.mstats.trimmed_mean_ci(logs, limits=(TRIM, TRIM), alpha=(1 - confidence) / CAUTION)
    value, low, high = np.exp([stats.trim_mean(logs, TRIM), low, high])
    return Interval(float(value), float(low), float(high))


def quantile_bound(times: npt.NDArray[np.float64], share: float, confidence: float) -> float | None:
    """Return what the quantile ``share`` stays below with ``confidence``, whatever the distribution.

    An order statistic (Hahn and Meeker 1991, 5.2); None where not even the largest of the times is such a bound.

    Examples
    --------
    >>> quantile_bound(np.arange(1000.0), 0.99, 0.95)
    995.0
    >>> quantile_bound(np.arange(200.0), 0.99, 0.95) is None
    True
    """
    rank = int(stats.binom.ppf(confidence, len(times), share))
    return float(np.sort(times)[rank]) if rank < len(times) else None
