"""What the checks work on: a small labelled table, its roles, and a model that was trained on it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab import discover
from trimtab.artifact import FLOAT, Model, sha256_folder
from trimtab.data import Data, Role, Rows
from trimtab.errors import PluginError
from trimtab.monitor import Sample
from trimtab.runtime import Runtime
from trimtab.technique import About, Job, Technique, Trainer, untrained
from trimtab.testing.promise import require
from trimtab.window import Feature, Schema

__all__ = ["Material", "files_in", "probabilities_of", "quiet_frame", "shared_material"]

LABEL = "y"
FEATURES = ("a", "b", "c", "d")
CENTRES = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, 3.0, 0.0, 1.0], [0.0, 3.0, 3.0, -1.0]])
ROWS = 240
REFERENCE_ROWS = 600
ALPHA = 0.001
SEED = 7


def quiet_frame(rows: int, seed: int) -> pd.DataFrame:
    """Return labelled rows of three well separated classes with four numbers each.

    Examples
    --------
    >>> quiet_frame(3, seed=0).columns.tolist()
    ['a', 'b', 'c', 'd', 'y', 'id']
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % len(CENTRES))
    values = CENTRES[labels] + rng.normal(0.0, 0.7, size=(rows, len(FEATURES)))
    frame = pd.DataFrame(values, columns=list(FEATURES))
    return frame.assign(y=labels, id=[f"{seed}-{row}" for row in range(rows)])


def _patterns(shape: tuple[int, ...]) -> pd.DataFrame:
    """Return labelled tensors of three classes, each a pattern of its own under noise."""
    rng = np.random.default_rng(SEED)
    patterns = rng.normal(size=(len(CENTRES), *shape))
    labels = rng.permutation(np.arange(ROWS) % len(CENTRES))
    values = patterns[labels] + rng.normal(0.0, 0.7, size=(ROWS, *shape))
    rows = [value.astype(np.float32).ravel() for value in values]
    return pd.DataFrame({"x": rows, LABEL: labels, "id": [str(row) for row in range(ROWS)]})


def probabilities_of(frame: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return what a sound model says of :func:`quiet_frame`'s rows, float32 ``[rows, classes]``."""
    values = frame[list(FEATURES)].to_numpy(np.float64)
    scores = -((values[:, None, :] - CENTRES[None]) ** 2).sum(axis=2)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)


