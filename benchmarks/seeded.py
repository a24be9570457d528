"""What benchmarks over several seeds share: the digits of a seed, and a mean over seeds with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from trimtab.intervals import Interval
from trimtab.window import Feature, Schema
from trimtab_sklearn.digits import DRIFT_WINDOW, SIDE, WINDOWS, write_stream

NETWORK = "trimtab_torch.networks:SmallResNet"
QUIET = tuple(range(1, DRIFT_WINDOW))
DRIFTED = tuple(range(DRIFT_WINDOW, WINDOWS + 1))


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the mean with Student's interval; the bounds of a single value are not numbers."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = (
        float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    )
    return Interval(mean, mean - half, mean + half)


def ratio(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of ratios with its interval."""
    logs = over_seeds([math.log(r) for r in ratios])
    return Interval(*(math.exp(v) for v in (logs.value, logs.low, logs.high)))


def plain(interval: Interval) -> dict[str, float | None]:
    """Return what the figures' JSON keeps of an interval: null for what is not a number."""
    named = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: value if math.isfinite(value) else None for name, value in named.items()}


class Digits:
    """The stream of one seed: scans by the old scanner before it, then by the old and by the new one.

    Parameters
    ----------
    folder
        Where it is written.
    seed
        Of the stream.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        write_stream(folder, seed)
        self._folder = folder / "stream"
        self.history = pd.read_parquet(self._folder / "history.parquet")
        image = {"image": Feature(kind="tensor", shape=(1, SIDE, SIDE))}
        self.schema = Schema.freeze(image, self.history, label="digit", group="scan_id")

    def windows(self, numbers: Sequence[int]) -> pd.DataFrame:
        """Return the rows of some windows."""
        parts = [pd.read_parquet(self._folder / f"window-{number}.parquet") for number in numbers]
        return pd.concat(parts, ignore_index=True)
