"""The hook over real HTTP, and by a real Alertmanager: who may start a round, when, and that an alert starts one."""

import json
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from tests import fakes, shelf
from tests.servers import alertmanager, get, until
from trimtab import approval, loop
from trimtab.alerted import HOOK
from trimtab.errors import InputError, SettingsError
from trimtab.journal import Journal
from trimtab.round import optimize, request_by_hand
from trimtab.service import Ground
from trimtab.settings import Project
from trimtab_prefect.hook import MOST_BYTES, exposed
from trimtab_prefect.service import Hook

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105
CALM = {"trigger": {"cooldown": 0, "on": ["worse"]}}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with shelf.installed(tmp_path_factory.mktemp("site")):
        yield


def watched(home: Path, *rows: Any, **changes: Any) -> fakes.World:
    """A project whose windows were looked at."""
    name = f"hooked-{home.name}"
    frames = rows or (fakes.quiet(200, 1),)
    there = shelf.world(home, fakes.stream(name, fakes.quiet(400, 0), *frames), **{**CALM, **changes})
    list(loop.watch(there.process(), replay=True))
    return there


def project_of(there: fakes.World) -> Project:
    return Project.model_validate(fakes.settings(there.home, there.stream, **there.changes))


def alert(number: int = 1, **changes: Any) -> dict[str, Any]:
    labels = {"alertname": "TrimtabModelWorse", "project": "p", **changes.pop("labels", {})}
    return {
        "status": "firing",
        "labels": {k: v for k, v in labels.items() if v is not None},
        "annotations": {"summary": "p: the champion got worse"},
        "startsAt": "2026-01-05T12:00:00.123Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example",
        "fingerprint": f"{number:016x}",
        **changes,
    }


def message(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"version": "4", "groupKey": "{}", "status": "firing", "receiver": "rounds", "alerts": [*alerts], **changes}


def post(address: str, body: object, token: str | None = TOKEN, scheme: str = "Bearer") -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"{scheme} {token}"} if token else {})
    try:
        asked = urllib.request.Request(address, data, headers)  # noqa: S310 (our own loopback address)
        with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def only(told: tuple[int, dict[str, Any]]) -> tuple[int, str, str]:
    status, body = told
    (one,) = body["alerts"]
    return status, one["did"], one["why"]


def open_rounds(there: fakes.World) -> list[str]:
    return [r.operation for r in Journal(project_of(there).journal_url, "p").rounds() if r.open]


def test_an_alert_requests_one_round_however_often_it_is_sent_and_the_next_watch_runs_it(tmp_path: Path) -> None:
    there = watched(tmp_path)
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        first = post(address, message(alert()))
        again = [post(address, message(alert())) for _ in range(3)]
        (operation,) = open_rounds(there)
        assert only(first) == (200, "requested", "a round was requested (alert)")
        assert {only(told)[:2] for told in again} == {(200, "known")}
        assert first[1]["alerts"][0]["round"] == operation == "p:round:alert:0000000000000001:20260105T120000.123000Z"
        list(loop.watch(there.process(), replay=True))
        done = there.process().journal.rounds()[-1]
        assert (done.operation, done.cause, done.open) == (operation, "alert", False)
        assert done.reasons == ("alert TrimtabModelWorse: p: the champion got worse",)
        assert only(post(address, message(alert())))[1] == "known"
    assert open_rounds(there) == []
    told = [detail for _, _, detail in there.process().journal.records("asked")]
    assert told == [{"round": operation, "who": HOOK}]


def test_a_resolved_alert_and_one_that_may_start_nothing_do_nothing(tmp_path: Path) -> None:
    there = watched(tmp_path)
    other = {"alertname": "DiskFull"}
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        assert only(post(address, message(alert(status="resolved")))) == (200, "ignored", "it is resolved")
        status, did, why = only(post(address, message(alert(labels=other))))
        assert (status, did) == (200, "ignored")
        assert "trigger.alerts names TrimtabModelWorse, and it has no trimtab_round: 'true'" in why
        assert open_rounds(there) == []
        labelled = alert(2, labels=other | {"trimtab_round": "true"})
        assert only(post(address, message(labelled)))[1] == "requested"


