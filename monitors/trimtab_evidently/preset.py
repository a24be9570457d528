"""Evidently's own preset, untouched: its verdicts, and its report."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.report import Snapshot
from evidently.presets import DataDriftPreset

from trimtab_evidently.columns import Columns

__all__ = ["Preset", "run_preset"]

VALUE_DRIFT = re.compile(r"ValueDrift\(column=(?P<column>.+),method=(?P<method>.+),threshold=(?P<threshold>.+)\)")
HALF = 0.5


@dataclass(frozen=True)
class Preset:
    """What Evidently's ``DataDriftPreset`` says.

    Parameters
    ----------
    snapshot
        As it gave it.
    scores, limits
        Of each column: a distance, or a p-value where it chose a test.
    drifted
        Columns that it holds for drifted.
    """

    snapshot: Snapshot
    scores: Mapping[str, float]
    limits: Mapping[str, float]
    drifted: tuple[str, ...]

    @property
    def of_dataset(self) -> bool:
        """Its verdict on the whole: half of the columns drifted."""
        return bool(self.scores) and len(self.drifted) >= HALF * len(self.scores)

    def save(self, path: Path) -> None:
        """Write its report (HTML, some megabytes)."""
        self.snapshot.save_html(str(path))


def run_preset(before: Columns, now: Columns) -> Preset:
    """Run the preset on the columns that both samples have.

    Parameters
    ----------
    before, now
        Of the reference and of the window.
    """
    names = [n for n in before.values if n in now.values]
    numbers = [n for n in names if before.kinds[n] == "numbers"]
    levels = [n for n in names if n not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=levels)
    frames = (pd.DataFrame({n: list(side.values[n]) for n in names}) for side in (before, now))
    reference, window = (Dataset.from_pandas(frame, data_definition=definition) for frame in frames)
    with warnings.catch_warnings():  # of its figures' libraries
        warnings.simplefilter("ignore")
        snapshot = Report([DataDriftPreset()]).run(window, reference)
    scores: dict[str, float] = {}
    limits: dict[str, float] = {}
    drifted: list[str] = []
    for metric in snapshot.dict()["metrics"]:
        found = VALUE_DRIFT.fullmatch(metric["metric_name"])
        if found is None or not math.isfinite(float(metric["value"])):
            continue
        name, score, limit = found["column"], float(metric["value"]), float(found["threshold"])
        scores[name], limits[name] = score, limit
        if score < limit if found["method"].endswith("p_value") else score >= limit:
            drifted.append(name)
    return Preset(snapshot, scores, limits, tuple(drifted))
