"""What the loop adds to its work: building on two workers, a round beside real servers, and watching 200 projects.

The round is that of the digits, with twelve candidates that are pruned and distilled. What is told of scale is the
building of its candidates by one warm worker and by two, in turn, each on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml
from figures import kept, save
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table
from rounds import rows
from scrape import rename
from servers import servers

from trimtab import loop, round
from trimtab.candidate import elapsed
from trimtab.executor import Direct, Silent
from trimtab.history import Round
from trimtab.journal import Journal
from trimtab.parts import Parts, assemble
from trimtab.runner import Processes, Workers
from trimtab.settings import Project
from trimtab_prefect.carrier import PrefectCarrier
from trimtab_sklearn.digits import write_stream

P = ParamSpec("P")
T = TypeVar("T")
CANDIDATES = 12
WINDOW = 400
SEED = 0


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    epochs
        That each candidate of a round is distilled: the round's building takes four CPU minutes and more.
    repeats
        Rounds of one worker, and as many of two.
    projects
        That are watched.
    """

    epochs: int
    repeats: int
    projects: int


FULL = Size(epochs=38, repeats=3, projects=200)
QUICK = Size(epochs=2, repeats=1, projects=10)


def main() -> None:
    """Run the parts, keep the figures of each as soon as they are there, and print what is told of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, two epochs, 10 projects; nothing is kept")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas between; all by default")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--only: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in names:
            told = PARTS[name](place, QUICK if given.quick else FULL)
            found |= told
            if not given.quick:
                print(save("loop", kept("loop") | told, SEED))
    table = Table("what", "figure", title=f"a round of {CANDIDATES} candidates, and many projects")
    for key, (what, digits_shown) in TOLD.items():
        if key in found:
            table.add_row(what, f"{found[key]:.{digits_shown}f}")
    Console().print(table)


TOLD = {
    "scale_2": ("two workers beside one, times as fast", 2),
    "overhead": ("share of a round that is not training, building, benchmarking", 3),
    "watch_200_s": ("CPU seconds a project watched", 2),
}


# a round of the digits


def digits(place: Path, epochs: int) -> Path:
    """Write rows and project file of the digits; every candidate is cut and trained by itself."""
    write_stream(place / "data", SEED)
    ratios = [percent / 100 for percent in range(30, 30 + 4 * CANDIDATES, 4)]
    steps = [[("prune.channel", {"ratio": ratio}), ("distill", {"epochs": epochs}), ("export", {})] for ratio in ratios]
    recipes = [{"steps": [{"technique": name, "settings": s} for name, s in recipe]} for recipe in steps]
    settings = {
        "name": "digits",
        "seed": SEED,
        "source": {
            "kind": "parquet",
            "path": str(place / "data" / "stream" / "*.parquet"),
            "timestamp": "captured_at",
            "label": "digit",
            "id": "row_id",
        },
        "features": {"image": {"kind": "tensor", "shape": [1, 32, 32]}},
        "window": {"every": "7d", "start": "2026-01-12"},
        "data": {
            "train": "last 3 windows",
            "group": "scan_id",
            "split": {"train": 0.6, "calibration": 0.05, "search": 0.1, "judge": 0.25},
        },
        "model": {
            "trainer": "torch.classifier",
            "factory": "trimtab_torch.networks:SmallResNet",
            "arguments": {"widths": [32, 64, 128]},
            "epochs": 6,
        },
        "trigger": {"on": []},
        "optimize": {
            "techniques": [{"prune.channel": {"ratio": ratios}}, {"distill": {"epochs": epochs}}, "export"],
            "recipes": recipes,
            "candidates": CANDIDATES,
            "together": CANDIDATES,
            "minutes": 60,
            "threads": 1,
        },
    }
    config = place / "digits.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    return config


class Timed(Direct):
    """Runs each step, and adds up how long steps of each kind took, by the first word of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        begin = time.perf_counter()
        try:
            return super().call(name, function, *args, **kwargs)
        finally:
            kind = name.partition(" ")[0]
            self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - begin


def scaled(place: Path, size: Size) -> dict[str, Any]:
    """Build the candidates of one round with one worker and with two, in turn, from the same champion."""
    config = digits(place / "scale", size.epochs)
    home = config.parent / "first"
    list(loop.watch(opened(config, home), replay=True))
    teams = {number: Workers(Processes(number), config.parent) for number in (1, 2)}
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for repeat in range(size.repeats):
        for number in (1, 2) if repeat % 2 == 0 else (2, 1):
            runs[number].append(one_round(config, home, repeat, teams[number], number))
    for workers in teams.values():
        workers.close()
    ratios = [a["build_s"] / b["build_s"] for a, b in zip(runs[1], runs[2], strict=True)]
    told = {"candidates": CANDIDATES, "epochs": size.epochs, "one_worker": runs[1], "two_workers": runs[2]}
    return {"scale_2": statistics.median(ratios), "scale_2_each": ratios, "scale": told}


def opened(config: Path, home: Path, **changes: Any) -> Parts:
    project = Project.load(config, [f"home={home}"])
    return dataclasses.replace(assemble(project, beside=config.parent), **changes)


def one_round(config: Path, first: Path, repeat: int, workers: Workers, number: int) -> dict[str, float]:
    """Run one round on a copy of the project's home, by workers that have loaded what they need."""
    home = config.parent / f"round-{repeat}-{number}"
    shutil.copytree(first, home)
    timed = Timed()
    parts = opened(config, home, executor=timed, workers=workers)
    before = processor_seconds(workers, number)
    asked = round.optimize(parts, round.request_by_hand(parts, "a benchmark"))
    cpu = processor_seconds(workers, number) - before
    assert [c["outcome"] for c in asked.detail["candidates"]].count("failed") == 0, asked
    assert len(asked.detail["candidates"]) == CANDIDATES
    return {"build_s": timed.seconds["build"], "build_cpu_s": cpu, "load": os.getloadavg()[0]}


