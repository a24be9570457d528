"""Evidently metrics without plots: a p-value and an effect per column, by one method whatever the sample sizes.

Evidently's ``ValueDrift`` draws a figure for every value it computes (0.033 CPU s each) and picks its test by
the number of rows; these subclass the same classes of its API, compute the number alone, and never switch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from evidently import ColumnType, DataDefinition, Dataset, Report
from evidently.core.metric_types import ColumnMetric, SingleValue, SingleValueCalculation, SingleValueMetric
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from trimtab_evidently.statistics import Table

__all__ = ["DriftEffect", "DriftPValue", "counts", "datasets", "effect", "measure", "p_value"]

FEWEST_EXPECTED = 5.0
Values = npt.NDArray[np.float64]


def counts(reference: pd.Series[Any], current: pd.Series[Any]) -> Values:
    """Count each level in both samples ``[levels, 2]``, the rare ones as one.

    A level is rare when fewer than 5 rows are expected of it in either sample: below that the
    chi-square test is no longer exact enough.

    Examples
    --------
    >>> counts(pd.Series(["a"] * 20 + ["b"] * 20 + ["c"]), pd.Series(["a"] * 30 + ["b"] * 10)).tolist()
    [[20.0, 30.0], [21.0, 10.0]]
    """
    both = pd.DataFrame({"reference": reference.value_counts(), "current": current.value_counts()}).fillna(0.0)
    table = both.loc[both.sum(axis=1).sort_values(ascending=False, kind="stable").index].to_numpy(np.float64)
    share = table.sum(axis=0).min() / max(table.sum(), 1.0)
    common = int((table.sum(axis=1) * share >= FEWEST_EXPECTED).sum())
    if common and table[common:].sum() * share < FEWEST_EXPECTED:
        common -= common < len(table)
    rest = table[common:].sum(axis=0, keepdims=True)
    return np.concatenate([table[:common], rest]) if rest.sum() else table[:common]


def p_value(reference: pd.Series[Any], current: pd.Series[Any], numeric: bool) -> float:
    """Return the p-value of no change: Kolmogorov-Smirnov for numbers, chi-square for categories.

    Examples
    --------
    >>> a, b = pd.Series(np.arange(100.0)), pd.Series(np.arange(100.0) + 50)
    >>> p_value(a, a, numeric=True), p_value(a, b, numeric=True) < 1e-9
    (1.0, True)
    """
    if numeric:
        return float(ks_2samp(reference, current, method="asymp").pvalue)
    table = counts(reference, current)
    return float(chi2_contingency(table, correction=True).pvalue) if len(table) > 1 else 1.0


def effect(reference: pd.Series[Any], current: pd.Series[Any], numeric: bool) -> float:
    """Return the size of the change, whatever the number of rows.

    For numbers the Wasserstein distance in standard deviations of the reference (of both samples
    together, where the reference is constant); for categories the Jensen-Shannon distance (natural
    logarithm, 0 to 0.83).

    Examples
    --------
    >>> a = pd.Series(np.arange(100.0))
    >>> round(effect(a, a + a.std(ddof=0) / 2, numeric=True), 6)
    0.5
    """
    if not numeric:
        table = counts(reference, current)
        return float(jensenshannon(table[:, 0], table[:, 1])) if len(table) > 1 else 0.0
    distance = float(wasserstein_distance(reference, current))
    if distance == 0:
        return 0.0
    scale = float(np.std(reference)) or float(np.std(np.concatenate([reference, current])))
    return distance / scale


class DriftPValue(ColumnMetric, SingleValueMetric):  # type: ignore[misc]  # Evidently ships no types
    """P-value of no change in one column, unadjusted."""


class DriftEffect(ColumnMetric, SingleValueMetric):  # type: ignore[misc]  # Evidently ships no types
    """Size of the change in one column."""


class DriftPValueCalculation(SingleValueCalculation[DriftPValue]):  # type: ignore[misc]
    """Computes :class:`DriftPValue`."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> SingleValue:
        """Compute the value from the two datasets."""
        return self.result(p_value(*_pair(self.metric.column, current_data, reference_data)))

    def display_name(self) -> str:
        """Name it in a report."""
        return f"p-value of no change in {self.metric.column}"


class DriftEffectCalculation(SingleValueCalculation[DriftEffect]):  # type: ignore[misc]
    """Computes :class:`DriftEffect`."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> SingleValue:
        """Compute the value from the two datasets."""
        return self.result(effect(*_pair(self.metric.column, current_data, reference_data)))

    def display_name(self) -> str:
        """Name it in a report."""
        return f"size of the change in {self.metric.column}"


def _pair(column: str, current: Any, reference: Any) -> tuple[pd.Series[Any], pd.Series[Any], bool]:
    numeric = current.column(column).type == ColumnType.Numerical
    return reference.column(column).data.dropna(), current.column(column).data.dropna(), numeric


def datasets(table: Table) -> tuple[Any, Any]:
    """Return the table's reference and current rows as Evidently datasets."""
    definition = DataDefinition(
        numerical_columns=[c for c, kind in table.kinds.items() if kind == "numeric"],
        categorical_columns=[c for c, kind in table.kinds.items() if kind == "categorical"],
    )
    return (
        Dataset.from_pandas(table.reference, data_definition=definition),
        Dataset.from_pandas(table.current, data_definition=definition),
    )


def measure(table: Table) -> dict[str, tuple[float, float]]:
    """Return p-value (unadjusted) and effect of every column of ``table``, from one Evidently report."""
    reference, current = datasets(table)
    metrics = [metric(column=name) for name in table.kinds for metric in (DriftPValue, DriftEffect)]
    results = Report(metrics, include_tests=False).run(current, reference).metric_results
    values = [float(results[metric.get_metric_id()].value) for metric in metrics]
    return {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(table.kinds)}
