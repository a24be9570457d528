"""A round's rows: gathered once, sealed, without leaks, with replay for training alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import fakes
from trimtab import rows
from trimtab.data import Role, assign, content
from trimtab.errors import DataError, InternalError
from trimtab.history import Labelled
from trimtab.journal import Journal
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.rows import Selection, stock, training_windows
from trimtab.sections import DataSettings
from trimtab.trigger import Action, Decision
from trimtab.window import Feature, Schema


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def project(tmp_path: Path, frame: pd.DataFrame, **changes: Any) -> Parts:
    stream = fakes.stream(f"rows-{tmp_path.name}", frame)
    return fakes.World(tmp_path / "home", stream, changes).process()


def schema_of(frame: pd.DataFrame, **columns: Any) -> Schema:
    return Schema.freeze({name: Feature() for name in "abc"}, frame, label="y", **columns)


def test_every_labelled_row_has_the_role_of_its_group(tmp_path: Path) -> None:
    frame = fakes.quiet(1000, 1)
    parts, schema = project(tmp_path, frame), schema_of(frame, id="id")
    prepared = rows.prepare(parts, "p:r", schema, Selection((1, 2)))
    counts = prepared.counts
    assert sum(counts[role] for role in Role) == 400
    assert counts["windows"] == [1, 2]
    assert counts["leaked"] == counts["replayed"] == 0
    for role in Role:
        want, _ = assign(frame["id"][400:800].tolist(), parts.project.data.split.shares, parts.split_key)
        assert counts[role] == int((want == role).sum())


def test_prepared_again_they_are_the_same_and_sealed(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    parts, schema = project(tmp_path, frame), schema_of(frame, id="id")
    first = rows.prepare(parts, "p:r", schema, Selection((1,)))
    assert rows.prepare(parts, "p:r", schema, Selection((1,))) == first
    (first.folder / "data" / "train.npz").unlink()
    with pytest.raises(InternalError, match="changed after their split was sealed"):
        rows.prepare(parts, "p:r", schema, Selection((1,)))


def test_rows_without_labels_are_left_out(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    frame["y"] = frame["y"].where(np.arange(800) % 2 == 0)
    parts, schema = project(tmp_path, frame), schema_of(frame, id="id")
    assert sum(rows.prepare(parts, "p:r", schema, Selection((1, 2))).counts[role] for role in Role) == 200


def test_without_a_label_at_all_it_says_what_to_look_at(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    schema = schema_of(frame)
    frame.loc[400:, "y"] = np.nan
    with pytest.raises(DataError, match=r"windows \[1\] hold no labelled training row; check source\.label \('y'\)"):
        rows.prepare(project(tmp_path, frame), "p:r", schema, Selection((1,)))


def test_a_row_that_came_twice_under_two_ids_is_not_judged_on(tmp_path: Path) -> None:
    original = fakes.quiet(600, 1)
    copies = original[400:600].assign(id=[f"copy-{i}" for i in range(200)])
    parts = project(tmp_path, pd.concat([original, copies], ignore_index=True))
    prepared = rows.prepare(parts, "p:r", schema_of(original, id="id"), Selection((1, 2)))
    assert prepared.counts["leaked"] > 20
    train = prepared.data.rows(Role.TRAIN)
    seen = content(train.inputs, train.labels)
    for role in (Role.CALIBRATION, Role.SEARCH, Role.JUDGE):
        other = prepared.data.rows(role)
        assert len(other)
        assert not np.isin(content(other.inputs, other.labels), seen).any()


def test_a_group_is_in_one_role_over_windows_and_replay(tmp_path: Path) -> None:
    frame = fakes.quiet(1200, 1).assign(scan=np.arange(1200) % 97)
    parts = project(tmp_path, frame, data={"train": 2, "replay": 0.5, "group": "scan"})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, group="scan"), Selection((3, 4), {}, (0, 1, 2)))
    by_role = {role: set(prepared.data.rows(role).groups.tolist()) for role in Role}
    for one in Role:
        for other in Role:
            assert one is other or not by_role[one] & by_role[other]
    assert set(prepared.fitted.tolist()) == by_role[Role.TRAIN] | by_role[Role.CALIBRATION]


def test_replay_adds_its_share_of_older_training_rows(tmp_path: Path) -> None:
    frame = fakes.quiet(1200, 1)
    parts = project(tmp_path, frame, data={"train": 1, "replay": 0.4})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), Selection((4,), {}, (0, 1, 2, 3)))
    counts = prepared.counts
    assert counts["replayed"] / counts["train"] == pytest.approx(0.4, abs=0.01)
    fresh = rows.prepare(parts, "p:fresh", schema_of(frame, id="id"), Selection((4,))).counts
    for role in (Role.CALIBRATION, Role.SEARCH, Role.JUDGE):
        assert counts[role] == fresh[role]


def test_what_was_replayed_is_not_judged_on_though_it_came_under_another_id(tmp_path: Path) -> None:
    old, new = fakes.quiet(600, 1), fakes.quiet(200, 2)
    copied = old[:400].assign(id=[f"copy-{i}" for i in range(400)])
    frame = pd.concat([old, new, copied[:200]], ignore_index=True)
    parts = project(tmp_path, frame, data={"train": 1, "replay": 0.7})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), Selection((3,), {}, (0, 1, 2)))
    train, judge = prepared.data.rows(Role.TRAIN), prepared.data.rows(Role.JUDGE)
    assert prepared.counts["replayed"] > 50
    seen = content(train.inputs, train.labels)
    assert not np.isin(content(judge.inputs, judge.labels), seen).any()


def test_the_reference_is_held_back_and_thinned(tmp_path: Path) -> None:
    frame = fakes.quiet(1000, 1)
    parts = project(tmp_path, frame, data={"train": 1, "reference_rows": 25})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), Selection((1, 2)))
    reference = prepared.reference
    assert len(reference) == 25
    roles, _ = assign(reference["id"].tolist(), parts.project.data.split.shares, parts.split_key)
    assert set(roles.tolist()) == {Role.SEARCH, Role.JUDGE}


def test_tensors_survive_the_reference(tmp_path: Path) -> None:
    frame = fakes.quiet(600, 1).assign(image=[np.full((1, 2, 2), float(i)) for i in range(600)])
    parts = project(tmp_path, frame, features={"image": {"kind": "tensor", "shape": [1, 2, 2]}})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, 2, 2))}, frame, label="y", id="id")
    prepared = rows.prepare(parts, "p:r", schema, Selection((1,)))
    assert schema.encode(prepared.reference)["image"].shape == (len(prepared.reference), 1, 2, 2)
    assert json.loads((prepared.folder / "counts.json").read_text()) == prepared.counts


def test_golden_rows_leave_out_what_is_for_training(tmp_path: Path) -> None:
    frame = fakes.quiet(600, 1).assign(scan=np.arange(600) % 97)
    golden = fakes.stream("golden", fakes.quiet(300, 9).assign(scan=np.arange(300) % 97))
    parts = project(tmp_path, frame, data={"train": 1, "group": "scan", "golden": golden})
    kept = rows.golden(parts, schema_of(frame, group="scan"))
    assert kept is not None
    assert 60 < len(kept) < 180
    train = rows.prepare(parts, "p:r", schema_of(frame, group="scan"), Selection((1,))).data.rows(Role.TRAIN)
    assert not set(kept.groups.tolist()) & set(train.groups.tolist())


def test_without_a_golden_file_there_are_no_golden_rows(tmp_path: Path) -> None:
    frame = fakes.quiet(600, 1)
    assert rows.golden(project(tmp_path, frame), schema_of(frame)) is None


def test_segments_travel_with_the_rows(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1).assign(site=["north", "south"] * 400)
    parts = project(tmp_path, frame, data={"train": 1, "replay": 0.3, "segments": ["site"]})
    judge = rows.prepare(parts, "p:r", schema_of(frame, id="id"), Selection((2,), {}, (1,))).data.rows(Role.JUDGE)
    assert judge.segments is not None
    assert judge.segments.shape == (len(judge), 1)
    assert set(judge.segments.ravel().tolist()) == {"site=north", "site=south"}


def test_a_segment_that_is_no_column_is_named(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1).assign(site="north")
    parts = project(tmp_path, frame, data={"segments": ["sit"]})
    with pytest.raises(DataError, match=r"column 'sit' \(setting data.segments\).*Did you mean 'site'"):
        rows.prepare(parts, "p:r", schema_of(frame), Selection((1,)))


def test_rows_of_a_regression_keep_their_numbers(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    frame["y"] = np.where(np.arange(800) % 4 == 0, np.nan, frame["a"] * 2.5)
    schema = Schema.freeze({name: Feature() for name in "abc"}, frame, task="regression", label="y")
    prepared = rows.prepare(project(tmp_path, frame), "p:r", schema, Selection((1, 2)))
    train = prepared.data.rows(Role.TRAIN)
    assert train.labels == pytest.approx(2.5 * train.inputs["numeric"][:, 0], rel=1e-5)
    assert sum(prepared.counts[role] for role in Role) == 300


# which windows


def journal_of(tmp_path: Path, windows: int = 12, alarms: dict[int, int] | None = None) -> Journal:
    """A champion of version 1 and labelled windows; ``alarms`` says at whose close a window was found moved."""
    journal = Journal(f"sqlite:///{tmp_path}/j.db", "p")
    journal.begin("{}", "key")
    journal.promote("first", version=1, after=0, kind="first", detail={})
    for number in range(1, windows + 1):
        journal.record_window(number, "", "", 10, 1, Decision(number, Action.IGNORE, ()), 0.0)
        journal.record_labels(number, Labelled(10, complete=True))
        answer = Answer.MOVED if number in (alarms or {}) else Answer.FINE
        journal.record_findings([Finding("m", number, answer)], 1, (alarms or {}).get(number, number))
    return journal


def chosen(journal: Journal, train: Any, closed: int = 12) -> Selection:
    return training_windows(journal, DataSettings.model_validate({"train": train}), closed)


def test_the_last_windows_are_trained_on_and_the_others_replayed(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    assert chosen(journal, "last 3 windows") == Selection((10, 11, 12), {}, tuple(range(10)))
    assert chosen(journal, 3, closed=2) == Selection((0, 1, 2))
    assert chosen(journal, 0) == Selection((12,), {}, tuple(range(12)))


def test_what_is_broken_or_without_labels_is_left_out(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.record_findings([Finding("guard", 11, Answer.BROKEN)], 1, 11)
    journal.record_window(13, "", "", 10, 1, Decision(13, Action.IGNORE, ()), 0.0)
    assert chosen(journal, 2, closed=13).newest == (10, 12)


def test_all_windows_are_trained_on_and_nothing_is_replayed(tmp_path: Path) -> None:
    whole = chosen(journal_of(tmp_path), "all")
    assert whole.newest == tuple(range(5, 13))  # the other roles' rows come from the newest, as ever
    assert whole.older == dict.fromkeys(range(5), 1.0)
    assert whole.replayed == ()


def test_windows_lose_half_of_their_rows_with_every_half_life(tmp_path: Path) -> None:
    ageing = chosen(journal_of(tmp_path), "decay 4 windows")
    assert ageing.newest == (9, 10, 11, 12)
    assert ageing.older == {8: 0.5, 7: 0.5, 6: 0.5, 5: 0.5, 4: 0.25, 3: 0.25, 2: 0.25, 1: 0.25, 0: 0.125}


def test_since_the_change_are_the_windows_since_it_was_first_seen(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, alarms={3: 3, 8: 8, 10: 10, 11: 12})
    assert chosen(journal, "since change").newest == (8, 9, 10, 11, 12)  # window 3 was another change
    assert chosen(journal, "since change").replayed == tuple(range(8))
    assert chosen(journal, "since change", closed=7).newest == (3, 4, 5, 6, 7)
    assert chosen(journal, "since change", closed=2).newest == (0, 1, 2)  # no change yet: the newest
    assert journal.promote("second", version=2, after=1, kind="promote", detail={}) is not None
    assert chosen(journal, "since change").newest == (8, 9, 10, 11, 12)  # another champion, for that change
    journal.record_findings([Finding("m", 12, Answer.MOVED)], 2, 12)
    assert chosen(journal, "since change").newest == (12,)


def counted(rows: int, *, leaked: int = 0, replayed: int = 0) -> dict[str, int]:
    return {**dict.fromkeys(map(str, Role), 0), "train": rows, "leaked": leaked, "replayed": replayed}


def stocked(journal: Journal, train: Any, closed: int) -> tuple[int, int]:
    return stock(journal, DataSettings.model_validate({"train": train}), closed)


def test_the_rows_there_are_to_train_on_grow_until_the_windows_are_full(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    assert stocked(journal, 4, 1) == (0, 0)  # no champion yet
    journal.seal("first", "digest", counted(10, leaked=2))
    assert [stocked(journal, 4, n) for n in (0, 1, 3, 4, 9)] == [(12, 12), (22, 12), (42, 12), (40, 12), (40, 12)]
    journal.seal("second", "digest", counted(45, replayed=5))
    assert stocked(journal, 4, 9) == (40, 40)
    assert stocked(journal, "all", 9) == (80 + round((10 + 12) * 0.6), 40)  # of windows 0 and 1 the training rows alone


def test_labels_that_are_still_to_come_do_not_count_yet(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, windows=1)
    journal.seal("first", "digest", counted(10))
    journal.record_labels(1, Labelled(3, complete=False))
    assert stocked(journal, 4, 1) == (13, 10)
    journal.record_labels(1, Labelled(10, complete=True))
    assert stocked(journal, 4, 1) == (20, 10)


def test_since_the_change_is_at_least_one_window(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.record_window(13, "", "", 10, 1, Decision(13, Action.IGNORE, ()), 0.0)
    journal.record_findings([Finding("m", 13, Answer.WORSE)], 1, 13)
    assert chosen(journal, "since change", closed=13).newest == (12,)


@pytest.mark.parametrize("wrong", ["decay", "decay some windows", "last week", "change", "decay -1 windows"])
def test_a_rule_that_is_none_is_refused_with_those_there_are(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not a number of windows"):
        DataSettings.model_validate({"train": wrong})


def test_a_rule_reads_back_as_it_was_written() -> None:
    for words in ("last 4 windows", "all", "decay 4 windows", "since change"):
        settings = DataSettings.model_validate({"train": words})
        assert str(settings.train) == words
        assert DataSettings.model_validate_json(settings.model_dump_json()) == settings


def test_rows_of_older_windows_are_for_training_alone_and_one_that_left_does_not_come_back(tmp_path: Path) -> None:
    frame = fakes.quiet(1400, 1)
    parts, schema = project(tmp_path, frame), schema_of(frame, id="id")
    new, half, quarter = (
        rows.prepare(parts, f"p:{share}", schema, Selection((4,), {1: share, 2: share} if share else {})).data
        for share in (0.0, 0.5, 0.25)
    )
    train = [set(data.rows(Role.TRAIN).groups.tolist()) for data in (new, half, quarter)]
    assert train[0] < train[2] < train[1]
    older = 2 * 200 * 0.6
    assert len(train[1]) - len(train[0]) == pytest.approx(older / 2, abs=35)
    assert len(train[2]) - len(train[0]) == pytest.approx(older / 4, abs=30)
    for role in (Role.CALIBRATION, Role.SEARCH, Role.JUDGE):
        assert half.rows(role).groups.tolist() == new.rows(role).groups.tolist()


def test_a_source_without_rows_before_the_stream_is_no_fault(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    parts = project(tmp_path, frame, window={"every": 200, "start": 0})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), Selection((0, 1), {}, (0,)))
    assert prepared.counts["windows"] == [1]