def processor_seconds(workers: Workers, number: int) -> float:
    """Return what the workers took so far; each must answer once."""
    told: dict[int, float] = {}
    while len(told) < number:
        asked = [workers.submit(spent, 0.5) for _ in range(2 * number)]
        told |= dict(future.result() for future in asked)
    return sum(told.values())


def spent(seconds: float) -> tuple[int, float]:
    """Load what builds the candidates, wait for the others to be asked too, and say what this process took."""
    import trimtab_torch.distill
    import trimtab_torch.export
    import trimtab_torch.prune  # noqa: F401

    time.sleep(seconds)
    return os.getpid(), time.process_time()


# the same with servers


def carried(place: Path, size: Size) -> dict[str, Any]:
    """Run the round as a Prefect flow, with all servers, and say what of its time was none of its work."""
    config = digits(place / "round", size.epochs)
    home = config.parent / "carried"
    with servers(config.parent / "servers") as url:
        overrides = [f"home={home}", f"registry.url={url}", "runner={kind: processes, workers: 2}"]
        carrier = PrefectCarrier()
        carrier.watch(config, overrides, True, Silent())
        begin = time.perf_counter()
        asked = carrier.optimize(config, overrides, "a benchmark", "a benchmark", Silent())
        total = time.perf_counter() - begin
    journal = Journal(f"sqlite:///{home / 'journal.db'}", "digits")
    building, measuring = worked(journal, asked)
    share = 1 - (building + measuring) / total
    assert len(asked.detail["candidates"]) == CANDIDATES
    told = {"candidates": CANDIDATES, "epochs": size.epochs, "total_s": total}
    return {"overhead": share, "round": told | {"building_s": building, "benchmarking_s": measuring}}


def worked(journal: Journal, asked: Round) -> tuple[float, float]:
    """Return the seconds in which a round's steps were built, and those in which models were measured."""
    steps = [s for _, _, s in journal.records("step") if s["round"] == asked.operation]
    measured = [m for _, _, m in journal.records("measured") if m["round"] == asked.operation]
    return elapsed(steps), sum(float(m["seconds"]) for m in measured)


# many projects


def watched(place: Path, size: Size) -> dict[str, Any]:
    """Watch one new window of each of many projects, one after another in this process, with all servers."""
    with servers(place / "watch" / "servers") as url:
        return watched_at(url, place / "watch", size.projects)


def watched_at(url: str, place: Path, number: int) -> dict[str, Any]:
    first = small(place, 0, url)
    list(loop.watch(parts_of(first), replay=True))
    for other in range(1, number):
        clone(place, other, url)
    for other in range(number):
        rows(WINDOW, 2).to_csv(place / f"p{other}" / "rows-2.csv", index=False)
    begin, before = time.perf_counter(), cpu_seconds()
    for other in range(number):
        reports = list(loop.watch(parts_of(small(place, other, url)), replay=True))
        assert [r.window for r in reports if r.decision is not None] == [2], reports
    taken, wall = cpu_seconds() - before, time.perf_counter() - begin
    return {"watch_200_s": taken / number, "projects": number, "watch_wall_s": wall / number}


def cpu_seconds() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def parts_of(config: Path) -> Parts:
    return assemble(Project.load(config), beside=config.parent)


def small(place: Path, number: int, url: str) -> Path:
    """Write the file of a project, and its rows until window 1."""
    home = place / f"p{number}"
    home.mkdir(exist_ok=True)
    config = home / "p.yaml"
    settings = {
        "name": f"p{number}",
        "home": str(home / "home"),
        "source": {"kind": "csv", "path": str(home / "rows-*.csv"), "label": "good", "id": "id"},
        "features": {**{name: {} for name in ("width", "height", "weight", "age")}, "sort": {"kind": "categorical"}},
        "window": {"every": WINDOW, "start": 2 * WINDOW},
        "model": {"factory": "trimtab_torch.networks:Mlp", "arguments": {"hidden": [16]}, "epochs": 3},
        "trigger": {"on": []},
        "registry": {"url": url},
    }
    config.write_text(yaml.safe_dump(settings))
    for file, count, seed in (("rows-0.csv", 2 * WINDOW, 0), ("rows-1.csv", WINDOW, 1)):
        if not (home / file).is_file():
            rows(count, seed).to_csv(home / file, index=False)
    return config


def clone(place: Path, number: int, url: str) -> None:
    """Make a project with the first one's champion, journal and versions, under a name of its own."""
    small(place, number, url)
    name, home = f"p{number}", place / f"p{number}" / "home"
    shutil.copytree(place / "p0" / "home", home)
    rename(home / "journal.db", name)
    client = MlflowClient(tracking_uri=url, registry_uri=url)
    version = client.get_model_version_by_alias("p0", "champion")
    client.create_registered_model(name)
    model = version.source.removeprefix("models:/")
    client.create_model_version(name, version.source, version.run_id, tags=version.tags, model_id=model)
    client.set_registered_model_alias(name, "champion", "1")


PARTS: dict[str, Callable[[Path, Size], dict[str, Any]]] = {
    "scale": scaled,
    "round": carried,
    "watch": watched,
}
"""Each can be run alone; its figures take the place of those under the same keys."""

if __name__ == "__main__":
    main()