def files_in(folder: Path) -> set[Path]:
    """Return every file below a folder."""
    return {p for p in folder.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Trial:
    """One application of a technique: its job, what it gave, which inputs it altered, files it wrote elsewhere."""

    job: Job
    model: Model
    altered: tuple[str, ...]
    strays: tuple[Path, ...]


@dataclass(frozen=True)
class Material:
    """What the checks work on: a small labelled table, its roles, and a model that was trained on it.

    A plugin whose models are not those of the trainer that comes with trimtab brings its own.

    Parameters
    ----------
    trainer
        Fits the float model; by default ``torch.classifier`` with a small network.
    runtime
        Loads what techniques give; by default ``onnxruntime``.
    export
        Brings the trainer's models into the runtime's format; by default ``export``.
    folder
        Where everything is laid down; a temporary one that goes with this object.
    shape
        Of a tensor that each row is, instead of four numbers: for what works on images or sequences alone.

    Examples
    --------
    >>> sorted(Material().schema.names)
    ['a', 'b', 'c', 'd']
    >>> Material(shape=(1, 8, 8)).rows.inputs["x"].shape
    (240, 1, 8, 8)
    """

    trainer: Trainer | None = None
    runtime: Runtime | None = None
    export: Technique | None = None
    folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="trimtab-checks-"), repr=False, compare=False
    )
    shape: tuple[int, ...] | None = None
    trials: dict[str, Trial] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def base(self) -> Path:
        """The folder as a path."""
        return Path(self.folder.name)

    @functools.cached_property
    def schema(self) -> Schema:
        """Of the rows."""
        features = {name: Feature() for name in FEATURES}
        if self.shape is not None:
            features = {"x": Feature(kind="tensor", shape=self.shape)}
        return Schema.freeze(features, self.frame, label=LABEL, id="id")

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """Labelled raw rows."""
        return quiet_frame(ROWS, SEED) if self.shape is None else _patterns(self.shape)

    @functools.cached_property
    def rows(self) -> Rows:
        """Encoded rows."""
        frame = self.frame
        return Rows(self.schema.encode(frame), self.schema.encode_labels(frame), np.arange(ROWS, dtype=np.uint64))

    @functools.cached_property
    def data(self) -> Data:
        """Every role with rows of its own."""
        quarter = ROWS // len(Role)
        roles = {role: self.rows.take(np.arange(i * quarter, (i + 1) * quarter)) for i, role in enumerate(Role)}
        return Data.write(self.base / "data", roles)

    @functools.cached_property
    def no_data(self) -> Data:
        """Every role without a row."""
        nothing = self.rows.take(np.zeros(0, dtype=np.int64))
        return Data.write(self.base / "no-data", dict.fromkeys(Role, nothing))

    @functools.cached_property
    def unlabelled(self) -> Data:
        """Every role with its rows, and not one label."""
        bare = {role: self.data.rows(role) for role in Role}
        unknown = {role: dataclasses.replace(r, labels=np.full_like(r.labels, -1)) for role, r in bare.items()}
        return Data.write(self.base / "unlabelled", unknown)

    @functools.cached_property
    def parent(self) -> Model:
        """A trained float model."""
        trainer = self.trainer or discover.build(
            "trainers",
            "torch.classifier",
            {"factory": "trimtab_torch.networks:Mlp", "arguments": {"hidden": [32, 32], "norm": True}, "epochs": 3},
            "model",
        )
        model: Model = trainer.fit(self.data, self.job("parent"))
        return model

    @functools.cached_property
    def exported(self) -> Model:
        """The parent in the runtime's format."""
        return self.converter.apply(self.parent, self.data, self.job("exported"))

    @functools.cached_property
    def converter(self) -> Technique:
        """What exports."""
        technique: Technique = self.export or discover.build("techniques", "export", {}, "optimize.techniques.export")
        return technique

    @functools.cached_property
    def serving(self) -> Runtime:
        """What loads exported models."""
        runtime: Runtime = self.runtime or discover.build("runtimes", "onnxruntime", {}, "targets")
        return runtime

    def runtime_for(self, format: str) -> Runtime:
        """Return the material's runtime where it takes the format, else an installed one that does.

        Raises
        ------
        AssertionError
            When none does.
        """
        for runtime in itertools.chain([self.serving], _installed_runtimes()):
            if format in runtime.takes:
                return runtime
        raise AssertionError(f"no installed runtime takes {format!r}; pass a Material with a runtime that does")

    def served(self, runtime: Runtime) -> Model:
        """Return a model that the runtime takes: the exported one, else the trained one.

        Raises
        ------
        AssertionError
            When the material has none in a format of the runtime's.
        """
        if self.converter.about.gives in runtime.takes:
            return self.exported
        require(
            self.converter.about.takes in runtime.takes,
            f"{runtime.name} takes {runtime.takes!r}, the material's export gives {self.converter.about.gives!r}; "
            "pass a Material with an export that fits",
        )
        return self.parent

    def job(self, name: str, teacher: Model | None = None) -> Job:
        """Return a job in a new, empty folder."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.base))
        return Job(folder, SEED, self.schema, teacher)

    def model_for(self, technique: Technique) -> Model:
        """Return a model that the technique takes.

        Raises
        ------
        AssertionError
            When the material has none in that format.
        """
        takes = technique.about.takes
        models = (
            {takes: self.parent} if takes == self.converter.about.takes else {self.converter.about.gives: self.exported}
        )
        require(
            takes in models,
            f"{technique.about.name} takes {technique.about.takes!r}; pass a Material whose export gives that format",
        )
        return models[takes]

    def apply(self, technique: Technique, data: Data | None = None, deadline: float | None = None) -> Model:
        """Let the technique work in a new folder, away from the working folder of whoever runs the checks."""
        model, job = self.model_for(technique), self.job("step", teacher=self.parent)
        with tempfile.TemporaryDirectory(dir=self.base) as elsewhere, contextlib.chdir(elsewhere):
            return technique.apply(model, data or self.data, dataclasses.replace(job, deadline=deadline))

    def trial(self, technique: Technique) -> Trial:
        """Let the technique work once, watched; what several checks look at is made one time."""
        if repr(technique) not in self.trials:
            self.trials[repr(technique)] = self._try(technique)
        return self.trials[repr(technique)]

    def _try(self, technique: Technique) -> Trial:
        model, job = self.model_for(technique), self.job("trial", teacher=self.parent)
        watched = {"model": model.folder, "teacher": self.parent.folder, "data": self.data.folder}
        digests = {name: sha256_folder(folder) for name, folder in watched.items()}
        with tempfile.TemporaryDirectory(dir=self.base) as elsewhere, contextlib.chdir(elsewhere):
            before = files_in(self.base)
            made = technique.apply(model, self.data, job)
            strays = sorted(p for p in files_in(self.base) - before if not p.is_relative_to(job.folder))
        altered = [name for name, folder in watched.items() if sha256_folder(folder) != digests[name]]
        return Trial(job, made, tuple(altered), tuple(strays))

    def sample(self, frame: pd.DataFrame, number: int = 0) -> Sample:
        """Return rows as a monitor sees them through a sound model."""
        probabilities = probabilities_of(frame)
        return Sample(
            schema=self.schema,
            frame=frame,
            number=number,
            inputs=self.schema.encode(frame),
            probabilities=probabilities,
            embedding=probabilities[:, :2].copy(),
            labels=self.schema.encode_labels(frame),
        )

    @functools.cached_property
    def reference(self) -> Sample:
        """Held-back rows."""
        return self.sample(quiet_frame(REFERENCE_ROWS, SEED + 1))


def _installed_runtimes() -> Iterator[Runtime]:
    for name in discover.installed("runtimes"):
        with contextlib.suppress(PluginError):  # of one whose library is not installed
            runtime: Runtime = discover.build("runtimes", name, {}, "targets")
            yield runtime


def shared_material(format: str | None = None) -> Material:
    """Return the material that all checks of this process share: its model is trained once.

    Parameters
    ----------
    format
        That a technique takes. Where an installed trainer fits models in it, the model is that trainer's with
        the settings that it has by itself, and what exports it is the first installed technique that brings
        it into a format of the material's runtime; else it is a network.
    """
    return _material(_trainer_of(format))


@functools.cache
def _material(trainer: str | None) -> Material:
    if trainer is None:
        return Material()
    made: Trainer = discover.build("trainers", trainer, {}, "model")
    for name, about in _installed_techniques():
        if about.takes == made.gives and about.gives in Material().serving.takes and not about.compresses:
            return Material(made, export=discover.build("techniques", name, {}, f"optimize.techniques.{name}"))
    raise AssertionError(f"no installed technique converts {made.gives!r} for a runtime; pass a Material with one")


def _trainer_of(format: str | None) -> str | None:
    """Return the installed trainer that fits classifiers in a format; None for that of the networks."""
    for name in discover.installed("trainers") if format != FLOAT else ():
        with contextlib.suppress(PluginError):  # as above
            found = discover.find("trainers", name)
            if found.gives == format and found.task == "classification" and not untrained(found):
                return name
    return None


def _installed_techniques() -> Iterator[tuple[str, About]]:
    for name in discover.installed("techniques"):
        with contextlib.suppress(PluginError):  # as above
            yield name, discover.find("techniques", name).about
