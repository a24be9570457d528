"""The journal: one promotion an epoch, one holder a round, every write once, on a file that two processes share."""

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from tests.servers import Postgres
from trimtab.errors import InternalError, PluginError, ServiceError, SettingsError
from trimtab.history import Promotion, Quality
from trimtab.journal import Journal
from trimtab.lease import LEASE_SECONDS
from trimtab.monitor import Answer, Finding
from trimtab.tables import SCHEMA_VERSION
from trimtab.trigger import Action, Decision

FORK = multiprocessing.get_context("fork")
ALONE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def url(database: str) -> str:
    Journal(database, "p").begin("{}", "key")
    return database


@pytest.fixture
def journal(url: str) -> Journal:
    return Journal(url, "p")


def in_process(work: Callable[[], None]) -> None:
    """Run in a process of its own, which ends without any clean-up, as a killed one does."""

    def die_after() -> None:
        work()
        os._exit(0)

    process = FORK.Process(target=die_after)
    process.start()
    process.join(30)
    assert process.exitcode == 0


# promotions


def test_of_many_threads_exactly_one_takes_the_epoch(url: str) -> None:
    journals = [Journal(url, "p") for _ in range(6)]
    start = threading.Barrier(6)

    def race(number: int) -> Promotion | None:
        start.wait()
        return journals[number].promote(f"round-{number}", number + 1, after=0, kind="promote", detail={})

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(race, range(6)))
    winners = [p for p in results if p is not None]
    assert len(winners) == 1
    assert Journal(url, "p").promotions() == winners


def test_of_two_processes_exactly_one_takes_the_epoch(url: str, tmp_path: Path) -> None:
    start = FORK.Barrier(2)

    def race(number: int) -> None:
        journal = Journal(url, "p")
        start.wait()
        for epoch in range(10):
            won = journal.promote(f"{number}-{epoch}", number, after=epoch, kind="promote", detail={})
            (tmp_path / f"{number}-{epoch}").write_text("lost" if won is None else "won")
            start.wait()
        os._exit(0)

    processes = [FORK.Process(target=race, args=(number,)) for number in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    for epoch in range(10):
        assert sorted((tmp_path / f"{n}-{epoch}").read_text() for n in (1, 2)) == ["lost", "won"]
    assert [p.epoch for p in Journal(url, "p").promotions()] == list(range(1, 11))


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 4)), max_size=12))
@ALONE
def test_epochs_are_gapless_and_an_operation_promotes_once(calls: list[tuple[str, int]]) -> None:
    journal = Journal("sqlite://", "p")
    journal.begin("{}", "key")
    for version, (operation, after) in enumerate(calls, start=1):
        before = journal.promotions()
        made = journal.promote(operation, version, after, "promote", {})
        earlier = next((p for p in before if p.operation == operation), None)
        if earlier is not None:
            assert made == earlier
        else:
            assert (made is not None) == (after == len(before))
    promotions = journal.promotions()
    assert [p.epoch for p in promotions] == list(range(1, len(promotions) + 1))
    assert len({p.operation for p in promotions}) == len(promotions)


def test_projects_in_one_database_have_epochs_of_their_own(url: str) -> None:
    one, other = Journal(url, "p"), Journal(url, "q")
    other.begin("{}", "key")
    for journal in (one, other):
        assert journal.promote("first", 1, after=0, kind="first", detail={"why": "begin"}) is not None
    assert [p.epoch for p in one.promotions()] == [1]
    one.record_quality(Quality(1, 1, 0.5, 10))
    assert other.qualities() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_quality_that_is_no_number_is_kept_as_none(journal: Journal, value: float) -> None:
    journal.record_quality(Quality(1, 1, value, 10))
    (quality,) = journal.qualities()
    assert quality.rows == 10
    assert not quality.told
    assert Quality(1, 1, 0.0, 10).told
    assert not Quality(1, 1, 0.5, 0).told


def test_what_the_registry_remembers_is_restored(journal: Journal) -> None:
    remembered = [Promotion(1, 1, "first", "first", {}, ""), Promotion(4, 3, "r", "promote", {"a": 1}, "")]
    for _ in range(2):
        journal.restore(remembered)
        assert journal.promotions() == remembered
    assert journal.promote("next", 4, after=4, kind="promote", detail={}) is not None


# rounds and leases


def test_a_round_is_asked_for_once(journal: Journal) -> None:
    journal.promote("first", 1, after=0, kind="first", detail={})
    first = journal.request_round("r", 3, "worse", ["window 3"])
    assert (first.epoch, first.state, first.reasons, first.degrades) == (1, "requested", ("window 3",), True)
    journal.promote("other", 2, after=1, kind="promote", detail={})
    assert journal.request_round("r", 9, "moved", ["other words"]) == first
    assert journal.rounds() == [first]


