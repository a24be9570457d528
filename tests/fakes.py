"""The smallest real parts: rows in memory, nearest centroids in JSON, a monitor of means; no torch, milliseconds."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from trimtab import discover
from trimtab.artifact import FLOAT, ONNX, Model, read_json, write_json
from trimtab.data import Data, Role
from trimtab.errors import ArtifactError, DataError
from trimtab.monitor import Answer, Case, Finding, Never, OnDraw, Sample, Summary
from trimtab.parts import Parts, assemble
from trimtab.registry import MemoryRegistry
from trimtab.settings import Project
from trimtab.technique import About, Job
from trimtab.window import Arrays, Span, Task, Window

STREAMS: dict[str, pd.DataFrame] = {}
"""What ``source.path`` names."""

CENTRES = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 1.0]])


def quiet(rows: int, seed: int) -> pd.DataFrame:
    """Two classes of three numbers each, far apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    values = CENTRES[labels] + rng.normal(0.0, 0.8, (rows, 3))
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    return frame.assign(y=labels, id=[f"{seed}-{i}" for i in range(rows)])


def moved(rows: int, seed: int) -> pd.DataFrame:
    """The same, after what the model relied on was moved by more than the classes lie apart."""
    frame = quiet(rows, seed)
    return frame.assign(a=frame["a"] + 6.0, c=frame["c"] - 3.0)


def broken(rows: int, seed: int) -> pd.DataFrame:
    """Rows whose first column did not arrive."""
    return quiet(rows, seed).assign(a=np.nan)


def noise(rows: int, seed: int) -> pd.DataFrame:
    """Rows whose labels follow from nothing: no model can be right about them."""
    rng = np.random.default_rng([seed, 1])
    return quiet(rows, seed).assign(y=rng.integers(0, 2, rows))


