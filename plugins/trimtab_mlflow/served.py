"""How MLflow loads a model that is no ONNX file: through the runtime that trimtab serves it with, without a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.artifact import Model, read_json, write_json
from trimtab.runtime import Session, Setup

__all__ = ["Served", "lay_down"]

SERVING = "serving.json"
MODEL = "model"


class Served:
    """A model as ``mlflow.pyfunc`` calls it.

    Parameters
    ----------
    session
        The model, loaded.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def predict(
        self, model_input: Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the model's outputs by name, for inputs by name (arrays ``[rows, ...]``); ``params`` are none."""
        return self._session.run({name: np.asarray(value) for name, value in model_input.items()})


def lay_down(folder: Path, setup: Setup, model: Model) -> None:
    """Write beside a model's files, in ``folder / "model"``, what loads them."""
    told = {"runtime": setup.runtime, "settings": dict(setup.settings), "format": model.format}
    write_json(folder / SERVING, told)


def _load_pyfunc(path: str) -> Served:
    """Load what :func:`lay_down` described; MLflow calls it by this name."""
    told = read_json(Path(path) / SERVING)
    runtime = Setup(told["runtime"], told["settings"]).make("the logged model")
    return Served(runtime.load(Model.at(Path(path) / MODEL, told["format"])))
