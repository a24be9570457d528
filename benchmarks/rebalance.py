"""How much of a segment's gap `rebalance` closes, what it costs on all rows, and what the gate says of it.

A table of two sites: what a row's label follows from has one sign turned round at the new site, and few training rows
come from there, so that a network is about ten points worse at it. The network is then trained further: as before, on
rows without the new site (which widens the gap), and with rebalanced rows. The gate judges all of them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figures import save
from rich.console import Console
from rich.table import Table
from seeded import over_seeds, plain

from trimtab.artifact import Model
from trimtab.benchmark import Quality, Scores
from trimtab.data import Data, Role, Rows, segments_of
from trimtab.gate import Gate, Verdict
from trimtab.intervals import Interval
from trimtab.metric import Accuracy, Answers
from trimtab.recipe import Step
from trimtab.technique import Job
from trimtab.timing import Latency
from trimtab.window import Feature, Schema
from trimtab_torch.classifier import Classifier
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import predict

NEW, OLD = "site=new", "site=old"
SHARE = 0.07
ROWS, JUDGED = 2500, 20_000
NUMBERS = ("a", "b", "c", "d")
FEATURES = {**{name: Feature() for name in NUMBERS}, "site": Feature(kind="categorical")}
BALANCED: Mapping[str, Mapping[str, Any]] = {
    f"rebalance, {how}, strength {strength:g}": {"by": "segment", "how": how, "strength": strength}
    for how in ("weights", "sampling")
    for strength in (0.5, 1.0)
}
DEFAULT = "rebalance, weights, strength 1"
GATE = Gate(max_segment_drop=0.05, max_gap_rise=0.02)
AS_FAST = Latency(1.0, 1.0, Interval(1.0, 1.0, 1.0), False)


def table(rows: int, seed: int) -> pd.DataFrame:
    """Draw rows: few of them from the new site, and 3 % of the labels wrong at either."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, len(NUMBERS))), columns=list(NUMBERS))
    new = rng.random(rows) < SHARE
    edge = frame["a"] + np.where(new, -1.0, 1.0) * frame["b"] + 0.5 * frame["c"]
    yes = (edge > 0) ^ (rng.random(rows) < 0.03)
    return frame.assign(site=np.where(new, "new", "old"), y=np.where(yes, "yes", "no"))


def encoded(schema: Schema, frame: pd.DataFrame) -> Rows:
    """Return the rows as a round has them, with their segments."""
    groups = np.arange(len(frame), dtype=np.uint64)
    return Rows(schema.encode(frame), schema.encode_labels(frame), groups, segments_of(frame, ["site"]))


class Bench:
    """A network of one seed, and the rows that it learns from and is judged on."""

    def __init__(self, folder: Path, seed: int) -> None:
        frame = table(ROWS, seed)
        self.folder, self.seed, self._steps = folder, seed, 0
        self.schema = Schema.freeze(FEATURES, frame, label="y")
        self.judge = encoded(self.schema, table(JUDGED, 10_000 + seed))
        rows = encoded(self.schema, frame)
        self.data = Data.write(folder / "data", {Role.TRAIN: rows})
        self.old = Data.write(folder / "old", {Role.TRAIN: rows.take(_at(rows, OLD))})
        trainer = Classifier("trimtab_torch.networks:Mlp", {"hidden": [32, 32]}, epochs=10)
        self.parent = trainer.fit(self.data, self._job())

    def _job(self) -> Job:
        self._steps += 1
        folder = self.folder / f"step-{self._steps}"
        folder.mkdir()
        return Job(folder, self.seed, self.schema)

    def train(self, technique: str, settings: Mapping[str, Any], data: Data) -> Model:
        """Train the parent further."""
        return Step(technique=technique, settings=dict(settings)).load().apply(self.parent, data, self._job())

    def scores(self, model: Model) -> Scores:
        """Return a model's answers on the judge rows, as fast and as large as any other's."""
        loaded = FloatModel.load(model)
        probabilities = predict(loaded.network, loaded.prepare(self.judge.inputs), self._job()).softmax(dim=1).numpy()
        judged = Answers(probabilities, self.judge.labels, self.judge.groups, self.judge.segments)
        return Scores(judged, Quality.of(Accuracy(), judged, judged), AS_FAST, 1)


