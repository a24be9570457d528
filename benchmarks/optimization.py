"""One search on CIFAR-10 for two targets, beside what single tools and a chain by hand make of the same network.

A float ResNet is trained to a plateau; a round then has up to an hour. Everything is compared with the
float network in ONNX Runtime, paired, and on 5,000 images that neither training nor search nor judging saw.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cifar import SHAPE, frame, images
from figures import save
from rich.console import Console
from rich.table import Table

from trimtab import champion, first, round
from trimtab.data import Rows
from trimtab.errors import ArtifactError
from trimtab.intervals import Interval, paired_difference
from trimtab.loadable import Loadable
from trimtab.metric import Answers, answer
from trimtab.parts import Parts, assemble
from trimtab.recipe import Kitchen, Recipe, Step
from trimtab.runtime import CHAMPION
from trimtab.settings import Project
from trimtab.stand import loadable
from trimtab.timing import compare

BATCHES = (1, 32)
BATCH_ALIAS = "champion-batch"
TARGET = {"runtime": ["onnxruntime", "openvino"], "threads": 1, "max_size_mb": 0.148, "prefer": "quality"}
"""Small enough in any case, then as good as can be: every shape that small is fast."""


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    rows
        Training images.
    epochs, tuning
        Of the float network, and of the longest distillation.
    minutes, candidates
        Of the search.
    seconds
        Of each paired timing.
    """

    rows: int
    epochs: int
    tuning: int
    minutes: float
    candidates: int
    seconds: float


FULL = Size(rows=20_000, epochs=30, tuning=36, minutes=60, candidates=16, seconds=10)
QUICK = Size(rows=4_000, epochs=4, tuning=4, minutes=4, candidates=6, seconds=2)


