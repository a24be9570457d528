"""The Prefect server of the stack, and the worker that runs the projects' flows."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from prefect.settings import PREFECT_API_URL

from trimtab.service import LOOPBACK, Command, Ground
from trimtab.settings import Project
from trimtab_prefect.deployments import POOL, PrefectScheduler

__all__ = ["PrefectServer", "Worker"]


class PrefectServer:
    """Prefect's own server, with its records in the stack's folder (or where PREFECT_HOME says)."""

    name: ClassVar[str] = "prefect"
    after: ClassVar[tuple[str, ...]] = ()
    port: ClassVar[int | None] = 4200
    optional: ClassVar[bool] = False

    def given(self, ground: Ground) -> str | None:
        """Return the server that PREFECT_API_URL names."""
        url: str | None = PREFECT_API_URL.value()
        return url

    def command(self, ground: Ground, port: int) -> Command:
        """Serve API and pages."""
        address = f"http://{LOOPBACK}:{port}"
        home = {"PREFECT_HOME": os.environ.get("PREFECT_HOME") or str(ground.own(self.name))}
        return Command(
            (sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)),
            address,
            f"{address}/api/health",
            {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", **home},
            {"PREFECT_API_URL": f"{address}/api", **home},
        )


class Worker:
    """Registers the projects' deployments, and runs their flows, each in a process of its own."""

    name: ClassVar[str] = "worker"
    after: ClassVar[tuple[str, ...]] = ("prefect", "mlflow")
    port: ClassVar[int | None] = None
    optional: ClassVar[bool] = False

    def given(self, ground: Ground) -> str | None:
        """Return none: workers are asked for work, not asked."""
        return None

    def command(self, ground: Ground, port: int) -> Command:
        """Deploy, then work."""
        overrides = [word for item in ground.overrides for word in ("--set", item)]
        configs = [str(path.absolute()) for path in ground.projects]
        return Command((sys.executable, "-m", "trimtab_prefect.service", *configs, *overrides))


def work(arguments: Sequence[str]) -> None:
    """Register the deployments of project files (``CONFIG... --set KEY=VALUE ...``), and become a worker."""
    marks = [n for n, word in enumerate(arguments) if word == "--set"]
    overrides = [arguments[n + 1] for n in marks]
    configs = arguments[: marks[0]] if marks else arguments
    projects = {Path(c): Project.load(Path(c), overrides) for c in configs}
    PrefectScheduler().deploy(projects, overrides, Path.cwd())
    python = sys.executable
    os.execv(python, [python, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"])  # noqa: S606


if __name__ == "__main__":
    work(sys.argv[1:])