def _at(rows: Rows, segment: str) -> Any:
    return (np.asarray(rows.segments) == segment).any(axis=1)


def gap_of(scores: Scores) -> tuple[float, float]:
    """Return the accuracy on all rows, and by how much that at the new site is behind it."""
    judged, metric = scores.judged, Accuracy()
    right = metric.values(judged.outputs, judged.labels)
    whole = float(right.mean())
    return whole, whole - float(right[(np.asarray(judged.segments) == NEW).any(axis=1)].mean())


def judged_by_gate(challenger: Scores, champion: Scores) -> Verdict:
    """Return the gate's verdict."""
    return GATE.judge(challenger, champion, champion, metric=Accuracy())


def one(seed: int) -> dict[str, dict[str, Any]]:
    """Train one network further in every way."""
    with tempfile.TemporaryDirectory(prefix="trimtab-rebalance-") as place:
        bench = Bench(Path(place), seed)
        made = {
            "the champion": bench.parent,
            "finetune": bench.train("finetune", {}, bench.data),
            "finetune without the new site": bench.train("finetune", {"epochs": 30}, bench.old),
            **{name: bench.train("rebalance", settings, bench.data) for name, settings in BALANCED.items()},
        }
        champion = bench.scores(bench.parent)
        told = {}
        for name, model in made.items():
            scores = bench.scores(model)
            (whole, gap), verdict = gap_of(scores), judged_by_gate(scores, champion)
            told[name] = {
                "accuracy": whole,
                "gap": gap,
                "outcome": verdict.outcome.value,
                "gains": list(verdict.gains),
                "reason": verdict.reasons[0],
            }
        return told


def summary(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return means over seeds, the largest gap of any seed, and how often the gate let each way pass."""
    ways = {}
    for name in next(iter(runs.values())):
        seeds = [run[name] for run in runs.values()]
        gained = [run[name]["accuracy"] - run["the champion"]["accuracy"] for run in runs.values()]
        ways[name] = {
            "accuracy": plain(over_seeds([s["accuracy"] for s in seeds])),
            "gained": plain(over_seeds(gained)),
            "gap": plain(over_seeds([s["gap"] for s in seeds])),
            "largest_gap": max(s["gap"] for s in seeds),
            "passed": sum(s["outcome"] == "passed" for s in seeds),
            "rejected": sum(s["outcome"] == "rejected" for s in seeds),
        }
    keys = ("gap", "largest_gap", "gained")
    return {"default": {key: ways[DEFAULT][key] for key in keys}, "before": ways["the champion"]["gap"], "ways": ways}


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print a table of means over seeds."""
    columns = ("way", "accuracy", "gained", "gap", "largest gap", "gate: passed", "rejected")
    printed = Table(*columns)
    for name, told in figures["ways"].items():
        means = [f"{told[key]['value']:.3f}" for key in ("accuracy", "gained", "gap")]
        printed.add_row(name, *means, f"{told['largest_gap']:.3f}", str(told["passed"]), str(told["rejected"]))
    console.print(printed)


def main() -> None:
    """Run every seed, print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    given = parser.parse_args()
    seeds = list(range(given.seed, given.seed + (2 if given.quick else 10)))
    runs = {str(seed): one(seed) for seed in seeds}
    figures = summary(runs)
    console = Console(width=140)
    show(figures, console)
    named = "-".join(["rebalance", *(["quick"] if given.quick else [])])
    console.print(save(named, figures | {"runs": runs}, seeds))


if __name__ == "__main__":
    main()
