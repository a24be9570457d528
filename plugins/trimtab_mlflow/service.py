"""The MLflow server of the stack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import ClassVar

from trimtab.address import masked
from trimtab.errors import InputError
from trimtab.service import LOOPBACK, Command, Ground

__all__ = ["MlflowServer"]

SUCH_AS = {
    "registry.url": "sqlite:///.trimtab/mlflow.db, or that of a server",
    "registry.artifacts": "s3://bucket/path, or none",
}


class MlflowServer:
    """MLflow's own server, over the store that the projects have used without one."""

    name: ClassVar[str] = "mlflow"
    after: ClassVar[tuple[str, ...]] = ()
    port: ClassVar[int | None] = 5000
    optional: ClassVar[bool] = False

    def given(self, ground: Ground) -> str | None:
        """Return the server that every project names."""
        urls = {p.registry_url for p in ground.projects.values()}
        return urls.pop() if len(urls) == 1 and next(iter(urls)).startswith(("http://", "https://")) else None

    def command(self, ground: Ground, port: int) -> Command:
        """Serve the projects' store; what may hold a password is told by the environment, which others cannot see."""
        projects = ground.projects.values()
        store = _same("registry.url", {p.name: p.registry_url for p in projects})
        kept = str(ground.own(self.name) / "artifacts")
        files = _same("registry.artifacts", {p.name: p.registry.artifacts or kept for p in projects})
        address = f"http://{LOOPBACK}:{port}"
        argv = (sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1")
        return Command(
            argv,
            address,
            f"{address}/health",
            {
                "MLFLOW_BACKEND_STORE_URI": store,
                "MLFLOW_ARTIFACTS_DESTINATION": files,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            {"TRIMTAB_REGISTRY__URL": address},
        )


def _same(setting: str, places: Mapping[str, str]) -> str:
    """Return the place that all projects name: one server serves one."""
    if len(set(places.values())) > 1:
        have = "; ".join(f"{name} has {masked(place)}" for name, place in places.items())
        raise InputError(
            f"the projects keep their versions in different places ({have}), and one server serves one: give all "
            f"the same {setting}, such as {SUCH_AS[setting]}"
        )
    return next(iter(places.values()))