def test_what_holds_a_round_of_the_loops_own_holds_this_one(tmp_path: Path) -> None:
    cooled = watched(tmp_path / "cooled", trigger={"cooldown": 1, "on": ["worse"]})
    spent = watched(tmp_path / "spent", trigger={"cooldown": 0, "on": ["worse"], "budget": {"rounds": 1}})
    for there in (cooled, spent):
        optimize(there.process(), request_by_hand(there.process(), "curious"))
    fakes.STREAMS[spent.stream] = pd.concat([fakes.STREAMS[spent.stream], fakes.quiet(200, 5)], ignore_index=True)
    list(loop.watch(spent.process(), replay=True))
    moved = [fakes.moved(200, seed) for seed in (3, 4)]
    waiting = watched(tmp_path / "waiting", *moved, promotion="manual")
    assert waiting.process().journal.waiting() is not None
    new = shelf.world(tmp_path / "new", fakes.stream("hooked-new", fakes.quiet(400, 0)))
    busy = watched(tmp_path / "busy")
    request_by_hand(busy.process(), "curious")
    for there, why in (
        (cooled, "cooling down: the last round ran after window 1"),
        (spent, "no round: spent are 1 of 1 rounds of the month"),
        (waiting, "waits for trimtab promote"),
        (new, "p has no champion yet"),
        (busy, "no round: p:round:1:manual-2 is open"),
    ):
        with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
            status, did, said = only(post(address, message(alert())))
        assert (status, did) == (200, "held")
        assert why in said
    assert not (new.home / "journal.db").exists()  # who only asks makes no journal
    approval.reject(waiting.process(), "anna", "no")
    with exposed([project_of(waiting)], "127.0.0.1", 0, TOKEN) as address:
        assert only(post(address, message(alert())))[1] == "requested"  # what was held may start when it is sent again


def test_an_alert_of_a_champion_that_the_newest_window_found_worse_repairs_it(tmp_path: Path) -> None:
    rows = [fakes.quiet(200, 21), fakes.noise(200, 23), fakes.noise(200, 24)]
    there = watched(tmp_path, *rows, trigger={"cooldown": 0, "on": ["worse"], "budget": {"rounds": 1}})
    assert there.process().journal.windows()[-1].weighed["causes"] == ["worse"]
    there.changes["trigger"] = CALM["trigger"]  # somebody raised the budget
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        assert only(post(address, message(alert()))) == (200, "requested", "a round was requested (worse)")


def test_a_project_that_is_not_there_is_named_and_the_other_alerts_are_acted_upon(tmp_path: Path) -> None:
    there = watched(tmp_path)
    strange, none = alert(2, labels={"project": "q"}), alert(3, labels={"project": None})
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        status, body = post(address, message(strange, none, alert()))
    assert status == 404
    assert [a["did"] for a in body["alerts"]] == ["refused", "refused", "requested"]
    assert body["alerts"][0]["why"] == "it names the project 'q'; there are p."
    assert body["alerts"][1]["why"] == "it has no label project; there are p."
    assert len(open_rounds(there)) == 1


def test_who_bears_no_token_or_another_is_told_nothing(tmp_path: Path) -> None:
    there = watched(tmp_path)
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        for token, scheme in ((None, ""), ("x" * len(TOKEN), "Bearer"), (TOKEN, "Basic"), (TOKEN[:-1], "Bearer")):
            status, body = post(address, message(alert()), token, scheme)
            assert (status, set(body)) == (401, {"error"})
        assert get(address.replace("/alerts", "/health"))[0] == 200
        assert get(address)[0] == 405
        assert get(address.replace("/alerts", "/docs"))[0] == 404
    assert open_rounds(there) == []


def test_what_is_too_large_or_no_message_is_refused_with_the_reason(tmp_path: Path) -> None:
    there = watched(tmp_path)
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        assert post(address, b" " * (MOST_BYTES + 1))[0] == 413
        for body, word in (
            (b"nothing", "body"),
            (message(alert(), version="3"), "version"),
            (message(), "alerts"),
            (message(alert(fingerprint="../x")), "alerts.0.fingerprint"),
            (message(alert(startsAt="yesterday")), "alerts.0.startsAt"),
            (message(alert(startsAt="2026-01-05T12:00:00")), "alerts.0.startsAt"),
            (message(alert(status="odd")), "alerts.0.status"),
        ):
            status, told = post(address, body)
            assert status == 422
            assert told["told"][0].partition(":")[0] == word
    assert open_rounds(there) == []


