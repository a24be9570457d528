"""Whether the drift monitor sees what happens to images: blur, contrast, noise, a class that nobody has seen.

A small network is trained on images of all classes but one; it is the champion, and its last hidden layer the
embedding. Windows of other images come as they are, corrupted, or with rows of the class that was left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cifar
import numpy as np
import pandas as pd
import torch
from figures import save
from recalibrate import corrupt
from rich.console import Console
from rich.table import Table
from seeded import NETWORK, QUIET, Digits

from trimtab import champion
from trimtab.data import Data, Role, Rows, assign
from trimtab.monitor import Answer, Finding, Monitor, Sample, case_of
from trimtab.runtime import Session
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_evidently.drift import Drift
from trimtab_torch.classifier import Classifier
from trimtab_torch.runtime import TorchRuntime

SHARE = 0.025
"""Of the false alarms of a window, where ``performance`` tests too."""
STRENGTHS: Mapping[str, Mapping[str, float]] = {
    "digits": {"blur": 1.0, "contrast": 0.85, "noise": 0.06},
    "cifar": {"blur": 0.5, "contrast": 0.75, "noise": 0.04},
}
"""Milder than those of ``recalibrate``: pixels, a factor, and a deviation of values in [0, 1]."""
NEW = {"new class, 10 %": 0.1, "new class, 25 %": 0.25}
"""Share of a window's rows. A tenth is what every class has; a quarter is that of a window of 300 rows."""
KINDS = ("quiet", "blur", "contrast", "noise", *NEW)
LEFT_OUT = 9
TRAINED = 0.6
"""Of the groups before the stream; the others are the reference."""


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    seeds
        How many.
    rows
        Of a window, of all classes.
    windows
        Of each kind and seed, at most.
    epochs
        That a network is trained for.
    images
        Of CIFAR that it is trained on.
    """

    seeds: int
    rows: int
    windows: int
    epochs: int
    images: int


FULL = Size(seeds=6, rows=780, windows=12, epochs=8, images=6000)
QUICK = Size(seeds=1, rows=780, windows=4, epochs=6, images=4000)


@dataclass(frozen=True)
class Images:
    """Labelled images of one stream.

    Parameters
    ----------
    schema
        Of the images without the class that is left out.
    clean, reference
        To train the champion on, and its reference: without that class.
    windows
        Of all classes; what is left without that class is quiet.
    """

    schema: Schema
    clean: Rows
    reference: Rows
    windows: tuple[Rows, ...]


def digits(folder: Path, seed: int, size: Size) -> Images:
    """Take the captures of the old scanner: four of each scan before the stream, one of others in each week."""
    stream = Digits(folder / "digits", seed)
    history, *weeks = (
        Rows(stream.schema.encode(f), stream.schema.encode_labels(f), f["scan_id"].to_numpy(np.uint64))
        for f in (stream.history, *(stream.windows([number]) for number in QUIET))
    )
    return together(history, weeks, seed, size)


def photographs(_: Path, seed: int, size: Size) -> Images:
    """Take CIFAR-10, shuffled."""
    pixels, labels = cifar.images("train")
    drawn = np.random.default_rng(seed).permutation(len(labels))
    every, count = Rows({"image": pixels[drawn]}, labels[drawn], drawn.astype(np.uint64)), int(size.images / TRAINED)
    return together(every.take(np.arange(count)), [every.take(np.arange(count, len(labels)))], seed, size)


STREAMS = {"digits": digits, "cifar": photographs}


def together(history: Rows, later: Sequence[Rows], seed: int, size: Size) -> Images:
    """Leave a class out, part what comes before the stream by group, and cut the rest into windows."""
    known = history.take(history.labels != LEFT_OUT)
    frame = framed(known).assign(label=known.labels)
    image = Feature(kind="tensor", shape=known.inputs["image"].shape[1:])
    schema = Schema.freeze({"image": image}, frame, label="label")
    roles, _ = assign(known.groups.tolist(), {Role.TRAIN: TRAINED, Role.JUDGE: 1 - TRAINED}, str(seed))
    windows = tuple(w for rows in later for w in cut(rows, size.rows))
    return Images(schema, known.take(roles == Role.TRAIN), known.take(roles == Role.JUDGE), windows)


def cut(rows: Rows, count: int) -> list[Rows]:
    """Cut rows into windows of so many."""
    return [rows.take(np.arange(end - count, end)) for end in range(count, len(rows) + 1, count)]


def framed(rows: Rows) -> pd.DataFrame:
    """Return images as raw rows; without labels, which come late."""
    return pd.DataFrame({"image": list(rows.inputs["image"].reshape(len(rows), -1))})


@dataclass(frozen=True)
class Watched:
    """A champion, and the windows that it is to be watched on.

    Parameters
    ----------
    images
        All there are.
    session
        The champion.
    reference
        As monitors see it.
    """

    images: Images
    session: Session
    reference: Sample

    @classmethod
    def train(cls, images: Images, folder: Path, seed: int, epochs: int) -> Watched:
        """Train a champion."""
        channels = images.clean.inputs["image"].shape[1]
        network = {"channels": channels, "widths": [16, 32, 64]}
        data = Data.write(
            folder / "data", {Role.TRAIN: images.clean, Role.CALIBRATION: images.clean.take(np.arange(200))}
        )
        (folder / "model").mkdir()
        model = Classifier(NETWORK, network, epochs=epochs).fit(data, Job(folder / "model", seed, images.schema))
        session = TorchRuntime(NETWORK).load(model)
        return cls(
            images,
            session,
            champion.observe(session, images.schema, framed(images.reference), 0, images.reference.groups),
        )

    def look(self, monitor: Monitor, rows: Rows, number: int) -> Finding:
        """Return what a monitor says of some rows."""
        current = champion.observe(self.session, self.images.schema, framed(rows), number, rows.groups)
        return monitor.check(case_of(monitor, self.reference, current, SHARE))

    def right(self, rows: Rows) -> float:
        """Return the champion's accuracy on some rows."""
        said = self.session.predict(rows.inputs).argmax(axis=1)
        return float((said == rows.labels).mean())


