"""A look at a broken window: every fault is named, and no bad column keeps the others from being judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fakes
from tests.faulty import FAULTS, FEATURES, Fault, rows
from trimtab import champion
from trimtab.first import begin
from trimtab.look import look
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.window import Arrays, Schema, Span, Window
from trimtab_evidently.drift import Drift
from trimtab_evidently.integrity import Integrity

N = 150
SITE = Fault("site", lambda frame: frame.drop(columns="site"), ("data.group", "missing from the rows"))
TWICE = Fault("site", lambda frame: pd.concat([frame, frame[["site"]]], axis=1), ("occurs 2 times",))


def visited(n: int, seed: int) -> pd.DataFrame:
    return rows(n, seed).assign(site=[f"{seed}-{i}" for i in range(n)])


REFERENCE = visited(400, 0)


class ByMean:
    """A model of any inputs: how high the mean of a row's numbers is, in two classes, and the numbers' means."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        numbers = [np.nan_to_num(v.reshape(len(v), -1)).mean(axis=1) for v in inputs.values() if v.dtype.kind == "f"]
        means = np.stack([*numbers, np.zeros(len(next(iter(inputs.values()))))], axis=1).astype(np.float32)
        high = 1 / (1 + np.exp(-means.mean(axis=1)))
        return {"probabilities": np.stack([1 - high, high], axis=1).astype(np.float32), "embedding": means}

    def predict(self, inputs: Arrays) -> np.ndarray[Any, Any]:
        return self.run(inputs)["probabilities"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parts, Serving]]:
    folder = tmp_path_factory.mktemp("look")
    with fakes.installed(folder / "site"):
        there = fakes.World(folder / "home", fakes.stream("look", fakes.quiet(400, 1), fakes.quiet(200, 2)))
        parts = there.process()
        yield parts, begin(parts)


def looked(
    begun: tuple[Parts, Serving], frame: pd.DataFrame, features: set[str], joint: bool, group: str | None, monitors: Any
) -> dict[str, Finding]:
    parts, serving = begun
    schema = Schema.freeze(
        {k: v for k, v in FEATURES.items() if k in features}, REFERENCE, label="y", id="row", group=group
    )
    reference = champion.observe(ByMean(), schema, REFERENCE, 0)
    fitted = np.zeros(0 if group is None else 1, dtype=np.uint64)
    served = dataclasses.replace(serving, schema=schema, session=ByMean(), reference=reference, fitted=fitted)
    asked = dataclasses.replace(parts, monitors=monitors or (Integrity(), Drift(joint=joint)), fits={})
    found = look(asked, served, Window.of(Span(5, 0, len(frame)), "row 0", f"row {len(frame)}", frame))
    return {f.monitor: f for f in found.findings} | {"problems": found.problems}


def statistics(features: set[str]) -> set[str]:
    """What the drift monitor says of sound columns."""
    return {f"{name}.mean" if FEATURES[name].kind == "tensor" else name for name in features}


@given(
    faults=st.lists(st.sampled_from([*FAULTS, SITE, TWICE]), unique_by=lambda f: f.column, max_size=2),
    features=st.sets(st.sampled_from(sorted(FEATURES)), min_size=1),
    seed=st.integers(1, 1000),
)
@settings(max_examples=25, deadline=None)
def test_every_fault_is_named_and_every_other_column_is_judged(
    begun: tuple[Parts, Serving], faults: list[Fault], features: set[str], seed: int
) -> None:
    features = features | {f.column for f in faults} & set(FEATURES)
    frame = visited(N, seed).drop(columns=list(set(FEATURES) - features))
    for fault in faults:
        frame = fault.break_it(frame)
    found = looked(begun, frame, features, joint=False, group="site", monitors=None)
    integrity, drift = found["integrity"], found["evidently.drift"]
    assert integrity.answer == (Answer.BROKEN if faults else Answer.FINE)
    assert set(integrity.about) == {f.column for f in faults}
    for fault in faults:
        named = [r for r in integrity.reasons if f"column {fault.column!r}" in r]
        assert [r for r in named if fault.words[0] in r]
    sound = features - {f.column for f in faults}
    assert statistics(sound) <= set(drift.scores)
    assert drift.answer is not Answer.UNKNOWN or not sound
    assert found["problems"] == list(integrity.reasons)


@given(faults=st.lists(st.sampled_from(FAULTS), unique_by=lambda f: f.column, min_size=2, max_size=2))
@settings(max_examples=8, deadline=None)
def test_what_moved_beside_two_faults_is_found_jointly_too(begun: tuple[Parts, Serving], faults: list[Fault]) -> None:
    frame = visited(300, 7)
    moved = [name for name in ("age", "income") if name not in {f.column for f in faults}]
    frame["age"] = frame["age"] / 2
    frame["income"] = frame["income"] * 3
    for fault in faults:
        frame = fault.break_it(frame)
    drift = looked(begun, frame, set(FEATURES), joint=True, group=None, monitors=None)["evidently.drift"]
    for name in moved:
        assert [r for r in drift.reasons if r.startswith(f"{name} moved")]
    assert "rows" in drift.scores
    assert not [r for r in drift.reasons if "Error" in r and not any(f.column in r for f in faults)]


def test_of_rows_that_the_model_can_read_its_outputs_are_judged_too(begun: tuple[Parts, Serving]) -> None:
    frame = visited(N, 3)
    beyond = frame.assign(age=np.where(frame.index < 2, 300.0, frame["age"]))
    found = looked(begun, beyond, set(FEATURES), joint=True, group=None, monitors=None)
    assert found["integrity"].about == ("age",)
    assert {"confidence", "embedding"} <= set(found["evidently.drift"].scores)
    found = looked(begun, frame.drop(columns="age"), set(FEATURES), joint=True, group=None, monitors=None)
    assert not {"confidence", "embedding"} & set(found["evidently.drift"].scores)


def test_without_a_guard_rows_that_cannot_be_read_are_broken_all_the_same(begun: tuple[Parts, Serving]) -> None:
    frame = visited(N, 3).drop(columns="age")
    found = looked(begun, frame, set(FEATURES), joint=False, group=None, monitors=(Drift(joint=False),))
    assert found["integrity"].answer is Answer.BROKEN
    assert "column 'age'" in found["integrity"].reasons[0]
    assert statistics(set(FEATURES) - {"age"}) <= set(found["evidently.drift"].scores)
    (reason,) = [r for r in found["evidently.drift"].reasons if r.startswith("age")]
    assert reason == "age was not judged: it is not among the columns of the window"


@pytest.mark.parametrize("name", ["age", "y"])
def test_without_a_guard_a_column_that_came_twice_is_broken_and_no_crash(
    begun: tuple[Parts, Serving], name: str
) -> None:
    frame = visited(N, 3).assign(y=0)
    twice = pd.concat([frame, frame[[name]]], axis=1)
    found = looked(begun, twice, set(FEATURES), joint=False, group=None, monitors=(Drift(joint=False),))
    assert found["integrity"].reasons == (
        f"column {name!r} is more than once in the rows; keep one of them in the source",
    )


def test_where_drift_is_explained_a_broken_window_has_its_page(begun: tuple[Parts, Serving], tmp_path: Path) -> None:
    frame = visited(300, 7).drop(columns="colour")
    frame["age"] = frame["age"] / 2
    found = looked(begun, frame, set(FEATURES), joint=False, group=None, monitors=None)
    assert found["evidently.drift"].answer is Answer.MOVED
    assert found["problems"] == list(found["integrity"].reasons)
