"""How much of what blur, contrast and noise take from a network `recalibrate` brings back, without a label.

A float network is trained on clean rows and served in 8 bits. Rows of the stream are then corrupted; the network is
recalibrated on some of them, whose labels are all the same class, and quantized anew. Accuracy is measured on others.
Afterwards labels change and images do not, which no recalibration can mend: the gate must never let it pass.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cifar
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from figures import save
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from seeded import NETWORK, QUIET, Digits, over_seeds, plain

from trimtab.candidate import Candidate
from trimtab.data import Data, Role, Rows, assign
from trimtab.evidence import Bench
from trimtab.gate import Gate, Outcome
from trimtab.intervals import Interval
from trimtab.loadable import Loadable
from trimtab.metric import Accuracy, answer, score
from trimtab.recipe import Kitchen, Recipe, Step
from trimtab.runtime import Target
from trimtab.sections import OptimizeSettings
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_torch.classifier import Classifier

Pixels = npt.NDArray[np.float32]

STREAM = {Role.TRAIN: 0.45, Role.CALIBRATION: 0.05, Role.JUDGE: 0.5}
SERVED = Recipe(steps=tuple(Step(technique=name) for name in ("export", "quantize.static")))
HEALED = Recipe(steps=tuple(Step(technique=name) for name in ("recalibrate", "export", "quantize.static")))


def blurred(images: Pixels, sigma: float, _: np.random.Generator) -> npt.NDArray[Any]:
    """Blur by a Gaussian of ``sigma`` pixels."""
    return np.asarray(ndimage.gaussian_filter(images, (0, 0, sigma, sigma)))


def flattened(images: Pixels, factor: float, _: np.random.Generator) -> npt.NDArray[Any]:
    """Bring every pixel nearer to middle grey, to ``factor`` of its distance."""
    return 0.5 + factor * (images - 0.5)


def noisy(images: Pixels, deviation: float, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Add normal noise to every pixel."""
    return images + rng.normal(0.0, deviation, images.shape)


CORRUPTIONS: Mapping[str, Callable[[Pixels, float, np.random.Generator], npt.NDArray[Any]]] = {
    "blur": blurred,
    "contrast": flattened,
    "noise": noisy,
}


