"""Estimators of scikit-learn for tests, as a project's own file would give them, and rows of every kind of column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from trimtab.data import Data, Role, Rows
from trimtab.technique import Job
from trimtab.window import Feature, Schema, Task

FEATURES = {
    "amount": Feature(),
    "age": Feature(),
    "branch": Feature(kind="categorical"),
    "tier": Feature(kind="categorical"),
    "note": Feature(kind="text"),
}
GOOD = ("thanks", "paid", "on time", "all fine", "Überweisung erhalten")
BAD = ("late again", "dispute", "reminder sent", "no answer", "Mahnung")
NEUTRAL = ("call", "customer", "the invoice", "see mail", "42 €")


def claims(rows: int, seed: int, turned: bool = False) -> pd.DataFrame:
    """Rows with numbers, categories and a text that says much of the label; ``turned``: what its words mean changes."""
    rng = np.random.default_rng(seed)
    branch = rng.choice(["north", "south", "west"], rows)
    tier = rng.integers(1, 4, rows)
    amount = rng.gamma(2.0, 50.0, rows)
    age = rng.normal(40, 10, rows)
    bad = rng.random(rows) < 1 / (1 + np.exp(-(0.02 * (amount - 100) + 1.2 * (branch == "south") - 0.5)))
    says_bad = bad ^ (rng.random(rows) < 0.12)
    words = [
        " ".join(rng.permutation([*rng.choice(BAD if b != turned else GOOD, 2), *rng.choice(NEUTRAL, 2)]))
        for b in says_bad
    ]
    age[rng.random(rows) < 0.1] = np.nan
    frame = pd.DataFrame({"amount": amount, "age": age, "branch": branch, "tier": tier, "note": words})
    frame.loc[rng.random(rows) < 0.05, "note"] = None
    return frame.assign(bad=bad.astype(int), loss=amount * (1 + bad) + tier * 10)


def columns(*, scaled: bool = True, **text: Any) -> ColumnTransformer:
    number = make_pipeline(SimpleImputer(), StandardScaler()) if scaled else SimpleImputer()
    parts = [
        ("numbers", number, ["amount", "age"]),
        ("codes", "passthrough", ["tier"]),
        ("branch", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["branch"]),
        ("note", TfidfVectorizer(**text), "note"),
    ]
    return ColumnTransformer(parts, sparse_threshold=0)


def logistic(strength: float = 1.0, **text: Any) -> Pipeline:
    return Pipeline([("columns", columns(**text)), ("estimator", LogisticRegression(C=strength, max_iter=500))])


def forest(trees: int = 20) -> Pipeline:
    return make_pipeline(columns(scaled=False), RandomForestClassifier(trees, min_samples_leaf=2))


def unimputed_forest() -> Any:
    return RandomForestClassifier(10)


def coded_boosting() -> Any:
    return HistGradientBoostingClassifier(max_iter=10, categorical_features=[0])


def machine() -> Any:
    return make_pipeline(columns(), LinearSVC())


class Doubling(TransformerMixin, BaseEstimator):
    def fit(self, x: Any, y: Any = None) -> Doubling:
        return self

    def transform(self, x: Any) -> Any:
        return 2 * x


def doubled() -> Pipeline:
    return make_pipeline(Doubling(), LogisticRegression())


def nothing() -> str:
    return "no estimator"


def schema_of(frame: pd.DataFrame, label: str = "bad", task: Task = "classification", *names: str) -> Schema:
    features = {name: FEATURES.get(name, Feature()) for name in names or FEATURES}
    return Schema.freeze(features, frame, label=label, task=task)


def data_of(folder: Path, schema: Schema, frame: pd.DataFrame) -> Data:
    """Three parts in five to train on, one to calibrate on, one to judge on."""
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(len(frame), dtype=np.uint64))
    place = np.arange(len(frame)) % 5
    roles = {Role.TRAIN: place < 3, Role.CALIBRATION: place == 3, Role.JUDGE: place == 4}
    return Data.write(folder, {role: rows.take(mask) for role, mask in roles.items()})


def job(folder: Path, schema: Schema, **settings: Any) -> Job:
    folder.mkdir(parents=True)
    return Job(folder, 7, schema, **settings)
