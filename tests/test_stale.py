"""Stale rows: files delivered twice, clocks and sensors that stand still; and all that only looks like it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faulty import FEATURES, rows
from trimtab.monitor import Answer, Case, Finding, Sample
from trimtab.window import Feature, Schema
from trimtab_evidently.integrity import Integrity

N = 200
START = pd.Timestamp("2026-01-05")


def hours(number: int) -> pd.DataFrame:
    """A window of a sensor, of one that is off at night, of a counter of rare events, and of calendar columns."""
    rng = np.random.default_rng(number + 100)
    at = START + pd.to_timedelta((number * N + np.arange(N)) * 5, unit="min")
    light = np.where((at.hour >= 7) & (at.hour < 19), rng.gamma(3, 2, N), 0.0)
    return pd.DataFrame(
        {
            "at": at,
            "sensor": rng.normal(20, 3, N),
            "light": light,
            "events": np.where(rng.random(N) < 0.004, rng.integers(1, 9, N), 0),
            "weekday": at.dayofweek,
            "month": at.strftime("%Y-%m"),
            "tariff": 10.0 + (at.dayofyear // 9),
        }
    )


FEATURES_OF_HOURS = {
    **{name: Feature() for name in ("sensor", "light", "events", "weekday", "tariff")},
    "month": Feature(kind="categorical"),
}
REFERENCE = pd.concat([hours(number) for number in range(-12, 0)], ignore_index=True)
SCHEMA = Schema.freeze(FEATURES_OF_HOURS, REFERENCE, timestamp="at")


def watched(
    windows: Sequence[pd.DataFrame],
    monitor: Integrity | None = None,
    schema: Schema = SCHEMA,
    reference: pd.DataFrame = REFERENCE,
    batch: int = 10**6,
) -> list[Finding]:
    """Look at windows one after the other, a batch at a time, with the findings as the journal gives them back."""
    monitor, before = monitor or Integrity(), Sample(schema, reference)
    fitted = monitor.fit(before)
    past: list[Finding] = []
    for number, frame in enumerate(windows, 1):
        batches = [frame[i : i + batch] for i in range(0, max(1, len(frame)), batch)]
        seen = monitor.summarize(fitted, Sample(schema, batches[0], number))
        for part in batches[1:]:
            seen = monitor.add(fitted, seen, monitor.summarize(fitted, Sample(schema, part, number)))
        finding = monitor.check(Case(fitted, seen, before, Sample(schema, frame, number), 0.05, tuple(past)))
        past.append(Finding.from_json(json.loads(json.dumps(finding.to_json(), allow_nan=False))))
    return past


def test_a_year_of_quiet_windows_is_never_stale() -> None:
    found = watched([hours(number) for number in range(1, 200)], Integrity(max_unseen=1))
    assert [f.reasons for f in found if f.answer is not Answer.FINE] == []


def test_a_file_that_is_delivered_twice_is_named_with_the_window_that_had_it() -> None:
    again = hours(2).assign(at=hours(4)["at"])
    found = watched([hours(1), hours(2), hours(3), again, hours(5)])
    assert [f.answer is Answer.BROKEN for f in found] == [False, False, False, True, False]
    assert "all 200 rows are those of window 2, in the same order: a file was delivered twice" in found[3].reasons[0]
    assert found[3].about == ("rows",)


@given(cut=st.integers(7, 90), other=st.integers(20, 90), row=st.integers(0, 89), column=st.sampled_from([*FEATURES]))
@settings(max_examples=10, deadline=None)
def test_rows_are_the_same_however_they_are_cut_and_differ_by_a_single_value(
    cut: int, other: int, row: int, column: str
) -> None:
    frame = rows(90, seed=1)
    schema = Schema.freeze(FEATURES, frame)
    once, twice = (watched([frame, rows(90, seed=2), frame], None, schema, frame, size) for size in (cut, other))
    assert once[2].reasons == twice[2].reasons
    assert [f.kept for f in once] == [f.kept for f in twice]
    assert once[2].about == ("rows",)
    cells = frame[column].tolist()
    other_row = next(i for i in range(90) if np.any(cells[i] != cells[row]))
    cells[row] = cells[other_row]
    changed = frame.assign(**{column: pd.Series(cells, index=frame.index)})
    assert watched([frame, changed], None, schema, frame)[1].answer is Answer.FINE
    assert watched([frame, frame[::-1]], None, schema, frame)[1].answer is Answer.FINE
    assert watched([frame, frame[:-1]], None, schema, frame)[1].answer is Answer.FINE


def test_tensors_are_the_same_in_whatever_storage() -> None:
    frame = rows(60, seed=1)
    schema = Schema.freeze(FEATURES, frame)
    stored = frame.assign(
        image=[v.tolist() for v in frame["image"]],
        colour=frame["colour"].astype("category"),
        grade=frame["grade"].astype(float),
    )
    assert watched([frame, stored], None, schema, frame)[1].about == ("rows",)


def test_rows_that_hardly_differ_are_no_file_delivered_twice() -> None:
    schema = Schema.freeze({"flag": Feature(), "kind": Feature(kind="categorical")}, flags(400, 0))
    same = [flags(5, 1)] * 2
    assert [f.answer for f in watched(same, None, schema, flags(400, 0))] == [Answer.FINE] * 2
    found = watched([rows(50), rows(50)], Integrity(min_rows_repeated=51), Schema.freeze(FEATURES, rows(50)), rows(50))
    assert found[1].answer is Answer.FINE


def flags(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"flag": rng.integers(0, 2, n), "kind": rng.choice(["a", "b"], n)})


@pytest.mark.parametrize("written", [lambda at: at, lambda at: at.astype(str), lambda at: at.astype("int64") / 1e9])
def test_rows_older_than_the_window_before_are_stale(written: Callable[[pd.Series], pd.Series]) -> None:
    windows = [hours(1), hours(2), hours(3).assign(at=hours(1)["at"]), hours(4)]
    found = watched([w.assign(at=written(w["at"])) for w in windows])
    assert [f.answer is Answer.BROKEN for f in found] == [False, False, True, False]
    assert "timestamp column 'at': every row is older than the newest of window 2" in found[2].reasons[0]


def test_a_clock_that_stops_is_stale_and_one_that_is_coarse_is_not() -> None:
    stopped = [hours(n).assign(at=hours(3)["at"].iloc[0] if n in (3, 4) else hours(n)["at"]) for n in range(1, 6)]
    found = watched(stopped)
    assert [f.answer is Answer.BROKEN for f in found] == [False, False, True, True, False]
    assert "timestamp column 'at' stands still: all 200 values are the same" in found[2].reasons[0]
    coarse = [hours(n).assign(at=hours(n)["at"].dt.floor("2D")) for n in range(1, 30)]
    assert {f.answer for f in watched(coarse, Integrity(max_unseen=1))} == {Answer.FINE}


@pytest.mark.parametrize("value", [21.7, 0.0, 1e3, np.float64(20.25)])
def test_a_sensor_that_freezes_is_named_in_every_window(value: float) -> None:
    frozen = [hours(n).assign(sensor=value) if n > 2 else hours(n) for n in range(1, 6)]
    found = watched(frozen, Integrity(max_unseen=1))
    assert [f.about for f in found] == [(), (), *[("sensor",)] * 3]
    assert "column 'sensor' stands still: all 200 values are the same" in found[2].reasons[0]
    assert "min_rows_still" in found[2].reasons[0]
    assert {f.answer for f in watched(frozen, Integrity(max_unseen=1, min_rows_still=201))} == {Answer.FINE}


def test_a_sensor_that_froze_but_for_what_is_missing_is_named_too() -> None:
    gaps = pd.Series(np.where(np.arange(N) % 3 == 0, np.nan, 21.7))
    found = watched([hours(1), hours(2), hours(3).assign(sensor=gaps)])
    assert "all 133 values are the same" in found[2].reasons[0]


def test_a_broken_column_is_not_called_still_as_well() -> None:
    found = watched([hours(1), hours(2).assign(sensor="off"), hours(3).assign(sensor=np.inf)])
    assert [len(f.reasons) for f in found] == [0, 1, 1]


def test_a_window_that_it_could_not_judge_does_not_end_its_judging() -> None:
    monitor, before = Integrity(max_unseen=1), Sample(SCHEMA, REFERENCE)
    first, *_ = watched([hours(1)], monitor)
    raised = Finding("integrity", 2, Answer.UNKNOWN, ("monitor 'integrity' raised MemoryError on window 2: no room",))
    frozen = Sample(SCHEMA, hours(3).assign(sensor=21.7), 3)
    fitted = monitor.fit(before)
    found = monitor.check(Case(fitted, monitor.summarize(fitted, frozen), before, frozen, 0.05, (first, raised)))
    assert found.about == ("sensor",)
