"""Static quantization after training, with the types that make it faster on a CPU and not only smaller."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, PluginError
from trimtab.technique import About, Job

__all__ = ["QuantizeStatic"]

METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FLOAT_ONLY = frozenset({"Softmax"})
CHUNK = 32


@dataclass(frozen=True)
class QuantizeStatic:
    """Quantize weights to signed and activations to unsigned 8 bits (QDQ), calibrated on real rows.

    With onnxruntime on a CPU with VNNI it is the unsigned activations that make int8 faster than
    float; its defaults make it slower. Preprocessing, softmax and both outputs stay float. Small
    models (tens of microseconds) gain nothing: measure before you believe.

    Parameters
    ----------
    method
        How ranges of activations come from the rows: ``minmax``, ``entropy`` or ``percentile``.
    per_channel
        One scale per output channel of a weight instead of one per weight.
    rows
        Most rows to calibrate on: the first of the calibration rows, else of the training rows.

    Examples
    --------
    >>> QuantizeStatic(rows=0)
    Traceback (most recent call last):
    ...
    ValueError: quantize.static.rows must be at least 1, got 0
    """

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    per_channel: bool = True
    rows: int = 256

    about: ClassVar[About] = About(
        name="quantize.static",
        takes=ONNX,
        gives=ONNX,
        needs_data=True,
        faster_on=("onnxruntime", "openvino"),
        smaller=True,
        libraries=("onnx", "onnxruntime"),
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"quantize.static.method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.rows < 1:
            raise ValueError(f"quantize.static.rows must be at least 1, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the quantized model into ``job.folder``.

        Raises
        ------
        DataError
            When there is no row to calibrate on.
        PluginError
            When the graph has nothing to quantize, or onnxruntime fails at it.
        """
        rows = _calibration_rows(data, self.rows)
        outputs = [o.name for o in onnx.load(str(model.folder / "model.onnx"), load_external_data=False).graph.output]
        with tempfile.TemporaryDirectory() as scratch, _quiet():
            prepared = Path(scratch) / "prepared.onnx"
            try:
                self._prepare(model.folder / "model.onnx", prepared)
                nodes = quantizable(list(onnx.load(str(prepared)).graph.node))
                self._quantize(prepared, job.folder / "model.onnx", nodes, rows)
            except (DataError, PluginError):
                raise
            except Exception as error:  # onnxruntime's quantizer raises whatever it trips over
                raise PluginError(
                    f"quantize.static failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}; "
                    "leave quantize.static out of optimize.techniques"
                ) from error
        quantized = onnx.load(str(job.folder / "model.onnx"))
        if (found := [o.name for o in quantized.graph.output]) != outputs:
            raise PluginError(f"quantize.static changed the outputs {outputs} into {found}; leave it out")
        facts = {**model.facts, "quantized_nodes": len(nodes), "calibration_rows": len(rows), "method": self.method}
        write_json(job.folder / "facts.json", facts)
        return Model.at(job.folder, ONNX)

    def _prepare(self, source: Path, target: Path) -> None:
        """Infer every shape and fold constants, without which the quantizer misses nodes."""
        quant_pre_process(str(source), str(target), auto_merge=True)

    def _quantize(self, source: Path, target: Path, nodes: Sequence[onnx.NodeProto], rows: Rows) -> None:
        if not nodes:
            raise PluginError(
                "quantize.static finds nothing to quantize: the graph has no convolution or matrix product "
                "with constant weights; leave quantize.static out of optimize.techniques for this model"
            )
        quantization.quantize_static(
            str(source),
            str(target),
            _Reader(rows),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=[n.name for n in nodes],
            # Left to itself it would also calibrate preprocessing, where missing numbers are NaN.
            op_types_to_quantize=sorted({n.op_type for n in nodes}),
            per_channel=self.per_channel,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=METHODS[self.method],
        )


def quantizable(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the weighted nodes and those downstream of one, softmax excepted: what lies before is preprocessing."""
    reached: set[str] = set()
    chosen: list[onnx.NodeProto] = []
    weighted = False
    for node in nodes:
        if node.op_type in WEIGHTED or reached & set(node.input):
            weighted = weighted or node.op_type in WEIGHTED
            reached |= set(node.output)
            if node.op_type not in FLOAT_ONLY:
                chosen.append(node)
    return chosen if weighted else []


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds rows to onnxruntime's calibrator, a few at a time, and always as many: its histograms ask for that."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._start = 0
        self._chunk = max(d for d in range(1, CHUNK + 1) if len(rows) % d == 0)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next rows as model inputs, or None at the end."""
        part = np.arange(self._start, min(self._start + self._chunk, len(self._rows)))
        self._start += self._chunk
        return dict(self._rows.take(part).inputs) if len(part) else None


def _calibration_rows(data: Data, most: int) -> Rows:
    for role in (Role.CALIBRATION, Role.TRAIN):
        rows = data.rows(role)
        if len(rows):
            return rows.take(np.arange(min(most, len(rows))))
    raise DataError("quantize.static has no row to calibrate on; raise data.split.calibration or data.split.train")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what onnxruntime's quantizer prints, and logs on the root logger below an error."""
    root, null = logging.getLogger(), logging.NullHandler()

    def severe(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addHandler(null)  # without one, logging.warning() would install a handler for good
    root.addFilter(severe)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(severe)
        root.removeHandler(null)
