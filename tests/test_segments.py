"""What happens to a few rows is found and named, and the rate of false alarms is paid for by all segments together."""

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from tests.judged import judged
from trimtab.errors import DataError
from trimtab.monitor import Answer, Sample, case_of
from trimtab.segments import BySegment
from trimtab.state import State
from trimtab.trigger import Trigger
from trimtab.window import Feature, Schema
from trimtab_evidently.drift import Drift
from trimtab_evidently.performance import Performance

REGIONS = [f"r{i}" for i in range(10)]
SCHEMA = Schema(columns=(), label="y", classes=(0, 1))


def table(rows: int, seed: int, moved: str | None = None, by: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.exponential(size=rows)})
    frame["region"] = np.array(REGIONS)[rng.integers(0, 10, rows)]
    frame.loc[frame["region"] == moved, "a"] += by
    return frame


def seen(frame: pd.DataFrame, number: int) -> Sample:
    return Sample(Schema.freeze({"a": Feature(), "b": Feature()}, table(50, 0)), frame, number)


def test_a_shift_in_a_tenth_of_the_rows_is_found_and_named() -> None:
    by_region = BySegment(Drift(), ("region",))
    found = judged(by_region, seen(table(5000, 1), 0), seen(table(2000, 2, "r3"), 1), 0.05)
    assert found.answer is Answer.MOVED
    assert found.alarms is not None
    assert "a [region=r3]" in found.alarms
    assert any(r.startswith("region=r3: a moved: mean") for r in found.reasons)
    others = {name.partition("[")[2] for name in found.alarms if "[" in name}
    assert others == {"region=r3]"}


def test_quiet_windows_alarm_no_more_than_promised_with_ten_segments() -> None:
    by_region, alarms = BySegment(Drift(joint=False), ("region",)), 0
    for seed in range(12):
        case = case_of(by_region, seen(table(2000, 10_000 + seed), 0), seen(table(1500, seed), 1), 0.05)
        for number in range(5):
            now = seen(table(1500, 100 * seed + number), 1)
            again = dataclasses.replace(case, seen=by_region.summarize(case.fitted, now), current=now)
            alarms += by_region.check(again).answer is Answer.MOVED
    assert binomtest(alarms, 60, 0.05, alternative="greater").pvalue > 0.001


def answered(frame: pd.DataFrame, wrong: dict[str, float], number: int, seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    rate = frame["region"].map(lambda r: wrong.get(r, 0.1)).to_numpy()
    labels = np.zeros(len(frame), np.int64)
    said = (rng.random(len(frame)) < rate).astype(int)
    return Sample(SCHEMA, frame, number, probabilities=np.eye(2, dtype=np.float32)[said], labels=labels)


def test_a_champion_that_is_worse_in_one_segment_is_named_and_its_quality_told() -> None:
    by_region = BySegment(Performance(), ("region",))
    before, now = table(5000, 1), table(2000, 2)
    found = judged(by_region, answered(before, {}, 0, 3), answered(now, {"r7": 0.4}, 1, 4), 0.02)
    assert found.answer is Answer.WORSE
    assert "accuracy [region=r7]" in (found.alarms or ())
    assert found.scores["accuracy [region=r7]"] == pytest.approx(0.6, abs=0.1)
    assert {f"accuracy [region={r}]" for r in REGIONS} <= found.scores.keys()
    assert "wealth [region=r7]" in found.kept


def test_evidence_over_time_is_kept_for_each_segment() -> None:
    by_region = BySegment(Performance(min_rows=500), ("region",))
    before = answered(table(8000, 1), {}, 0, 3)
    past: list[object] = []
    for number in range(1, 7):
        case = case_of(by_region, before, answered(table(400, number + 50), {"r7": 0.35}, number, number), 0.02, past)  # type: ignore[arg-type]
        past.append(by_region.check(case))
    last = past[-1]
    assert last.scores["run [region=r7]"] > 100 * last.scores["run [region=r1]"]  # type: ignore[attr-defined]


def test_batches_add_up_segment_by_segment() -> None:
    by_region = BySegment(Drift(joint=False), ("region",))
    reference, window = seen(table(3000, 1), 0), table(900, 2, "r1")
    fitted = by_region.fit(reference)
    parts = [by_region.summarize(fitted, seen(window.iloc[i : i + 300], 1)) for i in range(0, 900, 300)]
    added, whole = (
        functools.reduce(functools.partial(by_region.add, fitted), parts),
        by_region.summarize(fitted, seen(window, 1)),
    )
    assert added.keys() == whole.keys()
    assert {key.partition("/")[0] for key in whole} == {str(n) for n in range(11)}
    for key, array in whole.items():
        if array.dtype.kind in "iu":
            assert np.array_equal(added[key], array)


def test_a_segment_without_its_column_is_named() -> None:
    with pytest.raises(DataError, match=r"'site' \(setting data.segments\)"):
        BySegment(Drift(), ("site",)).fit(seen(table(300, 1), 0))


def test_of_a_window_without_the_column_all_rows_are_judged_together() -> None:
    by_region, window = BySegment(Drift(joint=False), ("region",)), table(2000, 2)
    window["a"] += 1.0
    found = judged(by_region, seen(table(5000, 1), 0), seen(window.drop(columns="region"), 1), 0.05)
    assert found.alarms == ("a",)


def test_the_trigger_weighs_a_column_by_its_name_in_any_segment() -> None:
    by_region = BySegment(Drift(joint=False), ("region",))
    found = judged(by_region, seen(table(5000, 1), 0), seen(table(2000, 2, "r3"), 1), 0.05)
    light = State(importance={"a": 0.01, "b": 0.99})
    assert "importance" in str(Trigger.model_validate({"confirm": "1 of 1"}).decide(1, [found], light).reasons)