def settings(folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """Return the project: what a user would write."""
    return {
        "name": "cifar",
        "seed": seed,
        "home": str(folder / "home"),
        "source": {"path": str(folder / "rows-*.parquet"), "label": "label", "id": "id"},
        "features": {"image": {"kind": "tensor", "shape": list(SHAPE)}},
        "window": {"every": 5000, "start": size.rows},
        "data": {"train": "all", "split": {"train": 0.76, "calibration": 0.02, "search": 0.07, "judge": 0.15}},
        "model": {
            "factory": "cifar:ResNet14",
            "epochs": size.epochs,
            "learning_rate": 0.1,
            "batch_size": 128,
            "flip": True,
            "shift": 4,
        },
        "monitors": {"use": ["integrity"]},
        "targets": [
            {"batch": 1, **TARGET},
            {"name": "batch", "batch": 32, **TARGET},
        ],
        "optimize": {
            "techniques": [
                {
                    "prune.channel": {
                        "ratio": {"low": 0.35, "high": 0.5},
                        "scope": ["layer", "sensitivity"],
                        "round_to": [8, 16],
                    }
                },
                {"distill": {"epochs": size.tuning, "learning_rate": 0.05, "weight": 0.9}},
                "export",
                "quantize.static",
                "quantize.nncf",
            ],
            "sampler": "tpe",
            "halving": {"factor": 3, "levels": 3},
            "candidates": size.candidates,
            "finalists": 2,
            "minutes": size.minutes,
            "threads": 2,
        },
        "gate": {"max_quality_drop": 0.025, "max_total_drop": 0.025, "confidence": 0.8},
        "benchmark": {"seconds": size.seconds, "energy": {"meter": "codecarbon"}},
    }


def begin(folder: Path, size: Size, seed: int) -> Parts:
    """Lay down the project and train the float network; a folder that was begun is gone on with."""
    config = folder / "cifar.yaml"
    if not config.exists():
        frame("train", size.rows).to_parquet(folder / "rows-1.parquet", index=False)
        config.write_text(yaml.safe_dump(settings(folder, size, seed), sort_keys=False))
    return assemble(Project.load(config), beside=Path(__file__).parent)


def single_tools(parts: Parts, size: Size) -> dict[str, Loadable]:
    """Build what others would: each quantizer by its defaults, and the chain by hand."""
    serving = champion.load(parts, parts.journal.promotions()[0].version)
    data = next((parts.folder / "rounds").glob("*manual*/rows"))
    from trimtab.data import Data

    kitchen = Kitchen(
        serving.parent,
        serving.lean,
        Data.write(data / "data", {}),
        serving.schema,
        parts.folder / "steps",
        parts.project.seed,
        threads=2,
        factory="cifar:ResNet14",
        training=parts.training,
    )
    chain = [
        Step(technique="prune.channel", settings={"ratio": 0.5}),
        Step(technique="distill", settings={"epochs": max(1, size.tuning // 3), "learning_rate": 0.05}),
        Step(technique="export"),
        Step(technique="quantize.static"),
    ]
    recipes = {
        "quantize.static alone": ("onnxruntime", Recipe(steps=(Step(technique="export"), chain[-1]))),
        "quantize.nncf alone": ("openvino", Recipe(steps=(Step(technique="export"), Step(technique="quantize.nncf")))),
        "chain by hand": ("onnxruntime", Recipe(steps=tuple(chain))),
    }
    made = {
        name: Loadable(runtime, kitchen.build(recipe, ("onnx", "openvino")).model)
        for name, (runtime, recipe) in recipes.items()
    }
    return {**made, "chain by hand on openvino": dataclasses.replace(made["chain by hand"], runtime="openvino")}


def timed(base: Loadable, rivals: Mapping[str, Loadable], rows: Rows, batch: int, seconds: float) -> dict[str, Any]:
    """Time every rival beside the float network."""
    found = compare(base, rivals, rows, batch=batch, seconds=seconds, confidence=0.95, seed=1)
    timings = {name: latency for name, latency in found.items() if not isinstance(latency, ArtifactError)}
    if failed := [f"{name}: {found[name]}" for name in found.keys() - timings.keys()]:
        raise SystemExit("; ".join(failed))
    return {name: dataclasses.asdict(latency) for name, latency in timings.items()}


def change(base: Answers, rival: Answers) -> Interval:
    """Return the change of accuracy on the same rows, with its interval at 95 %."""
    right = [(a.outputs.argmax(axis=1) == a.labels).astype(np.float64) for a in (rival, base)]
    return paired_difference(right[0], right[1], base.groups, 0.95)


def measure(parts: Parts, size: Size) -> dict[str, Any]:
    """Measure the winners and their rivals on the images that nothing saw."""
    pixels, labels = images("test")
    unseen = Rows({"image": pixels}, labels, np.arange(len(labels), dtype=np.uint64))
    classes = list(champion.load(parts, 1).schema.classes)
    from cifar import CLASSES

    codes = np.array([classes.index(CLASSES[label]) for label in labels])
    unseen = dataclasses.replace(unseen, labels=codes)
    base = loadable(parts, champion.load(parts, parts.journal.promotions()[0].version))
    rivals = single_tools(parts, size)
    for alias in (CHAMPION, BATCH_ALIAS):
        rivals[f"winner ({alias})"] = loadable(parts, champion.load(parts, parts.journal.promotions(alias)[-1].version))
    told = answer(base.load(1, 256), unseen)
    figures: dict[str, Any] = {"accuracy_float": float((told.outputs.argmax(axis=1) == codes).mean()), "models": {}}
    by_batch = {batch: timed(base, rivals, unseen, batch, size.seconds) for batch in BATCHES}
    for name, rival in rivals.items():
        moved = change(told, answer(rival.load(1, 256), unseen))
        figures["models"][name] = {
            "runtime": rival.runtime,
            "size_ratio": rival.model.size_bytes / base.model.size_bytes,
            "accuracy_change": dataclasses.asdict(moved),
            **{f"batch{batch}": by_batch[batch][name] for batch in BATCHES},
        }
    one, many = (figures["models"][f"winner ({alias})"] for alias in (CHAMPION, BATCH_ALIAS))
    drops = [-m["accuracy_change"]["value"] for m in (one, many)]
    return figures | {
        "speedup_batch1": one["batch1"]["speedup"],
        "speedup_batch32": many["batch32"]["speedup"],
        "contended_batch1": one["batch1"]["contended"],
        "contended_batch32": many["batch32"]["contended"],
        "size_ratio": max(one["size_ratio"], many["size_ratio"]),
        "accuracy_drop": max(drops),
        "accuracy_drop_upper": max(-m["accuracy_change"]["low"] for m in (one, many)),
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(title=f"Against the float network in ONNX Runtime ({figures['accuracy_float']:.3f} right)")
    for name in ("model", "runtime", "batch 1", "batch 32", "bytes", "accuracy"):
        table.add_column(name)
    for name, m in figures["models"].items():
        speeds = [Interval(**m[f"batch{batch}"]["speedup"]) for batch in BATCHES]
        moved = Interval(**m["accuracy_change"])
        table.add_row(name, m["runtime"], *(f"{s:.2f}" for s in speeds), f"{m['size_ratio']:.3f}", f"{moved:+.4f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes; the figures mean little")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="go on in this folder, instead of a new one")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="trimtab-optimization-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=160)
    parts = begin(folder, size, arguments.seed)
    clock = time.perf_counter()
    if champion.reconcile(parts) is None:
        first.begin(parts)
    trained = time.perf_counter() - clock
    clock = time.perf_counter()
    asked = round.optimize(parts, round.request_by_hand(parts, "the benchmark"))
    searched = time.perf_counter() - clock
    console.print(f"round: {asked.outcome}, {searched / 60:.1f} minutes; float network {trained / 60:.1f} minutes")
    for candidate in asked.detail["candidates"]:
        console.print(candidate["recipe"], candidate["outcome"], candidate["look"], highlight=False)
    figures = measure(parts, size) | {
        "training_minutes": trained / 60,
        "search_minutes": searched / 60,
        "outcome": asked.outcome,
        "targets": asked.detail["targets"],
        "candidates": [
            {k: c[k] for k in ("recipe", "outcome", "reasons", "look", "metrics", "seconds")}
            for c in asked.detail["candidates"]
        ],
    }
    show(figures, console)
    console.print(save("optimization-quick" if arguments.quick else "optimization", figures, arguments.seed))


if __name__ == "__main__":
    main()
