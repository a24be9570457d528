"""Our own estimators by name, each a pipeline that a schema's columns fit into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from trimtab.errors import PluginError
from trimtab.window import Column, Schema

__all__ = ["DEFAULT", "FAMILIES", "build"]

FAMILIES: Mapping[str, tuple[type[BaseEstimator], type[BaseEstimator]]] = {
    "random_forest": (RandomForestClassifier, RandomForestRegressor),
    "extra_trees": (ExtraTreesClassifier, ExtraTreesRegressor),
    "gradient_boosting": (GradientBoostingClassifier, GradientBoostingRegressor),
    "hist_gradient_boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor),
    "decision_tree": (DecisionTreeClassifier, DecisionTreeRegressor),
    "linear": (LogisticRegression, Ridge),
}
"""By name: what classifies, and what regresses."""

DEFAULT = "random_forest"
LINEAR = "linear"
OWN: Mapping[str, Mapping[str, Any]] = {LINEAR: {"max_iter": 1000}}
WORDS = 512
"""Most words that become columns: trees read them all, densely, in every call."""


def build(family: str, schema: Schema, arguments: Mapping[str, Any]) -> Pipeline:
    """Build a family's unfitted pipeline for a schema.

    Numbers are imputed by their median, and standardised for ``linear`` (trees need no scaling, and a scaled
    threshold that ONNX rounds otherwise would send a row the other way); categories become one-hot, of which
    an unseen level is all zeros; of free text come the TF-IDF weights of its 512 most frequent words.

    Parameters
    ----------
    arguments
        Of the estimator at the end, such as ``{max_depth: 6}``.

    Raises
    ------
    PluginError
        When the schema has a tensor, or the estimator no such parameter.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.window import Feature
    >>> frame = pd.DataFrame({"a": [1.0, 3.0], "c": ["x", "y"], "y": [0, 1]})
    >>> schema = Schema.freeze({"a": Feature(), "c": Feature(kind="categorical")}, frame, label="y")
    >>> build("decision_tree", schema, {"max_depth": 3})[-1]
    DecisionTreeClassifier(max_depth=3)
    """
    parts = [part for column in schema.columns for part in _part(column, scaled=family == LINEAR)]
    make = FAMILIES[family][schema.task == "regression"]
    try:
        estimator = make(**{**(OWN.get(family, {}) if schema.task != "regression" else {}), **arguments})
    except TypeError as error:
        raise PluginError(f"model.arguments: {make.__name__} does not take {dict(arguments)}: {error}") from error
    # dense: some of the estimators take no sparse rows
    return Pipeline([("columns", ColumnTransformer(parts, sparse_threshold=0)), ("estimator", estimator)])


def _part(column: Column, scaled: bool) -> list[tuple[str, BaseEstimator, Any]]:
    name = column.name
    if column.dtype == "tensor":
        raise PluginError(
            f"features.{name} is a tensor, and the estimators of this trainer read tables; leave it out, or name "
            "model.trainer: torch.classifier"
        )
    if column.feature.kind == "text":
        return [(name, TfidfVectorizer(max_features=WORDS), name)]
    if column.feature.kind == "categorical":
        one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        # a code of a category that is missing is NaN, a text is empty and a level of its own
        return [
            (
                name,
                make_pipeline(SimpleImputer(strategy="most_frequent", keep_empty_features=True), one_hot)
                if column.coded
                else one_hot,
                [name],
            )
        ]
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    return [(name, make_pipeline(median, StandardScaler()) if scaled else median, [name])]
