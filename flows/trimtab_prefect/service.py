"""The Prefect server of the stack, the worker that runs the projects' flows, and what Alertmanager calls."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from prefect.settings import PREFECT_API_URL

from trimtab.fleet import Fleet
from trimtab.service import LOOPBACK, Command, Ground
from trimtab_prefect.deployments import POOL, PrefectScheduler

__all__ = ["Hook", "PrefectServer", "Worker"]

SLOT = {"PREFECT_DEPLOYMENT_CONCURRENCY_SLOT_WAIT_SECONDS": "5"}
"""After which a run that waits for another of its deployment is tried again; 30 s by default."""


LEASES = "prefect.server.concurrency.lease_storage.filesystem"
"""In memory, as Prefect keeps them by default, they are lost with a server that dies: the flow runs that go on would be
cancelled when they renew theirs, and the slots of those that do not would never be free again."""


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
            {
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
                "PREFECT_UI_API_URL": f"{address}/api",  # else its pages ask port 4200, whichever is ours
                **SLOT,
                **home,
            },
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


class Hook:
    """``trimtab hook`` over every project; its token is TRIMTAB_HOOK_TOKEN, or made once and kept in its folder."""

    name: ClassVar[str] = "hook"
    after: ClassVar[tuple[str, ...]] = ("prefect", "mlflow")
    port: ClassVar[int | None] = 9465
    optional: ClassVar[bool] = False

    def given(self, ground: Ground) -> str | None:
        """Return none: another is named in Alertmanager's own configuration."""
        return None

    def command(self, ground: Ground, port: int) -> Command:
        """Serve the webhook."""
        file = ground.own(self.name) / "token"
        _keep_token(file)
        overrides = [word for item in ground.overrides for word in ("--set", item)]
        configs = [str(path.absolute()) for path in ground.projects]
        where = ("--port", str(port), "--token-file", str(file))
        return Command(
            (sys.executable, "-m", "trimtab", "hook", *configs, *where, *overrides),
            f"http://{LOOPBACK}:{port}/alerts",
            f"http://{LOOPBACK}:{port}/health",
            gives={"TRIMTAB_HOOK_TOKEN_FILE": str(file)},
        )


def _keep_token(file: Path) -> None:
    """Write the token that the environment gives, or a new one where there is none, for its owner alone to read."""
    given = os.environ.get("TRIMTAB_HOOK_TOKEN")
    if given is None and file.is_file():
        return
    file.touch(mode=0o600)
    file.write_text(given or secrets.token_urlsafe(32))


def work(arguments: Sequence[str]) -> None:
    """Register the deployments of project files (``CONFIG... --set KEY=VALUE ...``), and become a worker."""
    marks = [n for n, word in enumerate(arguments) if word == "--set"]
    overrides = [arguments[n + 1] for n in marks]
    configs = arguments[: marks[0]] if marks else arguments
    fleet = Fleet.read([Path(c) for c in configs], overrides)
    for why in fleet.broken.values():
        print(f"left out: {why}", flush=True)
    PrefectScheduler().deploy(fleet.projects, overrides, Path.cwd())
    python = sys.executable
    os.execv(python, [python, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"])  # noqa: S606


if __name__ == "__main__":
    work(sys.argv[1:])
