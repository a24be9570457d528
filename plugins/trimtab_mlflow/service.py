"""The MLflow server of the stack."""

from __future__ import annotations

import sys
from typing import ClassVar

from trimtab.errors import InputError
from trimtab.service import LOOPBACK, Command, Ground

__all__ = ["MlflowServer"]


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
        """Serve the projects' store."""
        stores = {p.registry_url: p.name for p in ground.projects.values()}
        if len(stores) > 1:
            have = "; ".join(f"{name} has {url}" for url, name in stores.items())
            raise InputError(
                f"the projects keep their versions in different places ({have}), and one server serves one: give all "
                "the same registry.url, such as sqlite:///.trimtab/mlflow.db, or that of a server"
            )
        address = f"http://{LOOPBACK}:{port}"
        kept = ground.own(self.name)
        argv = (sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1")
        where = ("--backend-store-uri", *stores, "--artifacts-destination", str(kept / "artifacts"))
        return Command(
            (*argv, *where),
            address,
            f"{address}/health",
            {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            {"TRIMTAB_REGISTRY__URL": address},
        )
