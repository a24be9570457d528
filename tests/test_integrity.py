"""Broken windows: every fault is found, named, and hides no other; what is merely unusual is not broken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faulty import FAULTS, FEATURES, Fault, rows
from tests.judged import judged
from trimtab.monitor import Answer, Finding, Sample, case_of
from trimtab.window import Feature, Schema
from trimtab_evidently.integrity import Integrity

REFERENCE = rows(400)
SCHEMA = Schema.freeze(FEATURES, REFERENCE, label="y", id="row")


def check(frame: pd.DataFrame, monitor: Integrity | None = None, schema: Schema = SCHEMA) -> Finding:
    monitor = monitor or Integrity()
    return judged(monitor, Sample(schema, REFERENCE), Sample(schema, frame, number=5), 0.05)


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


@given(
    scale=st.floats(1e-3, 1e3),
    share=st.floats(0, 0.45),
    strange=st.floats(0, 0.25),
    n=st.integers(20, 90),
    town=st.text(min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_what_is_merely_unusual_is_not_broken(scale: float, share: float, strange: float, n: int, town: str) -> None:
    frame, few = rows(n, seed=3), np.arange(n) < strange * n
    frame["town"] = frame["town"].where(~few, town)
    income = frame["income"].fillna(3e4)
    frame["income"] = income.where(~few, income * scale).where(np.arange(n)[::-1] >= share * n)
    frame["image"] = [image * (2 if odd else 1) for image, odd in zip(frame["image"], few, strict=True)]
    frame["image"] = [np.minimum(image, 1) for image in frame["image"]]
    frame["y"] = frame["y"].where(np.arange(n) >= n // 2)
    finding = check(frame)
    assert finding.reasons == ()
    assert finding.answer == Answer.FINE
    assert finding.scores["income.missing"] == pytest.approx(np.ceil(share * n) / n)
    assert finding.scores["town.unseen"] == pytest.approx((town not in ("Ulm", "Bonn")) * few.mean())


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("income", lambda s: s * 1e4, "far outside what the reference held"),
        ("income", lambda s: s - 1e6, "down to -"),
        ("town", lambda s: "Graz", "categories that the reference did not have: 'Graz' (120)"),
        ("number", lambda s: s + 10, "categories that the reference did not have: '"),
        ("film", lambda s: [v + 5 for v in s], "far outside what the reference held ("),
    ],
)
def test_most_values_beyond_what_was_observed_are_broken_unless_declared(
    column: str, values: Callable[[pd.Series], object], words: str
) -> None:
    def more(n: int, seed: int) -> pd.DataFrame:
        frame = rows(n, seed)
        return frame.assign(number=frame["grade"], film=frame["image"])

    observed = {**FEATURES, "number": Feature(kind="categorical"), "film": Feature(kind="tensor", shape=(3, 4, 2))}
    reference, frame = more(400, 0), more(120, 1)
    schema = Schema.freeze(observed, reference)
    strange = frame.assign(**{column: values(frame[column])})
    finding = judged(Integrity(), Sample(schema, reference), Sample(schema, strange, number=5), 0.05)
    assert (finding.answer, finding.about) == (Answer.BROKEN, (column,))
    assert words.replace("'", "") in finding.reasons[0].replace("'", "")
    assert "max_unseen" in finding.reasons[0]
    forgiving = judged(Integrity(max_unseen=1), Sample(schema, reference), Sample(schema, strange, number=5), 0.05)
    assert forgiving.answer == Answer.FINE
    few = pd.concat([strange[:50], frame[50:]], ignore_index=True)
    assert judged(Integrity(), Sample(schema, reference), Sample(schema, few), 0.05).answer == Answer.FINE
    declared = {"income": Feature(minimum=-1e12, maximum=1e12), "film": Feature(kind="tensor", shape=(3, 4, 2))}
    declared["film"] = declared["film"].model_copy(update={"minimum": 0.0, "maximum": 6.0})
    if column in declared:
        schema = Schema.freeze({**observed, column: declared[column]}, reference)
        assert judged(Integrity(), Sample(schema, reference), Sample(schema, strange), 0.05).answer == Answer.FINE


def test_where_nearly_every_category_is_new_anyway_none_is_broken() -> None:
    rng = np.random.default_rng(0)
    schema = Schema.freeze({"name": Feature(kind="categorical")}, pd.DataFrame({"name": ["Ada", "Emmy"]}))
    for known, answer in ((10**6, Answer.FINE), (50, Answer.BROKEN)):
        reference, now = (pd.DataFrame({"name": [f"n{i}" for i in rng.integers(0, known, 400)]}) for _ in range(2))
        strange = now if known > 400 else "other " + now
        assert judged(Integrity(), Sample(schema, reference), Sample(schema, strange), 0.05).answer == answer


def test_seasons_and_columns_that_begin_to_vary_have_moved_and_are_not_broken() -> None:
    features = {"temperature": Feature(), "constant": Feature(), "site": Feature(kind="categorical")}
    winter, summer = (weather(n, warm) for n, warm in ((400, 0.0), (200, 25.0)))
    schema = Schema.freeze(features, winter)
    assert judged(Integrity(), Sample(schema, winter), Sample(schema, summer), 0.05).answer == Answer.FINE
    kelvin = summer.assign(temperature=summer["temperature"] + 273)
    assert judged(Integrity(), Sample(schema, winter), Sample(schema, kelvin), 0.05).about == ("temperature",)


def weather(n: int, warm: float) -> pd.DataFrame:
    temperature = np.random.default_rng(0).normal(warm, 5, n)
    site, varied = ("north", 0.0) if warm == 0 else ("south", np.arange(n) * 1e3)
    return pd.DataFrame({"temperature": temperature, "constant": varied, "site": site})


def test_so_few_values_that_chance_could_do_it_are_not_broken() -> None:
    schema = Schema.freeze({"x": Feature()}, pd.DataFrame({"x": [1.0]}))
    reference = Sample(schema, pd.DataFrame({"x": np.random.default_rng(0).normal(size=400)}))
    for n, answer in ((1, Answer.FINE), (2, Answer.FINE), (10, Answer.BROKEN)):
        assert judged(Integrity(), reference, Sample(schema, pd.DataFrame({"x": [90.0] * n})), 0.05).answer == answer


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
    frame = rows(49).assign(y="yes")
    assert check(frame).answer == Answer.FINE
    assert check(frame, Integrity(min_rows_one_class=49)).answer == Answer.BROKEN


def test_one_class_is_fine_where_the_other_may_still_come() -> None:
    """Complaints are labelled first, what nobody complained of after them."""
    for known, answer in ((60, Answer.FINE), (120, Answer.FINE), (190, Answer.BROKEN), (200, Answer.BROKEN)):
        assert check(rows(200).assign(y=["yes"] * known + [None] * (200 - known))).answer == answer


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
        ({"max_unseen": -0.1}, "max_unseen must be a share from 0 to 1, got -0.1"),
        ({"min_rows_one_class": 1}, "least 2"),
        ({"min_rows_still": 1}, "min_rows_still must be at least 2, got 1"),
        ({"min_rows_repeated": 0}, "min_rows_repeated must be at least 2, got 0"),
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
