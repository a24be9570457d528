"""The loop as Prefect flows, on one embedded server: the same decisions, and a record that others can act on."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL,
    temporary_settings,
)
from prefect.states import Completed, Running

from tests import fakes, shelf
from trimtab import loop
from trimtab.approval import reject
from trimtab.carrier import DirectCarrier
from trimtab.errors import DataError, InputError, PluginError, ServiceError, SettingsError
from trimtab.executor import Silent
from trimtab.history import Round
from trimtab.loop import Report
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.round import request, request_by_hand
from trimtab.settings import Project
from trimtab.trigger import Action
from trimtab_prefect import deployments as deploying
from trimtab_prefect import doctor, tell
from trimtab_prefect.carrier import PrefectCarrier
from trimtab_prefect.carry import carrying
from trimtab_prefect.deployments import PrefectScheduler, deployments
from trimtab_prefect.executor import PrefectExecutor
from trimtab_prefect.optimize import optimize, optimized
from trimtab_prefect.rollback import rollback
from trimtab_prefect.server import reached
from trimtab_prefect.watch import watch

pytestmark = pytest.mark.usefixtures("lock_of_its_own")


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """The API of the embedded server, which the flows of this file run against."""
    updates = {
        PREFECT_HOME: tmp_path_factory.mktemp("prefect"),
        PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL: 0.1,
    }
    with temporary_settings(updates, restore_defaults={PREFECT_API_URL}), reached() as wait:
        wait()
        with get_client(sync_client=True) as api:
            yield api


def drifting(name: str) -> str:
    """Two quiet windows, a broken one, then two that moved so far that the model is wrong about them."""
    quiet = [fakes.quiet(rows, seed) for rows, seed in ((400, 0), (200, 1), (200, 2))]
    return fakes.stream(name, *quiet, fakes.broken(200, 3), *(fakes.moved(200, seed) for seed in (4, 5)))


def calm(name: str) -> str:
    return fakes.stream(name, fakes.quiet(400, 0), fakes.quiet(200, 1))


def written(there: fakes.World, folder: Path, **changes: Any) -> Path:
    """Write the world's project file."""
    settings = fakes.settings(there.home, there.stream, **{**there.changes, **changes})
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump({**settings, "home": str(there.home)}))
    return path


def through_flows(there: fakes.World) -> Parts:
    return dataclasses.replace(there.process(), executor=PrefectExecutor(delay_seconds=0.0))


@dataclasses.dataclass(frozen=True)
class Followed:
    """A drifting stream that was watched by the flow, and its artifacts."""

    parts: Parts
    reports: list[Report]
    artifacts: list[dict[str, Any]]

    @property
    def round(self) -> Round:
        return next(r.round for r in self.reports if r.round is not None)


