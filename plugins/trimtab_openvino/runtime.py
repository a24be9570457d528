"""OpenVINO on the CPU, set up for one target."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import openvino

from trimtab.artifact import ONNX, OPENVINO, Model
from trimtab.errors import ArtifactError, DataError
from trimtab.window import Arrays
from trimtab_openvino.graph import FILES, MAIN, NAMED, read

__all__ = ["OpenVino", "OpenVinoSession"]

PRECISIONS = ("f32", "bf16")


class OpenVinoSession:
    """A loaded model: compiled for one number of rows, and for any other when such a call first comes.

    Parameters
    ----------
    fixed
        Compiled for ``batch`` rows.
    batch
        Rows of the calls that must be fast.
    compile_any
        Compiles the model for any number of rows.
    """

    def __init__(
        self, fixed: openvino.CompiledModel, batch: int, compile_any: Callable[[], openvino.CompiledModel]
    ) -> None:
        self._batch = batch
        self._fixed = _Request(fixed)
        self._any = functools.cache(lambda: _Request(compile_any()))
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return ``probabilities`` or ``predictions`` and, where the model has one, ``embedding`` by name."""
        outputs = self._fixed.outputs
        return dict(zip(outputs, self._call(inputs, list(outputs.values())), strict=True))

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return ``probabilities`` (float32 ``[rows, classes]``) or ``predictions`` (float32 ``[rows, 1]``) alone."""
        return self._call(inputs, [self._fixed.main])[0]

    def _call(self, inputs: Arrays, outputs: list[int]) -> list[npt.NDArray[Any]]:
        try:
            first = inputs[self._fixed.inputs[0][0]]
            with self._lock:  # a request holds one call's tensors
                request = self._fixed if len(first) == self._batch else self._any()
                return request(inputs, outputs)
        except KeyError as error:
            raise DataError(f"model input {error} is missing; given: {sorted(inputs)}") from error
        except RuntimeError as error:
            shapes = {n: f"{inputs[n].dtype} {list(inputs[n].shape)}" for n, _ in self._fixed.inputs}
            raise DataError(f"the model does not take {shapes}: {_first_words(error)}") from error


class _Request:
    """One inference request over the caller's own arrays: its wrapper in Python costs as much as a small model."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = [(i.any_name, i.element_type.to_dtype()) for i in compiled.inputs]
        names = [o.names for o in compiled.outputs]
        self.outputs = {n: at for n in NAMED for at, known in enumerate(names) if n in known}
        self.main = next(at for n, at in self.outputs.items() if n in MAIN)

    def __call__(self, inputs: Arrays, outputs: list[int]) -> list[npt.NDArray[Any]]:
        request = self._request
        for at, (name, dtype) in enumerate(self.inputs):
            values = np.require(inputs[name], dtype, ("C", "W"))  # OpenVINO takes no array that is read-only
            request.set_input_tensor(at, openvino.Tensor(values, shared_memory=True))
        request.infer()
        # Copied: the request's memory is overwritten by the next call.
        return [request.get_output_tensor(at).data.copy() for at in outputs]


@dataclass(frozen=True)
class OpenVino:
    """Loads ``model.onnx``, or OpenVINO's own ``model.xml``, with the target's threads.

    The model is compiled for the target's batch; calls of other sizes meet a second, dynamic one, which is
    compiled when the first of them comes. Threads are not pinned to processors.

    Parameters
    ----------
    precision
        Of what is not quantized. ``f32`` computes what the file says. ``bf16`` is what OpenVINO would
        choose by itself where the processor has it: up to twice as fast on a float model, with
        probabilities that differ in the third decimal, and on another processor it falls back.

    Examples
    --------
    >>> OpenVino(precision="f16")
    Traceback (most recent call last):
    ...
    ValueError: openvino.precision must be f32 or bf16, got 'f16'
    """

    precision: Literal["f32", "bf16"] = "f32"

    name: ClassVar[str] = "openvino"
    takes: ClassVar[tuple[str, ...]] = (OPENVINO, ONNX)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"openvino.precision must be {' or '.join(PRECISIONS)}, got {self.precision!r}")

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> OpenVinoSession:
        """Load a model.

        Raises
        ------
        ArtifactError
            When a file is missing, cannot be loaded, or has no output ``probabilities`` or ``predictions``.
        """
        path = model.folder / FILES[model.format]
        try:
            fixed = self._compile(path, threads, batch)
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} cannot be loaded by OpenVINO: {_first_words(error)}; restore it, or name another runtime"
            ) from error
        names = [name for output in fixed.outputs for name in output.names]
        if not set(MAIN) & set(names):
            raise ArtifactError(f"{path} has the outputs {names}, but needs one named {' or '.join(map(repr, MAIN))}")
        return OpenVinoSession(fixed, batch, lambda: self._compile(path, threads, None))

    def _compile(self, path: Path, threads: int, batch: int | None) -> openvino.CompiledModel:
        network = read(path)
        if batch is not None:
            network.reshape({i: _with_rows(i.partial_shape, batch) for i in network.inputs})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        return _core().compile_model(network, "CPU", settings)


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


def _with_rows(shape: openvino.PartialShape, rows: int) -> openvino.PartialShape:
    """Return the shape with its first axis set, unless the file fixed it."""
    fixed = openvino.PartialShape(shape)
    if fixed[0].is_dynamic:
        fixed[0] = rows
    return fixed


def _first_words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
