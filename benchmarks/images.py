"""Whether the drift monitor sees what happens to images: blur, contrast, noise, a class that nobody has seen.

A small network is trained on images of all classes but one; it is the champion, and its last hidden layer the
embedding. Windows of other images come as they are, corrupted, or with rows of the class that was left out.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cifar
import numpy as np
import pandas as pd
import torch
from rates import SHARE, at_least
from recalibrate import corrupt
from rich.table import Table
from seeded import NETWORK, QUIET, Digits
from telling import Figures, Ground, Told

from trimtab import champion
from trimtab.data import Data, Role, Rows, assign
from trimtab.monitor import Answer, Finding, Monitor, Sample, case_of
from trimtab.runtime import Session
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_evidently.drift import Drift
from trimtab_torch.classifier import Classifier
from trimtab_torch.runtime import TorchRuntime

STRENGTHS: Mapping[str, Mapping[str, float]] = {
    "digits": {"blur": 1.0, "contrast": 0.85, "noise": 0.06},
    "cifar": {"blur": 0.5, "contrast": 0.75, "noise": 0.04},
}
"""Milder than those of ``recalibrate``: pixels, a factor, and a deviation of values in [0, 1]."""
NEW = {"new class, 5 %": 0.05, "new class, 10 %": 0.1, "new class, 25 %": 0.25}
"""Share of a window's rows. A tenth is what every class has; a quarter is that of a window of 300 rows."""
STILL = "quiet"
KINDS = (STILL, "blur", "contrast", "noise", *NEW)
GOAL = 0.95
"""Of windows that are found, of each corruption, and of a new class that is a tenth of the digits."""
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


FULL = Size(seeds=6, rows=780, windows=8, epochs=8, images=6000)
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
        session = TorchRuntime(factory=NETWORK).load(model)
        return cls(
            images,
            session,
            champion.observe(session, images.schema, framed(images.reference), 0, images.reference.groups),
        )

    def look(self, monitor: Monitor, rows: Rows, number: int) -> Finding:
        """Return what a monitor says of some rows."""
        current = champion.observe(self.session, self.images.schema, framed(rows), number, rows.groups)
        return monitor.check(case_of(monitor, self.reference, current, SHARE))

    def right(self, rows: Rows) -> int:
        """Return how many rows the champion gets right."""
        said = self.session.predict(rows.inputs).argmax(axis=1)
        return int((said == rows.labels).sum())


def watch(name: str, folder: Path, seed: int, size: Size) -> Watched:
    """Make the images of a stream and train its champion."""
    images = STREAMS[name](folder, seed, size)
    return Watched.train(images, folder, seed, size.epochs)


def changed(name: str, kind: str, rows: Rows, seed: int) -> Rows:
    """Return a window to which something happened; of a new class with as many rows of either as make up its share."""
    known, novel = rows.take(rows.labels != LEFT_OUT), rows.take(rows.labels == LEFT_OUT)
    if kind in NEW:
        odds = NEW[kind] / (1 - NEW[kind])
        new, old = min(len(novel), round(len(known) * odds)), min(len(known), round(len(novel) / odds))
        return Rows.join([known.take(np.arange(old)), novel.take(np.arange(new))])
    return corrupt(known, kind, STRENGTHS[name][kind], seed) if kind in STRENGTHS[name] else known


@dataclass(frozen=True)
class Task:
    """A stream and seed, with a champion of its own."""

    stream: str
    seed: int
    size: Size


def look(task: Task) -> dict[str, Counter[str]]:
    """Train a champion, look at windows of every kind, and count: windows, alarms, by what, rows that it gets right."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="trimtab-images-") as place:
        watched = watch(task.stream, Path(place), task.seed, task.size)
    counts = {kind: Counter[str]() for kind in KINDS}
    for number, window in enumerate(watched.images.windows[: task.size.windows], 1):
        for kind, count in counts.items():
            rows = changed(task.stream, kind, window, number)
            finding = watched.look(Drift(), rows, number)
            alarmed = int(finding.answer is Answer.MOVED)
            count.update({"windows": 1, "alarms": alarmed, "rows": len(rows), "right": watched.right(rows)})
            count.update(f"by {name}" for name in finding.alarms or ())
    return counts


def spread(work: Sequence[Task], jobs: int) -> Iterator[dict[str, Counter[str]]]:
    """Do tasks in so many processes."""
    if jobs == 1:
        yield from map(look, work)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(look, work)


def counted(ground: Ground) -> dict[str, dict[str, Counter[str]]]:
    """Look at windows of both streams, and add up over seeds what was counted of each kind."""
    size = QUICK if ground.quick else FULL
    work = [Task(name, ground.seed + number, size) for name in STREAMS for number in range(size.seeds)]
    found = {name: {kind: Counter[str]() for kind in KINDS} for name in STREAMS}
    for task, counts in zip(work, spread(work, ground.jobs), strict=True):
        for kind, count in counts.items():
            found[task.stream][kind].update(count)
    return found


def told(name: str, kind: str, count: Counter[str]) -> Figures:
    """Return the rate of alarms of one kind with what it is to be; of a new class only where that is promised."""
    low = at_least(count["alarms"], count["windows"])
    figures: Figures = {
        "windows": count["windows"],
        "rows": count["rows"] / count["windows"],
        "rate": count["alarms"] / count["windows"],
        "low": low,
        "accuracy": count["right"] / count["rows"],
        "by": {key.removeprefix("by "): n for key, n in sorted(count.items()) if key.startswith("by ")},
    }
    if kind == STILL:
        return figures | {"ok": low <= SHARE}
    promised = kind in STRENGTHS[name] or (name, kind) == ("digits", "new class, 10 %")
    return figures | ({"ok": figures["rate"] >= GOAL} if promised else {})


def measure(ground: Ground) -> Told:
    """Count what is found of what happens to images, and alarms where nothing does."""
    found = {
        name: {kind: told(name, kind, count) for kind, count in kinds.items()}
        for name, kinds in counted(ground).items()
    }
    figures: Figures = {
        "images": found,
        "images_ok": all(of.get("ok", True) for kinds in found.values() for of in kinds.values()),
        "images_alpha": SHARE,
        "images_size": asdict(QUICK if ground.quick else FULL),
        "images_strengths": STRENGTHS,
    }
    return Told(figures, [_table(found)])


def _table(found: Mapping[str, Mapping[str, Figures]]) -> Table:
    table = Table("stream", "what happened", "windows", "alarms", "at least", "accuracy", "by", title="Images")
    for name, kinds in found.items():
        for kind, of in kinds.items():
            strength = f" {STRENGTHS[name][kind]:g}" if kind in STRENGTHS[name] else ""
            by = ", ".join(f"{n} {c}" for n, c in of["by"].items())
            rates = (f"{of[key]:.3f}" for key in ("rate", "low", "accuracy"))
            table.add_row(name, f"{kind}{strength}", str(of["windows"]), *rates, by)
    return table
