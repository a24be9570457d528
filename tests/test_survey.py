"""A look at a window batch by batch: the same rows are drawn, and the same is kept, whatever the batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from trimtab.monitor import Always, Never, Sample, Summary
from trimtab.survey import Draw, survey
from trimtab.window import Partition, Schema

SCHEMA = Schema(columns=())


@given(st.integers(0, 400), st.integers(1, 80), st.lists(st.integers(0, 400), max_size=4))
def test_a_draw_is_the_same_whatever_the_batches(rows: int, most: int, cuts: list[int]) -> None:
    frame = pd.DataFrame({"x": np.arange(rows)})
    whole, parts = Draw(most), Draw(most)
    whole.add(frame, np.arange(rows))
    for part in np.split(np.arange(rows), sorted(min(c, rows) for c in cuts)):
        parts.add(frame.iloc[part], part)
    drawn = whole.frame["x"].tolist()
    assert parts.frame["x"].tolist() == drawn
    assert len(drawn) == min(rows, most)
    assert drawn == sorted(set(drawn))


def test_a_draw_prefers_no_place() -> None:
    draw = Draw(2000)
    for first in range(0, 100_000, 10_000):
        draw.add(pd.DataFrame({"x": np.arange(first, first + 10_000)}), np.arange(first, first + 10_000))
    tenths = np.histogram(draw.frame["x"], bins=10, range=(0, 100_000))[0]
    assert tenths.sum() == 2000
    assert ((tenths > 140) & (tenths < 260)).all()


class Sums(Never):
    """Keeps the sum of a column."""

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        return {"sum": np.array([batch.frame["x"].sum()])}

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        return {"sum": one["sum"] + other["sum"]}


class Raises(Always):
    """Does not get beyond the second batch."""

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        if batch.frame["x"].min() > 0:
            raise ValueError("no luck")
        return {}


def test_every_row_is_seen_and_a_monitor_that_raises_hides_no_other() -> None:
    batches = [pd.DataFrame({"x": np.arange(first, first + 10)}) for first in range(0, 50, 10)]
    looked = survey([Partition(0, lambda: batches)], SCHEMA, 3, [(Raises(), {}), (Sums(), {})], 20)
    assert (looked.rows, len(looked.frame)) == (50, 20)
    assert looked.seen["never"]["sum"].tolist() == [sum(range(50))]
    assert list(looked.failed) == ["always"]


def test_rows_that_are_not_to_be_looked_at_are_neither_seen_nor_drawn() -> None:
    batches = [pd.DataFrame({"x": np.arange(first, first + 10)}) for first in range(0, 50, 10)]
    looked = survey(
        [Partition(0, lambda: batches)], SCHEMA, 3, [(Sums(), {})], 20, lambda batch, places: places % 2 == 0
    )
    assert looked.rows == 50
    assert (looked.frame["x"] % 2 == 0).all()
    assert looked.places.tolist() == looked.frame["x"].tolist()
    assert looked.seen["never"]["sum"].tolist() == [sum(range(0, 50, 2))]
