"""What every technique is tried on: a network of images whose rows stay as they are, and one of a table that moved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cifar
import numpy as np
import pandas as pd
from placing import Abouts, ending

from trimtab import discover
from trimtab.artifact import Model, fill_folder
from trimtab.data import Data, Role, Rows, assign
from trimtab.errors import PluginError, SettingsError
from trimtab.loadable import Loadable
from trimtab.metric import Answers, answer
from trimtab.recipe import Kitchen, Recipe
from trimtab.runtime import Setup
from trimtab.technique import FLOAT, Job
from trimtab.window import Feature, Schema
from trimtab_torch.classifier import Classifier

COLUMNS = ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
DAY = 48
"""Half hours that share a role, since they resemble each other."""
SPLIT = {Role.TRAIN: 0.6, Role.CALIBRATION: 0.05, Role.SEARCH: 0.1, Role.JUDGE: 0.25}
BEGIN, MOVED = 17_856, 28_608
"""Rows of the electricity stream: before the first Victoria's columns are constant; the network learns up to the other,
and what it is adapted to and judged on comes later."""


@dataclass(frozen=True)
class Size:
    """How much the benchmark does.

    Parameters
    ----------
    images, judged
        Of CIFAR that the network trains on, and that it is judged on.
    widths
        Channels of its stages.
    epochs
        Of the network of images, and of the table's; techniques inherit them.
    seconds
        Of each paired timing.
    minutes
        Most that one recipe may build.
    seeds
        Of comparisons of one technique with another.
    """

    images: int
    judged: int
    widths: tuple[int, ...]
    epochs: tuple[int, int]
    seconds: float
    minutes: float
    seeds: int


FULL = Size(images=4000, judged=3000, widths=(16, 32, 64), epochs=(8, 15), seconds=0.8, minutes=6, seeds=2)
QUICK = Size(images=600, judged=500, widths=(8, 16, 32), epochs=(1, 2), seconds=0.2, minutes=2, seeds=1)


@dataclass(frozen=True)
class Case:
    """Labelled rows and what trains on them.

    Parameters
    ----------
    schema
        Of the rows.
    before
        What the network is trained on.
    now
        By role, what techniques are given and judged on.
    trainer
        Of the network.
    """

    schema: Schema
    before: Rows
    now: Mapping[Role, Rows]
    trainer: Classifier


def photographs(seed: int, size: Size) -> Case:
    """Take CIFAR-10: techniques are given the rows that the network was trained on, and others to judge."""
    pixels, labels = cifar.images("train")
    drawn = np.random.default_rng(seed).permutation(len(labels))
    every = Rows({"image": pixels[drawn]}, labels[drawn], drawn.astype(np.uint64))
    ends = np.cumsum([0, size.images, max(64, size.images // 16), size.images // 8])
    names = (Role.TRAIN, Role.CALIBRATION, Role.SEARCH)
    parts = {name: every.take(np.arange(a, b)) for name, a, b in zip(names, ends, ends[1:], strict=False)}
    pixels, labels = cifar.images("test", size.judged)
    parts[Role.JUDGE] = Rows({"image": pixels}, labels, np.arange(len(labels), dtype=np.uint64))
    frame = pd.DataFrame({"image": [i.ravel() for i in every.inputs["image"][:500]], "label": every.labels[:500]})
    schema = Schema.freeze({"image": Feature(kind="tensor", shape=cifar.SHAPE)}, frame, label="label")
    trainer = Classifier(
        "cifar:ResNet14",
        {"widths": list(size.widths)},
        epochs=size.epochs[0],
        learning_rate=0.1,
        batch_size=128,
        flip=True,
        shift=4,
    )
    return Case(schema, parts[Role.TRAIN], parts, trainer)


def electricity(seed: int, size: Size) -> Case:
    """Take the electricity market: techniques are given rows that came after those that the network was trained on."""
    frame = pd.read_csv(cifar.SHARED / "data" / "electricity.csv.gz")
    schema = Schema.freeze({name: Feature() for name in COLUMNS}, frame, label="class")
    roles, groups = assign([str(row // DAY) for row in range(len(frame))], SPLIT, str(seed))
    every = Rows(schema.encode(frame), schema.encode_labels(frame), groups)
    place = np.arange(len(frame))
    now = {role: every.take((place >= MOVED) & (roles == role)) for role in SPLIT}
    trainer = Classifier("trimtab_torch.networks:Mlp", {"hidden": [64, 64]}, epochs=size.epochs[1])
    return Case(schema, every.take((place >= BEGIN) & (place < MOVED)), now, trainer)


CASES: Mapping[str, Callable[[int, Size], Case]] = {"cifar": photographs, "electricity": electricity}


@dataclass(frozen=True)
class Ground:
    """A trained float network, what builds from it, and how it serves in each runtime.

    Parameters
    ----------
    kitchen
        Builds recipes from the network.
    known
        What the installed techniques say of themselves.
    floats
        The network as each runtime that can serve it loads it: what everything is compared with there.
    """

    kitchen: Kitchen
    known: Abouts
    floats: Mapping[str, Loadable]

    @classmethod
    def lay(cls, case: Case, known: Abouts, folder: Path, seed: int, threads: int = 2) -> Ground:
        """Train the network, unless the folder holds it, and convert it for every runtime."""
        data = Data.write(folder / "rows", case.now)
        float_ = _trained(case, folder, seed, threads)
        steps, factory = folder / "steps", case.trainer.factory
        kitchen = Kitchen(float_, float_, data, case.schema, steps, seed, threads, factory)
        ground = cls(kitchen, known, {})
        floats: dict[str, Loadable] = {}
        for runtime in sorted(discover.installed("runtimes")):
            try:
                floats[runtime] = ground.loadable(Recipe(steps=()), runtime)
            except (SettingsError, PluginError):  # of models of another kind, or its library is not installed
                continue
        return cls(kitchen, known, floats)

    def loadable(self, recipe: Recipe, runtime: str) -> Loadable:
        """Build what a recipe gives as a runtime loads it.

        Raises
        ------
        SettingsError
            When there is no way into its formats.
        """
        formats = discover.find("runtimes", runtime).takes
        model = self.kitchen.build(ending(recipe, self.known, formats), formats).model
        return Loadable(runtime, model, Setup(runtime).made_with(self.kitchen.factory))

    @functools.cached_property
    def judge(self) -> Rows:
        """What nothing was fitted to."""
        return self.kitchen.data.rows(Role.JUDGE)

    @functools.cached_property
    def answers(self) -> Mapping[str, Answers]:
        """What the network itself says of the judge rows, by runtime."""
        return {runtime: answer(model.load(1, 256), self.judge) for runtime, model in self.floats.items()}

    @property
    def digest(self) -> str:
        """Of the network and the rows: figures on another ground are not to be set beside these."""
        return f"{self.kitchen.parent.digest[:16]}-{self.kitchen.data.digest[:16]}"


def _trained(case: Case, folder: Path, seed: int, threads: int) -> Model:
    data = Data.write(folder / "before", {Role.TRAIN: case.before})
    if not (folder / "float").is_dir():
        with fill_folder(folder / "float") as draft:
            where = draft / "model"
            where.mkdir()
            case.trainer.fit(data, Job(where, seed, case.schema, threads=threads))
    return Model.at(folder / "float" / "model", FLOAT)


def size_of(quick: bool) -> Size:
    """Return how much to do."""
    return QUICK if quick else FULL


def told(ground: Ground) -> dict[str, Any]:
    """Return what the figures keep of a ground."""
    return {
        "digest": ground.digest,
        "train_rows": len(ground.kitchen.data.rows(Role.TRAIN)),
        "judge_rows": len(ground.judge),
        "size_bytes": {runtime: model.model.size_bytes for runtime, model in ground.floats.items()},
    }