def corrupt(rows: Rows, name: str, strength: float, seed: int) -> Rows:
    """Return the rows as a worse camera of 8 bits sees them."""
    seen = CORRUPTIONS[name](rows.inputs["image"], strength, np.random.default_rng(seed))
    grey = (np.rint(np.clip(seen, 0.0, 1.0) * 255.0) / 255.0).astype(np.float32)
    return dataclasses.replace(rows, inputs={"image": grey})


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    seeds
        How many.
    images, epochs
        That a network of CIFAR is trained on, and for.
    """

    seeds: int
    images: int
    epochs: int


FULL = Size(seeds=5, images=10_000, epochs=8)
QUICK = Size(seeds=1, images=3_000, epochs=6)


@dataclass(frozen=True)
class Case:
    """One data set.

    Parameters
    ----------
    schema
        Of its rows.
    clean
        Labelled rows to train on.
    stream
        Rows of production by role: to adapt to, and to judge on.
    trainer
        Of the network.
    """

    schema: Schema
    clean: Rows
    stream: Mapping[Role, Rows]
    trainer: Classifier


STRENGTHS = {
    "digits": {"blur": 2.5, "contrast": 0.7, "noise": 0.3},
    "cifar": {"blur": 1.0, "contrast": 0.4, "noise": 0.1},
}
"""Such that each costs about 10 to 40 points of accuracy: pixels, a factor, and a deviation of values in [0, 1]."""


def digits(folder: Path, seed: int, _: Size) -> Case:
    """Take the captures of the old scanner: those before the stream to train on, other scans to adapt to and judge."""
    stream = Digits(folder / "digits", seed)
    frames = stream.history, stream.windows(QUIET)
    clean, later = (
        Rows(stream.schema.encode(f), stream.schema.encode_labels(f), f["scan_id"].to_numpy(np.uint64)) for f in frames
    )
    roles, groups = assign(later.groups.tolist(), STREAM, str(seed))
    later = dataclasses.replace(later, groups=groups)
    parts = {role: later.take(roles == role) for role in STREAM}
    return Case(stream.schema, clean, parts, Classifier(NETWORK, epochs=6))


def photographs(_: Path, seed: int, size: Size) -> Case:
    """Take CIFAR-10: other images to train on for each seed, and those that nothing learns from as the stream."""
    pixels, labels = cifar.images("train")
    drawn = np.random.default_rng(seed).permutation(len(labels))[: size.images]
    frame = pd.DataFrame({"image": [i.ravel() for i in pixels[drawn[:500]]], "label": labels[drawn[:500]]})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=cifar.SHAPE)}, frame, label="label")
    clean = Rows({"image": pixels[drawn]}, labels[drawn], drawn.astype(np.uint64))
    pixels, labels = cifar.images("test")
    roles, groups = assign(list(range(len(labels))), STREAM, str(seed))
    later = Rows({"image": pixels}, labels, groups)
    trainer = Classifier("cifar:ResNet14", epochs=size.epochs, learning_rate=0.1, batch_size=128, flip=True, shift=4)
    return Case(schema, clean, {role: later.take(roles == role) for role in STREAM}, trainer)


CASES = {"digits": digits, "cifar": photographs}


@dataclass(frozen=True)
class Served:
    """A network of one seed, as it serves.

    Parameters
    ----------
    kitchen
        Built it, on clean rows.
    model
        In 8 bits.
    folder
        For what follows.
    """

    kitchen: Kitchen
    model: Loadable
    folder: Path

    @classmethod
    def train(cls, case: Case, folder: Path, seed: int, threads: int) -> Served:
        """Train on the clean rows, export and quantize."""
        data = Data.write(folder / "clean", {Role.TRAIN: case.clean, Role.CALIBRATION: case.clean.take(np.arange(256))})
        (folder / "parent").mkdir()
        parent = case.trainer.fit(data, Job(folder / "parent", seed, case.schema, threads=threads))
        kitchen = Kitchen(parent, parent, data, case.schema, folder / "steps", seed, threads, case.trainer.factory)
        return cls(kitchen, Loadable("onnxruntime", kitchen.build(SERVED).model), folder)

    def heal(self, name: str, rows: Mapping[Role, Rows]) -> Candidate:
        """Recalibrate on rows without labels: all are called the first class."""
        blind: dict[Role, Rows] = {
            role: dataclasses.replace(part, labels=np.zeros_like(part.labels))
            for role, part in rows.items()
            if role is not Role.JUDGE
        }
        data = Data.write(self.folder / name, blind)
        return dataclasses.replace(self.kitchen, data=data).build(HEALED)


def accuracy(model: Loadable, rows: Rows) -> float:
    """Return the share of rows that a model is right about."""
    return score(Accuracy(), answer(model.load(1, 256), rows))


def recover(case: Case, served: Served, name: str, strength: float, seed: int) -> dict[str, float]:
    """Corrupt the stream, recalibrate, and say what came back."""
    rows = {role: corrupt(part, name, strength, seed + place) for place, (role, part) in enumerate(case.stream.items())}
    candidate = served.heal(name, rows)
    clean = accuracy(served.model, case.stream[Role.JUDGE])
    before, after = (
        accuracy(model, rows[Role.JUDGE]) for model in (served.model, Loadable("onnxruntime", candidate.model))
    )
    return {
        "strength": strength,
        "clean": clean,
        "before": before,
        "after": after,
        "recovery": (after - before) / (clean - before),
        "seconds": candidate.seconds,
    }


def swapped(labels: npt.NDArray[Any], classes: Sequence[int]) -> npt.NDArray[Any]:
    """Call each of some classes by the name of the next of them.

    Examples
    --------
    >>> swapped(np.array([0, 1, 2, 1]), [0, 1]).tolist()
    [1, 0, 2, 0]
    """
    called = np.arange(int(labels.max()) + 1)
    called[list(classes)] = np.roll(classes, -1)
    renamed: npt.NDArray[Any] = called[labels]
    return renamed


GATE = Gate()
COMPARISONS = OptimizeSettings().finalists
FLIPS = {"two classes": range(2), "half of the classes": range(5), "all classes": range(10)}


def flip(case: Case, served: Served, seed: int) -> dict[str, Any]:
    """Change what classes are called, recalibrate, and ask the gate in a round for a worse champion."""
    candidate = served.heal("flipped", case.stream)
    verdicts = {}
    for name, classes in FLIPS.items():
        judged = case.stream[Role.JUDGE]
        rows = dataclasses.replace(judged, labels=swapped(judged.labels, classes))
        data = Data.write(served.folder / f"judged-{len(classes)}", {Role.JUDGE: rows})
        place = served.folder / f"scores-{len(classes)}"
        bench = Bench(place, Target(), served.model, data, None, Accuracy(), seconds=0.5, seed=seed)
        champion, challenger = (
            bench.measure(model, GATE.level(COMPARISONS))
            for model in (served.model, Loadable("onnxruntime", candidate.model))
        )
        verdict = GATE.judge(challenger, champion, champion, metric=Accuracy(), comparisons=COMPARISONS, repair=True)
        promoted = verdict.outcome is Outcome.PASSED
        verdicts[name] = {"promoted": promoted, "outcome": verdict.outcome.value, "reason": verdict.reasons[0]}
    return verdicts


def one(name: str, seed: int, size: Size, threads: int) -> dict[str, Any]:
    """Train a network of one data set and seed, and try everything on it."""
    with tempfile.TemporaryDirectory(prefix="trimtab-recalibrate-") as place:
        folder = Path(place)
        case = CASES[name](folder, seed, size)
        served = Served.train(case, folder, seed, threads)
        recovered = {
            kind: recover(case, served, kind, strength, 1000 * seed) for kind, strength in STRENGTHS[name].items()
        }
        return {"corruptions": recovered, "flips": flip(case, served, seed)}


def summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds: of each data set over its corruptions, and of each corruption."""
    told: dict[str, Any] = {}
    for name, seeds in runs.items():
        tried = [run["corruptions"] for run in seeds.values()]
        kinds = {kind: over_seeds([t[kind]["recovery"] for t in tried]) for kind in CORRUPTIONS}
        whole = over_seeds([float(np.mean([t[kind]["recovery"] for kind in CORRUPTIONS])) for t in tried])
        told[name] = {"recovery": plain(whole), **{kind: plain(mean) for kind, mean in kinds.items()}}
    tried = [c for seeds in runs.values() for run in seeds.values() for c in run["corruptions"].values()]
    flips = [f for seeds in runs.values() for run in seeds.values() for f in run["flips"].values()]
    return {
        "recalibrate_recovery": min((t["recovery"] for t in told.values()), key=lambda interval: interval["value"]),
        "seconds": max(t["seconds"] for t in tried),
        "promoted_after_flips": sum(f["promoted"] for f in flips),
        "flips": len(flips),
        "recovery": told,
    }


