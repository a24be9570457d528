"""Rows of every kind of column, and every kind of fault that a window can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from trimtab.window import Feature

FEATURES = {
    "age": Feature(minimum=0, maximum=120),
    "income": Feature(),
    "colour": Feature(kind="categorical", categories=("red", "green", "blue")),
    "town": Feature(kind="categorical"),
    "grade": Feature(kind="categorical", categories=(1, 2, 3)),
    "image": Feature(kind="tensor", shape=(3, 4, 2), minimum=0, maximum=1),
}


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.uniform(18, 90, n),
            "income": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(10, 1, n)),
            "colour": rng.choice(["red", "green", "blue"], n),
            "town": rng.choice(["Ulm", "Bonn"], n),
            "grade": rng.choice([1, 2, 3], n),
            "image": list(rng.random((n, 3, 4, 2)).astype(np.float32)),
            "row": np.arange(n),
            "y": rng.choice(["no", "yes"], n),
        }
    )


@dataclass(frozen=True)
class Fault:
    """Breaks one column; the words must be in its reason."""

    column: str
    break_it: Callable[[pd.DataFrame], pd.DataFrame]
    words: tuple[str, ...]


def put(column: str, values: Callable[[pd.Series], object]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{column: values(frame[column])})


def first(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        cells = frame[column].tolist()
        cells[0] = value
        return frame.assign(**{column: pd.Series(cells, index=frame.index)})

    return change


def repeat(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: pd.concat([frame, frame[[column]]], axis=1)


FAULTS = [
    Fault("age", lambda f: f.rename(columns={"age": "Age"}), ("missing from the rows", "Did you mean 'Age'?")),
    Fault("age", put("age", lambda s: s.map(str)), ("held numbers", "now holds string")),
    Fault("age", put("age", lambda s: pd.to_datetime(s, unit="s")), ("held numbers", "datetime64")),
    Fault("age", put("age", lambda s: s.map(lambda v: -v)), ("declared minimum 0.0", "features.age.minimum")),
    Fault("age", first("age", 300.0), ("1 of ", "declared maximum 120.0", "up to 300")),
    Fault("age", repeat("age"), ("occurs 2 times",)),
    Fault("income", put("income", lambda s: np.nan), ("values are missing", "features.income")),
    Fault(
        "income", put("income", lambda s: s.where(np.arange(len(s)) % 4 == 0)), ("at most 0.5 allowed", "max_missing")
    ),
    Fault("income", first("income", np.inf), ("1 of ", "infinite")),
    Fault(
        "income", put("income", lambda s: pd.Series([10**400] * len(s), dtype=object)), ("cannot be read as number",)
    ),
    Fault("colour", first("colour", "mauve"), ("declared categories", "'mauve' (1)", "features.colour.categories")),
    Fault("colour", put("colour", lambda s: 4), ("held text", "now holds integer")),
    Fault("grade", first("grade", 7), ("declared categories [1, 2, 3]", "7 (1)")),
    Fault("town", lambda f: f.drop(columns="town"), ("missing from the rows",)),
    Fault("town", put("town", lambda s: None), ("values are missing",)),
    Fault("image", put("image", lambda s: [v[:2] for v in s]), ("shape [2, 4, 2]", "features.image.shape")),
    Fault("image", put("image", lambda s: [np.moveaxis(v, 0, -1) for v in s]), ("shape [4, 2, 3]",)),
    Fault("image", first("image", "a.png"), ("no even array of numbers (1)",)),
    Fault("image", first("image", None), ("1 of ", "no tensor")),
    Fault("image", put("image", lambda s: [v * np.inf for v in s + 1]), ("infinite",)),
    Fault("image", put("image", lambda s: [v * 255 for v in s]), ("declared maximum 1.0",)),
    Fault("image", put("image", lambda s: [v * np.nan for v in s]), ("NaN",)),
    Fault("row", put("row", lambda s: s // 2), ("occur more than once",)),
    Fault("row", lambda f: f.drop(columns="row"), ("source.id", "missing from the rows")),
    Fault("y", first("y", "perhaps"), ("none of the classes", "'perhaps' (1)")),
    Fault("y", put("y", lambda s: "no"), ("labels are 'no'", "min_rows_one_class")),
    Fault("y", lambda f: f.rename(columns={"y": "label"}), ("source.label", "['label']")),
]
