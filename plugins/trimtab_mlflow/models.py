"""A candidate's model as MLflow's LoggedModel: saved here, uploaded, and found again after a crash."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature, infer_signature

from trimtab import discover
from trimtab.artifact import ONNX, Model
from trimtab.errors import ArtifactError
from trimtab.registry import CandidateLog
from trimtab_mlflow.served import MODEL, lay_down
from trimtab_mlflow.server import accepted

__all__ = ["find_model", "log_model"]

# Given, so that MLflow does not load each model in a process of its own to find out.
REQUIREMENTS = tuple(f"{package}=={version(package)}" for package in ("onnx", "onnxruntime"))
# The folder of the LoggedModel under which MLflow's own loaders find it.
NAME = "model"


def find_model(client: MlflowClient, run: Run) -> LoggedModel | None:
    """Return the LoggedModel that a candidate's run produced, complete or not, or None."""
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return min(models, key=lambda m: (m.status != LoggedModelStatus.READY, m.creation_timestamp), default=None)


def log_model(client: MlflowClient, run: Run, log: CandidateLog, model: Model) -> str:
    """Log ``model`` as the output of ``run`` and return its id; what a crash left of an earlier call is completed."""
    logged = find_model(client, run) or client.create_logged_model(
        run.info.experiment_id,
        name=NAME,
        source_run_id=run.info.run_id,
        tags=accepted(log.tags),
        params=accepted(log.params),
        model_type=model.format,
    )
    if logged.status == LoggedModelStatus.READY:
        return str(logged.model_id)
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        client.log_model_artifacts(logged.model_id, str(_saved(Path(scratch), logged, run, log, model)))
    _link(client, run.info.run_id, logged.model_id)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _saved(scratch: Path, logged: LoggedModel, run: Run, log: CandidateLog, model: Model) -> Path:
    """Save in MLflow's format what its own ``log_model`` would, without its active run and default address."""
    place = scratch / "model"
    about = MlflowModel(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        run_id=run.info.run_id,
    )
    if model.format == ONNX:
        _save_onnx(place, about, log, model)
    else:
        _save_others(scratch, place, about, log, model)
    return place


def _save_onnx(place: Path, about: MlflowModel, log: CandidateLog, model: Model) -> None:
    source = model.folder / "model.onnx"
    if not source.is_file():
        raise ArtifactError(f"candidate {log.name!r} has no model.onnx in {model.folder}; export it before logging it")
    mlflow.onnx.save_model(
        onnx.load(source),
        str(place),
        mlflow_model=about,
        signature=_signature(log.example, log.outputs),
        pip_requirements=list(REQUIREMENTS),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        metadata={"trimtab.digest": model.digest},
    )


def _save_others(scratch: Path, place: Path, about: MlflowModel, log: CandidateLog, model: Model) -> None:
    if log.setup is None:
        raise ArtifactError(
            f"candidate {log.name!r} is in format {model.format}, and no runtime that loads it is named"
        )
    data = scratch / "data"
    shutil.copytree(model.folder, data / MODEL)
    lay_down(data, log.setup, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it asks for an example, and has the signature of one
        mlflow.pyfunc.save_model(
            str(place),
            loader_module=lay_down.__module__,
            data_path=str(data),
            mlflow_model=about,
            signature=_signature(log.example, log.outputs),
            pip_requirements=discover.requirements("runtimes", log.setup.runtime),
            metadata={"trimtab.digest": model.digest},
        )


def _signature(example: Mapping[str, object], outputs: Mapping[str, object]) -> ModelSignature | None:
    """Infer names, types and shapes (free in the rows); None without an example."""
    if not example:
        return None
    inputs = {name: np.asarray(value) for name, value in example.items()}
    return infer_signature(inputs, {name: np.asarray(value) for name, value in outputs.items()} or None)


def _link(client: MlflowClient, run_id: str, model_id: str) -> None:
    outputs = client.get_run(run_id).outputs
    if model_id not in {m.model_id for m in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id=model_id, step=0)])
