"""The same event again and again, on the real server with a real worker: one round, and runs that end at once."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.servers import send, until
from tests.test_hook import alert, message, post
from tests.test_stack import PROJECT, SECONDS, Stack, rows, up
from trimtab.alerted import HOOK
from trimtab_prefect import tell

pytestmark = [pytest.mark.servers(), pytest.mark.timeout(1500)]

TIMES = 20
AGAIN = 3
LAST = 4
"""The newest window that is closed when all rows are there."""
AT_ONCE_SECONDS = 30.0
"""What a run that finds nothing to do may take, its process among it, on two cores that others use too."""


def emit(stack: Stack, *events: dict[str, Any]) -> None:
    send(stack.addresses["prefect"] + "/api/events", events)


def requested(operation: str, identity: str) -> dict[str, Any]:
    return {
        "id": identity,
        "occurred": datetime.now(UTC).isoformat(),
        "event": tell.ROUND_REQUESTED,
        "resource": {"prefect.resource.id": "trimtab.project.small", tell.OPERATION: operation},
        "payload": {"project": "small", "operation": operation},
    }


def runs_of(stack: Stack, operation: str) -> list[dict[str, Any]]:
    wanted = {"flows": {"name": {"any_": ["optimize"]}}, "limit": 200}
    found = stack.ask("prefect", "/api/flow_runs/filter", wanted)
    return [r for r in found if r["parameters"].get("operation") == operation]


def of_operation(stack: Stack, operation: str) -> list[dict[str, Any]]:
    return [r for r in stack.status()["rounds"] if r["operation"] == operation]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "data").mkdir()
    (folder / "p.yaml").write_text(yaml.safe_dump({**PROJECT, "window": {"every": "800 rows", "start": 800}}))
    rows(1700, 0).to_csv(folder / "data" / "00.csv", index=False)
    with up(folder, "p.yaml") as made:
        yield made


def test_a_request_that_is_told_forty_times_is_one_round(stack: Stack) -> None:
    until(lambda: stack.status()["champion"] == 1 and stack.status()["windows"], SECONDS, stack.log.read_text)
    stack.write("01", rows(1600, 1, moved=True))
    until(lambda: any(r["cause"] == "worse" for r in stack.status()["rounds"]), SECONDS)
    operation = next(r["operation"] for r in stack.status()["rounds"] if r["cause"] == "worse")
    once = str(uuid4())
    for _ in range(TIMES):
        emit(stack, requested(operation, once))
    emit(stack, *(requested(operation, str(uuid4())) for _ in range(TIMES)))
    until(lambda: of_operation(stack, operation)[0]["outcome"], SECONDS)
    # by hand, since no event starts them any more: runs that find nothing to do
    deployment = stack.ask("prefect", "/api/deployments/name/optimize/small")["id"]
    for _ in range(AGAIN):
        path = f"/api/deployments/{deployment}/create_flow_run"
        stack.ask("prefect", path, {"parameters": {"operation": operation}, "state": {"type": "SCHEDULED"}})
    ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    until(
        lambda: all(r["state_type"] in ended for r in runs_of(stack, operation)),
        SECONDS,
        lambda: str([r["state_name"] for r in runs_of(stack, operation)]),
    )
    ran = runs_of(stack, operation)
    took = sorted(r["total_run_time"] for r in ran)
    print("seconds of each run", [round(t, 1) for t in took])
    assert {r["state_name"] for r in ran} == {"Completed"}
    assert AGAIN + 1 <= len(ran) <= AGAIN + 3  # those by hand, and of forty events one or two, for one round
    assert all(t < AT_ONCE_SECONDS for t in took[:AGAIN])
    assert [r["outcome"] for r in of_operation(stack, operation)] == ["promoted"]
    promotions = stack.status()["promotions"]
    assert [p["operation"] for p in promotions].count(operation) == 1
    pages = [a for a in stack.ask("prefect", "/api/artifacts/filter", {}) if a["key"] == "small-candidates"]
    assert pages
    assert len({page["description"] for page in pages}) == len(pages)  # no round's was made twice


def test_an_alert_is_a_round_that_its_event_starts_and_sent_again_none(stack: Stack) -> None:
    stack.write("02", rows(800, 2, moved=True))
    until(lambda: stack.status()["windows"][-1]["window"] == LAST and not opened(stack), SECONDS)
    before = len(stack.status()["rounds"])
    told = [post(stack.addresses["hook"], message(alert(labels={"project": "small"})), token(stack)) for _ in range(3)]
    assert [status for status, _ in told] == [200] * 3
    assert [body["alerts"][0]["did"] for _, body in told] == ["requested", "known", "known"]
    operation = told[0][1]["alerts"][0]["round"]
    until(lambda: of_operation(stack, operation)[0]["outcome"], SECONDS, lambda: json.dumps(stack.status()["rounds"]))
    assert len(stack.status()["rounds"]) == before + 1
    until(lambda: runs_of(stack, operation), 60)
    ran, *_ = [r for r in runs_of(stack, operation) if r["deployment_id"]]
    assert "automation" in str(ran["created_by"]).lower()
    assert [act["who"] for act in stack.status()["acts"]] == [HOOK]


def opened(stack: Stack) -> list[str]:
    return [r["operation"] for r in stack.status()["rounds"] if not r["outcome"]]


def token(stack: Stack) -> str:
    return (stack.folder / ".trimtab" / "up" / "hook" / "token").read_text()
