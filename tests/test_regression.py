"""A regression from first champion to promotion: a line through numbers, fitted anew when they move."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from tests import fakes
from tests.judged import judged
from trimtab import loop, status
from trimtab.artifact import FLOAT, ONNX, Model, read_json, write_json
from trimtab.data import Data, Role
from trimtab.errors import ArtifactError, DataError, SettingsError
from trimtab.metric import Rmse
from trimtab.monitor import Answer, Sample
from trimtab.technique import About, Job
from trimtab.window import Arrays, Feature, Schema, Task
from trimtab_evidently.drift import Drift
from trimtab_evidently.integrity import Integrity

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

SLOPES = np.array([2.0, -1.0, 0.5])


def quiet(rows: int, seed: int, slopes: np.ndarray[Any, Any] = SLOPES) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 3))
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    return frame.assign(y=10.0 + values @ slopes + rng.normal(0, 0.5, rows), id=[f"{seed}-{i}" for i in range(rows)])


def moved(rows: int, seed: int) -> pd.DataFrame:
    """The same numbers, of which another label follows."""
    return quiet(rows, seed, -SLOPES)


def fitted(data: Data) -> np.ndarray[Any, Any]:
    rows = data.rows(Role.TRAIN)
    values = np.c_[rows.inputs["numeric"].astype(np.float64), np.ones(len(rows))]
    return np.asarray(np.linalg.lstsq(values, rows.labels, rcond=None)[0])


def save(folder: Path, format: str, line: np.ndarray[Any, Any]) -> Model:
    write_json(folder / ("model.json" if format == FLOAT else "model.onnx"), {"line": line.tolist()})
    return Model.at(folder, format)


def line_in(model: Model) -> np.ndarray[Any, Any]:
    return np.asarray(read_json(model.folder / ("model.json" if model.format == FLOAT else "model.onnx"))["line"])


@dataclass(frozen=True)
class LineTrainer:
    name: ClassVar[str] = "line"
    task: ClassVar[Task] = "regression"
    gives: ClassVar[str] = FLOAT

    def draft(self, inputs: Arrays, job: Job) -> Model:
        return save(job.folder, FLOAT, np.zeros(inputs["numeric"].shape[1] + 1))

    def fit(self, data: Data, job: Job) -> Model:
        return save(job.folder, FLOAT, fitted(data))


@dataclass(frozen=True)
class Refit:
    about: ClassVar[About] = About(
        name="refit", takes=FLOAT, gives=FLOAT, renews_parent=True, needs_data=True, needs_labels=True, rung=3
    )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return save(job.folder, FLOAT, fitted(data))


@dataclass(frozen=True)
class Write:
    about: ClassVar[About] = About(name="write", takes=FLOAT, gives=ONNX)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return save(job.folder, ONNX, line_in(model))


@dataclass(frozen=True)
class Round:
    """Rounds the coefficients so far that little is left of them."""

    about: ClassVar[About] = About(name="round", takes=ONNX, gives=ONNX, smaller=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return save(job.folder, ONNX, np.round(line_in(model), -1))


class LineSession:
    def __init__(self, line: np.ndarray[Any, Any]) -> None:
        self.slopes, self.offset = line[:-1], line[-1]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        return {"predictions": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> np.ndarray[Any, Any]:
        return np.asarray(inputs["numeric"] @ self.slopes + self.offset, dtype=np.float32)[:, None]


class LineRuntime:
    name: ClassVar[str] = "line"
    takes: ClassVar[tuple[str, ...]] = (ONNX,)

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> LineSession:
        try:
            return LineSession(line_in(model))
        except KeyError as error:
            raise ArtifactError(f"{model.folder} holds no line: {error}") from error


Frames = fakes.Frames
POINTS = {
    "sources": {"frames": "Frames"},
    "trainers": {"line": "LineTrainer"},
    "techniques": {"refit": "Refit", "write": "Write", "round": "Round"},
    "runtimes": {"line": "LineRuntime"},
}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site"), POINTS, __name__):
        yield


def world(tmp_path: Path, *parts: pd.DataFrame, **changes: Any) -> fakes.World:
    stream = fakes.stream(f"lines-{tmp_path.name}", *parts)
    plain = {
        "model": {"trainer": "line", "metric": "rmse"},
        "targets": [{"runtime": "line"}],
        "monitors": {"use": ["integrity", "evidently.drift", "performance"]},
        "data": {"train": "since change", "replay": 0.0},
        "optimize": {"techniques": ["refit", "write", "round"]},
    }
    return fakes.World(tmp_path / "home", stream, {**plain, **changes})


def test_a_regression_that_moved_is_found_refitted_judged_and_promoted(tmp_path: Path) -> None:
    there = world(tmp_path, quiet(400, 1), quiet(200, 2), moved(200, 3), moved(200, 4), moved(200, 5))
    parts = there.process()
    reports = list(loop.watch(parts, replay=True))
    rounds = [r.round for r in reports if r.round is not None]
    assert [r.outcome for r in rounds] == ["promoted"]
    (worse, *_) = [f for r in reports for f in r.findings if f.answer is Answer.WORSE]
    assert worse.reasons[0].startswith("rmse of 'y' rose from 0.")
    described = status.describe(parts.journal, parts.registry)
    served, never = (described["quality"][name] for name in ("served", "never_replaced"))
    assert served < never
    assert described["gained"]["quality_after"] < 0.7 < 3 < described["gained"]["quality_before"]
    assert (rounds[0].window, rounds[0].detail["rows"]["windows"]) == (2, [2])
    assert "rmse fell by " in str(described["rounds"])


def test_a_quiet_regression_is_left_alone(tmp_path: Path) -> None:
    there = world(tmp_path, quiet(400, 11), quiet(200, 12), quiet(200, 13))
    parts = there.process()
    reports = list(loop.watch(parts, replay=True))
    assert all(r.round is None for r in reports)
    assert {f.answer for r in reports for f in r.findings} == {Answer.FINE}
    values = [q.value for q in parts.journal.qualities()]
    assert len(values) == 2
    assert all(0.4 < v < 0.6 for v in values)


def test_a_metric_of_classifiers_is_refused_before_anything_runs(tmp_path: Path) -> None:
    there = world(tmp_path, quiet(400, 1), model={"trainer": "line", "metric": "accuracy"})
    with pytest.raises(SettingsError, match=r"'accuracy' is for classification, but model.trainer 'line'"):
        there.process()


# the schema


def frozen(frame: pd.DataFrame) -> Schema:
    return Schema.freeze({name: Feature() for name in "abc"}, frame, task="regression", label="y", id="id")


def test_a_schema_of_numbers_has_no_classes_and_reads_back() -> None:
    schema = frozen(quiet(20, 1))
    assert schema.classes == ()
    assert Schema.model_validate_json(schema.model_dump_json()) == schema
    labels = schema.encode_labels(quiet(5, 2).assign(y=["1.5", 2, None, 4.0, -3]))
    assert labels.dtype == np.float64
    assert labels[[0, 1, 3, 4]].tolist() == [1.5, 2.0, 4.0, -3.0]
    assert np.isnan(labels[2])
    assert np.isnan(schema.encode_labels(quiet(5, 2).drop(columns="y"))).all()


@pytest.mark.parametrize("odd", ["high", np.inf])
def test_a_label_that_is_no_finite_number_is_refused(odd: object) -> None:
    frame = quiet(20, 1).astype({"y": object})
    frame.loc[3, "y"] = odd
    with pytest.raises(DataError, match="a regression's labels are finite numbers"):
        frozen(frame)
    finding = judged(Integrity(), Sample(frozen(quiet(20, 1)), quiet(20, 2)), Sample(frozen(quiet(20, 1)), frame), 0.05)
    assert finding.answer is Answer.BROKEN
    assert "label column 'y': 1 of 20 labels are no finite numbers" in finding.reasons[0]


def test_one_number_alone_is_nothing_to_regress_on() -> None:
    with pytest.raises(DataError, match=r"holds 1 different number\(s\) in the first rows"):
        frozen(quiet(20, 1).assign(y=3.0))


def test_labels_that_are_all_alike_later_are_no_fault() -> None:
    schema = frozen(quiet(200, 1))
    late = Sample(schema, quiet(200, 2).assign(y=3.0))
    assert judged(Integrity(), Sample(schema, quiet(200, 1)), late, 0.05).answer is Answer.FINE


def test_drift_of_the_predictions_is_seen_though_no_feature_moved() -> None:
    schema, frame = frozen(quiet(400, 1)), quiet(400, 2)
    before, now = (
        Sample(schema, frame, number, predictions=np.random.default_rng(number).normal(at, 1, (400, 1)))
        for number, at in ((0, 0.0), (1, 1.0))
    )
    finding = judged(Drift(), before, now, 0.05)
    assert finding.answer is Answer.MOVED
    assert finding.reasons[0].startswith("prediction moved: mean ")
    assert Rmse().task == schema.task
