"""What OpenVINO and NNCF promise: the same answers as ONNX Runtime, integer weights, equal files, and silence."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trimtab.artifact import OPENVINO, Model
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, OutOfTimeError, PluginError
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_onnx.quantize import QuantizeStatic
from trimtab_onnx.runtime import OnnxRuntime
from trimtab_openvino.graph import read
from trimtab_openvino.quantize import QuantizeNncf
from trimtab_openvino.runtime import OpenVino
from trimtab_torch.classifier import Classifier
from trimtab_torch.export import Export

ROOT = Path(__file__).parents[1]


class Bench:
    """Blobs seen as small images, with a trained and exported network."""

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, 0
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 400)
        images = rng.normal(size=(400, 1, 8, 8)).astype(np.float32) * 0.5
        for row, label in enumerate(labels):
            images[row, 0, 2 * label : 2 * label + 3, 2:6] += 2
        frame = pd.DataFrame({"image": [i.ravel() for i in images], "y": labels})
        self.schema = Schema.freeze({"image": Feature(kind="tensor", shape=(1, 8, 8))}, frame, label="y")
        self.rows = Rows(self.schema.encode(frame), self.schema.encode_labels(frame), np.arange(400, dtype=np.uint64))
        parts = np.split(np.arange(400), [200, 250, 300])
        self.data = Data.write(root / "data", dict(zip(Role, map(self.rows.take, parts), strict=True)))
        trainer = Classifier("trimtab_torch.networks:SmallResNet", {"widths": [16, 32]}, epochs=3)
        self.model = Export().apply(trainer.fit(self.data, self.job()), self.data, self.job())

    def job(self) -> Job:
        self.steps += 1
        folder = self.root / f"step{self.steps}"
        folder.mkdir()
        return Job(folder, 0, self.schema)

    def right(self, answers: Any) -> float:
        return float((answers.argmax(axis=1) == self.rows.labels).mean())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("openvino"))


def test_answers_are_those_of_onnxruntime_whatever_the_number_of_rows(bench: Bench) -> None:
    expected = OnnxRuntime().load(bench.model).run(bench.rows.inputs)
    session = OpenVino().load(bench.model, threads=1, batch=4)
    for rows in (400, 4, 1, 4, 7):
        inputs = {name: values[:rows] for name, values in bench.rows.inputs.items()}
        outputs = session.run(inputs)
        assert set(outputs) == {"probabilities", "embedding"}
        assert all(np.allclose(outputs[n], expected[n][:rows], atol=1e-5) for n in outputs)
        assert np.array_equal(session.predict(inputs), outputs["probabilities"])
        assert outputs["probabilities"].dtype == np.float32


def test_answers_stay_and_inputs_may_be_read_only_or_of_other_types(bench: Bench) -> None:
    session = OpenVino().load(bench.model)
    image = bench.rows.inputs["image"]
    first = session.predict({"image": image[:1]})
    kept = first.copy()
    frozen = image[1:2].copy()
    frozen.flags.writeable = False
    second = session.predict({"image": frozen})
    assert np.array_equal(first, kept)
    assert np.array_equal(session.predict({"image": image[1:2].astype(np.float64)}), second)
    assert np.array_equal(session.predict({"image": np.asfortranarray(image[1:2])}), second)


def test_one_session_serves_several_threads(bench: Bench) -> None:
    session = OpenVino().load(bench.model)
    image = bench.rows.inputs["image"]
    expected = [session.predict({"image": image[row : row + 1]}) for row in range(20)]
    wrong: list[int] = []

    def ask() -> None:
        for row in list(range(20)) * 5:
            if not np.array_equal(session.predict({"image": image[row : row + 1]}), expected[row]):
                wrong.append(row)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_inputs_that_do_not_fit_are_named(bench: Bench) -> None:
    session = OpenVino().load(bench.model)
    with pytest.raises(DataError, match=r"model input 'image' is missing; given: \['other'\]"):
        session.predict({"other": np.zeros((1, 1), np.float32)})
    for rows in (1, 2):
        with pytest.raises(DataError, match=rf"the model does not take {{'image': 'float32 \[{rows}, 3\]'}}"):
            session.predict({"image": np.zeros((rows, 3), np.float32)})


def test_missing_numbers_are_filled_in_as_in_onnxruntime(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "z": rng.normal(size=200), "k": rng.integers(0, 3, 200)})
    frame["y"] = frame["x"] > 0
    frame.loc[::9, "x"] = np.nan
    schema = Schema.freeze({"x": Feature(), "z": Feature(), "k": Feature(kind="categorical")}, frame, label="y")
    rows = Rows(schema.encode(frame), schema.encode_labels(frame), np.arange(200, dtype=np.uint64))
    data = Data.write(tmp_path / "data", {Role.TRAIN: rows})
    jobs = [Job(tmp_path / name, 0, schema) for name in ("fit", "export", "quantize")]
    for job in jobs:
        job.folder.mkdir()
    fitted = Classifier("trimtab_torch.networks:Mlp", epochs=10).fit(data, jobs[0])
    model = Export().apply(fitted, data, jobs[1])
    expected = OnnxRuntime().load(model).predict(rows.inputs)
    assert np.allclose(OpenVino().load(model).predict(rows.inputs), expected, atol=1e-5)
    quantized = QuantizeNncf().apply(model, data, jobs[2])
    answers = OpenVino().load(quantized).predict(rows.inputs)
    assert np.isfinite(answers).all()
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


def test_half_precision_is_a_setting_and_not_the_default(bench: Bench) -> None:
    expected = OnnxRuntime().load(bench.model).predict(bench.rows.inputs)
    gaps = [
        float(np.abs(OpenVino(precision=p).load(bench.model, batch=400).predict(bench.rows.inputs) - expected).max())
        for p in ("f32", "bf16")
    ]
    assert gaps[0] < 1e-5
    assert gaps[1] < 0.05
    with pytest.raises(ValueError, match=r"openvino.precision must be f32 or bf16, got 'int4'"):
        OpenVino(precision="int4")  # type: ignore[arg-type]


def test_a_model_that_onnxruntime_quantized_is_served_too(bench: Bench) -> None:
    model = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    answers = OpenVino().load(model).predict(bench.rows.inputs)
    assert np.allclose(answers, OnnxRuntime().load(model).predict(bench.rows.inputs), atol=0.05)


@pytest.mark.parametrize("settings", [{}, {"preset": "mixed"}, {"fast_bias_correction": False}, {"max_drop": None}])
def test_quantized_model_is_as_good_and_smaller(bench: Bench, settings: dict[str, Any], capfd: Any) -> None:
    model = QuantizeNncf(**settings, rows=40).apply(bench.model, bench.data, bench.job())
    assert capfd.readouterr() == ("", "")
    assert model.format == OPENVINO
    assert {p.name for p in model.folder.iterdir()} == {"model.xml", "model.bin", "facts.json"}
    assert (model.folder / "model.bin").stat().st_size < 0.35 * bench.model.size_bytes
    assert model.facts["parameters"] == bench.model.facts["parameters"]
    assert model.facts["calibration_rows"] == 40
    assert model.facts["quantizers"] > 5
    before, after = (OpenVino().load(m).run(bench.rows.inputs) for m in (bench.model, model))
    assert set(before) == set(after) == {"probabilities", "embedding"}
    assert bench.right(after["probabilities"]) > bench.right(before["probabilities"]) - 0.03


def test_same_rows_same_files_though_openvino_counts_on(bench: Bench) -> None:
    first, again = (QuantizeNncf(rows=20).apply(bench.model, bench.data, bench.job()) for _ in range(2))
    assert first.digest == again.digest


def test_accuracy_control_puts_back_into_float_what_may_not_be_lost(bench: Bench, tmp_path: Path) -> None:
    # On noise the classes are nearly tied, and the least error of rounding turns an answer.
    noise = np.random.default_rng(1).normal(size=(100, 1, 8, 8)).astype(np.float32)
    rows = Rows({"image": noise}, np.full(100, -1), np.arange(100, dtype=np.uint64))
    data = Data.write(tmp_path / "noise", {Role.CALIBRATION: rows})
    taken, held = (QuantizeNncf(max_drop=m, rows=100).apply(bench.model, data, bench.job()) for m in (None, 0.0))
    assert taken.facts["lost"] > held.facts["lost"]
    assert taken.facts["quantizers"] > held.facts["quantizers"]


@pytest.mark.parametrize("max_drop", [0.01, None])
def test_quantizing_gives_up_when_the_time_is_spent(bench: Bench, max_drop: float | None) -> None:
    late = dataclasses.replace(bench.job(), deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTimeError, match=r"quantize.nncf ran out of time"):
        QuantizeNncf(rows=10, max_drop=max_drop).apply(bench.model, bench.data, late)


def test_what_cannot_be_quantized_says_why(bench: Bench, tmp_path: Path) -> None:
    nothing = Data.write(tmp_path / "none", {Role.TRAIN: bench.rows.take(np.zeros(0, np.int64))})
    with pytest.raises(DataError, match=r"no row with the role calibration or train; raise data\.split"):
        QuantizeNncf().apply(bench.model, nothing, bench.job())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "fast"}, "quantize.nncf.preset must be one of performance, mixed, got 'fast'"),
        ({"rows": 0}, "quantize.nncf.rows must be at least 1, got 0"),
        ({"max_drop": -0.1}, r"quantize.nncf.max_drop must be in \[0, 1\), or null, got -0.1"),
    ],
)
def test_settings_outside_their_rule_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeNncf(**settings)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_damaged_file_is_an_artifact_error(bench: Bench, name: str) -> None:
    model = QuantizeNncf(max_drop=None, rows=5).apply(bench.model, bench.data, bench.job())
    path = model.folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ArtifactError, match=r"model.xml cannot be loaded by OpenVINO"):
        OpenVino().load(Model.at(model.folder, OPENVINO))


SILENT = """
import socket, time
from pathlib import Path
attempts = Path({attempts!r})
def refuse(*address, **_):
    # In a file, for the sender works in a process of its own.
    attempts.write_text(str(address))
    raise OSError("no network in this test")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
{first}
import numpy as np
from trimtab.artifact import Model
from trimtab.data import Data
from trimtab.technique import Job
from trimtab.window import Schema
from trimtab_openvino.quantize import QuantizeNncf
from trimtab_openvino.runtime import OpenVino
folder = Path({folder!r})
folder.mkdir()
model = Model.at(Path({model!r}), "onnx")
quantized = QuantizeNncf(rows=10).apply(model, Data(Path({data!r}), ""), Job(folder, 0, Schema(columns=())))
OpenVino().load(quantized).predict({{"image": np.zeros((1, 1, 8, 8), np.float32)}})
time.sleep(1)
"""


BEFORE_TRIMTAB = """
import nncf
while not attempts.exists():  # the import alone asks for the network, and leaves an identity
    time.sleep(0.1)
