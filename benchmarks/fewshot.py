"""What a few labelled rows after a drift are worth to `adapt.fewshot`, and to other ways to adapt.

A network is trained on the demo's digits by the old scanner. Of what the new scanner captures, half of the scans are
there to adapt to, and so many of their captures have labels; nothing else is seen. Quality is that on captures of the
other scans. Then the same again with two classes that changed names: what only labels can tell.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import save
from recalibrate import swapped
from rich.console import Console
from rich.table import Table
from seeded import DRIFTED, NETWORK, Digits, over_seeds, plain

from trimtab.artifact import Model
from trimtab.data import Data, Role, Rows, assign
from trimtab.intervals import Interval
from trimtab.recipe import Step
from trimtab.technique import Job
from trimtab_torch.classifier import Classifier
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import predict

WIDTHS = (8, 16, 32)
LABELS = (50, 200)
BAR = 50
RENAMED = (3, 5)
HALVES = {Role.TRAIN: 0.5, Role.JUDGE: 0.5}
TRIED: Mapping[str, Sequence[Step]] = {
    "as it was": (),
    "recalibrate": (Step(technique="recalibrate"),),
    "finetune": (Step(technique="finetune"),),
    "finetune, 12 epochs": (Step(technique="finetune", settings={"epochs": 12}),),
    "transfer, 6 and 6 epochs": (Step(technique="transfer"),),
    "finetune, 60 epochs": (Step(technique="finetune", settings={"epochs": 60}),),
    "transfer, 30 and 30 epochs": (Step(technique="transfer", settings={"epochs": 30}),),
    "head": (Step(technique="head"),),
    "recalibrate, then head, 60 epochs": (
        Step(technique="recalibrate"),
        Step(technique="head", settings={"epochs": 60}),
    ),
    "adapt.fewshot": (Step(technique="adapt.fewshot"),),
}


class Bench:
    """A network of one seed, and the new scanner's captures that it is adapted to and judged on."""

    def __init__(self, folder: Path, seed: int, threads: int) -> None:
        stream = Digits(folder / "digits", seed)
        frames = stream.history, stream.windows(DRIFTED)
        clean, new = (
            Rows(stream.schema.encode(f), stream.schema.encode_labels(f), f["scan_id"].to_numpy(np.uint64))
            for f in frames
        )
        roles, _ = assign(new.groups.tolist(), HALVES, str(seed))
        rng = np.random.default_rng(seed)
        halves = (new.take(roles == role) for role in HALVES)
        self.adapt, self.judge = (rows.take(rng.permutation(len(rows))) for rows in halves)
        self.folder, self.seed, self.threads, self.schema = folder, seed, threads, stream.schema
        self._steps = 0
        clean_data = Data.write(folder / "clean", {Role.TRAIN: clean})
        self.parent = Classifier(NETWORK, {"widths": WIDTHS}, epochs=6).fit(clean_data, self.job())

    def job(self) -> Job:
        """Return a job with a folder of its own."""
        self._steps += 1
        folder = self.folder / f"step-{self._steps}"
        folder.mkdir()
        return Job(folder, self.seed, self.schema, threads=self.threads)

    def tried(self, labels: int, renamed: bool) -> dict[str, float]:
        """Adapt by every way to the first rows, and return the accuracy of each on the other half."""
        few, judge = self.adapt.take(np.arange(labels)), self.judge
        if renamed:
            few, judge = (dataclasses.replace(r, labels=swapped(r.labels, RENAMED)) for r in (few, judge))
        data = Data.write(self.folder / f"few-{labels}-{renamed}", {Role.TRAIN: few})
        found = {}
        for name, steps in TRIED.items():
            model = self.parent
            for step in steps:
                model = step.load().apply(model, data, self.job())
            found[name] = self.accuracy(model, judge)
        return found

    def accuracy(self, model: Model, rows: Rows) -> float:
        """Return the share of rows that a model is right about."""
        loaded = FloatModel.load(model)
        logits = predict(loaded.network, loaded.prepare(rows.inputs), self.job())
        return float((logits.argmax(1).numpy() == rows.labels).mean())


def one(seed: int, labels: Sequence[int], threads: int) -> dict[str, dict[str, float]]:
    """Try everything on one seed."""
    with tempfile.TemporaryDirectory(prefix="trimtab-fewshot-") as place:
        bench = Bench(Path(place), seed, threads)
        drift = {f"{count} labels": bench.tried(count, renamed=False) for count in labels}
        return drift | {f"{BAR} labels, two classes renamed": bench.tried(BAR, renamed=True)}


def summary(runs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return means over seeds, and by how much `adapt.fewshot` is ahead of each other way, paired by seed."""
    told: dict[str, Any] = {}
    for case in next(iter(runs.values())):
        seeds = [run[case] for run in runs.values()]
        told[case] = {
            name: {
                "accuracy": plain(over_seeds([run[name] for run in seeds])),
                "fewshot_ahead": plain(over_seeds([run["adapt.fewshot"] - run[name] for run in seeds])),
            }
            for name in seeds[0]
        }
    return {"fewshot_over_finetune": told[f"{BAR} labels"]["finetune"]["fewshot_ahead"], "cases": told}


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print a table of each case."""
    for case, ways in figures["cases"].items():
        table = Table("way", "accuracy", "adapt.fewshot is ahead by", title=case)
        for name, told in ways.items():
            table.add_row(name, *(_worded(told[key]) for key in ("accuracy", "fewshot_ahead")))
        console.print(table)


def _worded(told: Mapping[str, float | None]) -> str:
    return f"{told['value']:.3f}" if told["low"] is None else f"{Interval(**told):.3f}"  # type: ignore[arg-type]


def main() -> None:
    """Run every seed, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed and one number of labels")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--threads", type=int, default=1, help="of training")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    seeds = list(range(given.seed, given.seed + (1 if given.quick else given.seeds)))
    runs = {str(seed): one(seed, (BAR,) if given.quick else LABELS, given.threads) for seed in seeds}
    figures = summary(runs)
    console = Console(width=140)
    show(figures, console)
    named = "-".join(["fewshot", *(["quick"] if given.quick else [])])
    console.print(save(named, figures | {"widths": WIDTHS, "runs": runs}, seeds))


if __name__ == "__main__":
    main()
