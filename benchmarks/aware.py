"""What training under simulated rounding gains over rounding afterwards, at equal bits, over seeds.

One float network a seed, for images and for a table. It is made int8 in three ways: rounded as it is, trained further
as a float network and then rounded, and trained just as long under simulated rounding. Whatever the second gains is no
merit of the rounding being known. Accuracy is measured in ONNX Runtime on rows that nothing saw.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cifar
import numpy as np
import pandas as pd
from courses import electricity
from figures import save
from rich.console import Console
from rich.table import Table
from seeded import over_seeds, plain

from trimtab.artifact import Model
from trimtab.data import Data, Role, Rows
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_torch.aware import QuantizeAware
from trimtab_torch.classifier import Classifier
from trimtab_torch.distill import Distill
from trimtab_torch.export import Export

CALIBRATION = 256
GENTLER = 0.1
"""Share of the float training's learning rate in both further trainings."""
TAUGHT = 0.5
"""Share of the float network's answers in the loss of both."""


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    seeds
        How many.
    images, unseen
        Of CIFAR, to train and to judge on.
    image_epochs, table_epochs
        Of the float network, and of each further training.
    """

    seeds: int
    images: int
    unseen: int
    image_epochs: tuple[int, int]
    table_epochs: tuple[int, int]


FULL = Size(seeds=3, images=6500, unseen=5000, image_epochs=(12, 4), table_epochs=(15, 5))
QUICK = Size(seeds=2, images=800, unseen=1000, image_epochs=(3, 1), table_epochs=(2, 1))


@dataclass(frozen=True)
class Case:
    """One data set: its schema, rows to train on, rows that nothing sees, and what trains."""

    schema: Schema
    known: Rows
    unseen: Rows
    trainer: Classifier
    epochs: int


def photographs(seed: int, size: Size) -> Case:
    """Take CIFAR-10 and the network of the other benchmarks."""
    parts = [cifar.images("train", 2 * (size.images + CALIBRATION)), cifar.images("test", size.unseen)]
    pixels, labels = parts[0][0][:100], parts[0][1][:100]
    frame = pd.DataFrame({"image": list(pixels.reshape(len(pixels), -1)), "label": labels})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=cifar.SHAPE)}, frame, label="label")
    known, unseen = (Rows({"image": p}, y, np.arange(len(y), dtype=np.uint64)) for p, y in parts)
    drawn = np.random.default_rng(seed).permutation(len(known))[: size.images + CALIBRATION]
    epochs, further = size.image_epochs
    trainer = Classifier(
        "cifar:ResNet14", epochs=epochs, learning_rate=0.1, batch_size=128, flip=True, shift=4, precision="float32"
    )
    return Case(schema, known.take(drawn), unseen, trainer, further)


def prices(seed: int, size: Size) -> Case:
    """Take electricity prices: two thirds of the stream to learn from, what comes after them to judge."""
    course = electricity(seed)
    names = [str(name) for name in course.features]
    frame = course.features.assign(y=course.labels)
    schema = Schema.freeze({name: Feature() for name in names}, frame, label="y")
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(len(frame), dtype=np.uint64))
    past = 2 * len(frame) // 3
    drawn = np.random.default_rng(seed).permutation(past)
    epochs, further = size.table_epochs
    trainer = Classifier("trimtab_torch.networks:Mlp", {"hidden": [64, 64]}, epochs=epochs)
    return Case(schema, rows.take(drawn), rows.take(np.arange(past, len(frame))), trainer, further)


CASES = {"cifar": photographs, "electricity": prices}


@dataclass
class Workshop:
    """Builds models of one case, each in a folder of its own, and keeps the seconds that each took."""

    case: Case
    folder: Path
    seed: int
    data: Data = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = self.case.known
        roles = {Role.CALIBRATION: np.arange(CALIBRATION), Role.TRAIN: np.arange(CALIBRATION, len(known))}
        self.data = Data.write(self.folder / "data", {role: known.take(at) for role, at in roles.items()})

    def make(self, name: str, technique: Any, model: Model | None = None, teacher: Model | None = None) -> Model:
        """Apply a technique, or fit with a trainer."""
        where, begin = self.folder / name, time.perf_counter()
        where.mkdir()
        job = Job(where, self.seed, self.case.schema, teacher)
        made: Model = technique.fit(self.data, job) if model is None else technique.apply(model, self.data, job)
        self.seconds[name] = time.perf_counter() - begin
        return made

    def accuracy(self, model: Model) -> float:
        """Return the share of unseen rows that a model gets right."""
        said = OnnxRuntime().load(model, 1, 256).predict(self.case.unseen.inputs).argmax(axis=1)
        return float((said == self.case.unseen.labels).mean())


def compare(work: tuple[str, int, Size]) -> dict[str, Any]:
    """Train one float network, make it int8 in three ways, and measure all of them."""
    name, seed, size = work
    case = CASES[name](seed, size)
    rate = GENTLER * case.trainer.learning_rate
    with tempfile.TemporaryDirectory(prefix="trimtab-aware-") as place:
        shop = Workshop(case, Path(place), seed)
        # Every layer is to be in 8 bits, whatever it costs: equal bits.
        rounding = QuantizeStatic(max_drop=None)
        parent = shop.make("float", case.trainer)
        served = shop.make("exported", Export(), parent)
        further = Distill(epochs=case.epochs, learning_rate=rate, weight=TAUGHT)
        tuned = shop.make("tuned", further, parent, parent)
        models = {
            "float": served,
            "static": shop.make("static", rounding, served),
            "tuned, static": shop.make("tuned, static", rounding, shop.make("tuned, exported", Export(), tuned)),
            "aware": shop.make("aware", QuantizeAware(case.epochs, rate, distill=TAUGHT), parent, parent),
        }
        return {
            "accuracy": {key: shop.accuracy(model) for key, model in models.items()},
            "bytes": {key: model.size_bytes for key, model in models.items()},
            "seconds": shop.seconds,
        }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the differences of accuracy in points over seeds, with Student's intervals at 95 %.

    Examples
    --------
    >>> run = {"accuracy": {"float": 0.8, "static": 0.7, "tuned, static": 0.75, "aware": 0.8}}
    >>> round(summary([run, run])["aware - static"]["value"], 6)
    10.0
    """
    pairs = (("aware", "static"), ("aware", "tuned, static"), ("static", "float"), ("aware", "float"))
    return {
        f"{one} - {other}": plain(over_seeds([100 * (r["accuracy"][one] - r["accuracy"][other]) for r in runs]))
        for one, other in pairs
    }


def show(name: str, figures: Mapping[str, Any], console: Console) -> None:
    """Print what was found of one data set."""
    table = Table("difference", "points", "from", "to", title=name)
    for pair, interval in figures["points"].items():
        bounds = (interval[key] for key in ("value", "low", "high"))
        table.add_row(pair, *("-" if b is None or math.isnan(b) else f"{b:+.2f}" for b in bounds))
    console.print(table)
    for run in figures["runs"]:
        console.print({key: round(value, 4) for key, value in run["accuracy"].items()}, run["bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes; the figures mean little")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    size, console, begin = QUICK if arguments.quick else FULL, Console(width=160), time.perf_counter()
    seeds = [arguments.seed + number for number in range(size.seeds)]
    work = [(name, seed, size) for name in CASES for seed in seeds]
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(compare, work))
    figures: dict[str, Any] = {"size": asdict(size)}
    for name in CASES:
        runs = [run for (case, _, _), run in zip(work, found, strict=True) if case == name]
        figures[name] = {"points": summary(runs), "runs": runs}
        show(name, figures[name], console)
    figures["minutes"] = (time.perf_counter() - begin) / 60
    console.print(save("aware-quick" if arguments.quick else "aware", figures, seeds))


if __name__ == "__main__":
    main()
