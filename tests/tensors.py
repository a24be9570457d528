"""Rows of one tensor, by role, with a fresh folder and job for each step that a test takes on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from trimtab.artifact import Model
from trimtab.data import Data, Role, Rows
from trimtab.technique import Job
from trimtab.window import Feature, Schema
from trimtab_torch.classifier import Classifier
from trimtab_torch.prune import PruneChannel
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import predict

__all__ = ["Bench", "accuracy", "logits_of", "session_of"]


class Bench:
    """Random rows of one tensor, with as many classes as are asked for; gives each step a fresh job."""

    def __init__(self, root: Path, inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], train: int) -> None:
        self.root, self.steps = root, 0
        frame = pd.DataFrame({"x": [x.ravel() for x in inputs[:50]], "y": labels[:50]})
        task = "regression" if labels.dtype.kind == "f" else "classification"
        feature = Feature(kind="tensor", shape=inputs.shape[1:])
        self.schema = Schema.freeze({"x": feature}, frame, task=task, label="y")
        rows = Rows({"x": inputs}, labels, np.arange(len(labels), dtype=np.uint64))
        first, held = np.arange(train), np.arange(train, len(labels))
        self.rows = rows
        self.data = Data.write(
            root / "data",
            {Role.TRAIN: rows.take(first), Role.SEARCH: rows.take(held[::2]), Role.JUDGE: rows.take(held[1::2])},
        )
        self.blank = Data.write(root / "blank", {Role.TRAIN: rows.take(first[:0])})

    @classmethod
    def noise(cls, root: Path, shape: tuple[int, ...], rows: int = 96) -> Bench:
        rng = np.random.default_rng(0)
        return cls(root, rng.normal(size=(rows, *shape)).astype(np.float32), np.arange(rows) % 3, rows - 32)

    @classmethod
    def digits(cls, root: Path) -> Bench:
        """Scanned digits, of which 1000 are to train on."""
        bunch = load_digits()
        order = np.random.default_rng(0).permutation(len(bunch.target))
        images = (bunch.images[order, None] / 16).astype(np.float32)
        return cls(root, images, bunch.target[order].astype(np.int64), 1000)

    def job(self, teacher: Model | None = None, deadline: float | None = None) -> Job:
        self.steps += 1
        folder = self.root / f"step{self.steps}"
        folder.mkdir()
        return Job(folder, 0, self.schema, teacher, deadline=deadline)

    def fit(self, factory: str, epochs: int = 1, arguments: Mapping[str, Any] | None = None) -> Model:
        return Classifier(factory, arguments or {}, epochs=epochs).fit(self.data, self.job())

    def prune(self, model: Model, **settings: Any) -> Model:
        return PruneChannel(**settings).apply(model, self.data, self.job(teacher=model))


def logits_of(model: Model, rows: Rows) -> Tensor:
    loaded = FloatModel.load(model)
    with torch.inference_mode():
        logits: Tensor = loaded.network(*loaded.prepare(rows.inputs))
    return logits


def accuracy(model: Model, bench: Bench) -> float:
    loaded, rows = FloatModel.load(model), bench.data.rows(Role.JUDGE)
    logits = predict(loaded.network, loaded.prepare(rows.inputs), bench.job())
    return float((logits.argmax(1).numpy() == rows.labels).mean())


def session_of(model: Model) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model.folder / "model.onnx"), providers=["CPUExecutionProvider"])
