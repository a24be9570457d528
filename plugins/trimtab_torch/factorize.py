"""Low rank: a layer's weight as the product of two smaller ones, where that saves multiply-adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.deadline import tick
from trimtab_torch.layers import executed, multiply_adds
from trimtab_torch.lowrank import Split
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.structure import Scheme
from trimtab_torch.training import workbench

__all__ = ["Factorize"]

RANKS = ("energy", "share")
CONVOLUTIONS = ("best", "channel", "spatial")
TOLERANCE = 1e-3
"""Of the largest output; what two orders of summation differ by."""


@dataclass(frozen=True)
class Factorize:
    """Split linear layers and convolutions into two by singular value decomposition, where that saves multiply-adds.

    A linear layer becomes two, a convolution either the same with ``rank`` channels and one of size 1
    after it (``channel``, Zhang et al. 2016), or a column and a row (``spatial``, Jaderberg et al. 2014).
    The factors are the best of their rank, in squares of the weight. Grouped and transposed convolutions
    stay whole, as does every layer whose splitting saves nothing or which the network does not bear;
    ``left_alone`` in ``facts.json`` names them, ``ranks`` tells of the others rank, full rank, kept energy
    and scheme. Accuracy suffers: train or distill afterwards. It reads no row and takes seconds.

    Parameters
    ----------
    rank
        What decides each layer's rank. ``energy``: the smallest that keeps the share ``keep`` of the sum of
        the squared singular values. ``share``: the share ``keep`` of the full rank.
    keep
        That share, 0 < keep < 1.
    round_to
        Ranks are a multiple of this, the next one above; at least 1.
    saving
        Share of a layer's multiply-adds that must go for it to be split, 0 <= saving < 1: two layers take
        longer to call than one.
    convolutions
        ``channel``, ``spatial``, or of each layer the one with fewer multiply-adds: ``best``.

    Raises
    ------
    PluginError
        When no layer can be split with a gain.

    Examples
    --------
    >>> Factorize(keep=1.0)
    Traceback (most recent call last):
    ...
    ValueError: factorize.keep must be above 0 and below 1, got 1.0
    """

    rank: Literal["energy", "share"] = "energy"
    keep: float = 0.7
    round_to: int = 4
    saving: float = 0.2
    convolutions: Literal["best", "channel", "spatial"] = "best"

    about: ClassVar[About] = About(
        name="factorize",
        takes=FLOAT,
        gives=FLOAT,
        faster_on=("onnxruntime", "openvino", "torch"),
        smaller=True,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        if self.rank not in RANKS:
            raise ValueError(f"factorize.rank must be one of {', '.join(RANKS)}, got {self.rank!r}")
        if not 0 < self.keep < 1:
            raise ValueError(f"factorize.keep must be above 0 and below 1, got {self.keep}")
        if self.round_to < 1:
            raise ValueError(f"factorize.round_to must be at least 1, got {self.round_to}")
        if not 0 <= self.saving < 1:
            raise ValueError(f"factorize.saving must be in [0, 1), got {self.saving}")
        if self.convolutions not in CONVOLUTIONS:
            raise ValueError(
                f"factorize.convolutions must be one of {', '.join(CONVOLUTIONS)}, got {self.convolutions!r}"
            )

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the factorized model into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        examples = whole.examples(2)
        with workbench(job):
            before, size = multiply_adds(whole.network, examples), parameters(whole.network)
            splits, alone = self._splits(whole.network, examples, job.deadline)
            if not splits:
                raise PluginError(self._nothing(alone))
            for split in splits:
                name = split.edit.layer
                whole.network.set_submodule(name, split.pair(whole.network.get_submodule(name)))
        edits = tuple(split.edit for split in splits)
        child = replace(whole, spec=replace(whole.spec, structure=(*whole.spec.structure, *edits)))
        facts: dict[str, Any] = {
            "ranks": {s.edit.layer: [s.edit.rank, s.full, round(s.energy, 6), s.edit.scheme] for s in splits},
            "left_alone": alone,
            "parameters_before": size,
            "multiply_adds": multiply_adds(child.network, examples)[""],
            "multiply_adds_before": before[""],
        }
        return child.save(job.folder, facts)

    def _nothing(self, alone: Mapping[str, str]) -> str:
        return (
            f"factorize with rank {self.rank!r} and keep {self.keep} saves {self.saving:.0%} in no layer; lower keep, "
            "saving or round_to, or leave factorize out of optimize.techniques"
        ) + "".join(f"; {name}: {why}" for name, why in alone.items())

    def _split(self, name: str, layer: nn.Module, scheme: Scheme) -> Split:
        return Split.of(name, layer, scheme, self.rank, self.keep, self.round_to)

    def _splits(
        self, network: nn.Module, examples: Sequence[Tensor], deadline: float | None
    ) -> tuple[list[Split], dict[str, str]]:
        """Return the layers to split, and those to leave alone with the reason."""
        splits: list[Split] = []
        alone: dict[str, str] = {}
        readers = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
        for name, layer in executed(network, examples).items():
            tick(deadline, self.about.name)
            if readers[id(layer.weight)] > 1:
                alone[name] = "its weight is used in more places than one"
                continue
            tried = [self._split(name, layer, scheme) for scheme in self._schemes(layer)]
            saving = [s for s in tried if s.cost < 1 and 1 - s.cost >= self.saving]
            if not tried:
                alone[name] = "a grouped or transposed convolution"
            elif not saving:
                alone[name] = f"rank {tried[0].edit.rank} of {tried[0].full} would save too little"
            else:
                best = min(saving, key=lambda s: s.cost)
                reason = _breaks(network, examples, best)
                if reason:
                    alone[name] = reason
                else:
                    splits.append(best)
        return splits, alone

    def _schemes(self, layer: nn.Module) -> list[Scheme]:
        if isinstance(layer, nn.Linear):
            return ["matrix"]
        if not isinstance(layer, _ConvNd) or layer.transposed or layer.groups > 1:
            return []
        if not isinstance(layer, nn.Conv2d) or 1 in layer.kernel_size or self.convolutions == "channel":
            return ["channel"]
        return ["spatial"] if self.convolutions == "spatial" else ["channel", "spatial"]


def _breaks(network: nn.Module, examples: Sequence[Tensor], split: Split) -> str | None:
    """Say why the network does not bear the two layers in the one's place, or None.

    They must do what the layer does with their product as its weight; whoever reads a layer's weight
    itself, as attention does, finds none.
    """
    name = split.edit.layer
    layer: Any = network.get_submodule(name)
    own = layer.weight.detach().clone()
    noise = [torch.randn_like(e) if e.is_floating_point() else e for e in examples]
    try:
        with torch.inference_mode():
            layer.weight.data = split.product()
            expected = network(*noise)
            network.set_submodule(name, split.pair(layer))
            found = network(*noise)
    except Exception as error:  # the user's network may raise anything
        return f"the network then raises {type(error).__name__}: {' '.join(str(error).split())}"[:300]
    finally:
        layer.weight.data = own
        network.set_submodule(name, layer)
    gap, scale = float((found - expected).abs().max()), float(expected.abs().max())
    return None if gap <= TOLERANCE * max(scale, TOLERANCE) else "its two layers do not do what it does"
