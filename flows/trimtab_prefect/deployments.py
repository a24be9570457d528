"""A project's deployments: watched on its schedule, optimized on an event, rolled back on request."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, VersionInfo
from prefect.context import SyncClientContext
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from trimtab.address import masked, refuse_passwords
from trimtab.errors import InputError, InternalError, ServiceError
from trimtab.settings import Project
from trimtab_prefect import tell
from trimtab_prefect.optimize import optimize
from trimtab_prefect.rollback import rollback
from trimtab_prefect.watch import watch

__all__ = ["POOL", "ROUNDS", "WATCHES", "PrefectScheduler", "deployments"]

POOL = "trimtab"
"""The work pool whose workers run the flows."""
WATCHES, ROUNDS = "watches", "rounds"
"""Its queues: what takes seconds is taken first, and what takes minutes never takes every place."""
ROUNDS_AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
RUNS_AT_ONCE = ROUNDS_AT_ONCE + max(2, (os.cpu_count() or 1) // 2)
ONCE = timedelta(minutes=10)
"""In which an event that comes again starts no further run: if the first did not do it, the next watch does."""

ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
QUEUED = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


class PrefectScheduler:
    """Registers projects with the Prefect server that PREFECT_API_URL names."""

    name: ClassVar[str] = "prefect"

    def deploy(self, projects: Mapping[Path, Project], overrides: Sequence[str], folder: Path) -> list[str]:
        """Register the deployments of projects; doing it again renews those that changed, or are not whole.

        Parameters
        ----------
        projects
            By the path of the project file.
        overrides
            ``key.key=value`` each, for every flow run.
        folder
            In which workers run the flows: paths in project files follow from it.

        Returns
        -------
        list of str
            ``flow/deployment`` each.

        Raises
        ------
        InputError
            When no server is named, or an override holds a password: the server would show it.
        ServiceError
            When it does not answer.
        """
        if not PREFECT_API_URL.value():
            raise InputError(
                "PREFECT_API_URL is not set, and deployments live in a server: start one (trimtab up CONFIG starts "
                "all there is to start), and set PREFECT_API_URL to its address, such as http://127.0.0.1:4200/api"
            )
        refuse_passwords(overrides)
        try:
            _make_pool()
            made = [d for path, p in projects.items() for d in deployments(path, p, overrides, folder)]
            return _register(made)
        except (httpx.HTTPError, PrefectException) as error:
            url = masked(PREFECT_API_URL.value())
            raise ServiceError(
                f"Prefect's server at PREFECT_API_URL={url} did not take the deployments "
                f"({type(error).__name__}: {error}); see whether it runs, and deploy again"
            ) from error


def deployments(path: Path, project: Project, overrides: Sequence[str], folder: Path) -> Iterator[RunnerDeployment]:
    """Yield a project's deployments: ``watch``, ``optimize`` and ``rollback``, each under the project's name.

    A window is watched by one flow run at a time, and another that falls due meanwhile is dropped: what it would
    have looked at, the next one does. Rounds queue.
    """
    common = {"config": str(path.absolute()), "overrides": [*overrides]}
    when = Cron(project.timetable.cron, timezone=project.timetable.timezone)
    closed, requested = (_on(project, event) for event in (tell.ROUND_CLOSED, tell.ROUND_REQUESTED))
    requested.parameters = {"operation": "{{ event.payload['operation'] | string }}"}
    requested.for_each, requested.within = {tell.OPERATION}, ONCE
    watched = common | {"rounds": "elsewhere"}
    yield _deployment(project, watch, watched, folder, ONE, WATCHES, schedule=when, triggers=[closed])
    yield _deployment(project, optimize, common, folder, QUEUED, ROUNDS, triggers=[requested])
    yield _deployment(project, rollback, common, folder, QUEUED, WATCHES)


def _deployment(
    project: Project,
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    folder: Path,
    limit: ConcurrencyLimitConfig,
    queue: str,
    **more: Any,
) -> RunnerDeployment:
    made = flow.to_deployment(
        project.name,
        parameters=parameters,
        concurrency_limit=limit,
        tags=["trimtab", project.name],
        work_pool_name=POOL,
        work_queue_name=queue,
        job_variables={"working_dir": str(folder.absolute())},
        entrypoint_type=EntrypointType.MODULE_PATH,  # a file's would be another copy of the module
        **more,
    )
    if not isinstance(made, RunnerDeployment):
        raise InternalError("deployments are made outside of any event loop")
    made.version = _digest(made)
    return made


def _digest(made: RunnerDeployment) -> str:
    """Return what a deployment's version is: it changes when anything of it does, or trimtab."""
    told = made.model_dump(mode="json", exclude={"version", "triggers"})
    told |= {"triggers": [t.model_dump(mode="json") for t in made.triggers], "trimtab": version("trimtab")}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _on(project: Project, event: str) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(
        name=f"{event} of {project.name}",
        expect={event},
        match={"prefect.resource.id": f"trimtab.project.{project.name}"},
    )


Filter = Literal["/flows/filter", "/automations/filter", "/deployments/filter"]
AT_ONCE = 3
"""Deployments that are registered at a time: more keep the server no busier."""
PAGE = 200
"""Most that the server gives at a time."""


def _register(made: Sequence[RunnerDeployment]) -> list[str]:
    """Register deployments but those that are there as they are, with their triggers."""
    with get_client(sync_client=True) as client:
        known = _registered(client)
    news = [d for d in made if known.get(f"{d.flow_name}/{d.name}") != (d.version, len(d.triggers))]
    parts = [news[n::AT_ONCE] for n in range(min(AT_ONCE, len(news)))]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # each with the settings of this thread, which say where the server is
        for done in [pool.submit(copy_context().run, _apply, part) for part in parts]:
            done.result()
    return [f"{d.flow_name}/{d.name}" for d in made]


def _apply(made: Sequence[RunnerDeployment]) -> None:
    with SyncClientContext.get_or_create():  # one client for all of them
        for deployment in made:
            # said, as Prefect would ask git otherwise, and put the commit in the digest's place
            deployment.apply(version_info=VersionInfo(type="prefect:simple", version=deployment.version or ""))


def _registered(client: SyncPrefectClient) -> dict[str, tuple[str | None, int]]:
    """Return the version and the number of enabled triggers of each deployment of the pool, by ``flow/deployment``."""
    flows = {f["id"]: f["name"] for f in _all(client, "/flows/filter", {})}
    owned = Counter(
        action.get("deployment_id")
        for automation in _all(client, "/automations/filter", {})
        if automation["enabled"]
        for action in automation["actions"]
    )
    wanted = {"work_pools": {"name": {"any_": [POOL]}}}
    return {
        f"{flows.get(d['flow_id'])}/{d['name']}": (d["version"], owned[d["id"]])
        for d in _all(client, "/deployments/filter", wanted)
    }


def _all(client: SyncPrefectClient, path: Filter, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return everything of a kind, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = client.request("POST", path, json={**wanted, "limit": PAGE, "offset": len(found)}).json()
        found += page
        if len(page) < PAGE:
            return found


def _make_pool() -> None:
    """Make the pool and its queues where they are not; their limits are then yours to change."""
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=RUNS_AT_ONCE))
        for priority, (name, limit) in enumerate(((WATCHES, None), (ROUNDS, ROUNDS_AT_ONCE)), 1):
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(name, concurrency_limit=limit, priority=priority, work_pool_name=POOL)
