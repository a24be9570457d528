"""How much each column matters, on models of which it is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests import fakes
from trimtab import loop
from trimtab.importance import importance, of_version
from trimtab.metric import Accuracy, Rmse
from trimtab.monitor import Sample
from trimtab.window import Arrays, Feature, Schema

TRUTH = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 2.0]])


class Mixed:
    """Adds up a number, the length of a word and the mean of a tensor, and heeds nothing else."""

    def predict(self, inputs: Arrays) -> np.ndarray[Any, Any]:
        words = np.char.str_len(inputs["word"][:, 0])
        found = 2 * inputs["numeric"][:, 0] + words + inputs["image"].mean(axis=(1, 2))
        return np.asarray(found[:, None], dtype=np.float32)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        return {"predictions": self.predict(inputs)}


def sample(frame: pd.DataFrame, schema: Schema) -> Sample:
    return Sample(schema, frame, inputs=schema.encode(frame), labels=schema.encode_labels(frame))


def centroids(rows: int, labelled: bool = True) -> tuple[Schema, Sample]:
    frame = fakes.quiet(rows, 0)
    schema = Schema.freeze({"a": Feature(), "b": Feature(), "c": Feature()}, frame, label="y")
    return schema, sample(frame if labelled else frame.drop(columns="y"), schema)


def test_what_the_model_does_not_read_is_worth_nothing_and_what_it_rests_on_most() -> None:
    schema, rows = centroids(1000)
    found = importance(fakes.CentroidSession(TRUTH), schema, rows, Accuracy())
    assert found["b"] == 0.0
    assert found["a"] > 4 * found["c"] > 0.0
    assert sum(found.values()) == pytest.approx(1.0)


def test_without_labels_the_change_of_the_outputs_ranks_the_columns_alike() -> None:
    told = [importance(fakes.CentroidSession(TRUTH), *centroids(1000, here), Accuracy()) for here in (True, False)]
    assert [sorted(found, key=lambda n: found[n]) for found in told] == [["b", "c", "a"]] * 2
    assert told[0] != told[1]


def test_words_and_tensors_are_columns_like_others() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"x": rng.normal(size=600), "idle": rng.normal(size=600)})
    frame["word"] = rng.choice(["a", "abc"], 600)
    frame["image"] = list(rng.normal(0, 1, (600, 1, 1)) + np.zeros((600, 2, 3)))
    kinds = {"x": Feature(), "idle": Feature(), "word": Feature(kind="categorical")}
    schema = Schema.freeze({**kinds, "image": Feature(kind="tensor", shape=(2, 3))}, frame, task="regression")
    rows = sample(frame, schema)
    labelled = Sample(schema, frame, inputs=rows.inputs, labels=Mixed().predict(rows.inputs)[:, 0].astype(np.float64))
    for known in (rows, labelled):
        found = importance(Mixed(), schema, known, Rmse())
        assert list(found) == ["x", "idle", "word", "image"]
        assert found["idle"] == 0.0
        assert found["x"] > 1.5 * found["image"] > 0.1
        assert found["word"] > 0.1
        assert sum(found.values()) == pytest.approx(1.0)
        assert importance(Mixed(), schema, known, Rmse()) == found


def test_a_model_that_heeds_nothing_prefers_no_column() -> None:
    schema, rows = centroids(200)
    assert importance(fakes.CentroidSession(TRUTH * 0), schema, rows, Accuracy()) == dict.fromkeys("abc", 1 / 3)


def test_a_versions_importance_is_computed_once_and_again_where_the_file_was_torn(tmp_path: Path) -> None:
    with fakes.installed(tmp_path / "site"):
        stream = fakes.stream("important", fakes.quiet(400, 0), fakes.quiet(200, 1))
        parts = fakes.World(tmp_path / "home", stream).process()
        list(loop.watch(parts, replay=True))
        found = of_version(parts, 1)
        assert found["a"] > found["b"]
        file = next(parts.folder.rglob("importance.json"))
        file.write_text('{"a": 0.5, "b": 0.5}')
        assert of_version(parts, 1) == {"a": 0.5, "b": 0.5}
        file.write_text('{"a": 0.')
        assert of_version(parts, 1) == found
