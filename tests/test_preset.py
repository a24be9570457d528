"""Evidently's preset judges untouched where that is asked for, and its report is written on request."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.judged import judged
from trimtab.monitor import Answer, Sample, case_of
from trimtab.window import Feature, Schema
from trimtab_evidently.columns import Columns
from trimtab_evidently.drift import Drift
from trimtab_evidently.preset import run_preset

FEATURES = {"a": Feature(), "b": Feature(), "k": Feature(kind="categorical")}


def table(rows: int, seed: int, **shifts: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "k": rng.choice(["x", "y"], rows)})
    return frame.assign(**{name: frame[name] + by for name, by in shifts.items()})


SCHEMA = Schema.freeze(FEATURES, table(200, 0))


def sample(frame: pd.DataFrame, number: int = 1) -> Sample:
    return Sample(SCHEMA, frame, number)


@pytest.mark.parametrize("rows", [400, 1500])
def test_it_holds_for_drifted_what_evidently_does_by_tests_and_by_distances(rows: int) -> None:
    before, now = (Columns.of(sample(f)) for f in (table(rows, 1), table(rows, 2, a=1.0)))
    said = run_preset(before, now)
    assert said.drifted == ("a",)
    assert said.scores.keys() == {"a", "b", "k"}
    assert not said.of_dataset


def test_half_of_the_columns_must_drift_for_a_window_to_move() -> None:
    exact = Drift(exact=True)
    one = judged(exact, sample(table(600, 1)), sample(table(600, 2, a=1.0)), 0.05)
    assert (one.answer, one.alarms) == (Answer.FINE, ())
    two = judged(exact, sample(table(600, 1)), sample(table(600, 2, a=1.0, b=1.0)), 0.05)
    assert (two.answer, set(two.alarms)) == (Answer.MOVED, {"a", "b"})
    assert two.reasons[0].startswith("a drifted: ")


def test_its_report_is_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    Drift().full_report(case_of(Drift(), sample(table(300, 1), 0), sample(table(300, 2)), 0.05), path)
    assert "<html" in path.read_text(encoding="utf-8")
