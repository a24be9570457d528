"""Structured pruning: whole channels are taken out, so that the network itself becomes smaller and faster."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch_pruning
from torch import Tensor, nn

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.layers import executed
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import workbench

__all__ = ["PruneChannel"]

IMPORTANCES: Mapping[str, Any] = {
    "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "median": lambda: torch_pruning.importance.FPGMImportance(p=2),
}


@dataclass(frozen=True)
class PruneChannel:
    """Remove whole channels of convolutions and linear layers with Torch-Pruning (Fang et al. 2023).

    Channels that depend on each other (through a residual sum, say) go together, and are ranked by
    their importance together. The output layer stays, as does every layer whose pruning breaks the
    network; ``facts.json`` names them (``left_alone``) and gives every layer's channels before and
    after (``channels``). Accuracy suffers: train or distill afterwards.

    Parameters
    ----------
    ratio
        Share of channels to remove, 0 <= ratio < 1.
    round_to
        Channels kept are a multiple of this, at least one; a layer no wider stays whole.
    importance
        ``l1`` or ``l2``, a group's norm, or ``median``, its distance from the others (He et al. 2019).
    across_layers
        Rank all layers against each other instead of each on its own.

    Examples
    --------
    >>> PruneChannel(ratio=1.5)
    Traceback (most recent call last):
    ...
    ValueError: prune.channel.ratio must be in [0, 1), got 1.5
    """

    ratio: float = 0.5
    round_to: int = 8
    importance: Literal["l1", "l2", "median"] = "l2"
    across_layers: bool = False

    about: ClassVar[About] = About(
        name="prune.channel",
        takes=FLOAT,
        gives=FLOAT,
        faster_on=("onnxruntime", "openvino", "torch"),
        smaller=True,
        libraries=("torch", "torch-pruning"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"prune.channel.ratio must be in [0, 1), got {self.ratio}")
        if self.round_to < 1:
            raise ValueError(f"prune.channel.round_to must be at least 1, got {self.round_to}")
        if self.importance not in IMPORTANCES:
            have = ", ".join(IMPORTANCES)
            raise ValueError(f"prune.channel.importance must be one of {have}, got {self.importance!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the narrower model into ``job.folder``."""
        whole = FloatModel.load(model, job.factory)
        with workbench(job):
            network, left_alone = self._shrink(whole)
        before, after = _channels(whole.network), _channels(network)
        if self.ratio > 0 and before == after:
            raise PluginError(
                f"prune.channel.ratio {self.ratio} with round_to {self.round_to} removes no channel from any of "
                f"{len(before)} layers; raise ratio or lower round_to"
                + "".join(f"; {name} was left alone: {why}" for name, why in left_alone.items())
            )
        whole_ones = {n: "whole after rounding" for n in before if before[n] == after[n] and n not in left_alone}
        facts = {
            "channels": {name: [before[name], after[name]] for name in before},
            "parameters_before": parameters(whole.network),
            "left_alone": {**left_alone, **(whole_ones if self.ratio > 0 else {})},
        }
        return replace(whole, network=network).save(job.folder, facts)

    def _shrink(self, model: FloatModel) -> tuple[nn.Module, dict[str, str]]:
        """Prune all layers at once; only if that breaks the network find out which ones break it, and spare them."""
        examples = model.examples(2)
        layers = list(executed(model.network, examples))
        if not layers:
            raise PluginError("prune.channel finds no convolution or linear layer in the network; leave it out")
        spared = {layers[-1]: "the output layer"}
        prunable = [name for name in layers if name not in spared]
        try:
            return self._cut(model.network, examples, prunable, spared), spared
        except Exception as first:  # Torch-Pruning raises whatever its tracing trips over
            spared |= {name: why for name in prunable if (why := self._breaks(model.network, examples, name, spared))}
            try:
                prunable = [name for name in prunable if name not in spared]
                return self._cut(model.network, examples, prunable, spared), spared
            except Exception as error:  # as above
                raise PluginError(
                    f"prune.channel cannot prune this network ({_words(first)}), nor without "
                    f"{', '.join(spared)} ({_words(error)}); leave prune.channel out of optimize.techniques"
                ) from error

    def _breaks(
        self, network: nn.Module, examples: Sequence[Tensor], name: str, spared: Mapping[str, str]
    ) -> str | None:
        """Say why pruning this layer alone breaks the network, or None."""
        try:
            self._cut(network, examples, [name], spared, alone=True)
        except Exception as error:  # Torch-Pruning raises whatever its tracing trips over
            return _words(error)
        return None

    def _cut(
        self,
        network: nn.Module,
        examples: Sequence[Tensor],
        prunable: Sequence[str],
        spared: Mapping[str, str],
        alone: bool = False,
    ) -> nn.Module:
        """Return a pruned copy that still maps the examples to as many logits."""
        cut = copy.deepcopy(network)
        modules = dict(cut.named_modules())
        with torch.inference_mode():
            wanted = network(*examples).shape
        ranked_together = self.across_layers and not alone
        ratios = {modules[n]: share_removed(width_of(modules[n]), self.ratio, self.round_to) for n in prunable}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.BasePruner(
                cut,
                tuple(examples),
                importance=IMPORTANCES[self.importance](),
                global_pruning=ranked_together,
                pruning_ratio=self.ratio if ranked_together else 0.0,
                pruning_ratio_dict=None if ranked_together else ratios,
                round_to=self.round_to if ranked_together else None,
                ignored_layers=[modules[n] for n in spared],
                # Its own defaults are mutable and would leak groups from one network into the next.
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            ).step()
        with torch.inference_mode():
            found = cut(*examples)
        if found.shape != wanted:
            raise ValueError(f"the network then gives {list(found.shape)} instead of {list(wanted)}")
        for weight in cut.parameters():
            weight.grad = None
        return cut.eval()


def share_removed(width: int, ratio: float, round_to: int) -> float:
    """Return the share to remove so that a multiple of ``round_to`` is kept, the nearest to what is asked.

    Examples
    --------
    >>> [round(share_removed(width, 0.7, 8) * width) for width in (8, 12, 32, 64, 128)]
    [0, 4, 24, 48, 88]
    """
    if width <= round_to:
        return 0.0
    kept = min(width, max(round_to, round_to * math.floor(width * (1 - ratio) / round_to + 0.5)))
    # Torch-Pruning truncates the number kept; a hundredth of a channel keeps it on the right side.
    return max(0.0, 1 - (kept + 0.01) / width)


def width_of(layer: nn.Module) -> int:
    """Return the number of channels that a convolution or linear layer gives."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _channels(network: nn.Module) -> dict[str, int]:
    kinds = nn.Linear | nn.modules.conv._ConvNd
    return {name: width_of(m) for name, m in network.named_modules() if isinstance(m, kinds)}


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
