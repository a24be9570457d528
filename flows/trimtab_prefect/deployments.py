"""A project's deployments: watched on its schedule, optimized on an event, rolled back on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectAlreadyExists, PrefectException
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from trimtab.errors import InputError, InternalError, ServiceError
from trimtab.settings import Project
from trimtab_prefect import tell
from trimtab_prefect.carry import shown
from trimtab_prefect.optimize import optimize
from trimtab_prefect.rollback import rollback
from trimtab_prefect.server import masked
from trimtab_prefect.watch import watch

__all__ = ["POOL", "PrefectScheduler", "deployments"]

POOL = "trimtab"
"""The work pool whose workers run the flows."""

ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
QUEUED = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


class PrefectScheduler:
    """Registers projects with the Prefect server that PREFECT_API_URL names."""

    name: ClassVar[str] = "prefect"

    def deploy(self, projects: Mapping[Path, Project], overrides: Sequence[str], folder: Path) -> list[str]:
        """Register the deployments of projects; doing it again renews them.

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
            When no server is named.
        ServiceError
            When it does not answer.
        """
        if not PREFECT_API_URL.value():
            raise InputError(
                "PREFECT_API_URL is not set, and deployments live in a server: start one (trimtab up CONFIG starts "
                "all there is to start), and set PREFECT_API_URL to its address, such as http://127.0.0.1:4200/api"
            )
        try:
            _make_pool()
            return [_registered(d) for path, p in projects.items() for d in deployments(path, p, overrides, folder)]
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
    common = {"config": str(path.absolute()), "overrides": shown(overrides)}
    when = Cron(project.schedule.cron, timezone=project.schedule.timezone)
    closed, requested = (_on(project, event) for event in (tell.ROUND_CLOSED, tell.ROUND_REQUESTED))
    requested.parameters = {"operation": "{{ event.payload['operation'] | string }}"}
    yield _deployment(project, watch, common | {"rounds": "elsewhere"}, folder, ONE, schedule=when, triggers=[closed])
    yield _deployment(project, optimize, common, folder, QUEUED, triggers=[requested])
    yield _deployment(project, rollback, common, folder, QUEUED)


def _deployment(
    project: Project,
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    folder: Path,
    limit: ConcurrencyLimitConfig,
    **more: Any,
) -> RunnerDeployment:
    made = flow.to_deployment(
        project.name,
        parameters=parameters,
        concurrency_limit=limit,
        tags=["trimtab", project.name],
        work_pool_name=POOL,
        job_variables={"working_dir": str(folder.absolute())},
        entrypoint_type=EntrypointType.MODULE_PATH,  # a file's would be another copy of the module
        **more,
    )
    if not isinstance(made, RunnerDeployment):
        raise InternalError("deployments are made outside of any event loop")
    return made


def _on(project: Project, event: str) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(
        name=f"{event} of {project.name}",
        expect={event},
        match={"prefect.resource.id": f"trimtab.project.{project.name}"},
    )


def _registered(deployment: RunnerDeployment) -> str:
    deployment.apply()
    return f"{deployment.flow_name}/{deployment.name}"


def _make_pool() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            return
