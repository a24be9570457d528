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
from trimtab.parts import Parts
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
    prepared = rows.prepare(parts, "p:r", schema, [1, 2])
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
    first = rows.prepare(parts, "p:r", schema, [1])
    assert rows.prepare(parts, "p:r", schema, [1]) == first
    (first.folder / "data" / "train.npz").unlink()
    with pytest.raises(InternalError, match="changed after their split was sealed"):
        rows.prepare(parts, "p:r", schema, [1])


def test_rows_without_labels_are_left_out(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    frame["y"] = frame["y"].where(np.arange(800) % 2 == 0)
    parts, schema = project(tmp_path, frame), schema_of(frame, id="id")
    assert sum(rows.prepare(parts, "p:r", schema, [1, 2]).counts[role] for role in Role) == 200


def test_without_a_label_at_all_it_says_what_to_look_at(tmp_path: Path) -> None:
    frame = fakes.quiet(800, 1)
    schema = schema_of(frame)
    frame.loc[400:, "y"] = np.nan
    with pytest.raises(DataError, match=r"windows \[1\] hold no labelled training row; check source\.label \('y'\)"):
        rows.prepare(project(tmp_path, frame), "p:r", schema, [1])


def test_a_row_that_came_twice_under_two_ids_is_not_judged_on(tmp_path: Path) -> None:
    original = fakes.quiet(600, 1)
    copies = original[400:600].assign(id=[f"copy-{i}" for i in range(200)])
    parts = project(tmp_path, pd.concat([original, copies], ignore_index=True))
    prepared = rows.prepare(parts, "p:r", schema_of(original, id="id"), [1, 2])
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
    prepared = rows.prepare(parts, "p:r", schema_of(frame, group="scan"), [3, 4], [0, 1, 2])
    by_role = {role: set(prepared.data.rows(role).groups.tolist()) for role in Role}
    for one in Role:
        for other in Role:
            assert one is other or not by_role[one] & by_role[other]
    assert set(prepared.fitted.tolist()) == by_role[Role.TRAIN] | by_role[Role.CALIBRATION]


def test_replay_adds_its_share_of_older_training_rows(tmp_path: Path) -> None:
    frame = fakes.quiet(1200, 1)
    parts = project(tmp_path, frame, data={"train": 1, "replay": 0.4})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), [4], [0, 1, 2, 3])
    counts = prepared.counts
    assert counts["replayed"] / counts["train"] == pytest.approx(0.4, abs=0.01)
    fresh = rows.prepare(parts, "p:fresh", schema_of(frame, id="id"), [4]).counts
    for role in (Role.CALIBRATION, Role.SEARCH, Role.JUDGE):
        assert counts[role] == fresh[role]


def test_what_was_replayed_is_not_judged_on_though_it_came_under_another_id(tmp_path: Path) -> None:
    old, new = fakes.quiet(600, 1), fakes.quiet(200, 2)
    copied = old[:400].assign(id=[f"copy-{i}" for i in range(400)])
    frame = pd.concat([old, new, copied[:200]], ignore_index=True)
    parts = project(tmp_path, frame, data={"train": 1, "replay": 0.7})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), [3], [0, 1, 2])
    train, judge = prepared.data.rows(Role.TRAIN), prepared.data.rows(Role.JUDGE)
    assert prepared.counts["replayed"] > 50
    seen = content(train.inputs, train.labels)
    assert not np.isin(content(judge.inputs, judge.labels), seen).any()


def test_the_reference_is_held_back_and_thinned(tmp_path: Path) -> None:
    frame = fakes.quiet(1000, 1)
    parts = project(tmp_path, frame, data={"train": 1, "reference_rows": 25})
    prepared = rows.prepare(parts, "p:r", schema_of(frame, id="id"), [1, 2])
    reference = prepared.reference
    assert len(reference) == 25
    roles, _ = assign(reference["id"].tolist(), parts.project.data.split.shares, parts.split_key)
    assert set(roles.tolist()) == {Role.SEARCH, Role.JUDGE}


def test_tensors_survive_the_reference(tmp_path: Path) -> None:
    frame = fakes.quiet(600, 1).assign(image=[np.full((1, 2, 2), float(i)) for i in range(600)])
    parts = project(tmp_path, frame, features={"image": {"kind": "tensor", "shape": [1, 2, 2]}})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, 2, 2))}, frame, label="y", id="id")
    prepared = rows.prepare(parts, "p:r", schema, [1])
    assert schema.encode(prepared.reference)["image"].shape == (len(prepared.reference), 1, 2, 2)
    assert json.loads((prepared.folder / "counts.json").read_text()) == prepared.counts


def test_golden_rows_leave_out_what_is_for_training(tmp_path: Path) -> None:
    frame = fakes.quiet(600, 1).assign(scan=np.arange(600) % 97)
    golden = fakes.stream("golden", fakes.quiet(300, 9).assign(scan=np.arange(300) % 97))
    parts = project(tmp_path, frame, data={"train": 1, "group": "scan", "golden": golden})
    kept = rows.golden(parts, schema_of(frame, group="scan"))
    assert kept is not None
    assert 60 < len(kept) < 180
    train = rows.prepare(parts, "p:r", schema_of(frame, group="scan"), [1]).data.rows(Role.TRAIN)
    assert not set(kept.groups.tolist()) & set(train.groups.tolist())


def test_without_a_golden_file_there_are_no_golden_rows(tmp_path: Path) -> None:
    frame = fakes.quiet(600, 1)
    assert rows.golden(project(tmp_path, frame), schema_of(frame)) is None
