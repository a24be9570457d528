"""Windows partition the rows of files, in time order, and say what is wrong with a file in words that help."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab import discover
from trimtab.errors import DataError, SettingsError
from trimtab.files import CsvSource, ParquetSource, duration
from trimtab.testing import yield_checks

DAY = 86400
MONDAY = 1_767_571_200  # 2026-01-05T00:00:00Z

instants = st.lists(st.integers(0, 3 * 10**9), min_size=1, max_size=40)
lengths = st.one_of(
    st.integers(1, 30),
    st.tuples(st.integers(1, 500), st.sampled_from("dh")).map(lambda pair: f"{pair[0]}{pair[1]}"),
)


def write_csv(folder: Path, **columns: list[Any]) -> Path:
    path = folder / "rows.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def write_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def rows_of(source: CsvSource | ParquetSource, column: str = "row") -> list[list[Any]]:
    start = source.begins()
    return [source.read(number, start).frame[column].tolist() for number in range(source.last(source.begins()) + 1)]


# -- duration


@pytest.mark.parametrize(("text", "seconds"), [("7d", 7 * DAY), ("12h", 43200), ("30m", 1800), ("15s", 15)])
def test_duration_reads_days_hours_minutes_and_seconds(text: str, seconds: int) -> None:
    assert duration(text) == seconds * 10**9


@pytest.mark.parametrize("text", ["", "d", "7", "0d", "-7d", "1.5h", "7w", "7 d", "7D", "999999999d", "٣d"])
def test_duration_names_the_setting_and_the_way_out(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^trigger\.cooldown: .* is no length of time; write .* such as 7d"):
        duration(text, "trigger.cooldown")


# -- the windows' algebra


def holding(seconds: list[int], every: int | str, begins: int) -> list[int]:
    length = every if isinstance(every, int) else duration(every)
    keys = range(len(seconds)) if isinstance(every, int) else [second * 10**9 for second in seconds]
    return [0, *(max(0, (key - begins) // length + 1) for key in keys)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=instants,
    every=lengths,
    files=st.integers(1, 3),
    start=st.none() | st.integers(0, 3 * 10**9),
    data=st.data(),
)
def test_windows_partition_the_rows_in_time_order(
    tmp_path_factory: pytest.TempPathFactory,
    seconds: list[int],
    every: int | str,
    files: int,
    start: int | None,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    owner = np.asarray(data.draw(st.lists(st.integers(0, files - 1), min_size=len(seconds), max_size=len(seconds))))
    stamps = np.asarray(seconds, dtype="datetime64[s]")
    for file in range(files):
        mine = np.flatnonzero(owner == file)
        write_parquet(folder / f"{file}.parquet", at=pa.array(stamps[mine]), row=pa.array(mine))
    if isinstance(every, int) and start is not None:
        start %= len(seconds) + 1
    written = start if start is None or isinstance(every, int) else dt.datetime.fromtimestamp(start, dt.UTC).isoformat()
    source = ParquetSource("*.parquet", every=every, timestamp="at", start=written, base=str(folder))

    begins = source.begins()
    last = source.last(begins)
    numbers = range(last + 1) if last < 50 else sorted(set(holding(seconds, every, begins)))
    windows = [source.read(number, begins) for number in numbers]
    seen = [row for window in windows for row in window.frame["row"].tolist()]

    in_files = [int(i) for file in range(files) for i in np.flatnonzero(owner == file)]
    assert seen == sorted(in_files, key=lambda row: seconds[row])
    assert max(numbers) == last
    assert last == 0 or len(windows[-1].frame)
    for window in windows:
        if isinstance(every, str):
            held = window.frame["at"].to_numpy().astype("datetime64[ns]").astype(np.int64)
            assert ((window.span.start <= held) & (held < window.span.end)).all()
        elif 0 < window.number < last:
            assert len(window.frame) == every


@given(st.integers(0, 4 * 10**9), st.sampled_from(["7d", "1d", "6h", "90s"]))
@settings(max_examples=20, deadline=None)
def test_window_1_begins_on_the_grid_one_length_after_the_first_row(
    tmp_path_factory: pytest.TempPathFactory, first: int, every: str
) -> None:
    folder = tmp_path_factory.mktemp("first")
    write_parquet(folder / "a.parquet", at=pa.array(np.asarray([first], dtype="datetime64[s]")))
    begins = ParquetSource("a.parquet", every=every, timestamp="at", base=str(folder)).begins()
    length = duration(every)
    assert (begins - 4 * DAY * 10**9) % length == 0
    assert length <= begins - first * 10**9 < 2 * length


def test_equal_instants_keep_the_order_of_the_files(tmp_path: Path) -> None:
    for name, rows in (("b", [2, 3]), ("a", [0, 1])):
        pd.DataFrame({"at": ["2026-01-05"] * 2, "row": rows}).to_csv(tmp_path / f"{name}.csv", index=False)
    source = CsvSource("*.csv", every="7d", timestamp="at", base=str(tmp_path))
    assert rows_of(source) == [[0, 1, 2, 3]]


def test_without_a_timestamp_rows_keep_the_files_order_and_windows_do_not_close(tmp_path: Path) -> None:
    for name, rows in (("b", [3, 4]), ("a", [0, 1, 2])):
        pd.DataFrame({"row": rows}).to_csv(tmp_path / f"{name}.csv", index=False)
    source = CsvSource("*.csv", every=2, base=str(tmp_path))
    assert rows_of(source) == [[0, 1], [2, 3], [4]]
    window = source.read(1, 2)
    assert (window.start, window.end, window.span.start, window.span.end) == ("row 2", "row 4", 2, 4)
    assert source.closes(1, 2) is None


def test_a_window_of_rows_is_cut_in_time_order_where_rows_carry_time(tmp_path: Path) -> None:
    write_csv(tmp_path, at=["2026-01-03", "2026-01-01", "2026-01-02"], row=[3, 1, 2])
    source = CsvSource("rows.csv", every=2, timestamp="at", start=1, base=str(tmp_path))
    assert rows_of(source) == [[1], [2, 3]]


def test_a_window_of_time_closes_at_its_end(tmp_path: Path) -> None:
    write_csv(tmp_path, at=["2026-01-05T10:00:00", "2026-01-13"], row=[0, 1])
    source = CsvSource("rows.csv", every="7d", timestamp="at", start="2026-01-12", base=str(tmp_path))
    begins = source.begins()
    assert begins == (MONDAY + 7 * DAY) * 10**9
    assert source.closes(1, begins) == MONDAY + 14 * DAY
    assert source.read(1, begins).end == "2026-01-19T00:00:00+00:00"
    assert source.read(0, begins).start == "2026-01-05T10:00:00+00:00"


def test_the_start_of_the_stream_is_the_callers(tmp_path: Path) -> None:
    write_csv(tmp_path, row=list(range(6)))
    source = CsvSource("rows.csv", every=2, base=str(tmp_path))
    assert source.read(1, 3).frame["row"].tolist() == [3, 4]
    assert source.read(0, 3).frame["row"].tolist() == [0, 1, 2]


def test_rows_before_a_late_start_are_window_0(tmp_path: Path) -> None:
    write_csv(tmp_path, row=[0, 1])
    source = CsvSource("rows.csv", every=2, start=50, base=str(tmp_path))
    assert source.last(source.begins()) == 0
    assert rows_of(source) == [[0, 1]]


def test_an_empty_window_has_the_columns_and_no_rows(tmp_path: Path) -> None:
    write_csv(tmp_path, at=["2026-01-05", "2026-02-05"], row=[0, 1])
    source = CsvSource("rows.csv", every="1d", timestamp="at", base=str(tmp_path))
    frame = source.read(3, source.begins()).frame
    assert list(frame.columns) == ["at", "row"]
    assert len(frame) == 0


# -- timestamps

ONE = "2026-01-05T06:00:00Z"
SECONDS = MONDAY + 6 * 3600


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(pa.array([dt.datetime(2026, 1, 5, 6)], pa.timestamp("ns")), id="naive"),
        pytest.param(pa.array([dt.datetime(2026, 1, 5, 6)], pa.timestamp("s")), id="naive seconds"),
        pytest.param(
            pa.array([dt.datetime(2026, 1, 5, 6, tzinfo=dt.UTC)], pa.timestamp("us", tz="Asia/Tokyo")), id="zoned"
        ),
        pytest.param(pa.array([ONE]), id="text"),
        pytest.param(pa.array(["2026-01-05T08:00:00+02:00"]), id="zoned text"),
        pytest.param(pa.array(["2026-01-05 06:00"]), id="naive text"),
        pytest.param(pa.array([SECONDS]), id="seconds"),
        pytest.param(pa.array([float(SECONDS)]), id="float seconds"),
        pytest.param(pa.array([SECONDS * 10**3]), id="milliseconds"),
        pytest.param(pa.array([SECONDS * 10**6]), id="microseconds"),
        pytest.param(pa.array([SECONDS * 10**9]), id="nanoseconds"),
        pytest.param(pa.array([SECONDS], pa.uint64()), id="unsigned"),
    ],
)
def test_an_instant_is_read_from(tmp_path: Path, values: pa.Array) -> None:
    write_parquet(tmp_path / "a.parquet", at=values)
    source = ParquetSource("a.parquet", every="1h", timestamp="at", base=str(tmp_path))
    assert source.begins() == (SECONDS + 3600) * 10**9


def test_a_date_is_its_midnight_in_utc(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", at=pa.array([dt.date(2026, 1, 5)]))
    source = ParquetSource("a.parquet", every="1h", timestamp="at", base=str(tmp_path))
    assert source.begins() == (MONDAY + 3600) * 10**9


def test_fractions_of_a_second_are_kept(tmp_path: Path) -> None:
    write_csv(tmp_path, at=[MONDAY + 0.75, MONDAY + 0.25], row=[1, 0])
    source = CsvSource("rows.csv", every="1s", timestamp="at", start=MONDAY, base=str(tmp_path))
    assert rows_of(source) == [[], [0, 1]]


def test_files_may_write_their_instants_differently(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", at=pa.array([MONDAY + 2]), row=pa.array([2]))
    write_parquet(tmp_path / "b.parquet", at=pa.array(["2026-01-05T00:00:01Z"]), row=pa.array([1]))
    source = ParquetSource("*.parquet", every="1d", timestamp="at", start="2026-01-05", base=str(tmp_path))
    assert rows_of(source) == [[], [1, 2]]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("2026-01-05", "yesterday"),
        ("2026-01-05", None),
        ("2026-01-05", "2026-13-01"),
        ("2026-01-05", "9999-12-31"),
        (1.0, float("inf")),
        (1.0, 5e10),
        (True, False),
    ],
)
def test_a_timestamp_that_is_none_is_named_by_file_row_and_value(tmp_path: Path, good: Any, bad: Any) -> None:
    write_parquet(tmp_path / "a.parquet", at=pa.array([good, good, bad]))
    source = ParquetSource("a.parquet", every="1d", timestamp="at", base=str(tmp_path))
    row = 0 if isinstance(good, bool) else 2
    with pytest.raises(DataError, match=rf"a\.parquet, row {row} .*: .* is no instant .* ISO 8601") as told:
        source.begins()
    assert row == 0 or repr(bad) in str(told.value)


def test_datetimes_that_nanoseconds_cannot_hold_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", at=pa.array([dt.datetime(9999, 12, 31)], pa.timestamp("us")))
    with pytest.raises(DataError, match=r"row 0 .*9999"):
        ParquetSource("a.parquet", every="1d", timestamp="at", base=str(tmp_path)).begins()


def test_a_timestamp_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = write_csv(tmp_path, captured_at=["2026-01-05"])
    with pytest.raises(
        DataError, match=r"rows\.csv: column 'captured' .*source\.timestamp.*Did you mean 'captured_at'"
    ):
        CsvSource(path.name, every="1d", timestamp="captured", base=str(tmp_path)).begins()


# -- settings


def test_a_length_of_time_needs_a_timestamp() -> None:
    with pytest.raises(SettingsError, match=r"window\.every: '7d' .* needs source\.timestamp; name the column"):
        CsvSource("rows.csv", every="7d")


@pytest.mark.parametrize("every", [0, -3])
def test_a_window_holds_a_row(every: int) -> None:
    with pytest.raises(SettingsError, match=rf"window\.every: .* at least 1 row, got {every}"):
        CsvSource("rows.csv", every=every)


@pytest.mark.parametrize("start", ["2026-01-05", -1])
def test_windows_of_rows_start_at_a_row(start: str | int) -> None:
    with pytest.raises(SettingsError, match=r"window\.start: .* is no row number"):
        CsvSource("rows.csv", every=10, start=start)


def test_windows_of_time_start_at_an_instant() -> None:
    with pytest.raises(SettingsError, match=r"window\.start: 'Monday' is no instant"):
        CsvSource("rows.csv", every="7d", timestamp="at", start="Monday")


def test_settings_make_equal_sources() -> None:
    assert CsvSource("rows.csv", every=10) == CsvSource("rows.csv", every=10)
    assert CsvSource("rows.csv", every=10) != CsvSource("rows.csv", every=11)


# -- files


def test_files_are_found_below_folders_and_by_absolute_path(tmp_path: Path) -> None:
    for name, rows in (("x/a.csv", [0]), ("x/y/b.csv", [1]), ("c.csv", [2])):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"row": rows}).to_csv(path, index=False)
    (tmp_path / "x" / "folder.csv").mkdir()
    every = 10
    assert CsvSource("**/*.csv", every=every, base=str(tmp_path)).read(0, 3).frame["row"].tolist() == [2, 0, 1]
    assert CsvSource("x/*.csv", every=every, base=str(tmp_path)).read(0, 3).frame["row"].tolist() == [0]
    assert CsvSource(str(tmp_path / "x" / "*.csv"), every=every).read(0, 3).frame["row"].tolist() == [0]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    pd.DataFrame({"row": [7]}).to_csv(tmp_path / "rows[1].csv", index=False)
    pd.DataFrame({"row": [8]}).to_csv(tmp_path / "rows1.csv", index=False)
    assert CsvSource("rows[1].csv", every=1, base=str(tmp_path)).read(0, 1).frame["row"].tolist() == [7]


def test_a_file_is_read_once_by_each_object(tmp_path: Path) -> None:
    path = write_csv(tmp_path, row=[0, 1])
    source = CsvSource(path.name, every=1, base=str(tmp_path))
    assert source.last(source.begins()) == 1
    path.unlink()
    assert rows_of(source) == [[0], [1]]


def test_compressed_csv_and_types_that_show_late(tmp_path: Path) -> None:
    lines = ["x,name", *(["1,a"] * 300_000), "1.5,"]
    with gzip.open(tmp_path / "a.csv.gz", "wt", compresslevel=1) as file:
        file.write("\n".join(lines))
    frame = CsvSource("a.csv.gz", every=10**6, base=str(tmp_path)).read(0, 10**6).frame
    assert str(frame["x"].dtype) == "float64"
    assert frame["x"].iloc[-1] == 1.5
    assert frame["name"].isna().sum() == 1


def test_a_window_has_the_columns_of_the_files_that_hold_its_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", row=pa.array([0, 1]), old=pa.array([1, 2]))
    write_parquet(tmp_path / "b.parquet", row=pa.array([2, 3]), new=pa.array(["x", "y"]))
    source = ParquetSource("*.parquet", every=1, start=1, base=str(tmp_path))
    assert list(source.read(0, 1).frame.columns) == ["row", "old"]
    assert list(source.read(3, 1).frame.columns) == ["row", "new"]
    both = ParquetSource("*.parquet", every=4, base=str(tmp_path)).read(0, 4).frame
    assert list(both.columns) == ["row", "old", "new"]
    assert both["old"].isna().tolist() == [False, False, True, True]
    assert both["new"].tolist()[2:] == ["x", "y"]


def test_files_of_other_types_or_without_values_come_together(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", y=pa.array([None, None], pa.string()), x=pa.array([1, 2]), n=pa.nulls(2))
    write_parquet(
        tmp_path / "b.parquet", y=pa.array([3, 4]), x=pa.array(["p", "q"]), n=pa.array([None] * 2, pa.int64())
    )
    frame = ParquetSource("*.parquet", every=9, base=str(tmp_path)).read(0, 9).frame
    assert list(frame.columns) == ["y", "x", "n"]
    assert frame["y"].dtype == np.float64
    assert frame["y"].isna().tolist() == [True, True, False, False]
    assert frame["x"].tolist() == [1, 2, "p", "q"]
    assert frame["n"].isna().all()


def test_tensors_arrive_as_arrays(tmp_path: Path) -> None:
    nested = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    write_parquet(
        tmp_path / "a.parquet",
        flat=pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())),
        nested=pa.array(nested.tolist(), pa.list_(pa.list_(pa.list_(pa.float32())))),
        ragged=pa.array([[[1.0], [2.0, 3.0]], None], pa.list_(pa.list_(pa.float32()))),
    )
    frame = ParquetSource("a.parquet", every=2, base=str(tmp_path)).read(0, 2).frame
    assert frame["flat"].iloc[1].tolist() == [3.0, 4.0]
    assert [cell.shape for cell in frame["nested"]] == [(1, 3, 4)] * 2
    np.testing.assert_array_equal(np.stack(frame["nested"].to_list()), nested)
    assert [part.tolist() for part in frame["ragged"].iloc[0]] == [[1.0], [2.0, 3.0]]
    assert frame["ragged"].iloc[1] is None


def test_a_named_index_and_folder_names_add_and_lose_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "site=a"
    folder.mkdir()
    pd.DataFrame({"row": [0, 1]}, index=pd.Index([5, 6], name="key")).to_parquet(folder / "a.parquet")
    pd.DataFrame({"row": [0, 1]}, index=[5, 6]).to_parquet(folder / "b.parquet")
    read = lambda name: ParquetSource(f"site=a/{name}", every=9, base=str(tmp_path)).read(0, 9).frame  # noqa: E731
    assert read("a.parquet").to_dict("list") == {"key": [5, 6], "row": [0, 1]}
    assert read("b.parquet").to_dict("list") == {"row": [0, 1]}


# -- what is wrong with a file


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("digits/histroy.parquet", "Did you mean 'history.parquet'?"),
        ("digts/history.parquet", "Did you mean 'digits'?"),
        ("digits/*.parqet", "Did you mean 'history.parquet'?"),
        ("digits", "is a folder"),
        ("zzz/qqq.csv", "Name an existing file"),
    ],
)
def test_a_missing_file_is_told_with_the_folder_the_nearest_and_the_way_out(
    tmp_path: Path, path: str, words: str
) -> None:
    (tmp_path / "digits").mkdir()
    write_parquet(tmp_path / "digits" / "history.parquet", row=pa.array([0]))
    with pytest.raises(DataError) as told:
        ParquetSource(path, every=1, base=str(tmp_path)).last(0)
    message = str(told.value)
    assert message.startswith(f"source.path: no file {path!r} in {tmp_path.resolve()}.")
    assert words in message
    assert message.endswith("or write the rows there first")


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        (CsvSource, "a.csv", b""),
        (CsvSource, "a.csv", b"a,b\n1,2\n1,2,3,4\n"),
        (CsvSource, "a.csv", b"a,b\n1,2,3\n4,5,6\n"),
        (CsvSource, "a.csv", b"a\n\xff\xfe\n"),
        (CsvSource, "a.csv.gz", b"a,b\n1,2\n"),
        (CsvSource, "a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 900, mtime=0)[:-20]),
        (ParquetSource, "a.parquet", b"PAR1 but no more"),
        (ParquetSource, "a.parquet", b""),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, kind: Callable[..., CsvSource | ParquetSource], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"source\.path: .*{name} cannot be read as (CSV|Parquet): .*; mend or remove"):
        kind(name, every=1, base=str(tmp_path)).last(0)


def test_no_rows_at_all_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,x\n")
    with pytest.raises(DataError, match=r"source\.path: 'a\.csv' in .* holds no rows in 1 file\(s\); write rows"):
        CsvSource("a.csv", every="1d", timestamp="at", base=str(tmp_path)).begins()


def test_one_file_without_rows_among_others_adds_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,row\n")
    (tmp_path / "b.csv").write_text("at,row\n2026-01-05,1\n")
    source = CsvSource("*.csv", every="1d", timestamp="at", base=str(tmp_path))
    assert rows_of(source) == [[1]]


def test_there_is_no_window_before_0(tmp_path: Path) -> None:
    write_csv(tmp_path, row=[0])
    with pytest.raises(DataError, match="no window -1; the first is 0"):
        CsvSource("rows.csv", every=1, base=str(tmp_path)).read(-1, 1)


def test_types_are_checked_where_a_project_file_names_them(tmp_path: Path) -> None:
    write_csv(tmp_path, row=[0, 1])
    source = discover.build("sources", "csv", {"path": "rows.csv", "every": 1, "base": str(tmp_path)}, "source")
    assert rows_of(source) == [[0], [1]]
    with pytest.raises(SettingsError, match=r"unknown setting 'pth'.*Did you mean 'path'"):
        discover.build("sources", "csv", {"pth": "rows.csv", "every": 1}, "source")


@pytest.mark.parametrize("every", ["7d", 3])
@pytest.mark.parametrize("kind", [CsvSource, ParquetSource])
def test_contract(tmp_path: Path, kind: type[CsvSource | ParquetSource], every: str | int) -> None:
    days = pd.date_range("2026-01-05", periods=30, freq="1D")
    frame = pd.DataFrame({"at": days, "row": range(30)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    source = kind("*.csv" if kind is CsvSource else "*.parquet", every=every, timestamp="at", base=str(tmp_path))
    checks = list(yield_checks("sources", source))
    assert checks
    for check in checks:
        check()
