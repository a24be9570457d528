"""Writing a benchmark's figures with what they depend on: versions, machine, date, seed."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("trimtab", "torch", "onnxruntime", "mlflow", "prefect", "evidently", "numpy", "pandas")
RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def kept(name: str) -> dict[str, Any]:
    """Return the figures that ``results/NAME.json`` holds; none where it is not there."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())["figures"]) if path.is_file() else {}


def save(name: str, figures: dict[str, Any], seed: int | list[int]) -> Path:
    """Write ``results/NAME.json`` and return its path."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "figures": figures,
        "seed": seed,
        "versions": {library: version(library) for library in LIBRARIES},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "date": datetime.now(UTC).date().isoformat(),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return path
