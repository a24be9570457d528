"""What a search finds in so many training epochs: the joint one, beside drawing whole recipes at random.

The joint search grows a tree of shared steps, learns where to look, and stops early what does badly; the other
draws recipes at random, builds each from nothing and trains it in full. Both adapt the same network to the digits
of a new scanner, and are compared by the volume that their candidates cover of accuracy, latency and size.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from figures import save
from rich.console import Console
from rich.table import Table
from seeded import DRIFTED, NETWORK, Digits, plain, ratio

from trimtab import discover
from trimtab.candidate import Candidate
from trimtab.data import Data, Role, Rows, assign
from trimtab.errors import TrimtabError
from trimtab.evidence import Bench
from trimtab.loadable import Loadable
from trimtab.metric import Accuracy, answer, score
from trimtab.pareto import front, hypervolume
from trimtab.recipe import Kitchen, Recipe, Step
from trimtab.runtime import Setup, Target
from trimtab.search import Halving, Search
from trimtab.space import Space
from trimtab.technique import Job
from trimtab_torch.classifier import Classifier

SHARES = {Role.TRAIN: 0.55, Role.CALIBRATION: 0.05, Role.SEARCH: 0.15, Role.JUDGE: 0.25}
LEAST_ACCURACY = 0.8
MANY = 10_000

Losses = tuple[float, float, float]


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    budget
        Training epochs that each search may spend.
    epochs
        Of a full fine-tuning, and of a full distillation.
    seeds
        How many.
    seconds
        Of timing; a look takes a share of it.
    """

    budget: int
    epochs: int
    seeds: int
    seconds: float


FULL = Size(budget=144, epochs=9, seeds=10, seconds=2.0)
QUICK = Size(budget=48, epochs=6, seeds=2, seconds=1.0)


def space(epochs: int) -> Space:
    """Return what both search: which channels go and how many, and whether the weights are quantized."""
    return Space(
        [
            ("finetune", {"epochs": epochs}),
            (
                "prune.channel",
                {
                    "ratio": {"low": 0.2, "high": 0.9},
                    "scope": ["layer", "global", "sensitivity"],
                    "round_to": [4, 8, 16],
                },
            ),
            ("distill", {"epochs": epochs}),
            ("export", {}),
            ("quantize.static", {}),
        ]
    )


@dataclass
class Ground:
    """What both searches work on: the network of the old scanner, labelled rows of the new one, and one stopwatch.

    Networks of equal shape are timed once, so that chance in the timing prefers neither search.

    Parameters
    ----------
    kitchen
        Its store is the first search's; :meth:`fresh` gives another.
    bench
        Measures beside the network as it is.
    """

    kitchen: Kitchen
    bench: Bench
    _speedups: dict[str, float] = field(default_factory=dict)

    @classmethod
    def lay(cls, folder: Path, seed: int, size: Size, threads: int) -> Ground:
        """Write the rows of a seed, and train the network on those before the stream."""
        digits = Digits(folder / "digits", seed)
        schema, history = digits.schema, digits.history
        old = Data.write(folder / "history", {Role.TRAIN: _rows(digits, history)})
        (folder / "parent").mkdir()
        parent = Classifier(NETWORK, epochs=6).fit(old, Job(folder / "parent", seed, schema, threads=threads))
        drifted = digits.windows(DRIFTED)
        roles, groups = assign(drifted["scan_id"].tolist(), SHARES, str(seed))
        rows = _rows(digits, drifted, groups)
        data = Data.write(folder / "data", {role: rows.take(roles == role) for role in SHARES})
        kitchen = Kitchen(parent, parent, data, schema, folder / "steps", seed, threads, NETWORK)
        exported = kitchen.build(Recipe(steps=(Step(technique="export"),)))
        champion = Loadable("onnxruntime", exported.model)
        bench = Bench(folder / "looks", Target(), champion, data, None, Accuracy(), seconds=size.seconds, seed=seed)
        return cls(kitchen, bench)

    def fresh(self, store: Path) -> Kitchen:
        """Return a kitchen that has built nothing yet."""
        k = self.kitchen
        return Kitchen(k.parent, k.served, k.data, k.schema, store, k.seed, k.threads, k.factory)

    def measure(self, candidate: Candidate) -> tuple[Losses, Losses]:
        """Return the losses on the search rows, which a search is told, and on the judge rows, which it is not.

        Error; minus the logarithm of the speed-up beside the network as it is, paired; logarithm of the
        size relative to it.
        """
        look = self.bench.glance(candidate, SETUP)
        speedup = self._speedups.setdefault(_shape(candidate), look.speedup.value)
        judged = answer(Loadable("onnxruntime", candidate.model).load(1, 256), self.bench.data.rows(Role.JUDGE))
        error = 1 - score(Accuracy(), judged)
        cost = (-math.log(speedup), math.log(look.size_bytes / self.bench.champion.model.size_bytes))
        return (1 - look.quality, *cost), (error, *cost)


SETUP = Setup("onnxruntime")
REFERENCE: Losses = (1 - LEAST_ACCURACY, 0.0, 0.0)
"""Of the volume: what is right less often, or no faster and no smaller than the network as it is, counts nothing."""


def _rows(digits: Digits, frame: Any, groups: Any = None) -> Rows:
    labels = digits.schema.encode_labels(frame)
    alone = np.arange(len(frame), dtype=np.uint64)
    return Rows(digits.schema.encode(frame), labels, alone if groups is None else groups)


