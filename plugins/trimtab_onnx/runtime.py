"""ONNX Runtime on the CPU, set up for one target."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from trimtab.artifact import ONNX, Model
from trimtab.errors import ArtifactError, DataError
from trimtab.window import Arrays

__all__ = ["OnnxRuntime", "OnnxSession"]

PROBABILITIES = "probabilities"
ERRORS = 3


class OnnxSession:
    """A loaded ONNX model.

    Parameters
    ----------
    session
        Of onnxruntime; one of its outputs is ``probabilities``.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._outputs = [o.name for o in session.get_outputs() if o.name in (PROBABILITIES, "embedding")]
        self._inputs = [i.name for i in session.get_inputs()]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return ``probabilities`` and, where the model has one, ``embedding`` by name."""
        return dict(zip(self._outputs, self._call(self._outputs, inputs), strict=True))

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return ``probabilities`` alone, float32 ``[rows, classes]``."""
        probabilities: npt.NDArray[np.float32] = self._call([PROBABILITIES], inputs)[0]
        return probabilities

    def _call(self, outputs: list[str], inputs: Arrays) -> list[npt.NDArray[Any]]:
        try:
            results: list[npt.NDArray[Any]] = self._session.run(outputs, {n: inputs[n] for n in self._inputs})
        except KeyError as error:
            raise DataError(f"model input {error} is missing; given: {sorted(inputs)}") from error
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = {n: f"{inputs[n].dtype} {list(inputs[n].shape)}" for n in self._inputs}
            raise DataError(f"the model does not take {shapes}: {error}") from error
        return results


class OnnxRuntime:
    """Loads ``model.onnx`` on the CPU provider with the target's threads and every graph optimization."""

    name: ClassVar[str] = "onnxruntime"
    takes: ClassVar[tuple[str, ...]] = (ONNX,)

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> OnnxSession:
        """Load a model.

        Raises
        ------
        ArtifactError
            When the file is missing, cannot be loaded, or has no output ``probabilities``.
        """
        path = model.folder / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = ERRORS
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ArtifactError(
                f"{path} cannot be loaded: {error}; restore it, or roll back to another version"
            ) from error
        if PROBABILITIES not in (names := [o.name for o in session.get_outputs()]):
            raise ArtifactError(f"{path} has the outputs {names}, but needs one named {PROBABILITIES!r}")
        return OnnxSession(session)
