"""The exporter of the stack."""

from __future__ import annotations

import sys
from typing import ClassVar

from trimtab.service import LOOPBACK, Command, Ground

__all__ = ["Exporter"]


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