time.sleep(1)
attempts.unlink()
"""


@pytest.mark.parametrize(("first", "leaves"), [("", []), (BEFORE_TRIMTAB, ["intel"])], ids=["first", "late"])
def test_nothing_is_sent_home_nor_an_identity_made(bench: Bench, tmp_path: Path, first: str, leaves: list[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    attempts = tmp_path / "attempts"
    script = SILENT.format(
        first=first,
        attempts=str(attempts),
        folder=str(tmp_path / "out"),
        model=str(bench.model.folder),
        data=str(bench.data.folder),
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "plugins"))
    unset = {"CI", "NNCF_CI", "NNCF_DEV", "TF_BUILD", "JENKINS_URL"}
    environment = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "HOME": str(home), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not attempts.exists(), attempts.read_text()
    assert [p.name for p in home.iterdir() if p.name == "intel"] == leaves


def test_nothing_is_quantized_twice(bench: Bench) -> None:
    once = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    with pytest.raises(PluginError, match=r"quantize.nncf takes a float model, and this one is quantized"):
        QuantizeNncf().apply(once, bench.data, bench.job())


def test_weights_stay_integers_when_a_quantized_file_is_read(bench: Bench) -> None:
    static = QuantizeStatic().apply(bench.model, bench.data, bench.job())
    nncf = QuantizeNncf(rows=5, max_drop=None).apply(bench.model, bench.data, bench.job())
    for model, name in ((static, "model.onnx"), (nncf, "model.xml")):
        kinds = [op.get_element_type().get_type_name() for op in read(model.folder / name).get_ops()]
        assert kinds.count("i8") >= 6
