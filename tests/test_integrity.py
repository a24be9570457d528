"""Broken windows: every fault is found, named, and hides no other; what is merely unusual is not broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.judged import judged
from trimtab.monitor import Answer, Finding, Sample, case_of
from trimtab.window import Feature, Schema
from trimtab_evidently.integrity import Integrity

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


REFERENCE = rows(400)
SCHEMA = Schema.freeze(FEATURES, REFERENCE, label="y", id="row")


def check(frame: pd.DataFrame, monitor: Integrity | None = None, schema: Schema = SCHEMA) -> Finding:
    monitor = monitor or Integrity()
    return judged(monitor, Sample(schema, REFERENCE), Sample(schema, frame, number=5), 0.05)


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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.column}: {f.words[0]}")
def test_a_fault_is_named_with_its_column_and_a_way_out(fault: Fault) -> None:
    finding = check(fault.break_it(rows(120, seed=1)))
    assert finding.answer == Answer.BROKEN
    assert len(finding.reasons) == 1
    assert f"column {fault.column!r}" in finding.reasons[0]
    assert not [w for w in fault.words if w not in finding.reasons[0]]


@given(
    faults=st.lists(st.sampled_from(FAULTS), unique_by=lambda f: f.column, max_size=7),
    kept=st.sets(st.sampled_from(sorted(FEATURES))),
    n=st.integers(60, 90),
)
@settings(max_examples=60, deadline=None)
def test_every_fault_is_listed_and_nothing_else(faults: list[Fault], kept: set[str], n: int) -> None:
    kept |= {f.column for f in faults} & set(FEATURES) or {"age"}
    schema = Schema.freeze({k: v for k, v in FEATURES.items() if k in kept}, REFERENCE, label="y", id="row")
    frame = rows(n, seed=n)
    for fault in faults:
        frame = fault.break_it(frame)
    finding = check(frame, schema=schema)
    assert finding.answer == (Answer.BROKEN if faults else Answer.FINE)
    assert len(finding.reasons) == len(faults)
    for fault in faults:
        assert [r for r in finding.reasons if f"column {fault.column!r}" in r and fault.words[0] in r]


@given(scale=st.floats(1e-3, 1e3), share=st.floats(0, 0.45), n=st.integers(20, 90), town=st.text(min_size=1))
@settings(max_examples=40, deadline=None)
def test_what_is_merely_unusual_is_not_broken(scale: float, share: float, n: int, town: str) -> None:
    frame = rows(n, seed=3).assign(town=town)
    frame["income"] = (frame["income"].fillna(1.0) * scale).where(np.arange(n) >= share * n)
    frame["y"] = frame["y"].where(np.arange(n) >= n // 2)
    finding = check(frame)
    assert finding.reasons == ()
    assert finding.answer == Answer.FINE
    assert finding.scores["income.missing"] == pytest.approx(np.ceil(share * n) / n)


def test_an_empty_window_is_broken() -> None:
    finding = check(rows(10).iloc[:0])
    assert finding.answer == Answer.BROKEN
    assert finding.reasons == ("window 5 has no rows; check that the source still delivers",)


def test_the_same_values_in_another_storage_are_fine() -> None:
    frame = rows(80)
    frame["grade"] = frame["grade"].astype("Int64")
    frame["colour"] = frame["colour"].astype("category")
    frame["image"] = [v.ravel().tolist() for v in frame["image"]]
    frame.loc[3, "grade"] = pd.NA
    assert check(frame).reasons == ()
    frame["image"] = [np.array([*v, None], dtype=object)[:-1] for v in rows(80)["image"].map(list)]
    assert check(frame).reasons == ()


def test_no_labels_yet_is_fine() -> None:
    assert check(rows(100).assign(y=None)).answer == Answer.FINE


def test_one_class_is_fine_where_the_reference_hardly_knows_another() -> None:
    reference = rows(4000).assign(y=["yes"] * 8 + ["no"] * 3992)
    schema = Schema.freeze(FEATURES, reference, label="y")
    current = Sample(schema, rows(300, seed=2).assign(y="no"), number=1)
    assert judged(Integrity(), Sample(schema, reference), current, 0.05).answer == Answer.FINE
    assert judged(Integrity(), Sample(schema, rows(400)), current, 0.05).answer == Answer.BROKEN


def test_few_labels_of_one_class_are_fine() -> None:
    frame = rows(100).assign(y=["yes"] * 49 + [None] * 51)
    assert check(frame).answer == Answer.FINE
    assert check(frame, Integrity(min_rows_one_class=49)).answer == Answer.BROKEN


def test_missing_as_often_as_in_the_reference_is_fine() -> None:
    reference = rows(400).assign(income=[1.0, np.nan, np.nan, np.nan] * 100)
    for present, answer in ((20, Answer.FINE), (2, Answer.BROKEN)):
        frame = rows(100).assign(income=[1.0] * present + [np.nan] * (100 - present))
        finding = judged(Integrity(), Sample(SCHEMA, reference), Sample(SCHEMA, frame), 0.05)
        assert finding.answer == answer


def test_whole_float_labels_are_their_integer_classes() -> None:
    reference = rows(200).assign(y=[0, 1] * 100)
    schema = Schema.freeze(FEATURES, reference, label="y")
    late = rows(100).assign(y=[0.0, 1.0, np.nan, 1.0] * 25)
    assert judged(Integrity(), Sample(schema, reference), Sample(schema, late), 0.05).reasons == ()


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"max_missing": 1.5}, "max_missing must be a share from 0 to 1, got 1.5"),
        ({"min_rows_one_class": 1}, "least 2"),
    ],
)
def test_a_setting_against_its_rule_is_refused(settings_: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Integrity(**settings_)


def test_nothing_of_the_rows_ids_is_stored() -> None:
    sample = Sample(SCHEMA, REFERENCE)
    case = case_of(Integrity(), sample, sample, 0.05)
    assert Integrity().keep(case) == {}
    assert list(Integrity().figures(case.fitted, {})) == []
