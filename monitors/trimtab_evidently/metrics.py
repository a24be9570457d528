"""Verdicts through Evidently: metrics that carry a score which a sketch gave, tested against its limits.

Evidently's own metrics read every row, several times, and draw a figure of each column whatever comes of it.
These are subclasses of the same classes of its API; a snapshot of theirs is read by any process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.metric_types import SingleValue, SingleValueCalculation, SingleValueMetric
from evidently.core.report import Snapshot
from evidently.tests import gt, lte

__all__ = ["Effect", "PValue", "judge", "moved"]


class Effect(SingleValueMetric):  # type: ignore[misc]  # Evidently ships no types
    """Size of the change in one statistic.

    Parameters
    ----------
    statistic
        Its name.
    score
        What the sketches gave.
    """

    statistic: str
    score: float


class PValue(SingleValueMetric):  # type: ignore[misc]
    """Adjusted p-value of no change in one statistic, with the parameters of :class:`Effect`."""

    statistic: str
    score: float


class EffectCalculation(SingleValueCalculation[Effect]):  # type: ignore[misc]
    """Gives :class:`Effect`'s score."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> SingleValue:
        """Return the score."""
        return self.result(self.metric.score)

    def display_name(self) -> str:
        """Name it in a report."""
        return f"size of the change in {self.metric.statistic}"


class PValueCalculation(SingleValueCalculation[PValue]):  # type: ignore[misc]
    """Gives :class:`PValue`'s score."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> SingleValue:
        """Return the score."""
        return self.result(self.metric.score)

    def display_name(self) -> str:
        """Name it in a report."""
        return f"adjusted p-value of no change in {self.metric.statistic}"


def judge(scores: Mapping[str, tuple[float, float]], limits: Mapping[str, float], alpha: float) -> Snapshot:
    """Let Evidently test every statistic's effect and p-value.

    Parameters
    ----------
    scores
        Effect and adjusted p-value by statistic.
    limits
        That an effect must exceed, by statistic.
    alpha
        That a p-value must not exceed.
    """
    metrics = []
    for name, (effect, p) in scores.items():
        metrics += [Effect(statistic=name, score=effect, tests=[lte(limits[name])])]
        metrics += [PValue(statistic=name, score=p, tests=[gt(alpha)])]
    nothing = Dataset.from_pandas(pd.DataFrame({"row": [0.0]}), DataDefinition(numerical_columns=["row"]))
    return Report(metrics, include_tests=False).run(nothing, nothing)


def moved(snapshot: Snapshot) -> set[str]:
    """Return the statistics of which both tests failed: the change is beyond chance, and large enough to matter."""
    failed = Counter(t.metric_config.params["statistic"] for t in snapshot.tests_results if t.status.value == "FAIL")
    return {name for name, count in failed.items() if count == 2}
