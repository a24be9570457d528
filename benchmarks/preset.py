"""Evidently's own verdicts: its preset as it comes, and the rules that it has for a whole window."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import get_stattest
from evidently.presets import DataDriftPreset

THRESHOLD = 0.1
HALF = 0.5
VALUE_DRIFT = re.compile(r"ValueDrift\(column=(.+),method=(.+),threshold=(.+)\)")


def preset(reference: pd.DataFrame, window: pd.DataFrame, categories: Sequence[str]) -> dict[str, bool]:
    """Run the preset as it comes, and return which columns it holds for drifted.

    Raises
    ------
    ValueError
        When it judged a column by a p-value: with so few rows it has other rules than distances.
    """
    numbers = [name for name in reference if name not in categories]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=list(categories))
    before, now = (Dataset.from_pandas(frame, data_definition=definition) for frame in (reference, window))
    told = Report([DataDriftPreset()]).run(now, before).dict()
    verdicts: dict[str, bool] = {}
    for metric in told["metrics"]:
        if found := VALUE_DRIFT.fullmatch(metric["metric_name"]):
            column, method, threshold = found.groups()
            if "distance" not in method:
                raise ValueError(f"column {column!r} was judged by {method}; give the preset more than 1000 rows")
            verdicts[column] = bool(metric["value"] >= float(threshold))
    return verdicts


def drifted_columns(reference: pd.DataFrame, window: pd.DataFrame, categories: Sequence[str]) -> float:
    """Return the share of columns that Evidently's default tests hold for drifted, without drawing its figures."""
    drifted = 0
    for name in reference:
        kind = "cat" if name in categories else "num"
        before, now = (frame[name].replace([np.inf, -np.inf], np.nan).dropna() for frame in (reference, window))
        drifted += bool(get_stattest(before, now, kind, None)(before, now, kind, None).drifted)
    return drifted / len(reference.columns)