def test_a_closed_round_stays_as_it_was_closed(journal: Journal) -> None:
    journal.request_round("r", 3, "worse", [])
    journal.close_round("r", "promoted", {"version": 2})
    journal.close_round("r", "failed", {"error": "late"})
    (closed,) = journal.rounds()
    assert (closed.state, closed.outcome, closed.detail) == ("closed", "promoted", {"version": 2})
    with journal.lease("r") as mine:
        assert not mine


def test_a_round_that_nobody_asked_for_is_not_leased(journal: Journal) -> None:
    with journal.lease("never") as mine:
        assert not mine


def test_another_process_does_not_get_a_round_that_is_held(url: str, journal: Journal, tmp_path: Path) -> None:
    journal.request_round("r", 3, "worse", [])
    answer = tmp_path / "answer"

    def try_it() -> None:
        with Journal(url, "p").lease("r") as mine:
            answer.write_text(str(mine))

    with journal.lease("r") as mine:
        assert mine
        in_process(try_it)
        assert answer.read_text() == "False"
    in_process(try_it)
    assert answer.read_text() == "True"


def test_a_dead_holders_lease_frees_itself_at_once_on_its_machine(url: str, journal: Journal, tmp_path: Path) -> None:
    journal.request_round("r", 3, "worse", [])

    def take_and_die() -> None:
        Journal(url, "p").lease("r").__enter__()

    in_process(take_and_die)
    assert journal.rounds()[0].state == "running"
    with journal.lease("r") as mine:
        assert mine


@pytest.mark.parametrize(("left", "free"), [(LEASE_SECONDS, False), (-1.0, True)])
def test_a_holder_on_another_machine_is_believed_until_its_lease_ends(
    url: str, journal: Journal, left: float, free: bool
) -> None:
    journal.request_round("r", 3, "worse", [])
    alter(url, "update rounds set owner = 'elsewhere:1', lease_until = :until", until=time.time() + left)
    with journal.lease("r") as mine:
        assert mine is free


def alter(url: str, statement: str, **values: float) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement), values)
    engine.dispose()


def test_one_process_watches_and_one_that_died_is_followed_at_once(url: str, journal: Journal, tmp_path: Path) -> None:
    answer = tmp_path / "answer"

    def try_it() -> None:
        with Journal(url, "p").watching() as held:
            answer.write_text(str(held is not None))

    with journal.watching() as held:
        assert held is not None
        assert held()
        with begun(url, "q").watching() as other:
            assert other is not None
        in_process(try_it)
        assert answer.read_text() == "False"
        alter(url, "update leases set owner = 'elsewhere:1'")  # as if this process had slept
        assert not held()

    def watch_and_die() -> None:
        begun(url, "r").watching().__enter__()

    in_process(watch_and_die)
    with Journal(url, "r").watching() as held:
        assert held is not None


def begun(url: str, project: str) -> Journal:
    journal = Journal(url, project)
    journal.begin("{}", "key")
    return journal


# windows, findings, splits: written once


def test_writes_repeated_change_nothing(journal: Journal) -> None:
    def write(seconds: float) -> None:
        finding = Finding("m", 1, Answer.MOVED, ("a moved",), {"a": 0.5})
        journal.record_findings([finding], version=1, tick=1)
        journal.record_window(1, "row 0", "row 9", 10, 1, Decision(1, Action.ALERT, ("a moved",)), seconds)
        journal.record_quality(Quality(1, 1, 0.9, 10))
        journal.mark_labelled(1)
        journal.seal("r", "digest", {"train": 5})

    write(1.0)
    before = (journal.windows(), journal.findings(), journal.qualities())
    write(2.0)
    assert (journal.windows(), journal.findings(), journal.qualities()) == before
    (window,) = journal.windows()
    assert (window.labelled, window.action, window.reasons, window.seconds) == (True, Action.ALERT, ("a moved",), 1.0)
    assert journal.qualities()[0].value == 0.9


