"""The demo over several seeds: what is gained on the windows after the promotion, and in how many seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import save
from rich.console import Console
from rich.table import Table

TRIMTAB = Path(sys.executable).with_name("trimtab")
SEEDS = [0, 1, 2]


def run(seed: int) -> dict[str, Any]:
    """Run the demo once and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run([TRIMTAB, "demo", "--seed", str(seed)], cwd=folder, check=True, capture_output=True)
        seconds = time.perf_counter() - begin
        told = subprocess.run([TRIMTAB, "status", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    status = json.loads(told.stdout)
    story = [(w["finding"], w["decision"]) for w in status["windows"]]
    winner = next(c for c in status["rounds"][0]["candidates"] if c["won"])
    return {
        "seconds": seconds,
        "story_as_told": story
        == [("fine", "ignore")] * 4 + [("moved", "alert"), ("worse", "optimize")] + [("fine", "ignore")] * 2,
        "winner": winner["recipe"],
        "rejected": sum(c["outcome"] == "rejected" for c in status["rounds"][0]["candidates"]),
        **{k: v for k, v in status["gained"].items() if k not in ("windows", "first", "champion")},
    }


def main() -> None:
    """Print a table and keep the figures."""
    figures = {str(seed): run(seed) for seed in SEEDS}
    table = Table("seed", "seconds", "quality before", "after", "speed-up", "size", "winner", title="The demo")
    for seed, f in figures.items():
        table.add_row(
            seed,
            f"{f['seconds']:.0f}",
            f"{f['quality_before']:.3f}",
            f"{f['quality_after']:.3f}",
            f"{f['speedup']:.2f} ({f['speedup_low']:.2f} to {f['speedup_high']:.2f})",
            f"{f['size_ratio']:.2f}",
            f["winner"],
        )
    Console().print(table)
    print(save("seeds", figures, SEEDS))


if __name__ == "__main__":
    main()
