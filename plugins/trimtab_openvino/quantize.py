"""NNCF's quantization after training, for models that OpenVINO serves."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import nncf
import numpy as np
import numpy.typing as npt
import openvino

from trimtab.agreement import Outputs, loss
from trimtab.artifact import ONNX, OPENVINO, Model, write_json
from trimtab.data import Data, Role, Rows
from trimtab.errors import OutOfTimeError, PluginError
from trimtab.technique import About, Job
from trimtab.window import Arrays
from trimtab_openvino.graph import FILES, MAIN, fold, read, write

__all__ = ["QuantizeNncf"]

PRESETS = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
WEIGHTED = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})


@dataclass(frozen=True)
class QuantizeNncf:
    """Quantize weights and activations to 8 bits with NNCF, calibrated on real rows, into OpenVINO's format.

    Preprocessing, softmax and both outputs stay float. When more than ``max_drop`` is lost on held-out rows,
    NNCF's accuracy control puts operations back into float, the most sensitive first. What is lost is judged
    by the float model's own probabilities, so it takes no label.

    Parameters
    ----------
    preset
        ``performance`` (activations symmetric around zero) or ``mixed`` (symmetric weights, asymmetric
        activations: for networks with other activations than ReLU).
    fast_bias_correction
        Correct each layer's bias for the mean error of its weights from statistics; False: from the
        quantized model's own answers, which takes far longer.
    max_drop
        Largest loss of quality, as a fraction (0.01 = one point of accuracy), before operations go back into
        float; None takes whatever comes.
    rows
        Most rows to calibrate on (the first of the calibration rows, else of the training rows), and most
        to judge the loss on (of the search rows, else those).

    Examples
    --------
    >>> QuantizeNncf(preset="best")
    Traceback (most recent call last):
    ...
    ValueError: quantize.nncf.preset must be one of performance, mixed, got 'best'
    """

    preset: Literal["performance", "mixed"] = "performance"
    fast_bias_correction: bool = True
    max_drop: float | None = 0.01
    rows: int = 256

    about: ClassVar[About] = About(
        name="quantize.nncf",
        takes=ONNX,
        gives=OPENVINO,
        needs_data=True,
        faster_on=("openvino",),
        smaller=True,
        libraries=("nncf", "openvino"),
    )

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"quantize.nncf.preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise ValueError(f"quantize.nncf.max_drop must be in [0, 1), or null, got {self.max_drop}")
        if self.rows < 1:
            raise ValueError(f"quantize.nncf.rows must be at least 1, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the quantized model into ``job.folder``.

        Raises
        ------
        DataError
            When there is no row to calibrate on.
        OutOfTimeError
            When ``job.deadline`` passes while NNCF calibrates or looks for sensitive operations.
        PluginError
            When the network has nothing to quantize.
        """
        rows = data.first(self.rows, Role.CALIBRATION, Role.TRAIN)
        judged = data.first(self.rows, Role.SEARCH, Role.CALIBRATION, Role.TRAIN)
        with _quiet():
            network = fold(_unquantized(read(model.folder / FILES[ONNX])))
            control = _Control(network, judged, job)
            quantized = self._quantize(network, rows, control)
            write(quantized, job.folder)
            lost = control.lost(_compiled(quantized, job.threads))
        count = sum(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops())
        facts = {"preset": self.preset, "calibration_rows": len(rows), "quantizers": count, "lost": lost}
        write_json(job.folder / "facts.json", {**model.facts, **facts})
        return Model.at(job.folder, OPENVINO)

    def _quantize(self, network: openvino.Model, rows: Rows, control: _Control) -> openvino.Model:
        settings: dict[str, Any] = {
            "preset": PRESETS[self.preset],
            "subset_size": len(rows),
            "fast_bias_correction": self.fast_bias_correction,
            "ignored_scope": nncf.IgnoredScope(names=_in_float(network), validate=False),
        }
        calibration = _dataset(rows, control.tick)
        if self.max_drop is None:
            return nncf.quantize(network, calibration, **settings)
        return nncf.quantize_with_accuracy_control(
            network, calibration, _dataset(control.rows, control.tick), control, max_drop=self.max_drop, **settings
        )


class _Control:
    """Tells NNCF how much of a network's quality is left, judged by what the float network answers."""

    def __init__(self, network: openvino.Model, rows: Rows, job: Job) -> None:
        self.rows, self._job = rows, job
        names = [name for port in network.outputs for name in port.names]
        self._main = next(name for name in MAIN if name in names)
        self._before = self._answers(_compiled(network, job.threads), np.arange(len(rows)))

    def __call__(self, compiled: openvino.CompiledModel, rows: Iterable[int]) -> tuple[float, None]:
        self.tick()
        index = np.fromiter(rows, dtype=np.int64)
        return 1.0 - loss(self._before[index], self._answers(compiled, index)), None

    def tick(self) -> None:
        """Raise an OutOfTimeError when the job's deadline has passed."""
        if self._job.deadline is not None and time.monotonic() > self._job.deadline:
            raise OutOfTimeError(
                "quantize.nncf ran out of time while NNCF calibrated or looked for sensitive operations; raise "
                "optimize.minutes, lower quantize.nncf.rows, or set quantize.nncf.max_drop: null"
            )

    def lost(self, compiled: openvino.CompiledModel) -> float:
        """Return what is lost on all rows, as a fraction."""
        return loss(self._before, self._answers(compiled, np.arange(len(self.rows))))

    def _answers(self, compiled: openvino.CompiledModel, index: npt.NDArray[np.int64]) -> Outputs:
        inputs = {port.any_name for port in compiled.inputs}
        part = {name: values[index] for name, values in self.rows.inputs.items() if name in inputs}
        answers: Outputs = compiled(part)[self._main].copy()
        return answers


def _compiled(network: openvino.Model, threads: int) -> openvino.CompiledModel:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return openvino.Core().compile_model(network, "CPU", settings)


def _unquantized(network: openvino.Model) -> openvino.Model:
    """Return the network, unless it holds quantizers already: nothing is compressed twice."""
    if any(op.get_type_name() == "FakeQuantize" for op in network.get_ops()):
        raise PluginError("quantize.nncf takes a float model, and this one is quantized; leave one of the two out")
    return network


def _in_float(network: openvino.Model) -> list[str]:
    """Name what stays float: softmax, and preprocessing, which is whatever no weighted operation comes before."""
    reached: set[str] = set()
    names = []
    for op in network.get_ordered_ops():
        sources = {value.get_node().get_friendly_name() for value in op.input_values()}
        if op.get_type_name() in WEIGHTED or reached & sources:
            reached.add(op.get_friendly_name())
            if op.get_type_name() == "Softmax":
                names.append(op.get_friendly_name())
        elif op.get_type_name() not in ("Constant", "Parameter"):
            names.append(op.get_friendly_name())
    if not reached:
        raise PluginError(
            "quantize.nncf finds nothing to quantize: the network has no convolution or matrix product; "
            "leave quantize.nncf out of optimize.techniques for this model"
        )
    return names


def _dataset(rows: Rows, tick: Callable[[], None]) -> nncf.Dataset:
    """Give NNCF one row at a time; its items are row numbers, which :class:`_Control` looks up again."""

    def take(row: int) -> Arrays:
        tick()
        return {name: values[row : row + 1] for name, values in rows.inputs.items()}

    return nncf.Dataset(range(len(rows)), take)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop NNCF's progress bars, and what it logs below an error."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