def test_findings_are_asked_for_by_version_and_time(journal: Journal) -> None:
    for tick in (1, 2, 3):
        journal.record_findings([Finding("m", tick, Answer.FINE)], version=1 + tick // 3, tick=tick)
    assert [tick for tick, _ in journal.findings()] == [1, 2, 3]
    assert [f.window for _, f in journal.findings(version=1)] == [1, 2]
    assert [f.window for _, f in journal.findings(version=1, after=1)] == [2]


def test_broken_windows_are_remembered_under_whatever_version(journal: Journal) -> None:
    journal.record_findings([Finding("m", 4, Answer.BROKEN, ("empty",)), Finding("n", 5, Answer.MOVED)], 1, 5)
    assert journal.quarantined() == {4}


def test_a_window_that_was_judged_before_it_was_recorded_is_labelled(journal: Journal) -> None:
    journal.record_quality(Quality(7, 1, 0.75, 4))
    for number in (7, 8):
        journal.record_window(number, "", "", 4, 1, Decision(number, Action.IGNORE), 0.0)
    assert [w.labelled for w in journal.windows()] == [True, False]


def test_a_sealed_split_cannot_change(journal: Journal) -> None:
    journal.seal("r", "a" * 64, {"train": 5})
    with pytest.raises(InternalError, match="rows of r changed after their split was sealed"):
        journal.seal("r", "b" * 64, {"train": 5})


def test_what_was_fixed_at_the_first_run_stays(url: str, journal: Journal) -> None:
    assert journal.fixed() == ("key", None)
    journal.fix_start(1344)
    journal.fix_start(9)
    Journal(url, "p").begin('{"seed": 1}', "another key")
    assert journal.fixed() == ("key", 1344)
    assert journal.config() == '{"seed": 1}'


def test_records_keep_their_order_and_kind(journal: Journal) -> None:
    for number in range(3):
        journal.record("error" if number else "repair", {"number": number})
    assert [(kind, detail["number"]) for _, kind, detail in journal.records()] == [
        ("repair", 0),
        ("error", 1),
        ("error", 2),
    ]
    assert [detail["number"] for _, _, detail in journal.records("error")] == [1, 2]


# the database


def test_a_journal_of_another_version_is_refused_with_the_way_out(url: str) -> None:
    alter(url, "update meta set value = '99' where key = 'schema_version'")
    with pytest.raises(
        ServiceError, match=f"has schema version 99, this trimtab reads {SCHEMA_VERSION}; install the trimtab"
    ):
        Journal(url, "p")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("not a database, though as long as the header of one would have to be, and longer than that")
    with pytest.raises(ServiceError, match=r"journal\.db.*check journal\.url"):
        Journal(f"sqlite:///{path}", "p")


@pytest.mark.servers("postgresql")
def test_a_connection_that_a_server_dropped_is_made_again(postgresql: Postgres) -> None:
    url = postgresql.database()
    journal = Journal(url, "p")
    journal.begin("{}", "key")
    with postgresql.connect(url.rpartition("/")[2]) as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608
    journal.record("error", {"after": "a restart"})
    assert journal.changes() == {"p": 2}


@pytest.mark.servers("postgresql")
def test_a_server_that_takes_no_login_or_is_gone_is_named_without_the_password(postgresql: Postgres) -> None:
    url = postgresql.database()
    for wrong in (url.replace(postgresql.PASSWORD, "s3cret"), url.replace(f":{postgresql.port}", ":9")):
        with pytest.raises(ServiceError, match=r"the journal at postgresql\+psycopg://trimtab:\*\*\*@127") as caught:
            Journal(wrong, "p")
        assert "s3cret" not in str(caught.value)
        assert postgresql.PASSWORD not in str(caught.value)


def test_who_writes_is_counted_and_who_reads_is_not(url: str, journal: Journal) -> None:
    assert journal.windows() == []
    assert journal.changes() == {"p": 1}
    Journal(url, "q").begin("{}", "key")
    Journal(url, "p").record("error", {})
    assert journal.changes() == {"p": 2, "q": 1}


@pytest.mark.parametrize("driver", ["postgresql+nosuchdriver", "nosuchdatabase"])
def test_a_driver_that_is_missing_is_named_without_the_password(driver: str) -> None:
    with pytest.raises(PluginError, match=f"the driver '{re.escape(driver)}' is not installed") as caught:
        Journal(f"{driver}://me:s3cret@localhost/none", "p")
    assert "s3cret" not in str(caught.value)
    assert "localhost" in str(caught.value)


def test_an_address_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(SettingsError, match=r"journal\.url is no database's address") as caught:
        Journal("me:s3cret@localhost", "p")
    assert "s3cret" not in str(caught.value)


def test_an_at_in_a_password_is_refused_before_it_is_taken_for_a_host() -> None:
    with pytest.raises(SettingsError, match="as %40") as caught:
        Journal("postgresql+psycopg://me:s3@cret@localhost/none", "p")
    assert "cret" not in str(caught.value).replace("secret", "")


def test_a_reader_is_not_held_up_by_many_writers(url: str) -> None:
    def write(number: int) -> None:
        journal = Journal(url, "p")
        for step in range(5):
            journal.record("step", {"number": number, "step": step})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(Journal(url, "p").records("step")) == 20
