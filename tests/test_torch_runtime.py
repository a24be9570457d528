"""What torch as a runtime promises: the numbers of the export, only the project's factory, and torch left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trimtab import discover
from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, SettingsError
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_torch.classifier import Classifier
from trimtab_torch.export import Export
from trimtab_torch.regressor import Regressor
from trimtab_torch.runtime import TorchRuntime

FACTORY = "trimtab_torch.networks:Mlp"


class Bench:
    """A table of a number and a text, with a model trained on it and its export."""

    def __init__(self, root: Path, trainer: Any, labels: Any, task: Any) -> None:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"x": rng.normal(size=200), "c": rng.choice(["a", "b"], 200)})
        frame["y"] = labels(frame["x"])
        features = {"x": Feature(), "c": Feature(kind="categorical")}
        self.schema = Schema.freeze(features, frame, label="y", task=task)
        self.rows = Rows(self.schema.encode(frame), self.schema.encode_labels(frame), np.arange(200, dtype=np.uint64))
        self.data = Data.write(root / "data", {Role.TRAIN: self.rows})
        jobs = [Job(root / name, 0, self.schema) for name in ("fit", "export")]
        for job in jobs:
            job.folder.mkdir()
        self.model: Model = trainer.fit(self.data, jobs[0])
        self.exported = Export().apply(self.model, self.data, jobs[1])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("torch")
    return Bench(root, Classifier(FACTORY, {"hidden": [8]}, epochs=2), lambda x: x > 0, "classification")


def test_answers_are_those_of_the_export(bench: Bench) -> None:
    expected = OnnxRuntime().load(bench.exported).run(bench.rows.inputs)
    session = TorchRuntime().load(bench.model)
    outputs = session.run(bench.rows.inputs)
    assert set(outputs) == set(expected) == {"probabilities", "embedding"}
    assert all(np.allclose(outputs[name], expected[name], atol=1e-5) for name in outputs)
    assert np.array_equal(session.predict(bench.rows.inputs), outputs["probabilities"])


def test_regression_answers_predictions(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Regressor(FACTORY, {"hidden": [8]}, epochs=2), lambda x: 100 + 10 * x, "regression")
    expected = OnnxRuntime().load(bench.exported).predict(bench.rows.inputs)
    session = TorchRuntime().load(bench.model)
    assert set(session.run(bench.rows.inputs)) == {"predictions", "embedding"}
    answers = session.predict(bench.rows.inputs)
    assert answers.shape == (200, 1)
    assert np.allclose(answers, expected, rtol=1e-5)


def test_compiled_network_answers_the_same_on_its_batch_and_on_any_other(bench: Bench) -> None:
    expected = TorchRuntime().load(bench.model).run(bench.rows.inputs)
    session = TorchRuntime(compile=True).load(bench.model, batch=2)
    for rows in (2, 1, 200):
        outputs = session.run({name: values[:rows] for name, values in bench.rows.inputs.items()})
        assert all(np.allclose(outputs[name], expected[name][:rows], atol=1e-5) for name in expected)


def test_without_a_compiler_compiling_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SettingsError, match=r"targets: .*torch.compile: true needs a C\+\+ compiler, .* compile: false"
    ):
        discover.build("runtimes", "torch", {"compile": True}, "targets")
    assert TorchRuntime().compile is False


def test_only_the_projects_factory_is_called(bench: Bench) -> None:
    TorchRuntime(factory=FACTORY).load(bench.model)
    with pytest.raises(ArtifactError, match=r"asks for the factory 'trimtab_torch.networks:Mlp', the project names"):
        TorchRuntime(factory="my_nets:Mlp").load(bench.model)


def test_threads_are_the_calls_own_and_put_back(bench: Bench) -> None:
    before = torch.get_num_threads()
    session = TorchRuntime().load(bench.model, threads=before + 1)
    session.predict(bench.rows.inputs)
    assert torch.get_num_threads() == before


def test_inputs_that_do_not_fit_are_named(bench: Bench) -> None:
    session = TorchRuntime().load(bench.model)
    with pytest.raises(DataError, match=r"model input 'c' is missing; given: \['numeric'\]"):
        session.predict({"numeric": bench.rows.inputs["numeric"]})
    with pytest.raises(DataError, match=r"the model does not take {'numeric': 'float32 \[2, 5\]'"):
        session.predict({"numeric": np.zeros((2, 5), np.float32), "c": bench.rows.inputs["c"][:2]})


@pytest.mark.parametrize("name", ["model.safetensors", "spec.json"])
def test_damaged_file_is_an_artifact_error(bench: Bench, tmp_path: Path, name: str) -> None:
    for path in bench.model.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 3])
    with pytest.raises(ArtifactError):
        TorchRuntime().load(Model.at(tmp_path, FLOAT))


def test_spec_of_other_json_is_an_artifact_error(bench: Bench, tmp_path: Path) -> None:
    for path in bench.model.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "spec.json").write_text("[1]")
    with pytest.raises(ArtifactError):
        TorchRuntime().load(Model.at(tmp_path, FLOAT))
