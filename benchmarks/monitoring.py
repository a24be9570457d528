"""Whether the monitors can be trusted: what they cost, how often they cry wolf, and what they find."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import detection
import footprint
import images
import policies
import quiet_years
import rates
import speed
from figures import kept, save
from rich.console import Console
from telling import Ground, Told

PARTS: dict[str, Callable[[Ground], Told]] = {
    "speed": speed.measure,
    "memory": footprint.memory,
    "scaling": footprint.scaling,
    "false-alarms": rates.false_alarms,
    "detection": detection.measure,
    "years": quiet_years.measure,
    "policies": policies.measure,
    "images": images.measure,
}
"""Each can be run alone; its figures take the place of those under the same keys."""


def main() -> None:
    """Run the parts, print their tables and keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes; the figures mean little")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas between; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once, where no time is taken")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--only: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    console = Console(width=140)
    named = "monitoring-quick" if given.quick else "monitoring"
    for name in names:
        begin = time.perf_counter()
        told = PARTS[name](Ground(given.seed, given.jobs, given.quick))
        figures = kept(named)
        seconds = figures.get("seconds", {}) | {name: time.perf_counter() - begin}
        console.print(*told.tables)
        console.print(save(named, figures | told.figures | {"seconds": seconds}, given.seed))


if __name__ == "__main__":
    main()
