"""Quantization-aware training: the float model learns to be an int8 one, and leaves as such."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from trimtab.agreement import Outputs, loss
from trimtab.artifact import FLOAT, ONNX, Model, write_json
from trimtab.data import Data, Role, Rows
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.deadline import Clock
from trimtab_torch.export import FILE, Serving, cause, quiet, session, trace, write
from trimtab_torch.graph import shorten
from trimtab_torch.layers import multiply_adds
from trimtab_torch.lesson import Lesson, Teacher
from trimtab_torch.placement import Placement, place
from trimtab_torch.preprocess import to_tensors
from trimtab_torch.settings import Settings, check_settings
from trimtab_torch.simulate import Simulated
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import fit, training_rows, workbench
from trimtab_torch.weights import distinct, zeros

__all__ = ["QuantizeAware"]

GENTLER = 0.1
"""Share of the trainer's learning rate: the weights are where they belong, and only have to make room for rounding."""
OPSET = 20
CHUNK = 64
AGREES = 0.005
"""Quality that may lie between what was trained and what onnxruntime makes of the file, as a fraction."""


@dataclass(frozen=True)
class QuantizeAware:
    """Train the weights as 8 bits will round them, and write the int8 model (QDQ) that comes of it.

    The types are those of ``quantize.static``: weights signed, activations unsigned, preprocessing,
    softmax and both outputs float, as is the layer that gives a regression's answers. Rounding is
    simulated in training (Jacob et al. 2018), residual sums included; ranges begin with the extremes of
    some rows and follow moving averages; the float parent teaches beside the labels.

    Zeros that pruning left stay zeros, and weights that share a value go on sharing one (PQAT, CQAT and
    PCQAT of TensorFlow Model Optimization), in layers of which a tenth is zero, or that hold at most 256
    values, each beside zero twice or more on average. ``facts.json`` counts both before and after
    (``zeros``, ``distinct``), and names the layers in int8 (``quantized_layers``) and those in float with
    the reason (``kept_in_float``).

    Parameters
    ----------
    epochs
        Passes over the training rows; None takes ``model.epochs``, 0 only measures ranges and rounds.
    learning_rate
        The highest of the one-cycle schedule; None takes a tenth of ``model.learning_rate``.
    batch_size, weight_decay, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    per_channel
        One scale per output channel of a weight instead of one per weight.
    freeze
        Share of the training after which ranges and batch norm statistics stand still, 0 to 1: at 0 they
        never move. Behind norms that stand still a high learning rate does harm, so that it is late.
    distill
        Share of the float parent's answers in the loss, 0 to 1; the labels have the rest.
    rows
        Most rows to begin the ranges with (of the calibration rows, else of the training rows), and most
        to compare onnxruntime's answers with torch's on (of the search rows, else those).

    Notes
    -----
    An epoch takes longer than one in float. Batch norms work on their batches' statistics
    until they freeze, and are folded with their own in the end (Krishnamoorthi 2018).

    Examples
    --------
    >>> QuantizeAware(freeze=1.5)
    Traceback (most recent call last):
    ...
    ValueError: quantize.aware.freeze must be in [0, 1], got 1.5
    """

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    flip: bool | None = None
    shift: int | None = None
    per_channel: bool = True
    freeze: float = 0.8
    distill: float = 0.5
    rows: int = 256

    about: ClassVar[About] = About(
        name="quantize.aware",
        takes=FLOAT,
        gives=ONNX,
        needs_data=True,
        needs_labels=True,
        effort="epochs",
        faster_on=("onnxruntime", "openvino"),
        smaller=True,
        inherits=True,
        libraries=("torch", "onnx", "onnxruntime", "onnxscript"),
    )

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 0:
            raise ValueError(f"quantize.aware.epochs must be at least 0, got {self.epochs}")
        trained = {n: getattr(self, n) for n in ("learning_rate", "batch_size", "weight_decay", "shift")}
        check_settings(self.about.name, trained)
        for name in ("freeze", "distill"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"quantize.aware.{name} must be in [0, 1], got {getattr(self, name)}")
        if self.rows < 1:
            raise ValueError(f"quantize.aware.rows must be at least 1, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the int8 model into ``job.folder``.

        Raises
        ------
        DataError
            When there is no row to take ranges from, or no labelled one to train on.
        OutOfTimeError
            When ``job.deadline`` passes while it trains.
        PluginError
            When the network does not export or has nothing to quantize, training diverges, or onnxruntime
            answers otherwise than the network that was trained.
        """
        child = FloatModel.taken(model, job)
        settings = self._settings(child.spec.settings)
        epochs = settings.epochs if self.epochs is None else self.epochs
        if epochs:
            Clock(job.deadline, self.about.name, epochs).check(0)
        first = data.first(self.rows, Role.CALIBRATION, Role.TRAIN)
        rows = training_rows(data, child.spec.schema) if epochs else None
        placement = self._place(child, job)
        came = _counted(placement)
        batches = math.ceil(len(rows) / settings.batch_size) if rows is not None else 0
        simulated = Simulated(placement.network, round(self.freeze * batches * epochs))
        simulated.eval().watch([[p[i] for p in child.prepare(first.inputs)] for i in _chunks(len(first))])
        facts: dict[str, object] = {"epochs": epochs, "calibration_rows": len(first)}
        if rows is not None:
            facts |= {"rows": len(rows), "loss": self._train(simulated, child, rows, settings, model, job)}
        placement.settle()
        facts |= self._write(child, placement, data.first(self.rows, Role.SEARCH, Role.CALIBRATION, Role.TRAIN), job)
        write_json(job.folder / "facts.json", facts | _kept(came, placement))
        return Model.at(job.folder, ONNX)

    def _settings(self, own: Settings) -> Settings:
        """Return how to train; rounding is simulated in float32."""
        rate = GENTLER * own.learning_rate if self.learning_rate is None else self.learning_rate
        return own.but(
            epochs=self.epochs or None,
            learning_rate=rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            flip=self.flip,
            shift=self.shift,
            precision="float32",
        )

    def _place(self, child: FloatModel, job: Job) -> Placement:
        regression = child.spec.schema.task == "regression"
        try:
            with workbench(job), quiet():
                placement = place(child.network, child.examples(2), self.per_channel, last_in_float=regression)
        except Exception as error:  # the exporter raises whatever the network's code trips over
            raise PluginError(
                f"quantize.aware cannot export the network: {cause(error)}; avoid control flow on values and shapes "
                "fixed to one batch size in its forward, or leave quantize.aware out of optimize.techniques"
            ) from error
        if not placement.layers:
            raise PluginError(
                "quantize.aware finds nothing to quantize: the network has no convolution or linear layer with a "
                "stored weight; leave quantize.aware out of optimize.techniques for this model"
            )
        return placement

    def _train(
        self, simulated: Simulated, child: FloatModel, rows: Rows, settings: Settings, model: Model, job: Job
    ) -> float:
        lesson = None
        if self.distill:
            parent = FloatModel.taken(job.teacher or model, job)
            if parent.spec.schema.classes != child.spec.schema.classes:
                raise PluginError(
                    f"quantize.aware: the teacher's classes {list(parent.spec.schema.classes)} are not the model's "
                    f"{list(child.spec.schema.classes)}; set quantize.aware.distill to 0"
                )
            scale = parent.preprocess.into(child.preprocess)
            lesson = Lesson(Teacher((parent.network,), parent.prepare(rows.inputs), *scale), weight=self.distill)
        parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
        return fit(simulated, parts, targets, settings, job, self.about.name, lesson)

    def _write(self, child: FloatModel, placement: Placement, judged: Rows, job: Job) -> dict[str, object]:
        """Write the file, and see that onnxruntime answers as the network did in training."""
        serving = Serving(child.preprocess, placement.network, placement.embedding).eval()
        schema, path = child.spec.schema, job.folder / FILE
        with workbench(job):
            write(shorten(trace(serving, schema, OPSET)), path)
            with torch.inference_mode():
                expected: Outputs = serving(*to_tensors(schema, judged.inputs))[0].numpy()
            found: Outputs = session(path, job.threads).run(None, dict(judged.inputs))[0]
        apart = loss(expected, found)
        if not apart <= AGREES:
            raise PluginError(
                f"quantize.aware: onnxruntime's int8 model is {apart:.3g} worse than the network that was trained, "
                f"at most {AGREES} allowed: this processor's 8-bit products may saturate; leave quantize.aware out"
            )
        return {
            "opset": OPSET,
            "parameters": parameters(child.network),
            "multiply_adds": multiply_adds(child.network, child.examples(1))[""],
            "quantized_layers": list(placement.layers),
            "kept_in_float": placement.in_float,
            "apart": float(np.abs(expected - found).max()),
        }


def _chunks(rows: int) -> list[torch.Tensor]:
    return list(torch.split(torch.arange(rows), CHUNK))


def _counted(placement: Placement) -> dict[str, dict[str, int]]:
    """Count zeros and values of every layer that was pruned or clustered."""
    weights = {name: layer.weight.detach() for name, layer in placement.weighted()}
    layers = dict(placement.weighted())
    return {
        "zeros": {name: zeros(w) for name, w in weights.items() if layers[name].preserved.sparse},
        "distinct": {name: distinct(w) for name, w in weights.items() if layers[name].preserved.clustered},
    }


def _kept(before: dict[str, dict[str, int]], placement: Placement) -> dict[str, object]:
    """Count the same in the levels, and return both by layer: what came, what serves."""
    levels = {name: placement.served(name).weight.levels for name in placement.layers}
    none = {name: [count, zeros(levels[name])] for name, count in before["zeros"].items()}
    values = {name: [count, distinct(levels[name])] for name, count in before["distinct"].items()}
    return {"zeros": none, "distinct": values}
