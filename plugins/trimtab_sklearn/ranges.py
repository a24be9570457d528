"""What tuning draws from: ranges of the hyperparameters of the estimators that we know, and a user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

__all__ = ["check_ranges", "ranges_of"]

FOREST = {
    "max_features": {"low": 0.1, "high": 1.0},
    "min_samples_leaf": {"low": 1, "high": 30, "log": True},
    "max_depth": [None, 8, 12, 16],
}
STAGED = {
    "learning_rate": {"low": 0.02, "high": 0.3, "log": True},
    "max_depth": {"low": 2, "high": 6},
    "min_samples_leaf": {"low": 1, "high": 50, "log": True},
    "subsample": {"low": 0.5, "high": 1.0},
}
HISTOGRAM = {
    "learning_rate": {"low": 0.02, "high": 0.3, "log": True},
    "max_leaf_nodes": {"low": 7, "high": 63, "log": True},
    "min_samples_leaf": {"low": 5, "high": 100, "log": True},
    "l2_regularization": {"low": 1e-3, "high": 10.0, "log": True},
}
TREE = {"ccp_alpha": {"low": 1e-5, "high": 1e-1, "log": True}, "min_samples_leaf": {"low": 1, "high": 50, "log": True}}
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "RandomForest": FOREST,
    "ExtraTrees": FOREST,
    "GradientBoosting": STAGED,
    "HistGradientBoosting": HISTOGRAM,
    "DecisionTree": TREE,
    "LogisticRegression": {"C": {"low": 1e-3, "high": 1e3, "log": True}},
    "Ridge": {"alpha": {"low": 1e-3, "high": 1e3, "log": True}},
}
"""By the name of a class, without Classifier or Regressor."""
RANGE = {"low", "high", "log"}


def ranges_of(estimator: BaseEstimator) -> dict[str, Any]:
    """Return the ranges of a pipeline's last step under the names that the pipeline gives them; none where unknown.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> ranges_of(make_pipeline(Ridge()))
    {'ridge__alpha': {'low': 0.001, 'high': 1000.0, 'log': True}}
    """
    prefix = ""
    while isinstance(estimator, Pipeline):
        name, estimator = estimator.steps[-1]
        prefix += f"{name}__"
    known = KNOWN.get(type(estimator).__name__.removesuffix("Classifier").removesuffix("Regressor"), {})
    return {f"{prefix}{name}": kind for name, kind in known.items()}


def check_ranges(where: str, ranges: Mapping[str, Any]) -> None:
    """Raise a ValueError for the first range that is neither a list of values nor a mapping of low and high."""
    for name, kind in ranges.items():
        if isinstance(kind, Mapping):
            if not {"low", "high"} <= set(kind) <= RANGE:
                raise ValueError(f"{where}.{name} must have low and high, and may have log, got {sorted(kind)}")
            low, high = kind["low"], kind["high"]
            if not all(isinstance(v, int | float) for v in (low, high)) or not low < high:
                raise ValueError(f"{where}.{name}: low must be a number below high, got {low!r} and {high!r}")
            if kind.get("log") and low <= 0:
                raise ValueError(f"{where}.{name}: a logarithmic range lies above 0, got low {low!r}")
        elif not isinstance(kind, list | tuple) or not kind:
            raise ValueError(f"{where}.{name} must be a list of values or a mapping of low and high, got {kind!r}")