def show(runs: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Any], console: Console) -> None:
    """Print a table of means over seeds."""
    table = Table("data", "corruption", "clean", "corrupted", "recalibrated", "recovery", "seconds")
    for name, seeds in runs.items():
        for kind, strength in STRENGTHS[name].items():
            tried = [run["corruptions"][kind] for run in seeds.values()]
            means = {key: float(np.mean([t[key] for t in tried])) for key in tried[0]}
            parts = [f"{means[key]:.3f}" for key in ("clean", "before", "after")]
            mean = figures["recovery"][name][kind]
            recovery = f"{mean['value']:.2f}" if mean["low"] is None else f"{Interval(**mean):.2f}"
            table.add_row(name, f"{kind} {strength:g}", *parts, recovery, f"{means['seconds']:.1f}")
    console.print(table)
    console.print(f"promoted after label flips: {figures['promoted_after_flips']} of {figures['flips']}")


def main() -> None:
    """Run every data set and seed, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most 10 minutes; the figures mean little")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    parser.add_argument("--threads", type=int, default=2, help="of training")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    torch.set_num_threads(given.threads)
    seeds = list(range(given.seed, given.seed + size.seeds))
    runs = {name: {str(s): one(name, s, size, given.threads) for s in seeds} for name in given.case or CASES}
    figures = summary(runs)
    console = Console(width=140)
    show(runs, figures, console)
    kept = figures | {"strengths": STRENGTHS, "size": asdict(size), "runs": runs}
    named = "-".join(["recalibrate", *(["quick"] if given.quick else []), *(given.case or [])])
    console.print(save(named, kept, seeds))


if __name__ == "__main__":
    main()