def _shape(candidate: Candidate) -> str:
    """Return a digest of all that a model's speed follows from: its operations, and the shapes and types of weights."""
    graph = onnx.load(candidate.model.folder / "model.onnx").graph
    told = [n.op_type for n in graph.node], [(i.data_type, list(i.dims)) for i in graph.initializer]
    return hashlib.sha256(repr(told).encode()).hexdigest()


@dataclass
class Found:
    """What a search built, in order.

    Parameters
    ----------
    epochs
        Spent when a candidate was finished.
    losses
        Of each on the judge rows.
    recipes
        Their names.
    begun, failed
        How many recipes were begun, and how many builds failed.
    seconds
        That the search took.
    """

    epochs: list[int] = field(default_factory=list)
    losses: list[Losses] = field(default_factory=list)
    recipes: list[str] = field(default_factory=list)
    begun: int = 0
    failed: int = 0
    seconds: float = 0.0

    def volume(self, budget: int) -> float:
        """Return the volume that the candidates finished within so many epochs cover."""
        inside = [losses for spent, losses in zip(self.epochs, self.losses, strict=True) if spent <= budget]
        return hypervolume(inside, REFERENCE)

    def front(self) -> list[dict[str, Any]]:
        """Describe the candidates that no other beats."""
        return [{"recipe": self.recipes[i], "losses": self.losses[i]} for i in front(self.losses)]


def explore(search: Search, kitchen: Callable[[int], Kitchen], ground: Ground, budget: int) -> Found:
    """Build what a search proposes, in the kitchen for each build, until so many epochs are spent."""
    found, begin, spent = Found(), time.perf_counter(), 0

    def tell(step: Mapping[str, Any]) -> None:
        nonlocal spent
        spent += step["effort"]

    number = 0
    while spent < budget and (task := search.ask()) is not None:
        found.begun += task.level == 0
        try:
            built = kitchen(number).build(task.recipe, tell=tell)
            told, judged = ground.measure(built)
        except TrimtabError:  # such as a ratio that removes nothing: a search learns that too
            search.tell(task, None)
            found.failed += 1
        else:
            search.tell(task, told)
            if spent <= budget:
                found.epochs.append(spent)
                found.losses.append(judged)
                found.recipes.append(task.recipe.name)
        number += 1
    found.seconds = time.perf_counter() - begin
    return found


def joint(ground: Ground, size: Size, seed: int) -> Found:
    """Search as a round does: the cheap first, TPE, early stopping, and one tree of steps."""
    all_ = space(size.epochs)
    sampler = discover.build("samplers", "tpe", {}, "optimize.sampler")
    search = Search(all_, sampler, seed, all_.untrained(), MANY, 3, Halving())
    return explore(search, lambda _: ground.kitchen, ground, size.budget)


def alone(ground: Ground, size: Size, seed: int, folder: Path) -> Found:
    """Draw recipes at random, and build each in full and from nothing."""
    sampler = discover.build("samplers", "random", {}, "optimize.sampler")
    search = Search(space(size.epochs), sampler, seed, (), MANY, 3)
    return explore(search, lambda number: ground.fresh(folder / str(number)), ground, size.budget)


def one(seed: int, size: Size, threads: int) -> dict[str, Any]:
    """Run both searches on the stream of one seed."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="trimtab-search-") as place:
        folder = Path(place)
        ground = Ground.lay(folder, seed, size, threads)
        found = {"joint": joint(ground, size, seed), "random": alone(ground, size, seed, folder / "alone")}
    volumes = {name: f.volume(size.budget) for name, f in found.items()}
    if not volumes["random"] > 0:
        raise SystemExit(f"seed {seed}: random search found nothing within the reference; raise the budget of epochs")
    told = {
        name: {
            "hypervolume": volumes[name],
            "hypervolume_at": {str(e): f.volume(e) for e in range(size.budget // 4, size.budget + 1, size.budget // 4)},
            "epochs": max(f.epochs),
            "begun": f.begun,
            "measured": len(f.losses),
            "failed": f.failed,
            "seconds": f.seconds,
            "front": f.front(),
        }
        for name, f in found.items()
    }
    print(f"seed {seed}: ratio {volumes['joint'] / volumes['random']:.2f}", flush=True)
    return {"ratio": volumes["joint"] / volumes["random"], **told}


def main() -> None:
    """Run every seed, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes; the figures mean little")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    seeds = list(range(given.seed, given.seed + size.seeds))
    console = Console(width=140)
    table = Table("seed", "search", "epochs", "recipes", "measured", "seconds", "volume", "ratio")
    runs: dict[str, Any] = {}
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(functools.partial(one, size=size, threads=given.threads), seeds)
    for seed, told in zip(seeds, found, strict=True):
        runs[str(seed)] = told
        for name in ("joint", "random"):
            t = told[name]
            figures = (f"{t['seconds']:.0f}", f"{t['hypervolume']:.3f}", f"{told['ratio']:.2f}")
            table.add_row(str(seed), name, str(t["epochs"]), str(t["begun"]), str(t["measured"]), *figures)
    mean = ratio([told["ratio"] for told in runs.values()])
    console.print(table, f"hypervolume ratio {mean:.2f}", highlight=False)
    reference = {"accuracy": LEAST_ACCURACY, "latency": "the parent's in fp32", "size": "the parent's in fp32"}
    kept = {"hypervolume_ratio": plain(mean), "reference": reference, "size": asdict(size), "seeds": runs}
    console.print(save("search-quick" if given.quick else "search", kept, seeds))


if __name__ == "__main__":
    main()
