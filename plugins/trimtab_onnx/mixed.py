"""Bits per layer: each layer's weights get as few as a budget of lost quality allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_onnx.layers import in_branches, layers_of, named, prepared, save
from trimtab_onnx.sensitivity import WHOLE, Outcome, Trial, allot
from trimtab_onnx.stored import Store, Weight, weights_of, with_int4

__all__ = ["QuantizeMixed"]

WIDTHS = (4, 8, 16)


@dataclass(frozen=True)
class QuantizeMixed:
    """Give the weights of each layer 4, 8, 16 or 32 bits by how much the answers suffer from it.

    Every layer begins with the fewest. While more than ``max_drop`` is lost on held-out rows, the layer
    where a bit more of the file takes away most harm gets more bits. How much a layer suffers is measured by
    letting it alone have so few: the mean divergence of the answers, so that no label is read. Weights are unfolded
    when the file is loaded, so that the model is as fast as before on onnxruntime, and faster on no runtime.
    ``facts.json`` tells the bits of each layer and what was lost.

    Parameters
    ----------
    bits
        Widths to choose from, of 4, 8 and 16; 32 is always there.
    max_drop
        Largest loss of quality, as a fraction (0.01 = one point of accuracy), told by the float model's own
        probabilities.
    block_size
        Most weights of a channel that share a scale at 4 bits.
    keep_float
        Layers that stay float in any case, as the facts name them, with ``*`` for any text.
    rows
        Most rows to judge the loss on: the first of the search rows, else of the calibration rows, else of the
        training rows.

    Notes
    -----
    Mixed precision by the sensitivity of layers and the size of the file is the idea of HAWQ (Dong et al. 2019,
    "HAWQ: Hessian Aware Quantization"), which takes it from the Hessian; measuring it by quantizing one layer at a
    time is that of Wu et al. 2020, "Integer Quantization for Deep Learning Inference". It answers the rows once
    for each layer and width, and once for each step up.

    Examples
    --------
    >>> QuantizeMixed(bits=(2, 8))
    Traceback (most recent call last):
    ...
    ValueError: quantize.mixed.bits must be some of 4, 8, 16, got (2, 8)
    """

    bits: tuple[int, ...] = WIDTHS
    max_drop: float = 0.01
    block_size: int = 32
    keep_float: tuple[str, ...] = ()
    rows: int = 256

    about: ClassVar[About] = About(
        name="quantize.mixed",
        takes=ONNX,
        gives=ONNX,
        needs_data=True,
        smaller=True,
        libraries=("onnx", "onnxruntime"),
    )

    def __post_init__(self) -> None:
        if not self.bits or not set(self.bits) <= set(WIDTHS):
            raise ValueError(f"quantize.mixed.bits must be some of 4, 8, 16, got {self.bits}")
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"quantize.mixed.max_drop must be in [0, 1), got {self.max_drop}")
        if self.block_size < 1:
            raise ValueError(f"quantize.mixed.block_size must be at least 1, got {self.block_size}")
        if self.rows < 1:
            raise ValueError(f"quantize.mixed.rows must be at least 1, got {self.rows}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model of mixed bits into ``job.folder``.

        Raises
        ------
        DataError
            When there is no row to judge the loss on.
        OutOfTimeError
            When ``job.deadline`` passes while it looks for sensitive layers.
        PluginError
            When the graph has no weights, or few bits already.
        SettingsError
            When ``keep_float`` names a layer that the model does not have.
        """
        rows = data.first(self.rows, Role.SEARCH, Role.CALIBRATION, Role.TRAIN)
        with prepared(model, self.about.name) as ready:
            proto = onnx.load(str(ready))
            proto = with_int4(proto) if 4 in self.bits else proto
            layers = layers_of(proto.graph)
            kept = named(self.keep_float, layers, "quantize.mixed.keep_float")
            weights = weights_of(proto, kept)
            if not weights:
                raise PluginError("quantize.mixed.keep_float leaves nothing to quantize; name fewer layers")
            draft = _Draft(proto, weights, Store(self.block_size), ready.parent / "draft")
            outcome = self._settle(Trial(self.about.name, model, rows, job), draft)
            save(draft.made(outcome.bits), model, job, self.about.name)
        facts = _facts(weights, outcome, [*sorted({*layers} - {*weights}), *in_branches(proto.graph)])
        write_json(job.folder / "facts.json", {**model.facts, **facts})
        return Model.at(job.folder, ONNX)

    def _settle(self, trial: Trial, draft: _Draft) -> Outcome:
        def lost(bits: Mapping[str, int]) -> float:
            trial.tick()
            return trial.lost(draft.written(bits))

        def hurts(bits: Mapping[str, int]) -> float:
            trial.tick()
            return trial.diverges(draft.written(bits))

        widths = dict.fromkeys(draft.weights, (*sorted(set(self.bits)), WHOLE))
        sizes = {name: weight.count for name, weight in draft.weights.items()}
        return allot(widths, lost, self.max_drop, hurts=hurts, sizes=sizes)


def _facts(weights: Mapping[str, Weight], outcome: Outcome, kept: list[str]) -> dict[str, Any]:
    total = sum(w.count for w in weights.values())
    mean = sum(weights[name].count * bits for name, bits in outcome.bits.items()) / total
    return {"bits": dict(outcome.bits), "mean_bits": round(mean, 3), "kept_in_float": kept, "lost": outcome.lost}


@dataclass(frozen=True)
class _Draft:
    """The model with any bits a layer, written again and again; each weight is rounded once for each width."""

    proto: onnx.ModelProto
    weights: Mapping[str, Weight]
    store: Store
    folder: Path

    def made(self, bits: Mapping[str, int]) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        self.store.put(proto.graph, self.weights, bits)
        return proto

    def written(self, bits: Mapping[str, int]) -> Path:
        self.folder.mkdir(exist_ok=True)
        onnx.save_model(self.made(bits), str(self.folder / "model.onnx"))
        return self.folder
