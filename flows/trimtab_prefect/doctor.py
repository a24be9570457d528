"""Does Prefect do what it is there for? Runs are scheduled, workers take them, events start rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL, temporary_settings

from trimtab.address import masked
from trimtab.doctor import Check
from trimtab.settings import Project
from trimtab_prefect import tell
from trimtab_prefect.deployments import POOL

__all__ = ["examine"]

SCHEDULED_SECONDS, STARTED_SECONDS, ANSWERED_SECONDS = 15.0, 30.0, 120.0
LATE_SECONDS = 60.0


def examine(projects: Mapping[Path, Project], addresses: Mapping[str, str]) -> Iterator[Check]:
    """Try server, workers, schedules and events."""
    up = addresses.get("prefect")
    url = PREFECT_API_URL.value() or (up if up is None or up.endswith("/api") else f"{up}/api")
    if url is None:
        yield Check(
            "Prefect answers", "no server is named or up: trimtab up CONFIG starts one, or set PREFECT_API_URL to yours"
        )
        return
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        error = client.api_healthcheck()
        if error is not None:
            yield Check("Prefect answers", f"the server at {masked(url)} does not ({error}); start it")
            return
        yield Check("Prefect answers")
        try:
            yield _workers(client)
            for path, project in projects.items():
                yield _schedule(client, project, path)
                yield _event(client, project, path)
        except (httpx.HTTPError, PrefectException) as failed:
            yield Check("Prefect answers", f"it stopped to: {type(failed).__name__}: {failed}")


def _workers(client: SyncPrefectClient) -> Check:
    what = f"a worker takes runs from the work pool {POOL}"
    way = f"start one: prefect worker start --pool {POOL} (trimtab up does)"
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        return Check(what, "there is no such pool: trimtab deploy CONFIG makes it")
    told = client.request(
        "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": POOL}, json={}
    ).json()
    return Check(what, None if any(w["status"] == "ONLINE" for w in told) else f"none is there; {way}")


def _deployment(client: SyncPrefectClient, flow: str, project: Project) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(f"{flow}/{project.name}")
    except ObjectNotFound:
        return None


def _schedule(client: SyncPrefectClient, project: Project, path: Path) -> Check:
    what = f"{project.name}: windows are looked at by schedule ({project.timetable.cron})"
    deployment = _deployment(client, "watch", project)
    if deployment is None:
        return Check(what, f"there is no deployment watch/{project.name}: trimtab deploy {path} makes it")
    if deployment.paused or not any(s.active for s in deployment.schedules):
        return Check(what, f"its schedule is paused: prefect deployment schedule resume watch/{project.name}")
    due = _until(SCHEDULED_SECONDS, lambda: _runs(client, deployment, types=["SCHEDULED", "PENDING", "RUNNING"]))
    if not due:
        comes = project.timetable.after(datetime.now(UTC)).isoformat(" ", "minutes")
        return Check(
            what,
            f"no run is scheduled, though one is due at {comes}: the server's scheduler does not work (its services "
            "are switched off, or fail; see its log), however healthy it calls itself",
        )
    late = [r for r in due if r["state_type"] == "SCHEDULED" and _late(r)]
    if late:
        return Check(what, f"{len(late)} runs are late: no worker takes them; see whether a worker of {POOL} runs")
    return Check(what)


def _late(run: dict[str, Any]) -> bool:
    due = datetime.fromisoformat(run["expected_start_time"])
    return (datetime.now(UTC) - due).total_seconds() > LATE_SECONDS


def _event(client: SyncPrefectClient, project: Project, path: Path) -> Check:
    what = f"{project.name}: the event {tell.ROUND_REQUESTED} starts optimize"
    deployment = _deployment(client, "optimize", project)
    if deployment is None:
        return Check(what, f"there is no deployment optimize/{project.name}: trimtab deploy {path} makes it")
    question = f"{tell.DOCTOR}{uuid4()}"
    tell.ask(project.name, question)

    def asked(*states: str) -> list[dict[str, Any]]:
        found = _runs(client, deployment, types=[*states])
        return [r for r in found if r["parameters"].get("operation") == question]

    if not _until(STARTED_SECONDS, lambda: asked()):
        return Check(
            what,
            f"an event was sent, and no run came of it: its automation is gone or switched off (trimtab deploy {path} "
            "renews it), or the server's services do not run",
        )
    if not _until(ANSWERED_SECONDS, lambda: asked("COMPLETED", "FAILED", "CRASHED", "CANCELLED")):
        return Check(what, "a run came of it, and no worker has run it yet; see the workers' log")
    (run,) = asked()
    if run["state_type"] != "COMPLETED":
        return Check(what, f"its run {run['name']} is {run['state_name']}; see its log in Prefect")
    return Check(what)


def _runs(client: SyncPrefectClient, deployment: DeploymentResponse, types: list[str]) -> list[dict[str, Any]]:
    """Return a deployment's newest flow runs in these states, or in any."""
    wanted: dict[str, Any] = {"deployments": {"id": {"any_": [str(deployment.id)]}}, "sort": "START_TIME_DESC"}
    if types:
        wanted["flow_runs"] = {"state": {"type": {"any_": types}}}
    found: list[dict[str, Any]] = client.request("POST", "/flow_runs/filter", json=wanted).json()
    return found


def _until(seconds: float, look: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Look until something is seen; give what was seen in the end."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found