def watch(name: str, folder: Path, seed: int, size: Size) -> Watched:
    """Make the images of a stream and train its champion."""
    images = STREAMS[name](folder, seed, size)
    return Watched.train(images, folder, seed, size.epochs)


def changed(name: str, kind: str, rows: Rows, seed: int) -> Rows:
    """Return a window to which something happened; of a new class with as many other rows as make up its share."""
    known, novel = rows.take(rows.labels != LEFT_OUT), rows.take(rows.labels == LEFT_OUT)
    if kind in NEW:
        others = round(len(novel) * (1 / NEW[kind] - 1))
        return Rows.join([known.take(np.arange(min(others, len(known)))), novel])
    return corrupt(known, kind, STRENGTHS[name][kind], seed) if kind in STRENGTHS[name] else known


def one(name: str, seed: int, size: Size) -> dict[str, Any]:
    """Train a champion of one stream and seed, and look at windows of every kind."""
    monitor = Drift()
    with tempfile.TemporaryDirectory(prefix="trimtab-images-") as place:
        watched = watch(name, Path(place), seed, size)
    found: dict[str, Any] = {}
    for kind in KINDS:
        windows = [changed(name, kind, w, i) for i, w in enumerate(watched.images.windows[: size.windows])]
        findings = [watched.look(monitor, w, i) for i, w in enumerate(windows, 1)]
        named = [r.split(" moved: ")[0] for f in findings for r in f.reasons if " moved: " in r]
        found[kind] = {
            "windows": len(windows),
            "alarms": sum(f.answer is Answer.MOVED for f in findings),
            "accuracy": float(np.mean([watched.right(w) for w in windows])),
            "by": {statistic: named.count(statistic) for statistic in sorted(set(named))},
        }
    return found


def summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return of each stream the rate of alarms by what happened, over all seeds."""
    told: dict[str, Any] = {}
    for name, seeds in runs.items():
        counts = {kind: [run[kind] for run in seeds.values()] for kind in KINDS}
        told[name] = {
            kind: {
                "windows": sum(c["windows"] for c in each),
                "rate": sum(c["alarms"] for c in each) / sum(c["windows"] for c in each),
                "accuracy": float(np.mean([c["accuracy"] for c in each])),
                "by": {n: sum(c["by"].get(n, 0) for c in each) for n in sorted({n for c in each for n in c["by"]})},
            }
            for kind, each in counts.items()
        }
    return told


def measure(quick: bool = False, first: int = 0, streams: tuple[str, ...] = tuple(STREAMS)) -> dict[str, Any]:
    """Return detection rates by corruption and the rate of false alarms, of every stream."""
    size = QUICK if quick else FULL
    seeds = range(first, first + size.seeds)
    runs = {name: {str(seed): one(name, seed, size) for seed in seeds} for name in streams}
    return {"images": summary(runs), "images_alpha": SHARE, "images_size": asdict(size), "images_strengths": STRENGTHS}


def table(told: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay the rates out."""
    shown = Table("stream", "what happened", "windows", "alarms", "accuracy", "by", title="Images")
    for name, kinds in told.items():
        for kind, each in kinds.items():
            strength = f" {STRENGTHS[name][kind]:g}" if kind in STRENGTHS[name] else ""
            by = ", ".join(f"{n} {c}" for n, c in each["by"].items())
            figures = (str(each["windows"]), f"{each['rate']:.3f}", f"{each['accuracy']:.3f}", by)
            shown.add_row(name, f"{kind}{strength}", *figures)
    return shown


def main() -> None:
    """Look at both streams, print a table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about two minutes")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--stream", choices=STREAMS, action="append", help="only this one; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(given.quick, given.seed, tuple(given.stream or STREAMS))
    console = Console(width=160)
    console.print(table(figures["images"]))
    named = "-".join(["images", *(["quick"] if given.quick else []), *(given.stream or [])])
    console.print(save(named, figures, list(range(given.seed, given.seed + figures["images_size"]["seeds"]))))


if __name__ == "__main__":
    main()
