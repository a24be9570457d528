"""Evidently's page on what moved, drawn only when somebody is to look at it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift

from trimtab_evidently.pair import Pair

__all__ = ["page"]


def page(pair: Pair, effect: float, category_effect: float, path: Path) -> None:
    """Write a figure of each column.

    Parameters
    ----------
    effect, category_effect
        Thresholds of Wasserstein's distance for numbers, and of Jensen and Shannon's for categories.
    path
        Of the HTML file.
    """
    numbers, names = pair.numbers, pair.names
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in names if name not in numbers]
    )
    before, now = (
        Dataset.from_pandas(pd.DataFrame({n: side.values[n] for n in names}), data_definition=definition)
        for side in pair.sides
    )
    tests = {True: ("wasserstein", effect), False: ("jensenshannon", category_effect)}
    chosen = [(name, *tests[name in numbers]) for name in names]
    metrics = [ValueDrift(column=name, method=method, threshold=limit) for name, method, limit in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    Report(metrics, include_tests=False).run(now, before).save_html(str(path))
