"""The exporter of the stack, and Prometheus and Alertmanager with the shipped rules, where they are installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from trimtab.errors import InputError
from trimtab.service import LOOPBACK, Command, Ground

__all__ = ["Alertmanager", "Exporter", "Prometheus"]

SHIPPED = Path(__file__).parent / "configuration"
TOLD = """# Written by trimtab up, which leaves it alone from now on: say here who is told.
# Alerts of which trimtab hook is told may start a round: see trigger.alerts.
route:
  receiver: nobody
  group_by: [alertname, project]
  routes:
    - matchers: ['trimtab_round="true"']
      receiver: rounds
    - matchers: ['alertname="TrimtabModelWorse"']
      receiver: rounds
receivers:
  - name: nobody
  - name: rounds
    webhook_configs:
      - url: HOOK
        send_resolved: false
        http_config: {authorization: {type: Bearer, credentials_file: 'TOKEN'}}
"""


class Exporter:
    """``trimtab metrics`` over every project."""

    name: ClassVar[str] = "exporter"
    after: ClassVar[tuple[str, ...]] = ("mlflow",)
    port: ClassVar[int | None] = 9464
    optional: ClassVar[bool] = False

    def given(self, ground: Ground) -> str | None:
        """Return none: an exporter reads what no other does."""
        return None

    def command(self, ground: Ground, port: int) -> Command:
        """Serve the metrics of every project."""
        address = f"http://{LOOPBACK}:{port}/metrics"
        configs = [str(path.absolute()) for path in ground.projects]
        overrides = [word for item in ground.overrides for word in ("--set", item)]
        return Command(
            (sys.executable, "-m", "trimtab", "metrics", *configs, "--port", str(port), *overrides),
            address,
            address,
        )


class Alertmanager:
    """Alertmanager, which tells nobody but the hook until its configuration in the stack's folder says whom."""

    name: ClassVar[str] = "alertmanager"
    after: ClassVar[tuple[str, ...]] = ("hook",)
    port: ClassVar[int | None] = 9093
    optional: ClassVar[bool] = True

    def given(self, ground: Ground) -> str | None:
        """Return none: another is named in Prometheus' own configuration."""
        return None

    def command(self, ground: Ground, port: int) -> Command:
        """Serve alerts."""
        address, kept = f"http://{LOOPBACK}:{port}", ground.own(self.name)
        config = kept / "alertmanager.yml"
        if not config.is_file():
            token = ground.environment["TRIMTAB_HOOK_TOKEN_FILE"]
            config.write_text(TOLD.replace("HOOK", ground.addresses["hook"]).replace("TOKEN", token))
        return Command(
            (
                _program("prometheus-alertmanager", "alertmanager"),
                f"--config.file={config}",
                f"--storage.path={kept / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}",
                "--cluster.listen-address=",
            ),
            address,
            f"{address}/-/ready",
        )


class Prometheus:
    """Prometheus with the shipped rules and pages; it scrapes the stack's exporter."""

    name: ClassVar[str] = "prometheus"
    after: ClassVar[tuple[str, ...]] = ("exporter", "alertmanager")
    port: ClassVar[int | None] = 9090
    optional: ClassVar[bool] = True

    def given(self, ground: Ground) -> str | None:
        """Return none: another scrapes the exporter by its own configuration."""
        return None

    def command(self, ground: Ground, port: int) -> Command:
        """Serve what was scraped; the page is at ``/consoles/trimtab.html``."""
        address, kept = f"http://{LOOPBACK}:{port}", ground.own(self.name)
        config = kept / "config"
        shutil.copytree(SHIPPED, config, dirs_exist_ok=True)
        (config / "targets").mkdir(exist_ok=True)
        for name in ("exporter", "alertmanager"):
            target = urlsplit(ground.addresses[name]).netloc
            (config / "targets" / f"{name}.yml").write_text(f'- targets: ["{target}"]\n')
        return Command(
            (
                _program("prometheus"),
                f"--config.file={config / 'prometheus.yml'}",
                f"--storage.tsdb.path={kept / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}",
                f"--web.console.templates={config / 'consoles'}",
                f"--web.console.libraries={config / 'consoles'}",
            ),
            address,
            f"{address}/-/ready",
        )


def _program(*names: str) -> str:
    """Return the path of the first of these programs that is installed."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise InputError(
            f"--with-prometheus: {names[0]} is not installed (on Debian: apt-get install prometheus "
            "prometheus-alertmanager); install it, or leave the option out"
        )
    return found