def test_a_journal_that_does_not_answer_is_an_error_after_which_alertmanager_tries_again(tmp_path: Path) -> None:
    there = watched(tmp_path)
    (there.home / "journal.db").write_bytes(b"no database" * 100)
    for beside in there.home.glob("journal.db-*"):
        beside.unlink()
    with exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address:
        status, body = post(address, message(alert()))
    assert status == 503
    assert "journal" in body["error"]


@pytest.mark.parametrize("token", ["", "short", "with a line\nbreak in it"])
def test_without_a_token_that_is_hard_to_guess_it_does_not_start(token: str) -> None:
    with pytest.raises(SettingsError, match="TRIMTAB_HOOK_TOKEN"), exposed([], "127.0.0.1", 0, token):
        pass


def test_an_address_that_is_taken_is_named() -> None:
    with (
        exposed([], "127.0.0.1", 0, TOKEN) as address,
        pytest.raises(InputError, match="cannot listen there"),
        exposed([], "127.0.0.1", int(address.split(":")[2].partition("/")[0]), TOKEN),
    ):
        pass


def test_the_stack_makes_a_token_once_and_takes_one_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIMTAB_HOOK_TOKEN", raising=False)
    file = tmp_path / "hook" / "token"
    command = Hook().command(Ground(tmp_path, {}), 9465)
    made = file.read_text()
    assert len(made) >= 32
    assert made not in " ".join(command.argv)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    Hook().command(Ground(tmp_path, {}), 9465)
    assert file.read_text() == made
    monkeypatch.setenv("TRIMTAB_HOOK_TOKEN", TOKEN)
    Hook().command(Ground(tmp_path, {}), 9465)
    assert file.read_text() == TOKEN


class People(BaseHTTPRequestHandler):
    """Whoever else is told."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.servers("alertmanager")
def test_alertmanager_starts_one_round_and_its_repetitions_none(tmp_path: Path) -> None:
    there = watched(tmp_path / "home")
    people = HTTPServer(("127.0.0.1", 0), People)
    Thread(target=people.serve_forever, daemon=True).start()
    (tmp_path / "am").mkdir()
    webhook = f"http://127.0.0.1:{people.server_port}"
    with (
        exposed([project_of(there)], "127.0.0.1", 0, TOKEN) as address,
        alertmanager(tmp_path / "am", webhook, TOKEN, address) as manager,
    ):
        started = datetime.now(UTC).isoformat()
        for beside in ("1", "2"):  # another alert of the group: Alertmanager sends the whole of it again
            labels = {"alertname": "TrimtabModelWorse", "project": "p", "severity": "warning"}
            sent = [{"labels": labels, "startsAt": started}]
            sent += [{"labels": labels | {"alias": beside}, "startsAt": started}] if beside == "2" else []
            status, _ = _api(f"http://{manager}/api/v2/alerts", sent)
            assert status == 200
            told = int(beside)
            until(lambda: len(_notified(manager)) and _notified(manager)[0] >= told, 60)  # noqa: B023
        time.sleep(1)
        assert _notified(manager)[1] == 0
    people.shutdown()
    people.server_close()
    (operation,) = open_rounds(there)
    asked = there.process().journal.records("asked")
    assert [detail for _, _, detail in asked] == [{"round": operation, "who": HOOK}]


def _api(url: str, body: object) -> tuple[int, str]:
    asked = urllib.request.Request(  # noqa: S310 (our own loopback address)
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310
        return answer.status, answer.read().decode()


def _notified(manager: str) -> tuple[int, int]:
    """Return how many times Alertmanager called a webhook for each receiver at least, and how often that failed."""
    lines = get(f"http://{manager}/metrics")[1].splitlines()
    called = [line for line in lines if line.startswith("alertmanager_notifications_total{") and "webhook" in line]
    failed = [
        line for line in lines if line.startswith("alertmanager_notifications_failed_total{") and "webhook" in line
    ]
    # both receivers are webhooks: each group is told to both
    return int(sum(float(line.split()[-1]) for line in called)) // 2, int(sum(float(f.split()[-1]) for f in failed))
