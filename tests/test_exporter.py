"""The exporter over real HTTP: what it says of a project, and that it goes on saying it when something is down."""

import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import fakes, shelf
from trimtab import champion, loop
from trimtab.errors import InputError
from trimtab.history import Promotion
from trimtab.journal import Journal
from trimtab.parts import Parts
from trimtab.settings import Project
from trimtab_prometheus.exporter import exposed, serve
from trimtab_prometheus.metrics import METRICS, families, read

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
    assert value(got, "trimtab_registry_champion_version") == 2
    assert value(got, "trimtab_champion_version") == 2
    assert value(got, "trimtab_champion_epoch") == 2
    assert value(got, "trimtab_project_degraded") == 0
    assert value(got, "trimtab_window_number") == 4
    assert value(got, "trimtab_window_rows") == window.rows == 200
    assert value(got, "trimtab_champion_quality_ratio") == pytest.approx(quality.value)
    assert value(got, "trimtab_champion_quality_rows") == quality.rows
    assert value(got, "trimtab_champion_quality_window") == quality.window
    assert time.time() - 600 < (value(got, "trimtab_last_check_timestamp_seconds") or 0) <= time.time()
    assert value(got, "trimtab_rounds_total", outcome="promoted") == 1
    assert value(got, "trimtab_rounds_total", outcome="failed") == 0
    assert value(got, "trimtab_rounds_open") == 0
    assert value(got, "trimtab_windows_total", decision="optimize") == 1
    assert sum(v for (name, _), v in got.items() if name == "trimtab_windows_total") == 4
    assert value(got, "trimtab_promotions_total", kind="first") == 1
    assert value(got, "trimtab_promotions_total", kind="promote") == 1
    assert value(got, "trimtab_errors_total") == 0


def test_speed_and_size_are_those_that_the_champions_round_measured(finished: fakes.World) -> None:
    with exposed([project_of(finished)], "127.0.0.1", 0) as address:
        got = scrape(address)
    done = next(r for r in parts_of(finished).journal.rounds() if r.cause != "first")
    won = next(c for c in done.detail["candidates"] if c["won"])
    assert value(got, "trimtab_champion_latency_seconds") == pytest.approx(won["metrics"]["p50_ms"] / 1e3)
    assert value(got, "trimtab_champion_size_bytes") == won["metrics"]["size_bytes"]


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
    assert (value(before, "trimtab_champion_version"), value(after, "trimtab_champion_version")) == (2, 1)
    assert value(after, "trimtab_promotions_total", kind="rollback") == 1
    first = next(r for r in there.process().journal.rounds() if r.cause == "first")
    p50 = first.detail["candidates"][0]["metrics"]["p50_ms"]
    assert value(after, "trimtab_champion_latency_seconds") == pytest.approx(p50 / 1e3)


def test_a_project_whose_champion_is_worse_and_found_no_heir_is_degraded(tmp_path: Path) -> None:
    rows = [fakes.quiet(400, 20), fakes.quiet(200, 21), fakes.noise(200, 23), fakes.noise(200, 24)]
    there = shelf.world(tmp_path / "home", fakes.stream("hopeless", *rows))
    list(loop.watch(there.process(), replay=True))
    with exposed([project_of(there)], "127.0.0.1", 0) as address:
        got = scrape(address)
    assert value(got, "trimtab_project_degraded") == 1
    assert value(got, "trimtab_rounds_total", outcome="degraded") == 1


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
    assert value(down, "trimtab_registry_champion_version") is None
    assert value(down, "trimtab_champion_version") == 2
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
    assert [value(s, "trimtab_champion_version") for s in scrapes] == [2, 2, 2]


def test_a_real_mlflow_server_that_is_gone_is_down(finished: fakes.World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with exposed([project_of(finished, registry={"kind": "mlflow", "url": url})], "127.0.0.1", 0) as address:
        begin = time.monotonic()
        got = scrape(address)
        took = time.monotonic() - begin
    assert took < 3
    assert value(got, "trimtab_registry_up") == 0
    assert value(got, "trimtab_champion_version") == 2


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
    assert [value(s, "trimtab_champion_version") for s in (before, gone, after)] == [2, None, 7]
    assert value(after, "trimtab_champion_since_timestamp_seconds") is None


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
    readings = [read(parts_of(finished).journal)]
    found = {family.name: family for family in families(readings)}
    assert len({m.name for m in METRICS}) == len(METRICS) == len(found)
    for meaning in METRICS:
        family = found[meaning.name]
        assert (family.type, family.documentation) == (meaning.kind, meaning.help)
        for sample in family.samples:
            assert sample.name == meaning.exposed
            assert set(sample.labels) == {"project", *meaning.labels}
