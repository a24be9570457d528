"""The exporter over real HTTP: what it says of a project, and that it goes on saying it when something is down."""

import json
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families

from tests import fakes, shelf
from tests.servers import Postgres
from trimtab import champion, cli, loop
from trimtab.errors import InputError
from trimtab.history import Labelled, Promotion, Round, WindowRecord
from trimtab.journal import Journal
from trimtab.parts import Parts
from trimtab.settings import Project
from trimtab.trigger import Action
from trimtab_mlflow.registry import MlflowRegistry
from trimtab_prometheus.exporter import exposed, serve
from trimtab_prometheus.metrics import LABELS, METRICS, families
from trimtab_prometheus.reading import Reading, Told, read

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


def drifting(name: str) -> str:
    quiet = [fakes.quiet(rows, seed) for rows, seed in ((400, 0), (200, 1), (200, 2))]
    return fakes.stream(name, *quiet, *(fakes.moved(200, seed) for seed in (3, 4)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> fakes.World:
    """A project whose drift led to one promotion."""
    there = shelf.world(tmp_path_factory.mktemp("finished"), drifting("exported"))
    list(loop.watch(there.process(), replay=True))
    return there


def project_of(there: fakes.World, **changes: object) -> Project:
    return Project.model_validate(fakes.settings(there.home, there.stream, **{**there.changes, **changes}))


def scrape(address: str) -> Samples:
    with urllib.request.urlopen(address, timeout=20) as response:  # noqa: S310 (our own loopback address)
        text = response.read().decode()
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in found}
    assert len(samples) == len(found)
    return samples


def value(samples: Samples, name: str, project: str = "p", **labels: str) -> float | None:
    return samples.get((name, tuple(sorted({"project": project, **labels}.items()))))


def parts_of(there: fakes.World) -> Parts:
    return there.process()


def test_a_scrape_says_what_the_journal_and_the_registry_know(finished: fakes.World) -> None:
    with exposed([project_of(finished)], "127.0.0.1", 0) as address:
        got = scrape(address)
    journal = parts_of(finished).journal
    window, quality = journal.windows()[-1], [q for q in journal.qualities() if q.version == 2][-1]
    assert value(got, "trimtab_journal_up") == 1
    assert value(got, "trimtab_registry_up") == 1
    assert value(got, "trimtab_registry_champion_version", alias="champion") == 2
    assert value(got, "trimtab_champion_version", alias="champion") == 2
    assert value(got, "trimtab_champion_epoch", alias="champion") == 2
    assert value(got, "trimtab_project_degraded") == 0
    assert value(got, "trimtab_window_number") == 4
    assert value(got, "trimtab_window_rows") == window.rows == 200
    assert value(got, "trimtab_champion_quality") == pytest.approx(quality.value)
    assert value(got, "trimtab_champion_quality_rows") == quality.rows
    assert value(got, "trimtab_champion_quality_window") == quality.window
    assert time.time() - 600 < (value(got, "trimtab_last_check_timestamp_seconds") or 0) <= time.time()
    assert value(got, "trimtab_rounds_total", cause="worse", outcome="promoted") == 1
    assert value(got, "trimtab_rounds_total", cause="moved", outcome="promoted") == 0
    assert value(got, "trimtab_rounds_total", cause="worse", outcome="failed") == 0
    assert value(got, "trimtab_round_failed") == 0
    assert 0 < (value(got, "trimtab_round_seconds_total") or 0) == value(got, "trimtab_round_duration_seconds")
    assert value(got, "trimtab_project_info", metric="accuracy", every="200 rows") == 1
    assert value(got, "trimtab_rounds_open", cause="moved") == 0
    assert value(got, "trimtab_windows_total", decision="optimize") == 1
    assert sum(v for (name, _), v in got.items() if name == "trimtab_windows_total") == 4
    assert value(got, "trimtab_promotions_total", alias="champion", kind="first") == 1
    assert value(got, "trimtab_promotions_total", alias="champion", kind="promote") == 1
    assert value(got, "trimtab_errors_total") == 0


def test_speed_and_size_are_those_that_the_champions_round_measured(finished: fakes.World) -> None:
    with exposed([project_of(finished)], "127.0.0.1", 0) as address:
        got = scrape(address)
    done = next(r for r in parts_of(finished).journal.rounds() if r.cause != "first")
    won = next(c for c in done.detail["candidates"] if c["won"])
    assert value(got, "trimtab_champion_latency_seconds", alias="champion") == pytest.approx(
        won["metrics"]["p50_ms"] / 1e3
    )
    assert value(got, "trimtab_champion_size_bytes", alias="champion") == won["metrics"]["size_bytes"]


def test_scores_are_those_of_the_newest_window_by_monitor_and_column(finished: fakes.World) -> None:
    with exposed([project_of(finished)], "127.0.0.1", 0) as address:
        got = scrape(address)
    newest = [f for _, f in parts_of(finished).journal.findings() if f.window == 4 and f.monitor == "means"][-1]
    for column in ("a", "b", "c"):
        assert value(got, "trimtab_monitor_score", monitor="means", column=column) == pytest.approx(
            newest.scores[column]
        )
    assert value(got, "trimtab_monitor_answer", monitor="guard", answer="fine") == 1
    assert value(got, "trimtab_monitor_answer", monitor="guard", answer="broken") is None


def test_a_rollback_is_seen_at_the_next_scrape_with_the_older_versions_figures(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", drifting("rolled-back"))
    list(loop.watch(there.process(), replay=True))
    with exposed([project_of(there)], "127.0.0.1", 0) as address:
        before = scrape(address)
        champion.rollback(there.process(), "by-hand", "a test")
        after = scrape(address)
    assert (
        value(before, "trimtab_champion_version", alias="champion"),
        value(after, "trimtab_champion_version", alias="champion"),
    ) == (2, 1)
    assert value(after, "trimtab_promotions_total", alias="champion", kind="rollback") == 1
    first = next(r for r in there.process().journal.rounds() if r.cause == "first")
    p50 = first.detail["candidates"][0]["metrics"]["p50_ms"]
    assert value(after, "trimtab_champion_latency_seconds", alias="champion") == pytest.approx(p50 / 1e3)


def test_a_project_whose_champion_is_worse_and_found_no_heir_is_degraded(tmp_path: Path) -> None:
    rows = [fakes.quiet(400, 20), fakes.quiet(200, 21), fakes.noise(200, 23), fakes.noise(200, 24)]
    there = shelf.world(tmp_path / "home", fakes.stream("hopeless", *rows))
    list(loop.watch(there.process(), replay=True))
    with exposed([project_of(there)], "127.0.0.1", 0) as address:
        got = scrape(address)
    assert value(got, "trimtab_project_degraded") == 1
    assert value(got, "trimtab_rounds_total", cause="worse", outcome="degraded") == 1


def test_a_registry_that_is_down_is_said_and_costs_the_scrape_nothing(finished: fakes.World) -> None:
    with exposed([project_of(finished)], "127.0.0.1", 0) as address:
        finished.registry.down = True
        try:
            begin = time.monotonic()
            down = scrape(address)
            took = time.monotonic() - begin
        finally:
            finished.registry.down = False
        up = scrape(address)
    assert took < 2
    assert value(down, "trimtab_registry_up") == 0
    assert value(down, "trimtab_registry_champion_version", alias="champion") is None
    assert value(down, "trimtab_champion_version", alias="champion") == 2
    assert value(up, "trimtab_registry_up") == 1


def test_a_registry_that_hangs_is_down_within_the_time_of_a_scrape_and_is_asked_once(
    finished: fakes.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab_prometheus.exporter.FIRST_SECONDS", 0.1)
    monkeypatch.setattr("trimtab_prometheus.exporter.SCRAPE_SECONDS", 0.5)
    monkeypatch.setitem(shelf.SHELVES, "hangs", shelf.Hanging(finished.home / "registry"))
    project = project_of(finished, registry={"kind": "shelf", "url": "hangs"})
    with exposed([project], "127.0.0.1", 0) as address:
        threads = threading.active_count()
        begin = time.monotonic()
        scrapes = [scrape(address) for _ in range(3)]
        took = time.monotonic() - begin
        # The thread that answered the last scrape may still be on its way out.
        while threading.active_count() > threads and time.monotonic() - begin < 10:
            time.sleep(0.05)
        assert threading.active_count() <= threads
    assert took < 6
    assert [value(s, "trimtab_registry_up") for s in scrapes] == [0, 0, 0]
    assert [value(s, "trimtab_champion_version", alias="champion") for s in scrapes] == [2, 2, 2]


def test_a_real_mlflow_server_that_is_gone_is_down(finished: fakes.World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with exposed([project_of(finished, registry={"kind": "mlflow", "url": url})], "127.0.0.1", 0) as address:
        begin = time.monotonic()
        got = scrape(address)
        took = time.monotonic() - begin
    assert took < 3
    assert value(got, "trimtab_registry_up") == 0
    assert value(got, "trimtab_champion_version", alias="champion") == 2


def test_without_a_journal_only_its_absence_is_told_and_none_is_made(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", "never-run")
    with exposed([project_of(there)], "127.0.0.1", 0) as address:
        got = scrape(address)
    assert value(got, "trimtab_journal_up") == 0
    assert value(got, "trimtab_registry_up") == 1
    assert not [name for name, _ in got if name.startswith(("trimtab_champion", "trimtab_window", "trimtab_rounds"))]
    assert not (there.home / "journal.db").exists()


def test_a_journal_that_goes_and_comes_again_is_followed(tmp_path: Path, finished: fakes.World) -> None:
    there = shelf.world(tmp_path / "home", finished.stream)
    shutil.copytree(finished.home, there.home, dirs_exist_ok=True)
    with exposed([project_of(there)], "127.0.0.1", 0) as address:
        before = scrape(address)
        for path in there.home.glob("journal.db*"):
            path.unlink()
        gone = scrape(address)
        with_other = Journal(project_of(there).journal_url, "p")
        with_other.begin("{}", "key")
        with_other.restore([Promotion(1, 7, "op", "first", {}, "")])
        after = scrape(address)
    assert [value(s, "trimtab_journal_up") for s in (before, gone, after)] == [1, 0, 1]
    assert [value(s, "trimtab_champion_version", alias="champion") for s in (before, gone, after)] == [2, None, 7]
    assert value(after, "trimtab_champion_since_timestamp_seconds", alias="champion") is None


def test_projects_are_told_apart(tmp_path: Path, finished: fakes.World) -> None:
    other = shelf.world(tmp_path / "home", "never-run", name="other")
    with exposed([project_of(finished), project_of(other)], "127.0.0.1", 0) as address:
        got = scrape(address)
    assert value(got, "trimtab_journal_up") == 1
    assert value(got, "trimtab_journal_up", project="other") == 0


def test_serve_says_where_it_listens_and_listens_there(finished: fakes.World) -> None:
    told: list[str] = []
    said = threading.Event()

    def say(address: str) -> None:
        told.append(address)
        said.set()

    threading.Thread(target=serve, args=([project_of(finished)], "127.0.0.1", 0, say), daemon=True).start()
    assert said.wait(20)
    assert value(scrape(told[0]), "trimtab_journal_up") == 1


def test_a_port_in_use_is_an_error_of_input_with_the_way_out(finished: fakes.World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"--port {port}.*0 for a free one"),
            exposed([project_of(finished)], "127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("no-such-host.invalid", 0)])
def test_an_address_that_cannot_be_is_an_error_of_input(finished: fakes.World, host: str, port: int) -> None:
    with pytest.raises(InputError, match="cannot listen"), exposed([project_of(finished)], host, port):
        pass


def test_every_metric_of_the_table_is_exposed_under_its_name_and_label_project(finished: fakes.World) -> None:
    readings = [Reading(project_of(finished), read(parts_of(finished).journal), {"champion": 2})]
    found = {family.name: family for family in families(readings)}
    assert len({m.name for m in METRICS}) == len(METRICS) == len(found) - 1
    for meaning in METRICS:
        family = found[meaning.name]
        assert (family.type, family.documentation) == (meaning.kind, meaning.help)
        for sample in family.samples:
            assert sample.name == meaning.exposed
            assert set(sample.labels) == {"project", *meaning.labels}


def test_every_label_is_described() -> None:
    assert {"project", "version", *(label for m in METRICS for label in m.labels)} == set(LABELS)


def test_names_keep_to_the_conventions_of_prometheus() -> None:
    for meaning in METRICS:
        assert meaning.name.startswith("trimtab_")
        assert not meaning.name.endswith("_total")
        assert not {"minutes", "ms", "mb", "percent"} & set(meaning.name.split("_")), meaning.name
        assert not meaning.name.endswith("_info") or meaning.kind == "gauge"


def samples_of(reading: Reading) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric and label values other than the project."""
    return {
        family.name: {tuple(v for k, v in s.labels.items() if k != "project"): s.value for s in family.samples}
        for family in families([reading])
    }


def weekly(**changes: object) -> Project:
    window = {"every": "7d", "label_delay": 1, "label_patience": 2}
    return Project.model_validate(fakes.settings(Path("home"), "any", **{"window": window, **changes}))


def window(
    number: int, action: Action = Action.IGNORE, champion: int = 1, causes: tuple[str, ...] = ()
) -> WindowRecord:
    at = f"2026-01-{number + 1:02d}T00:00:00.000+00:00"
    return WindowRecord(number, "", "", 50, champion, False, action, (), {"causes": list(causes)}, 0.1, at)


def change(epoch: int, version: int, kind: str = "promote", alias: str = "champion") -> Promotion:
    return Promotion(epoch, version, f"op-{epoch}", kind, {}, f"2026-01-{epoch:02d}T12:00:00.000+00:00", alias)


def closed(window: int, outcome: str, minutes: int, cause: str = "worse") -> Round:
    day = f"2026-02-{window:02d}T00"
    ended = f"{day}:{minutes:02d}:00.000+00:00"
    return Round(f"round-{window}", window, cause, (), "closed", outcome, 1, {}, f"{day}:00:00.000+00:00", ended)


def test_the_next_check_is_due_when_the_next_window_closes() -> None:
    start = 1_767_225_600 * 10**9
    week = 7 * 86400
    due = [
        samples_of(Reading(weekly(), told))["trimtab_check_due_timestamp_seconds"]
        for told in (Told(start=start), Told(start=start, windows=(window(1), window(2))), Told())
    ]
    assert due == [{(): 1_767_225_600 + week}, {(): 1_767_225_600 + 3 * week}, {}]
    by_rows = samples_of(Reading(weekly(window={"every": 200}), Told(start=400, windows=(window(1),))))
    assert not by_rows["trimtab_check_due_timestamp_seconds"]
    assert not by_rows["trimtab_window_period_seconds"]


def test_a_cause_is_told_while_it_is_held_back_and_until_another_champion_settles_it() -> None:
    held = Told(windows=(window(3, Action.ALERT, causes=("moved",)),), promotions=(change(1, 1, "first"),))
    settled = replace(held, promotions=(*held.promotions, change(2, 2)))
    told = [samples_of(Reading(weekly(), t))["trimtab_window_cause"] for t in (held, settled)]
    assert [t[("moved",)] for t in told] == [1, 0]
    assert [t[("worse",)] for t in told] == [0, 0]
    assert set(told[0]) == {("worse",), ("estimated",), ("moved",), ("grown",)}


def test_a_quarantined_window_is_told_until_it_is_released() -> None:
    kept = Told(windows=(window(3, Action.QUARANTINE),), quarantined={3})
    got = [samples_of(Reading(weekly(), t)) for t in (kept, replace(kept, quarantined=set()))]
    assert [g["trimtab_window_decision"][("quarantine",)] for g in got] == [1, 0]
    assert [g["trimtab_quarantined_windows"][()] for g in got] == [1, 0]


def test_labels_are_overdue_from_their_delay_on_as_long_as_they_count() -> None:
    windows = tuple(window(n) for n in range(1, 7))
    told = Told(windows=windows, labels={4: Labelled(50, True), 3: Labelled(0, False)}, quarantined={3})
    overdue = "trimtab_labels_overdue_windows"
    assert samples_of(Reading(weekly(), told))[overdue] == {(): 1}  # 5; of 3 to 5 one is labelled, one quarantined
    assert samples_of(Reading(weekly(), replace(told, windows=windows[:1])))[overdue] == {(): 0}
    without = weekly(source={"kind": "frames", "path": "any"})
    assert samples_of(Reading(without, told))[overdue] == {}


def test_the_budget_is_that_of_the_month_and_in_seconds() -> None:
    rounds = (closed(1, "kept", 50), closed(6, "promoted", 10), closed(7, "failed", 20))
    told = Told(windows=tuple(window(n) for n in range(1, 9)), rounds=rounds)
    got = samples_of(Reading(weekly(trigger={"budget": {"rounds": 3, "minutes": 60}}), told))
    assert got["trimtab_budget_rounds"] == {(): 3}
    assert got["trimtab_budget_rounds_spent"] == {(): 2}
    assert got["trimtab_budget_seconds"] == {(): 3600}
    assert got["trimtab_budget_seconds_spent"] == {(): 1800}
    assert got["trimtab_round_failed"] == {(): 1}
    assert got["trimtab_round_duration_seconds"] == {(): 1200}
    assert got["trimtab_rounds"][("worse", "failed")] == 1
    assert not samples_of(Reading(weekly(), told))["trimtab_budget_seconds"]


def test_what_becomes_of_a_round_later_makes_no_counter_fall(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}", "p")
    journal.begin("{}", "k")
    journal.request_round("r", 3, "worse", ["worse"])
    journal.close_round("r", "shadow", {})
    counted = []
    for before, after in (("shadow", "proposed"), ("proposed", "promoted"), ("promoted", "rolled back")):
        journal.settle_round("r", before, after, {})
        counted.append(samples_of(Reading(weekly(), Told(rounds=tuple(journal.rounds()))))["trimtab_rounds"])
    for outcome in ("shadow", "proposed", "promoted", "rolled back"):
        counts = [at[("worse", outcome)] for at in counted]
        assert counts == sorted(counts)
        assert counts[-1] == 1


def test_every_target_has_its_champion() -> None:
    targets = [{"runtime": "numpy"}, {"name": "edge", "runtime": "numpy"}]
    told = Told(promotions=(change(1, 1, "first"), change(2, 1, "first", "champion-edge"), change(3, 2)))
    got = samples_of(Reading(weekly(targets=targets), told, {"champion": 2, "champion-edge": 1}))
    assert got["trimtab_champion_version"] == {("champion",): 2, ("champion-edge",): 1}
    assert got["trimtab_champion_epoch"] == {("champion",): 3, ("champion-edge",): 2}
    assert got["trimtab_registry_champion_version"] == {("champion",): 2, ("champion-edge",): 1}
    assert got["trimtab_promotions"][("champion-edge", "rollback")] == 0


def test_a_journal_that_nobody_wrote_to_is_not_read_again(
    finished: fakes.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[str] = []

    def counted(journal: Journal) -> Told:
        readings.append(journal.project)
        return read(journal)

    monkeypatch.setattr("trimtab_prometheus.exporter.read", counted)
    monkeypatch.setattr("trimtab_prometheus.exporter.SETTLED_SECONDS", 0.2)
    with exposed([project_of(finished)], "127.0.0.1", 0) as address:
        time.sleep(0.5)
        settled = [scrape(address) for _ in range(3)]
        assert len(readings) <= 3
        parts_of(finished).journal.record("error", {"message": "a test"})
        after = scrape(address)
    assert [value(s, "trimtab_errors_total") for s in (*settled, after)] == [0, 0, 0, 1]


@pytest.mark.servers("postgresql")
def test_a_journal_on_a_server_is_read_again_when_somebody_wrote(
    tmp_path: Path, postgresql: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    url, name = postgresql.database(), "trimtab_champion_version"
    projects = [
        project_of(shelf.world(tmp_path / f"{n}", f"none-{n}", name=f"p{n}", journal={"url": url})) for n in range(40)
    ]
    journals = [Journal(url, p.name) for p in projects]
    for number, journal in enumerate(journals):
        journal.begin("{}", "key")
        journal.restore([Promotion(1, number, "op", "first", {}, "")])
    with exposed(projects, "127.0.0.1", 0) as address, postgresql.connect(url.rpartition("/")[2]) as connection:
        first = scrape(address)
        connection.execute("ALTER TABLE windows RENAME TO hidden")  # whoever reads it now cannot
        kept = scrape(address)
        connection.execute("ALTER TABLE hidden RENAME TO windows")
        journals[7].promote("op2", 70, 1, "promote", {})
        after = scrape(address)
        open_now = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert open_now.fetchone()[0] < 20  # type: ignore[index]
    champions = [[value(s, name, f"p{n}", alias="champion") for n in range(40)] for s in (first, kept, after)]
    assert champions[0] == champions[1] == [*range(40)]
    assert champions[2] == [70 if n == 7 else n for n in range(40)]
    assert postgresql.PASSWORD not in caplog.text


def test_two_projects_of_one_name_are_refused(finished: fakes.World) -> None:
    with pytest.raises(InputError, match="the name p"), exposed([project_of(finished)] * 2, "127.0.0.1", 0):
        pass


def test_one_mlflow_is_asked_once_for_all_its_projects(
    tmp_path: Path, finished: fakes.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry = {"kind": "mlflow", "url": url}
    names = ("p", "other", "third")
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    for name in names[:2]:
        client.create_registered_model(name)
        client.create_model_version(name, source=str(tmp_path), run_id=None)
        client.set_registered_model_alias(name, "champion", "1")
    asked: list[list[str]] = []
    one = MlflowRegistry.aliases_of

    def counted(self: MlflowRegistry, models: list[str]) -> dict[str, dict[str, int]]:
        asked.append(models)
        return one(self, models)

    monkeypatch.setattr(MlflowRegistry, "aliases_of", counted)
    projects = [project_of(finished, registry=registry, name=name) for name in names]
    with exposed(projects, "127.0.0.1", 0) as address:
        got = scrape(address)
    assert {tuple(models) for models in asked} == {names}
    assert len(asked) <= 2
    versions = [value(got, "trimtab_registry_champion_version", project=n, alias="champion") for n in names]
    assert versions == [1, 1, None]
    assert [value(got, "trimtab_registry_up", project=n) for n in names] == [1, 1, 1]


def test_the_command_takes_files_and_folders_and_says_when_a_folder_holds_none(
    tmp_path: Path, finished: fakes.World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[str] = []
    monkeypatch.setattr(
        "trimtab_prometheus.exporter.serve", lambda projects, *_: served.extend(p.name for p in projects)
    )
    folder = tmp_path / "projects"
    folder.mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["metrics", str(folder)])
    assert ended.value.code == 2
    assert "no *.yaml in" in capsys.readouterr().err
    for name, place in (("one", folder), ("two", folder), ("three", tmp_path)):
        settings = fakes.settings(tmp_path / name, finished.stream, **{**finished.changes, "name": name})
        (place / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings, default=str))))
    with pytest.raises(SystemExit) as ended:
        cli.main(["metrics", str(folder), str(tmp_path / "three.yaml")])
    assert not ended.value.code
    assert served == ["one", "two", "three"]
