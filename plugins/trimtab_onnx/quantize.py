"""Static quantization after training, with the types that make it faster on a CPU and not only smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data, Role, Rows
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_onnx.layers import Layers, in_branches, layers_of, named, prepared, save, with_opset
from trimtab_onnx.sensitivity import Outcome, Trial, put_back
from trimtab_onnx.stored import weights_of

__all__ = ["QuantizeStatic"]

METHODS = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "entropy": quantization.CalibrationMethod.Entropy,
    "percentile": quantization.CalibrationMethod.Percentile,
}
ACTIVATIONS = {"u8": quantization.QuantType.QUInt8, "s8": quantization.QuantType.QInt8}
CHUNK = 32
PER_CHANNEL_OPSET = 13


@dataclass(frozen=True)
class QuantizeStatic:
    """Quantize weights to signed and activations to unsigned 8 bits (QDQ), calibrated on real rows.

    With onnxruntime on a CPU with VNNI it is the unsigned activations that make int8 faster than
    float; its defaults make it slower. Preprocessing, softmax and both outputs stay float. Small
    models (tens of microseconds) gain nothing: measure before you believe.

    When more than ``max_drop`` is lost on held-out rows, each layer is quantized alone to see how much it
    hurts, and the worst go back into float one after another until it holds, or half of them are float.
    What is lost is judged by the float model's own probabilities, so it takes no label.

    Parameters
    ----------
    method
        How ranges of activations come from the rows: ``minmax``, ``entropy`` or ``percentile``.
    percentile
        Of the values that a range spans, in percent; for ``method: percentile``.
    activation
        Type of the activations: ``u8``, or ``s8`` (for ARM; on x86 slower than float).
    per_channel
        One scale per output channel of a weight instead of one per weight.
    max_drop
        Largest loss of quality, as a fraction (0.01 = one point of accuracy), before layers go back into
        float; None takes whatever comes.
    keep_float
        Layers that stay float in any case, as the facts name them, with ``*`` for any text.
    rows
        Most rows to calibrate on (the first of the calibration rows, else of the training rows), and most
        to judge the loss on (of the search rows, else those).

    Notes
    -----
    The quantizer and its calibration are onnxruntime's; sensitivity by quantizing one layer at a time is
    that of Wu et al. 2020, "Integer Quantization for Deep Learning Inference".

    Examples
    --------
    >>> QuantizeStatic(rows=0)
    Traceback (most recent call last):
    ...
    ValueError: quantize.static.rows must be at least 1, got 0
    """

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    percentile: float = 99.99
    activation: Literal["u8", "s8"] = "u8"
    per_channel: bool = True
    max_drop: float | None = 0.01
    keep_float: tuple[str, ...] = ()
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
        if not 50 < self.percentile <= 100:
            raise ValueError(f"quantize.static.percentile must be above 50 and at most 100, got {self.percentile}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"quantize.static.activation must be u8 or s8, got {self.activation!r}")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise ValueError(f"quantize.static.max_drop must be in [0, 1), or null, got {self.max_drop}")
        if self.rows < 1:
            raise ValueError(f"quantize.static.rows must be at least 1, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the quantized model into ``job.folder``.

        Raises
        ------
        DataError
            When there is no row to calibrate on.
        OutOfTimeError
            When ``job.deadline`` passes while it looks for sensitive layers.
        PluginError
            When the graph has nothing to quantize.
        SettingsError
            When ``keep_float`` names a layer that the model does not have.
        """
        rows = data.first(self.rows, Role.CALIBRATION, Role.TRAIN)
        judged = data.first(self.rows, Role.SEARCH, Role.CALIBRATION, Role.TRAIN)
        with prepared(model, self.about.name) as ready:
            proto = self._fitting(onnx.load(str(ready)))
            onnx.save_model(proto, str(ready))
            layers = layers_of(proto.graph)
            kept = named(self.keep_float, layers, "quantize.static.keep_float") | self._unfit(proto)
            draft = _Draft(self, ready, layers, rows, kept | _answering(layers, [o.name for o in proto.graph.output]))
            outcome = self._settle(Trial(self.about.name, model, judged, job), draft)
            save(onnx.load(str(draft.path)), model, job, self.about.name)
        in_float = {*draft.kept, *outcome.in_float}
        facts = {
            "method": self.method,
            "calibration_rows": len(rows),
            "quantized_nodes": sum(len(nodes) for name, nodes in layers.items() if name not in in_float),
            "quantized_layers": [name for name in layers if name not in in_float],
            "kept_in_float": [*(name for name in layers if name in in_float), *in_branches(proto.graph)],
            "lost": outcome.lost,
        }
        write_json(job.folder / "facts.json", {**model.facts, **facts})
        return Model.at(job.folder, ONNX)

    def _fitting(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        way = "set quantize.static.per_channel: false"
        return with_opset(proto, PER_CHANNEL_OPSET, "one scale per channel needs", way) if self.per_channel else proto

    def _unfit(self, proto: onnx.ModelProto) -> frozenset[str]:
        """Return the products with stacks of matrices: onnxruntime refuses them with several scales when it runs."""
        stacks = (n for n, w in weights_of(proto).items() if w.operator == "MatMul" and not w.is_product)
        return frozenset(stacks) if self.per_channel else frozenset()

    def _settle(self, trial: Trial, draft: _Draft) -> Outcome:
        """Leave the best draft on disk: everything quantized, less what has to be float."""

        def lost(in_float: frozenset[str]) -> float:
            trial.tick()
            draft.write(in_float)
            return trial.lost(draft.folder)

        free = [name for name in draft.layers if name not in draft.kept]
        return put_back(free, lost, float("inf") if self.max_drop is None else self.max_drop)


@dataclass(frozen=True)
class _Draft:
    """A quantized model on disk that is written again and again, with ranges that are calibrated once."""

    settings: QuantizeStatic
    prepared: Path
    layers: Layers
    rows: Rows
    kept: frozenset[str]
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.prepared.parent / "draft")
        self.folder.mkdir()

    @property
    def path(self) -> Path:
        return self.folder / "model.onnx"

    def write(self, in_float: frozenset[str]) -> None:
        """Quantize every layer but these and those that were to stay float in any case."""
        skipped = self.kept | in_float
        quantized = [n.name for name, nodes in self.layers.items() if name not in skipped for n in nodes]
        if not quantized:
            raise PluginError("quantize.static.keep_float leaves nothing to quantize; name fewer layers")
        everything = [node for nodes in self.layers.values() for node in nodes]
        quantization.quantize_static(
            str(self.prepared),
            str(self.path),
            _Reader(self.rows),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=quantized,
            # Left to itself it would also calibrate preprocessing, where missing numbers are NaN.
            op_types_to_quantize=sorted({n.op_type for n in everything}),
            per_channel=self.settings.per_channel,
            activation_type=ACTIVATIONS[self.settings.activation],
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=METHODS[self.settings.method],
            calibration_cache_path=self.prepared.with_name("ranges.json"),
            # onnxruntime rounds a float bias to the same 32 bits when it loads the file, which is smaller so.
            extra_options={"CalibPercentile": self.settings.percentile, "QuantizeBias": False},
        )


def _answering(layers: Layers, outputs: Sequence[str]) -> frozenset[str]:
    """Return the layer that gives a regression's answers: in 8 bits it would know 256 of them, and none beyond."""
    return frozenset([next(reversed(layers))]) if "predictions" in outputs and len(layers) > 1 else frozenset()


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
