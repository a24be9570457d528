"""ONNX Runtime, set up for one target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from trimtab.artifact import ONNX, Model
from trimtab.errors import ArtifactError, DataError, SettingsError, nearest
from trimtab.window import Arrays

__all__ = ["OnnxRuntime", "OnnxSession"]

MAIN = ("probabilities", "predictions")
"""What a model may call its answer: of a classification, of a regression."""
EMBEDDING = "embedding"
ERRORS = 3
LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class OnnxSession:
    """A loaded ONNX model.

    Parameters
    ----------
    session
        Of onnxruntime; one of its outputs is ``probabilities`` or ``predictions``.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._outputs = [o.name for o in session.get_outputs() if o.name in (*MAIN, EMBEDDING)]
        self._main = [name for name in self._outputs if name in MAIN][:1]
        self._inputs = [i.name for i in session.get_inputs()]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return ``probabilities`` or ``predictions`` and, where the model has one, ``embedding`` by name."""
        return dict(zip(self._outputs, self._call(self._outputs, inputs), strict=True))

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return ``probabilities`` (float32 ``[rows, classes]``) or ``predictions`` (float32 ``[rows, 1]``) alone."""
        answer: npt.NDArray[np.float32] = self._call(self._main, inputs)[0]
        return answer

    def _call(self, outputs: list[str], inputs: Arrays) -> list[npt.NDArray[Any]]:
        try:
            results: list[npt.NDArray[Any]] = self._session.run(outputs, {n: inputs[n] for n in self._inputs})
        except KeyError as error:
            raise DataError(f"model input {error} is missing; given: {sorted(inputs)}") from error
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = {n: f"{inputs[n].dtype} {list(inputs[n].shape)}" for n in self._inputs}
            raise DataError(f"the model does not take {shapes}: {error}") from error
        return results


@dataclass(frozen=True)
class OnnxRuntime:
    """Loads ``model.onnx`` with the target's threads.

    A session takes any number of rows. On a CPU with one thread a shape fixed to the target's batch, bound
    buffers, a memory arena or pattern and spinning threads each change the time of a call by less than
    2 % (ResNets of 0.09 and 0.3 million weights, float and 8 bits, batch 1 and 32), and so none is a setting.

    Parameters
    ----------
    providers
        What executes the graph, the preferred one first; each must be in the installed onnxruntime.
    graph
        How far the graph is optimized when it is loaded: ``all`` lays tensors out for this processor,
        ``extended`` fuses, ``basic`` folds constants, ``off`` leaves it alone.

    Examples
    --------
    >>> OnnxRuntime(providers=("CPUExecutionProvide",))
    Traceback (most recent call last):
    ...
    ValueError: onnxruntime.providers: 'CPUExecutionProvide' is not ... Did you mean 'CPUExecutionProvider'?
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    graph: Literal["all", "extended", "basic", "off"] = "all"

    name: ClassVar[str] = "onnxruntime"
    takes: ClassVar[tuple[str, ...]] = (ONNX,)

    def __post_init__(self) -> None:
        if self.graph not in LEVELS:
            raise ValueError(f"onnxruntime.graph must be one of {', '.join(LEVELS)}, got {self.graph!r}")
        if not self.providers:
            raise ValueError("onnxruntime.providers is empty; name one, such as CPUExecutionProvider")
        present = onnxruntime.get_available_providers()
        for name in self.providers:
            if name not in present:
                raise ValueError(
                    f"onnxruntime.providers: {name!r} is not built into the installed onnxruntime "
                    f"{onnxruntime.__version__}, which has {', '.join(present)}; install the build of onnxruntime "
                    f"that has it (onnxruntime-gpu, ...), or leave it out.{nearest(name, present)}"
                )

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> OnnxSession:
        """Load a model.

        Raises
        ------
        ArtifactError
            When the file is missing, cannot be loaded, or has no output ``probabilities`` or ``predictions``.
        SettingsError
            When a provider is installed but does not start on this machine.
        """
        path = model.folder / "model.onnx"
        try:
            session = onnxruntime.InferenceSession(str(path), self._options(threads), providers=list(self.providers))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ArtifactError(
                f"{path} cannot be loaded: {error}; restore it, or roll back to another version"
            ) from error
        if absent := [name for name in self.providers if name not in session.get_providers()]:
            raise SettingsError(
                f"onnxruntime.providers: {absent[0]!r} is installed but does not start on this machine (a driver or "
                f"library is missing), {', '.join(session.get_providers())} would stand in; install it, or leave it out"
            )
        if not set(MAIN) & set(names := [o.name for o in session.get_outputs()]):
            raise ArtifactError(f"{path} has the outputs {names}, but needs one named {' or '.join(map(repr, MAIN))}")
        return OnnxSession(session)

    def _options(self, threads: int) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = LEVELS[self.graph]
        options.log_severity_level = ERRORS
        return options
