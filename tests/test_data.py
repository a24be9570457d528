"""Roles of rows: one group one role for ever, shares as set, and what came twice under two names is left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.data import Data, Role, Rows, assign, content, group_keys, leaks, segments_of
from trimtab.errors import ArtifactError, DataError
from trimtab.window import Feature, Schema

SHARES = {Role.TRAIN: 0.6, Role.CALIBRATION: 0.1, Role.SEARCH: 0.1, Role.JUDGE: 0.2}
KEYS = st.one_of(st.integers(), st.text(), st.tuples(st.just("row"), st.integers(0, 10**6)))


def rows_of(values: list[list[float]], labels: list[int], groups: list[int]) -> Rows:
    return Rows({"numeric": np.array(values, np.float32)}, np.array(labels), np.array(groups, np.uint64))


# roles


@given(st.lists(KEYS, max_size=40), st.lists(KEYS, max_size=40), st.text())
def test_a_group_keeps_its_role_whoever_comes_with_it(first: list[object], second: list[object], secret: str) -> None:
    alone, _ = assign(first, SHARES, secret)
    together, groups = assign([*second, *first], SHARES, secret)
    assert together[len(second) :].tolist() == alone.tolist()
    by_group: dict[int, set[str]] = {}
    for group, role in zip(groups.tolist(), together.tolist(), strict=True):
        by_group.setdefault(group, set()).add(role)
    assert all(len(roles) == 1 for roles in by_group.values())


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_shares_are_kept_and_another_secret_gives_another_split(start: int) -> None:
    keys = list(range(start, start + 4000))
    here, _ = assign(keys, SHARES, "one")
    there, _ = assign(keys, SHARES, "other")
    for role, share in SHARES.items():
        assert abs((here == role).mean() - share) < 0.04
    assert 0.3 < (here == there).mean() < 0.55


def test_one_and_the_text_of_it_are_one_group() -> None:
    _, groups = assign([1, "1", 1.0, np.float64(1), 1.5], SHARES, "key")
    assert len(set(groups[:4].tolist())) == 1  # one file gave the column another type than the next
    assert groups[4] != groups[0]


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.split sums to 0\.900"):
        assign(["a"], {Role.TRAIN: 0.9}, "key")


FRAME = pd.DataFrame({"x": [1.0, 2.0, 3.0], "scan": ["s", "t", "s"], "id": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("group", "id", "block", "keys"),
    [
        ("scan", "id", 2, ["s", "t", "s"]),
        (None, "id", 2, [("block", 2), ("block", 3), ("block", 3)]),
        (None, "id", None, ["a", "b", "c"]),
        (None, "gone", None, [("row", 5), ("row", 6), ("row", 7)]),
        (None, None, None, [("row", 5), ("row", 6), ("row", 7)]),
    ],
)
def test_the_key_is_the_group_else_the_block_else_the_id_else_the_number(
    group: str | None, id: str | None, block: int | None, keys: list[object]
) -> None:
    schema = Schema.freeze({"x": Feature()}, FRAME, id=id, group=group)
    assert group_keys(FRAME, schema, block, 5 + np.arange(len(FRAME))) == keys


def test_a_group_column_that_is_missing_is_named() -> None:
    schema = Schema.freeze({"x": Feature()}, FRAME, group="patient")
    with pytest.raises(DataError, match=r"column 'patient' \(setting data\.group\)"):
        group_keys(FRAME, schema, None, np.arange(len(FRAME)))


# leaks


def test_the_same_thing_under_two_groups_is_left_out_of_judging() -> None:
    planted = rows_of([[1, 2], [3, 4], [1, 2], [5, 6]], [0, 1, 0, 1], [10, 11, 12, 13])
    assert leaks(planted, np.array(["train", "train", "judge", "judge"])).tolist() == [False, False, True, False]


def test_a_group_of_the_training_rows_is_left_out_even_with_other_values() -> None:
    planted = rows_of([[1, 2], [3, 4]], [0, 1], [10, 10])
    assert leaks(planted, np.array(["train", "search"])).tolist() == [False, True]


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 8), st.sampled_from(list(Role))), max_size=25
)


@given(ROWS)
def test_after_leaks_are_left_out_nothing_outside_training_was_trained_on(
    drawn: list[tuple[int, int, int, Role]],
) -> None:
    assume(drawn)
    values, labels, groups, roles = (list(column) for column in zip(*drawn, strict=True))
    rows, role = rows_of([[v, -v] for v in values], labels, groups), np.array(roles)
    leaked = leaks(rows, role)
    assert not leaked[role == Role.TRAIN].any()
    train, kept = rows.take(role == Role.TRAIN), rows.take((role != Role.TRAIN) & ~leaked)
    assert not set(kept.groups.tolist()) & set(train.groups.tolist())


@given(st.integers(3, 60), st.integers(0, 2**32 - 1))
def test_the_same_rows_under_other_ids_are_left_out_whole(count: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    rows = rows_of(np.concatenate([values, values]).tolist(), [0] * 2 * count, list(range(2 * count)))
    leaked = leaks(rows, np.repeat([str(Role.TRAIN), str(Role.JUDGE)], count))
    assert leaked.tolist() == [False] * count + [True] * count


def test_a_table_of_a_few_categories_is_not_emptied_of_judge_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, size=(2000, 2)).astype(float)
    rows = rows_of(values.tolist(), rng.integers(0, 2, 2000).tolist(), list(range(2000)))
    assert not leaks(rows, rng.choice([str(Role.TRAIN), str(Role.JUDGE)], 2000)).any()


def test_content_tells_rows_apart_by_every_input() -> None:
    inputs = {"numeric": np.array([[1.0], [1.0], [1.0]], np.float32), "c": np.array([["x"], ["y"], ["x"]])}
    hashes = content(inputs, np.zeros(3, np.int64))
    assert hashes[0] == hashes[2] != hashes[1]


# files


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    rows = Rows(
        {"numeric": np.array([[np.nan, 1.0]], np.float32), "c": np.array([["ü"]]), "t": np.ones((1, 2, 2), np.float32)},
        np.array([3]),
        np.array([2**63 + 5], np.uint64),
    )
    data = Data.write(tmp_path / "d", {Role.JUDGE: rows})
    back = Data.write(tmp_path / "d", {}).rows(Role.JUDGE)
    for name, values in rows.inputs.items():
        np.testing.assert_array_equal(back.inputs[name], values)
        assert back.inputs[name].dtype == values.dtype
    assert back.labels.tolist() == [3]
    assert back.groups.tolist() == [2**63 + 5]
    empty = data.rows(Role.TRAIN)
    assert len(empty) == 0
    assert empty.inputs["t"].shape == (0, 2, 2)


def test_equal_rows_have_equal_digests_and_other_rows_have_not(tmp_path: Path) -> None:
    rows = rows_of([[1, 2]], [0], [1])
    one, same, other = (
        Data.write(tmp_path / name, {Role.TRAIN: r})
        for name, r in [("a", rows), ("b", rows), ("c", rows_of([[1, 3]], [0], [1]))]
    )
    assert one.digest == same.digest != other.digest


def test_a_folder_without_any_role_is_told(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(ArtifactError, match="holds no rows of any role"):
        Data.write(tmp_path / "d", {}).rows(Role.TRAIN)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_joined_rows_are_their_parts_one_after_the_other(sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    parts = [rows_of(rng.normal(size=(n, 2)).tolist(), [0] * n, list(range(n))) for n in sizes]
    joined = Rows.join(parts)
    assert len(joined) == sum(sizes)
    np.testing.assert_array_equal(joined.take(np.arange(sizes[0])).inputs["numeric"], parts[0].inputs["numeric"])


# cells as files give them


def test_labels_and_segments_that_are_missing_are_so_in_whatever_storage() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": pd.array([1, None, 0], dtype="Int64")})
    schema = Schema.freeze({"x": Feature()}, frame, label="y")
    assert schema.encode_labels(frame).tolist() == [1, -1, 0]
    assert schema.encode_labels(frame.astype({"y": "object"})).tolist() == [1, -1, 0]
    assert segments_of(frame, ["y"]).tolist() == [["y=1"], ["y=missing"], ["y=0"]]  # type: ignore[union-attr]


@pytest.mark.parametrize("junk", [[1], np.array([1]), np.array([1, 0]), {"y": 1}])
def test_a_label_that_is_no_single_value_is_none_of_the_classes(junk: object) -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})
    schema = Schema.freeze({"x": Feature()}, frame, label="y")
    with pytest.raises(DataError, match=r"label column 'y' holds .*, which is none of the classes \[0, 1\]"):
        schema.encode_labels(pd.DataFrame({"x": [1.0, 2.0], "y": [0, junk]}))