@pytest.fixture(scope="module")
def followed(client: SyncPrefectClient, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    there = shelf.world(tmp_path_factory.mktemp("followed"), drifting("followed"), name="followed")
    parts = through_flows(there)
    with carrying(parts):
        reports = watch("project.yaml", [], True)
    return Followed(parts, reports, artifacts(client, "followed"))


def artifacts(client: SyncPrefectClient, project: str) -> list[dict[str, Any]]:
    found = client.request("POST", "/artifacts/filter", json={"sort": "ID_DESC", "limit": 200}).json()
    mine = [a for a in found if (a["key"] or "").startswith(f"{project}-")]
    return sorted(mine, key=lambda a: str(a["created"]))


def events(client: SyncPrefectClient, name: str, project: str) -> list[dict[str, Any]]:
    wanted = {"event": {"name": [name]}, "resource": {"id": [f"trimtab.project.{project}"]}}
    found: list[dict[str, Any]] = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
    return found


def eventually(look: Callable[[], list[Any]], seconds: float = 20.0) -> list[Any]:
    """Events travel in the background: look until something is there."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def gist(parts: Parts) -> dict[str, Any]:
    """What was decided and why, without anything that was timed."""
    journal = parts.journal
    return {
        "windows": [(w.number, w.champion, w.labelled, w.action, w.reasons) for w in journal.windows()],
        "findings": journal.findings(),
        "rounds": [(r.operation, r.cause, r.reasons, r.state, r.outcome, r.epoch) for r in journal.rounds()],
        "candidates": [
            (c["recipe"], c["outcome"], c["won"], c["metrics"].get("quality"))
            for r in journal.rounds()
            for c in r.detail["candidates"]
        ],
        "promotions": [(p.epoch, p.version, p.operation, p.kind) for p in journal.promotions()],
        "aliases": {name: parts.registry.alias(name) for name in ("champion", "previous", "challenger")},
    }


def test_flows_decide_what_the_plain_loop_decides(followed: Followed, tmp_path: Path) -> None:
    direct = shelf.world(tmp_path / "home", followed.parts.project.source.path, name="followed").process()
    reports = list(loop.watch(direct, replay=True))
    assert gist(followed.parts) == gist(direct)
    assert [(r.window, r.decision, r.findings, r.problems) for r in followed.reports] == [
        (r.window, r.decision, r.findings, r.problems) for r in reports
    ]
    assert [p.kind for p in direct.journal.promotions()] == ["first", "promote"]


def test_each_rounds_candidates_are_a_table(followed: Followed) -> None:
    tables = [a for a in followed.artifacts if a["key"] == "followed-candidates"]
    assert [t["type"] for t in tables] == ["table"]
    rows = yaml.safe_load(tables[0]["data"])
    candidates = followed.round.detail["candidates"]
    assert [(r["candidate"], r["won"], r["verdict"]) for r in rows] == [
        (c["recipe"], c["won"], c["outcome"]) for c in candidates
    ]
    assert [r["p50_ms"] for r in rows] == [c["metrics"]["p50_ms"] for c in candidates]
    assert "promoted" in tables[0]["description"]


def test_each_alert_quarantine_and_round_is_a_page_with_window_finding_reasons_and_verdict(followed: Followed) -> None:
    pages = [a["data"] for a in followed.artifacts if a["key"] == "followed-decision"]
    told = [r for r in followed.reports if r.decision and r.decision.action is not Action.IGNORE]
    assert [r.decision.action for r in told if r.decision] == [Action.QUARANTINE, Action.OPTIMIZE]
    assert len(pages) == len(told)
    assert pages[0].startswith("# Window 3: quarantine")
    assert "column 'a' is empty" in pages[0]
    assert pages[1].startswith(f"# Round after window {followed.round.window}: promoted")
    for words in (followed.round.operation, "accuracy on window", "Champion: version 2", "superior in quality"):
        assert words in pages[1]
    for page, number in zip(pages, (3, followed.round.window), strict=True):
        report = followed.parts.folder / "reports" / f"window-{number}.html"
        assert f"report on window {number}: [" in page
        assert f"]({report.absolute().as_uri()})" in page
        assert report.is_file()


def test_drift_and_the_request_of_a_round_are_events_of_the_project(
    followed: Followed, client: SyncPrefectClient
) -> None:
    asked = eventually(lambda: events(client, tell.ROUND_REQUESTED, "followed"))
    assert [e["id"] for e in asked] == [str(tell.event_id("followed", f"requested:{followed.round.operation}"))]
    payload = asked[0]["payload"]
    assert payload["operation"] == followed.round.operation
    assert payload["window"] == followed.round.window
    assert payload["reasons"] == list(followed.round.reasons)
    assert payload["scores"]["means"].keys() == {"a", "b", "c"}
    found = [f for r in followed.reports for f in r.findings if f.answer in (Answer.MOVED, Answer.WORSE)]
    detected = eventually(lambda: events(client, tell.DRIFT_DETECTED, "followed"))
    assert {(e["payload"]["monitor"], e["payload"]["window"]) for e in detected} == {
        (f.monitor, f.window) for f in found
    }
    assert len(detected) == len(found)


def test_an_event_told_twice_is_one_event(followed: Followed, client: SyncPrefectClient) -> None:
    parts = dataclasses.replace(followed.parts, project=followed.parts.project.model_copy(update={"name": "repeating"}))
    finding = Finding("means", 7, Answer.MOVED, ("column 'a' moved",), {"a": 2.0})
    for again in (finding, finding, dataclasses.replace(finding, window=8)):
        tell.drift(parts, [again])
    assert (
        len(eventually(lambda: [e for e in [events(client, tell.DRIFT_DETECTED, "repeating")] if len(e) > 1])[0]) == 2
    )


def test_nothing_that_happened_is_told_of_a_quiet_stream(client: SyncPrefectClient, tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", calm("calm"), name="calm")
    with carrying(through_flows(there)):
        watch("project.yaml", None, True)
    assert artifacts(client, "calm") == []


def run_steps(*steps: Callable[[], Any]) -> list[Any]:
    """Call every step through the executor inside a flow."""
    executor = PrefectExecutor(retries=1, delay_seconds=0.0)

    @flow(persist_result=False)
    def steps_flow() -> list[Any]:
        return [executor.call(f"step {{{number}}}", step) for number, step in enumerate(steps)]

    return steps_flow()


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    tries: list[int] = []

    def step() -> str:
        tries.append(len(tries) + 1)
        if len(tries) <= times:
            raise error
        return "done"

    return step, tries


@pytest.mark.usefixtures("client")
def test_a_server_that_was_silent_once_is_asked_again() -> None:
    step, tries = failing(1, ServiceError("no answer"))
    assert run_steps(step) == ["done"]
    assert tries == [1, 2]


@pytest.mark.parametrize(("error", "tried"), [(ServiceError("no answer"), 2), (DataError("wrong rows"), 1)])
@pytest.mark.usefixtures("client")
def test_an_error_comes_out_of_a_flow_as_it_was_raised(error: Exception, tried: int) -> None:
    step, tries = failing(9, error)
    with pytest.raises(type(error)) as raised:
        run_steps(step)
    assert raised.value is error
    assert len(tries) == tried


def test_prefect_keeps_a_steps_name_and_neither_its_arguments_nor_its_result(
    client: SyncPrefectClient, followed: Followed
) -> None:
    def look() -> list[Any]:
        runs = client.request("POST", "/task_runs/filter", json={"limit": 200}).json()
        return [
            r for r in runs if r["name"] == f"check window {followed.round.window}" and r["state_type"] == "COMPLETED"
        ]

    found = eventually(look)
    assert found
    assert {name for run in found for name in run["task_inputs"]} == set()
    assert all((run["state"]["data"] or {}).get("type") != "reference" for run in found)


@pytest.mark.usefixtures("client")
def test_the_carrier_returns_what_the_direct_carrier_returns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = []
    for carrier in (DirectCarrier(), PrefectCarrier()):
        folder = tmp_path / carrier.name
        folder.mkdir()
        config = written(shelf.world(folder / "home", drifting("runner")), folder)
        reports = carrier.watch(config, ["trigger.cooldown=0"], True, Silent())
        found.append([(r.window, r.decision, r.findings) for r in reports])
    assert found[0] == found[1]
    assert capfd.readouterr() == ("", "")


def test_the_carrier_runs_a_round_that_a_person_asks_for(client: SyncPrefectClient, tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", calm("asked"), name="asked")
    list(loop.watch(there.process(), replay=True))
    done = PrefectCarrier().optimize(written(there, tmp_path), [], "curious", "ada", Silent())
    assert (done.cause, done.reasons) == ("manual", ("asked for: curious",))
    assert (done.state, done.outcome) == ("closed", "kept")
    assert [a["type"] for a in artifacts(client, "asked")] == ["table", "markdown"]


@pytest.mark.parametrize(("down", "kind"), [(False, DataError), (True, ServiceError)])
@pytest.mark.usefixtures("client")
def test_an_error_of_ours_reaches_the_terminal_as_itself_and_without_prefects_words(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    down: bool,
    kind: type[Exception],
) -> None:
    words = []
    for carrier in (DirectCarrier(), PrefectCarrier()):
        folder = tmp_path / carrier.name
        folder.mkdir()
        there = shelf.world(folder / "home", calm("raising"))
        there.registry.down = down
        with pytest.raises(kind) as raised:
            carrier.watch(written(there, folder), ["window.start=0"], True, Silent())
        words.append(str(raised.value))
    assert words[0] == words[1]
    assert caplog.record_tuples == []  # caplog sees what would reach the root logger's handler, the terminal
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("client")
def test_a_flow_of_a_deployment_assembles_its_own_parts_and_takes_up_a_requested_round(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", calm("deployed"))
    config = str(written(there, tmp_path))
    assert [r.window for r in watch(config, ["seed=0"], True)] == [1, 2]
    asked = request(there.process(), 1, "worse", ["an event said so"])
    done = optimize(config, operation=asked.operation)
    assert (done.operation, done.state) == (asked.operation, "closed")
    assert optimize(config, operation=asked.operation) == done
    with pytest.raises(InputError, match=r"operation='p:round:9:moved': the journal of p has no such round"):
        optimize(config, operation="p:round:9:moved")


def test_a_round_that_fails_is_told_and_its_error_comes_through(client: SyncPrefectClient, tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", calm("failing"), name="failing")
    list(loop.watch(there.process(), replay=True))
    asked = request_by_hand(there.process(), "doomed")
    golden = fakes.stream("unlike", fakes.quiet(50, 3).assign(y=99))
    config = str(written(there, tmp_path, data={"golden": golden}))
    with pytest.raises(DataError, match="none of the classes"):
        optimize(config, operation=asked.operation)
    page = artifacts(client, "failing")[-1]["data"]
    assert page.startswith("# Round after window 1: failed")
    assert "none of the classes" in page


def test_passwords_in_overrides_stay_out_of_a_runs_parameters(client: SyncPrefectClient, tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", calm("secretive"))
    url = "shelf://me:pa/s@s@host"
    shelf.SHELVES[url] = there.registry
    PrefectCarrier().watch(written(there, tmp_path), [f"registry.url={url}"], True, Silent())
    runs = client.request("POST", "/flow_runs/filter", json={"limit": 200}).json()
    overrides = [r["parameters"]["overrides"] for r in runs if r["parameters"].get("overrides")]
    assert ["registry.url=shelf://me:***@host"] in overrides
    assert "pa/s@s" not in str(runs)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return int(gone.getsockname()[1])


def test_a_server_that_is_gone_is_a_service_error_and_a_wrong_setting_is_told_before_it(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", calm("unreachable"))
    config = written(there, tmp_path)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{closed_port()}/api"}):
        with pytest.raises(SettingsError, match="optimise"):
            PrefectCarrier().watch(config, ["optimise.minutes=1"], True, Silent())
        with pytest.raises(PluginError, match="no monitor named 'mean'"):
            PrefectCarrier().watch(config, ["monitors.use=[mean]"], True, Silent())
        with pytest.raises(ServiceError, match=r"PREFECT_API_URL=http://127.0.0.1:\d+/api does not answer.*--direct"):
            PrefectCarrier().watch(config, [], True, Silent())


PARENT = """
import time
from prefect.settings import PREFECT_API_URL
from trimtab_prefect.server import reached
with reached():
    print(PREFECT_API_URL.value(), flush=True)
    time.sleep(60)
"""


def test_the_embedded_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {"PREFECT_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = urlsplit(parent.stdout.readline()).port
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            parent.send_signal(signal.SIGKILL)
    assert eventually(lambda: [True for _ in (1,) if is_refused(port)], 10.0)


def is_refused(port: int | None) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) != 0


def test_a_round_that_runs_elsewhere_is_told_and_waited_for(client: SyncPrefectClient, tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", drifting("elsewhere"), name="elsewhere")
    config = str(written(there, tmp_path))
    reports = watch(config, None, True, rounds="elsewhere")
    asked = reports[-1].round
    assert asked is not None
    assert (asked.state, reports[-1].window) == ("requested", asked.window)
    (told,) = eventually(lambda: events(client, tell.ROUND_REQUESTED, "elsewhere"))
    done = optimize(config, operation=told["payload"]["operation"])
    assert done is not None
    assert (done.operation, done.outcome) == (asked.operation, "promoted")
    (closed,) = eventually(lambda: events(client, tell.ROUND_CLOSED, "elsewhere"))
    assert (closed["payload"]["operation"], closed["payload"]["outcome"]) == (asked.operation, "promoted")
    assert next(r.window for r in watch(config, None, True, rounds="elsewhere")) == asked.window + 1


def test_what_becomes_of_a_round_later_is_an_event_of_its_own(client: SyncPrefectClient, tmp_path: Path) -> None:
    rollout = {"shadow": "1 window", "probation": "1 window"}
    there = shelf.world(tmp_path / "home", drifting("lived"), name="lived", rollout=rollout)
    fakes.stream("lived", fakes.STREAMS["lived"], fakes.quiet(200, 6))
    config = str(written(there, tmp_path))
    watch(config, None, True)
    told = eventually(lambda: [e for e in [events(client, tell.ROUND_CLOSED, "lived")] if len(e) > 2])
    assert {e["payload"]["outcome"] for e in told[0]} == {"shadow", "promoted", "rolled back"}
    pages = [a["data"] for a in artifacts(client, "lived") if a["key"] == "lived-decision"]
    assert any("rolled back" in page and "On live windows" in page for page in pages)


def test_what_a_person_decides_on_a_command_line_is_told_by_the_next_watch(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    there = shelf.world(tmp_path / "home", drifting("decided"), name="decided", promotion="manual")
    config = str(written(there, tmp_path))
    watch(config, None, True)
    (proposed,) = eventually(lambda: events(client, tell.ROUND_CLOSED, "decided"))
    assert proposed["payload"]["outcome"] == "proposed"
    reject(there.process(), "ada", "not before the audit")
    for _ in range(2):
        watch(config, None, True)
    told = eventually(lambda: [e for e in [events(client, tell.ROUND_CLOSED, "decided")] if len(e) > 1])[0]
    assert sorted(e["payload"]["outcome"] for e in told) == ["proposed", "rejected"]


@pytest.mark.usefixtures("client")
def test_a_round_whose_event_was_lost_is_run_by_a_watch_when_the_event_would_have_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = shelf.world(tmp_path / "home", drifting("lost"), name="lost")
    config = str(written(there, tmp_path))
    asked = watch(config, None, True, rounds="elsewhere")[-1].round
    assert asked is not None
    (early,) = watch(config, None, True, rounds="elsewhere")
    assert early.round is not None
    assert (early.round.operation, early.round.state) == (asked.operation, "requested")
    monkeypatch.setattr("trimtab_prefect.watch.ARRIVES", timedelta(0))
    again = watch(config, None, True, rounds="elsewhere")
    assert again[0].round is not None
    assert (again[0].round.operation, again[0].round.outcome) == (asked.operation, "promoted")


@pytest.mark.usefixtures("client")
def test_flows_of_a_deployment_outlast_a_registry_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("watch", "optimize"):
        monkeypatch.setattr(f"trimtab_prefect.{name}.PAUSES", (0.2,) * 100)
    there = shelf.world(tmp_path / "home", drifting("away"), name="away")
    config = str(written(there, tmp_path))

    def away() -> None:
        there.registry.down = True
        Timer(1.0, lambda: setattr(there.registry, "down", False)).start()

    away()
    asked = watch(config, None, True, rounds="elsewhere")[-1].round
    assert asked is not None
    away()
    done = optimize(config, operation=asked.operation)
    assert (done.outcome, there.registry.alias("champion")) == ("promoted", 2)
    windows = [w.number for w in there.process().journal.windows()]
    assert windows == [*range(1, asked.window + 1)]


@pytest.mark.usefixtures("client")
def test_a_round_that_somebody_runs_is_left_to_them_at_once(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", drifting("held"), name="held")
    config = str(written(there, tmp_path))
    asked = watch(config, None, True, rounds="elsewhere")[-1].round
    assert asked is not None
    journal = there.process().journal
    assert not journal.leased(asked.operation)
    with journal.lease(asked.operation) as mine:
        assert mine
        assert journal.leased(asked.operation)
        (report,) = watch(config, None, True, rounds="elsewhere")
        assert report.round is not None
        assert (report.round.operation, report.round.open) == (asked.operation, True)
    assert not journal.leased(asked.operation)


@pytest.mark.usefixtures("client")
def test_the_flow_that_rolls_back_does(tmp_path: Path) -> None:
    there = shelf.world(tmp_path / "home", drifting("back"), name="back")
    config = str(written(there, tmp_path))
    watch(config, None, True)
    assert there.registry.alias("champion") == 2
    rollback(config, reason="complaints")
    assert there.registry.alias("champion") == 1
    assert there.process().journal.promotions()[-1].kind == "rollback"


# deployments


def project(there: fakes.World, folder: Path, **changes: Any) -> dict[Path, Project]:
    path = written(there, folder, **changes)
    return {path: Project.load(path)}


def test_a_project_is_deployed_on_its_schedule_and_its_events(client: SyncPrefectClient, tmp_path: Path) -> None:
    schedule = {"cron": "7 4 * * *", "timezone": "Europe/Berlin"}
    projects = project(shelf.world(tmp_path / "home", calm("dep"), name="dep"), tmp_path, schedule=schedule)
    for _ in range(2):  # again, nothing is done
        made = PrefectScheduler().deploy(projects, ["registry.url=http://me@host"], tmp_path)
        assert made == ["watch/dep", "optimize/dep", "rollback/dep"]
    found = {name: client.read_deployment_by_name(name) for name in made}
    assert {d.work_pool_name for d in found.values()} == {"trimtab"}
    assert {d.job_variables["working_dir"] for d in found.values()} == {str(tmp_path)}
    assert {d.entrypoint for d in found.values()} == {
        "trimtab_prefect.watch.watch",
        "trimtab_prefect.optimize.optimize",
        "trimtab_prefect.rollback.rollback",
    }
    assert {d.parameters["overrides"][0] for d in found.values()} == {"registry.url=http://me@host"}
    watched = found["watch/dep"]
    assert watched.parameters["rounds"] == "elsewhere"
    assert [(s.active, s.schedule.cron, s.schedule.timezone) for s in watched.schedules] == [
        (True, "7 4 * * *", "Europe/Berlin")
    ]
    assert watched.global_concurrency_limit is not None
    assert watched.global_concurrency_limit.limit == 1
    automations = client.request("POST", "/automations/filter", json={}).json()
    mine = {a["trigger"]["expect"][0]: a["actions"][0] for a in automations if "of dep" in a["name"]}
    assert {event: action["deployment_id"] for event, action in mine.items()} == {
        tell.ROUND_CLOSED: str(watched.id),
        tell.ROUND_REQUESTED: str(found["optimize/dep"].id),
    }
    assert "event.payload" in str(mine[tell.ROUND_REQUESTED]["parameters"]["operation"])
    assert {name: d.work_queue_name for name, d in found.items()} == {
        "watch/dep": "watches",
        "optimize/dep": "rounds",
        "rollback/dep": "watches",
    }
    queues = {q["name"]: q for q in client.request("POST", "/work_pools/trimtab/queues/filter", json={}).json()}
    pool = client.read_work_pool("trimtab")
    assert queues["watches"]["priority"] < queues["rounds"]["priority"]
    assert queues["watches"]["concurrency_limit"] is None
    assert 1 <= queues["rounds"]["concurrency_limit"] < (pool.concurrency_limit or 0)


def test_what_is_registered_as_it_is_stays_and_what_changed_or_is_not_whole_is_renewed(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["init", "-q"], ["commit", "-qm", "any", "--allow-empty"], ["remote", "add", "origin", "x@y:z.git"]):
        person = ["-c", "user.name=any", "-c", "user.email=any@localhost"]
        subprocess.run(["git", *person, *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)  # Prefect gives deployments the commit for a version where it finds one
    there = shelf.world(tmp_path / "home", calm("same"), name="same")
    names = ["watch/same", "optimize/same", "rollback/same"]

    def deployed(**changes: Any) -> dict[str, str]:
        assert PrefectScheduler().deploy(project(there, tmp_path, **changes), [], tmp_path) == names
        return {name: str(client.read_deployment_by_name(name).updated) for name in names}

    first = deployed()
    assert deployed() == first
    automations = client.request("POST", "/automations/filter", json={}).json()
    (mine,) = [a for a in automations if a["name"] == f"{tell.ROUND_REQUESTED} of same"]
    client.request("DELETE", "/automations/{id}", path_params={"id": mine["id"]})
    mended = deployed()
    assert {name for name in names if mended[name] != first[name]} == {"optimize/same"}
    automations = client.request("POST", "/automations/filter", json={}).json()
    assert [a["name"] for a in automations].count(f"{tell.ROUND_REQUESTED} of same") == 1
    changed = deployed(schedule={"cron": "5 5 * * *"})
    assert {name for name in names if changed[name] != mended[name]} == {"watch/same"}


@pytest.mark.usefixtures("client")
def test_a_request_that_is_settled_ends_at_once_and_tells_nothing_again(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = shelf.world(tmp_path / "home", drifting("settled"), name="settled")
    config = str(written(there, tmp_path))
    watch(config, None, True)
    (done,) = [r for r in there.process().journal.rounds() if r.cause != "first"]
    before = len(artifacts(client, "settled"))

    def assembled(*_: Any) -> Parts:
        raise AssertionError("nothing is to be done, and nothing need be connected")

    monkeypatch.setattr("trimtab_prefect.optimize.open_parts", assembled)
    assert [optimize(config, operation=done.operation) for _ in range(3)] == [done] * 3
    assert len(artifacts(client, "settled")) == before


def test_rounds_that_take_long_keep_no_window_of_any_project_waiting(client: SyncPrefectClient, tmp_path: Path) -> None:
    """Asked as a worker asks: what would run now, of five projects of which each wants a round and a look."""
    names = [f"fair{n}" for n in range(5)]
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        PrefectScheduler().deploy(project(shelf.world(folder / "home", calm(name), name=name), folder), [], tmp_path)

    def wanted(flow: str, name: str) -> str:
        deployment = client.read_deployment_by_name(f"{flow}/{name}")
        return str(client.create_flow_run_from_deployment(deployment.id).id)

    def started() -> list[str]:
        """Start what a worker would be given, as long as it is given something."""
        given: list[str] = []
        while found := client.request(
            "POST", "/work_pools/{name}/get_scheduled_flow_runs", path_params={"name": "trimtab"}, json={}
        ).json():
            for run in (f["flow_run"]["id"] for f in found if f["flow_run"]["id"] in mine):
                client.set_flow_run_state(run, Running(), force=True)
                given.append(run)
            if not any(f["flow_run"]["id"] in mine for f in found):
                break
        return given

    rounds = [wanted("optimize", name) for name in names]
    mine = {*rounds}
    first = started()
    assert first == rounds[: len(first)]  # who came first is served first
    assert len(first) == deploying.ROUNDS_AT_ONCE
    looks = [wanted("watch", name) for name in names]
    mine |= {*looks}
    free = deploying.RUNS_AT_ONCE - deploying.ROUNDS_AT_ONCE
    assert started() == looks[:free]
    for run in looks[:free]:
        client.set_flow_run_state(run, Completed(), force=True)
    assert started()[:free] == looks[free : 2 * free]
    for run in (*first, *looks):
        client.set_flow_run_state(run, Completed(), force=True)
    assert started() == rounds[len(first) : 2 * len(first)]  # and then the next project's round
    for run in rounds:
        client.set_flow_run_state(run, Completed(), force=True)


def test_a_password_is_handed_to_no_server(client: SyncPrefectClient, tmp_path: Path) -> None:
    projects = project(shelf.world(tmp_path / "home", calm("sec"), name="sec"), tmp_path)
    with pytest.raises(InputError, match="set TRIMTAB_REGISTRY__URL in the environment") as caught:
        PrefectScheduler().deploy(projects, ["registry.url=http://me:s3cret@host"], tmp_path)
    assert "s3cret" not in str(caught.value)


def test_deploying_without_a_server_says_how_to_get_one(tmp_path: Path) -> None:
    projects = project(shelf.world(tmp_path / "home", calm("none"), name="none"), tmp_path)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(InputError, match="PREFECT_API_URL is not set"),
    ):
        PrefectScheduler().deploy(projects, [], tmp_path)
    gone = "http://127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: gone}), pytest.raises(ServiceError, match="did not take the deployments"):
        PrefectScheduler().deploy(projects, [], tmp_path)


def test_the_doctor_names_what_schedules_nothing_runs_nothing_and_starts_nothing(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded server answers, and has no scheduler; nor has it a worker."""
    for name in ("SCHEDULED_SECONDS", "ANSWERED_SECONDS"):
        monkeypatch.setattr(doctor, name, 1.0)
    projects = project(shelf.world(tmp_path / "home", calm("ill"), name="ill"), tmp_path)
    (path,) = projects
    schedule, event = "ill: windows are looked at by schedule (0 * * * *)", f"ill: the event {tell.ROUND_REQUESTED}"
    before = {c.what: c.problem for c in doctor.examine(projects, {})}
    assert before["Prefect answers"] is None
    assert f"trimtab deploy {path} makes it" in str(before[schedule])
    PrefectScheduler().deploy(projects, [], tmp_path)
    after = {c.what: c.problem for c in doctor.examine(projects, {})}
    assert "none is there; start one" in str(after["a worker takes runs from the work pool trimtab"])
    assert "the server's scheduler does not work" in str(after[schedule])
    assert "no worker has run it yet" in str(after[f"{event} starts optimize"])
    automations = client.request("POST", "/automations/filter", json={}).json()
    (mine,) = [a for a in automations if a["name"] == f"{tell.ROUND_REQUESTED} of ill"]
    client.request("DELETE", "/automations/{id}", path_params={"id": mine["id"]})
    monkeypatch.setattr(doctor, "STARTED_SECONDS", 3.0)
    deployment = client.read_deployment_by_name("watch/ill")
    client.request("PATCH", "/deployments/{id}", path_params={"id": deployment.id}, json={"paused": True})
    broken = {c.what: c.problem for c in doctor.examine(projects, {})}
    assert "is paused" in str(broken[schedule])
    assert "no run came of it" in str(broken[f"{event} starts optimize"])


@pytest.mark.usefixtures("client")
def test_a_question_whether_events_arrive_is_no_round() -> None:
    assert optimize("nowhere.yaml", operation=f"{tell.DOCTOR}1") is None
    with pytest.raises(InputError, match="is no round"):
        optimized("nowhere.yaml", [], "", f"{tell.DOCTOR}1")


def test_the_deployments_that_are_written_out_are_those_that_are_made(tmp_path: Path) -> None:
    written_out = yaml.safe_load((Path(__file__).parents[1] / "deploy" / "prefect.yaml").read_text())
    there = shelf.world(tmp_path / "home", calm("churn"), name="churn")
    (path,) = (projects := project(there, tmp_path, schedule={"cron": "0 4 * * *"}))
    made = [*deployments(path, projects[path], [], tmp_path)]
    assert [d["flow_name"] for d in written_out["deployments"]] == [d.flow_name for d in made]
    for ours, told in zip(made, written_out["deployments"], strict=True):
        assert ours.entrypoint == told["entrypoint"].replace(":", ".")
        assert {**ours.parameters, "config": ""} == {**told["parameters"], "config": ""}
        assert ours.concurrency_limit is not None
        assert told["concurrency_limit"] == {
            "limit": 1,
            "collision_strategy": str(ours.concurrency_options.collision_strategy.value),
        }
        assert (ours.tags, ours.work_pool_name) == (told["tags"], told["work_pool"]["name"])
        assert ours.work_queue_name == told["work_pool"]["work_queue_name"]
        assert [s.schedule.cron for s in ours.schedules or []] == [s["cron"] for s in told.get("schedules", [])]
        events = [(t.name, [*t.expect], t.match.model_dump(), t.parameters or {}) for t in ours.triggers]
        assert events == [
            (t["name"], t["expect"], t["match"], t.get("parameters", {})) for t in told.get("triggers", [])
        ]
        assert [([*t.for_each], t.within.total_seconds()) for t in ours.triggers] == [
            (t.get("for_each", []), t.get("within", 0)) for t in told.get("triggers", [])
        ]