@dataclass(frozen=True)
class Frames:
    """A source over ``STREAMS[path]``, cut by number of rows."""

    path: str
    every: int = 100
    start: int | None = None
    timestamp: str | None = None
    label: str | None = None
    prediction: str | None = None
    id: str | None = None

    name: ClassVar[str] = "frames"

    def begins(self) -> int:
        return self.every if self.start is None else self.start

    def last(self, start: int) -> int:
        return max(0, -(-(len(STREAMS[self.path]) - start) // self.every))

    def read(self, number: int, start: int) -> Window:
        low = start + (number - 1) * self.every if number else 0
        high = start + number * self.every
        frame = STREAMS[self.path].iloc[low:high].reset_index(drop=True)
        return Window.of(Span(number, low, high), f"row {low}", f"row {high}", frame)

    def closes(self, number: int, start: int) -> float | None:
        return None


def centroids_of(data: Data, classes: int) -> np.ndarray[Any, Any]:
    rows = data.rows(Role.TRAIN)
    if not (rows.labels >= 0).any():
        raise DataError("no row to train on; wait for labels, or raise data.split.train")
    values = rows.inputs["numeric"].astype(np.float64)
    return np.array([values[rows.labels == c].mean(axis=0) for c in range(classes)])


def save(folder: Path, format: str, centroids: np.ndarray[Any, Any], digits: int) -> Model:
    """A float model carries ballast, as a trainable one does; what is exported does not."""
    name, ballast = ("model.json", "." * 2000) if format == FLOAT else ("model.onnx", "")
    write_json(folder / name, {"centroids": np.round(centroids, digits).tolist(), "ballast": ballast})
    return Model.at(folder, format)


def centroids_in(model: Model) -> np.ndarray[Any, Any]:
    name = "model.json" if model.format == FLOAT else "model.onnx"
    return np.asarray(read_json(model.folder / name)["centroids"])


@dataclass(frozen=True)
class CentroidTrainer:
    """One centroid a class."""

    digits: int = 9

    name: ClassVar[str] = "centroid"
    task: ClassVar[Task] = "classification"
    gives: ClassVar[str] = FLOAT

    def fit(self, data: Data, job: Job) -> Model:
        return save(job.folder, FLOAT, centroids_of(data, len(job.schema.classes)), self.digits)


@dataclass(frozen=True)
class RaisingTrainer:
    """A trainer that raises what no trainer of ours does."""

    name: ClassVar[str] = "raising"
    task: ClassVar[Task] = "classification"
    gives: ClassVar[str] = FLOAT

    def fit(self, data: Data, job: Job) -> Model:
        raise OverflowError("too much")


@dataclass(frozen=True)
class Recentre:
    """Training: the centroids of the new rows."""

    about: ClassVar[About] = About(
        name="recentre",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        rung=3,
        inherits=True,
    )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return save(job.folder, FLOAT, centroids_of(data, len(job.schema.classes)), 9)


@dataclass(frozen=True)
class Follow:
    """Adapting without labels: all centroids move by as much as the rows' mean did."""

    about: ClassVar[About] = About(name="follow", takes=FLOAT, gives=FLOAT, renews_parent=True, needs_data=True, rung=1)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        rows = data.rows(Role.TRAIN)
        if not len(rows):
            raise DataError("no row to follow; wait for a window")
        centroids = centroids_in(model)
        moved = rows.inputs["numeric"].astype(np.float64).mean(axis=0) - centroids.mean(axis=0)
        return save(job.folder, FLOAT, centroids + moved, 9)


@dataclass(frozen=True)
class Drop:
    """Compressing: the last ``columns`` numbers of every centroid are forgotten."""

    columns: int = 1

    about: ClassVar[About] = About(name="drop", takes=FLOAT, gives=FLOAT, faster_on=("numpy",), smaller=True)

    def __post_init__(self) -> None:
        if self.columns < 0:
            raise ValueError(f"drop.columns must be at least 0, got {self.columns}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        centroids = centroids_in(model).copy()
        centroids[:, centroids.shape[1] - self.columns :] = 0.0
        return save(job.folder, FLOAT, centroids, 9)


@dataclass(frozen=True)
class Mimic:
    """Distilling: half way to the teacher."""

    about: ClassVar[About] = About(name="mimic", takes=FLOAT, gives=FLOAT, needs_data=True, needs_teacher=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        if not len(data.rows(Role.TRAIN)):
            raise DataError("no row to learn from; wait for labels")
        teacher = centroids_in(job.teacher) if job.teacher is not None else centroids_in(model)
        return save(job.folder, FLOAT, (centroids_in(model) + teacher) / 2, 9)


@dataclass(frozen=True)
class Convert:
    """Export."""

    about: ClassVar[About] = About(name="convert", takes=FLOAT, gives=ONNX)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return save(job.folder, ONNX, centroids_in(model), 9)


@dataclass(frozen=True)
class Spoil:
    """Quantizing so coarsely that nothing is left: never a winner."""

    about: ClassVar[About] = About(name="spoil", takes=ONNX, gives=ONNX, smaller=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return save(job.folder, ONNX, centroids_in(model) * 0.0, 0)


@dataclass(frozen=True)
class Linger:
    """Compressing nothing, in its own time; ``which`` tells one from another."""

    which: int = 0

    about: ClassVar[About] = About(name="linger", takes=FLOAT, gives=FLOAT, smaller=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        time.sleep(0.2)
        return save(job.folder, FLOAT, centroids_in(model), 9 - self.which % 2)


@dataclass(frozen=True)
class Explode:
    """A technique that raises."""

    about: ClassVar[About] = About(name="explode", takes=ONNX, gives=ONNX, smaller=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        raise ZeroDivisionError("on purpose")


MARKS = "TRIMTAB_TEST_MARKS"
"""Environment variable that names the folder in which processes leave their marks."""


@dataclass(frozen=True)
class Whose:
    """Compressing, and writing down which process did."""

    which: int = 0

    about: ClassVar[About] = About(name="whose", takes=FLOAT, gives=FLOAT, smaller=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        Path(os.environ[MARKS], f"{self.which}.{os.getpid()}").touch()
        return save(job.folder, FLOAT, centroids_in(model) + self.which / 100, 9)


@dataclass(frozen=True)
class Deadly:
    """Compressing nothing; it kills the process that builds it, ``times`` times."""

    which: int = 0
    times: int = 99

    about: ClassVar[About] = About(name="deadly", takes=FLOAT, gives=FLOAT, smaller=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        marks = Path(os.environ[MARKS])
        if len(list(marks.glob("killed.*"))) < self.times:
            (marks / f"killed.{os.getpid()}").touch()
            os.kill(os.getpid(), 9)
        return save(job.folder, FLOAT, centroids_in(model), 9)


class CentroidSession:
    """The nearest centroid as a linear model: |x - c|^2 less what all classes share."""

    def __init__(self, centroids: np.ndarray[Any, Any]) -> None:
        self.slopes, self.offsets = 2 * centroids.T, (centroids**2).sum(axis=1)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        return {"probabilities": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> np.ndarray[Any, Any]:
        scores = inputs["numeric"] @ self.slopes - self.offsets
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)


class CentroidRuntime:
    """Loads exported centroids."""

    name: ClassVar[str] = "numpy"
    takes: ClassVar[tuple[str, ...]] = (ONNX,)

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> CentroidSession:
        try:
            return CentroidSession(centroids_in(model))
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{model.folder} holds no centroids: {error}") from error


class SlowSession(CentroidSession):
    """Does everything ten times."""

    def predict(self, inputs: Arrays) -> np.ndarray[Any, Any]:
        for _ in range(9):
            super().predict(inputs)
        return super().predict(inputs)


class SlowRuntime:
    """Loads exported centroids, and is in no hurry with them."""

    name: ClassVar[str] = "slow"
    takes: ClassVar[tuple[str, ...]] = (ONNX,)

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> CentroidSession:
        return SlowSession(centroids_in(model))


@dataclass(frozen=True)
class Guard(OnDraw):
    """Broken: a column without values, or too few rows."""

    name: ClassVar[str] = "guard"
    guards: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = False

    def check(self, case: Case) -> Finding:
        current = case.current
        empty = [name for name in current.schema.names if current.frame[name].isna().all()]
        if empty and len(current):
            return Finding(self.name, current.number, Answer.BROKEN, (f"column {empty[0]!r} is empty",))
        return Finding(self.name, current.number, Answer.FINE)


@dataclass(frozen=True)
class Means(OnDraw):
    """Moved: the mean of a column by more than ``limit`` of its standard deviation."""

    limit: float = 0.5
    few: int = 30

    name: ClassVar[str] = "means"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = True

    def check(self, case: Case) -> Finding:
        reference, current = case.reference, case.current
        if len(current) < self.few or not current.inputs:
            return Finding(self.name, current.number, Answer.UNKNOWN, (f"{len(current)} rows, {self.few} are needed",))
        old, new = reference.inputs["numeric"], current.inputs["numeric"]
        shifts = np.abs(new.mean(axis=0) - old.mean(axis=0)) / old.std(axis=0)
        scores = {n: float(s) for n, s in zip(current.schema.names, shifts, strict=True) if np.isfinite(s)}
        far = tuple(f"column {n!r} moved by {s:.2f} sd" for n, s in scores.items() if s > self.limit)
        return Finding(self.name, current.number, Answer.MOVED if far else Answer.FINE, far, scores)


@dataclass(frozen=True)
class Accuracy(OnDraw):
    """Worse: right predictions fell by more than ``drop``."""

    drop: float = 0.1
    few: int = 30

    name: ClassVar[str] = "accuracy"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    statistical: ClassVar[bool] = False

    def check(self, case: Case) -> Finding:
        reference, current = case.reference, case.current
        before, now = _accuracy(reference), _accuracy(current)
        if now is None or before is None or len(current) < self.few:
            return Finding(self.name, current.number, Answer.UNKNOWN, ("not enough labels",))
        worse = now < before - self.drop
        reasons = (f"accuracy {now:.2f}, was {before:.2f}",) if worse else ()
        return Finding(self.name, current.number, Answer.WORSE if worse else Answer.FINE, reasons, {"accuracy": now})


def _accuracy(sample: Sample) -> float | None:
    if sample.labels is None or sample.probabilities is None:
        return None
    have = sample.labels >= 0
    if not have.any():
        return None
    return float((sample.probabilities.argmax(axis=1) == sample.labels)[have].mean())


@dataclass(frozen=True)
class Raises(OnDraw):
    """A monitor that raises."""

    name: ClassVar[str] = "raises"
    guards: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    statistical: ClassVar[bool] = True

    def check(self, case: Case) -> Finding:
        raise RuntimeError("no luck today")


class Sums(Never):
    """Keeps the sums of columns, whose last bits depend on the order of adding."""

    def summarize(self, fitted: Summary, batch: Sample) -> Summary:
        return {"sums": batch.frame.sum(numeric_only=True).to_numpy(np.float64)}

    def add(self, fitted: Summary, one: Summary, other: Summary) -> Summary:
        return {"sums": one["sums"] + other["sums"]}


ENTRY_POINTS: dict[str, dict[str, str]] = {
    "sources": {"frames": "Frames"},
    "trainers": {"centroid": "CentroidTrainer"},
    "techniques": {
        "recentre": "Recentre",
        "follow": "Follow",
        "drop": "Drop",
        "mimic": "Mimic",
        "convert": "Convert",
        "linger": "Linger",
        "spoil": "Spoil",
        "explode": "Explode",
        "whose": "Whose",
        "deadly": "Deadly",
    },
    "runtimes": {"numpy": "CentroidRuntime", "slow": "SlowRuntime"},
    "monitors": {"guard": "Guard", "means": "Means", "accuracy": "Accuracy", "raises": "Raises"},
}


@contextmanager
def installed(
    folder: Path, points: Mapping[str, Mapping[str, str]] = ENTRY_POINTS, module: str = __name__
) -> Iterator[None]:
    """Install these parts the way a stranger's distribution is: a ``.dist-info`` on the path, nothing patched."""
    info = folder / "trimtab_fakes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trimtab-fakes\nVersion: 1.0\n")
    lines = [
        line
        for kind, names in points.items()
        for line in (f"[trimtab.{kind}]", *(f"{name} = {module}:{value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    sys.path.insert(0, str(folder))
    discover.installed.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        discover.installed.cache_clear()


def settings(home: Path, stream: str, **changes: Any) -> dict[str, Any]:
    """A project's settings; speed decides nothing in it, so that a busy machine changes no verdict."""
    plain: dict[str, Any] = {
        "name": "p",
        "home": home,
        "source": {"kind": "frames", "path": stream, "label": "y", "id": "id"},
        "features": {"a": {}, "b": {}, "c": {}},
        "window": {"every": 200, "start": 400},
        "data": {"train": 1, "replay": 0.2},
        "model": {"trainer": "centroid"},
        "monitors": {"use": ["guard", "means", "accuracy"]},
        "trigger": {"confirm": "2 of 2", "cooldown": 1},
        "targets": [{"runtime": "numpy"}],
        "benchmark": {"seconds": 0.05, "memory": False},
        "optimize": {"techniques": ["recentre", "convert", "spoil"]},
        "gate": {"max_slowdown": 99.0, "min_gain": 99.0, "max_quality_drop": 0.1, "max_total_drop": 0.2},
    }
    return {**plain, **changes}


def stream(name: str, *parts: pd.DataFrame) -> str:
    STREAMS[name] = pd.concat(parts, ignore_index=True)
    return name


@dataclass
class World:
    """What outlives a process: the project's home with its journal, and the registry."""

    home: Path
    stream: str
    changes: dict[str, Any] = field(default_factory=dict)
    wrap: Callable[[MemoryRegistry], Any] = lambda registry: registry
    registry: MemoryRegistry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = MemoryRegistry(self.home / "registry")

    def process(self) -> Parts:
        """The project as a new process opens it."""
        project = Project.model_validate(settings(self.home, self.stream, **self.changes))
        return assemble(project, registry=self.wrap(self.registry))


@dataclass
class DiesPromoting:
    """A journal that never comes back from a round's promotion whose operation holds a word."""

    journal: Any
    word: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def promote(self, operation: str, *rest: Any) -> Any:
        if ":round:" in operation and self.word in operation:
            raise KeyboardInterrupt
        return self.journal.promote(operation, *rest)
