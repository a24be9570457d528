"""Networks that are not ours go through a whole round: a winner no worse, or a verdict that says why there is none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tests import fakes, networks
from trimtab import champion, first, round
from trimtab.data import Rows
from trimtab.metric import answer, choose, score
from trimtab.parts import Parts, assemble
from trimtab.registry import MemoryRegistry
from trimtab.runtime import CHAMPION
from trimtab.settings import Project

pytestmark = pytest.mark.usefixtures("lock_of_its_own")

CLASSES = 4
ROWS = 900
TRAINING = {"epochs": 4, "learning_rate": 0.05, "batch_size": 32}


@pytest.fixture(scope="module", autouse=True)
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with fakes.installed(tmp_path_factory.mktemp("site")):
        yield


def patterns(shape: tuple[int, ...], rows: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Four classes of smooth patterns under noise, whatever the shape."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    ramps = fixed.normal(size=(CLASSES, *shape)).cumsum(axis=-1)
    ramps /= ramps.std()
    labels = rng.integers(0, CLASSES, rows)
    return (ramps[labels] + rng.normal(0, 1.0, (rows, *shape))).astype(np.float32), labels.astype(np.int64)


def tensors(shape: tuple[int, ...]) -> tuple[pd.DataFrame, dict[str, Any]]:
    values, labels = patterns(shape, ROWS, 1)
    frame = pd.DataFrame({"x": list(values.reshape(ROWS, -1)), "y": labels, "id": range(ROWS)})
    return frame, {"x": {"kind": "tensor", "shape": list(shape)}}


def project(folder: Path, frame: pd.DataFrame, features: dict[str, Any], **changes: Any) -> Parts:
    plain: dict[str, Any] = {
        "name": "p",
        "home": folder / "home",
        "source": {"kind": "frames", "path": fakes.stream(str(folder), frame), "label": "y", "id": "id"},
        "features": features,
        "window": {"every": 100, "start": len(frame)},
        "data": {"split": {"train": 0.5, "calibration": 0.05, "search": 0.15, "judge": 0.3}},
        "monitors": {"use": ["integrity"]},
        "targets": [{"runtime": ["onnxruntime", "openvino"]}],
        "optimize": {
            "techniques": [
                {"finetune": {"epochs": 1}},
                {"prune.channel": {"ratio": 0.5, "scope": "layer"}},
                {"distill": {"epochs": 3}},
                "export",
                "quantize.static",
            ],
            "candidates": 5,
        },
        "gate": {"max_quality_drop": 0.1, "max_total_drop": 0.1, "confidence": 0.8},
        "benchmark": {"seconds": 0.3, "memory": False},
    }
    settings = Project.model_validate({**plain, **changes})
    return assemble(settings, registry=MemoryRegistry(folder / "registry"))


def turn(parts: Parts) -> round.Round:
    first.begin(parts)
    return round.optimize(parts, round.request_by_hand(parts, "a test"))


NETWORKS = {
    "a plain MLP": ("trimtab_torch.networks:Mlp", {"hidden": [64, 64]}, None),
    "a depthwise-separable CNN": ("tests.networks:MobileNet", {}, networks.MobileNet.example),
    "a ResNet with grouped convolutions": ("tests.networks:ResNeXt", {}, networks.ResNeXt.example),
    "a transformer encoder": ("tests.networks:Transformer", {}, networks.Transformer.example),
    "a transformer encoder on longer sequences": ("tests.networks:Transformer", {"shape": [20, 6]}, (20, 6)),
    "a 1-D CNN": ("tests.networks:Conv1d", {}, networks.Conv1d.example),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_another_kind_gets_a_better_or_equal_winner_or_a_reason(tmp_path: Path, name: str) -> None:
    factory, arguments, shape = NETWORKS[name]
    if shape is None:
        values, labels = patterns((6,), ROWS, 1)
        frame = pd.DataFrame(values, columns=list("abcdef")).assign(y=labels, id=range(ROWS))
        features: dict[str, Any] = {c: {} for c in "abcdef"}
    else:
        frame, features = tensors(shape)
    parts = project(tmp_path, frame, features, model={"factory": factory, "arguments": arguments, **TRAINING})
    asked = turn(parts)
    assert asked.outcome in ("promoted", "kept")
    judged = [c for c in asked.detail["candidates"] if c["outcome"] in ("passed", "rejected", "unknown")]
    assert judged
    assert all(c["reasons"] for c in asked.detail["candidates"])
    assert not [c for c in asked.detail["candidates"] if c["outcome"] == "failed"]
    if asked.outcome == "promoted":
        values, labels = patterns(shape or (6,), 600, 7)
        rows = Rows({"numeric" if shape is None else "x": values}, labels, np.arange(600, dtype=np.uint64))
        old, new = (champion.load(parts, n).session for n in (1, parts.registry.alias(CHAMPION) or 1))
        accuracy = choose("accuracy", "torch.classifier", "classification")
        assert score(accuracy, answer(new, rows)) > score(accuracy, answer(old, rows)) - 0.1


@pytest.mark.parametrize("metric", ["f1", "average_precision"])
def test_a_round_by_another_metric(tmp_path: Path, metric: str) -> None:
    values, labels = patterns((6,), ROWS, 1)
    frame = pd.DataFrame(values, columns=list("abcdef")).assign(y=labels % 2, id=range(ROWS))
    model = {"factory": "trimtab_torch.networks:Mlp", "metric": metric, **TRAINING}
    asked = turn(project(tmp_path, frame, {c: {} for c in "abcdef"}, model=model))
    reasons = " ".join(r for c in asked.detail["candidates"] for r in c["reasons"])
    assert f"{metric} " in reasons
    assert asked.outcome in ("promoted", "kept")


def test_a_regression_by_rmse(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ROWS, 4)).astype(np.float32)
    labels = 100 + 10 * values[:, 0] - 5 * values[:, 1] * values[:, 2] + rng.normal(0, 1, ROWS)
    frame = pd.DataFrame(values, columns=list("abcd")).assign(y=labels, id=range(ROWS))
    model = {
        "trainer": "torch.regressor",
        "metric": "rmse",
        "factory": "trimtab_torch.networks:Mlp",
        "arguments": {"hidden": [64, 64]},
        **TRAINING,
        "epochs": 20,
    }
    parts = project(tmp_path, frame, {c: {} for c in "abcd"}, model=model)
    asked = turn(parts)
    first_one = champion.load(parts, 1)
    assert set(first_one.session.run({"numeric": values[:3]})) >= {"predictions"}
    assert abs(float(first_one.session.predict({"numeric": values}).mean()) - 100) < 2
    reasons = " ".join(r for c in asked.detail["candidates"] for r in c["reasons"])
    assert "rmse " in reasons
    assert asked.outcome in ("promoted", "kept")
