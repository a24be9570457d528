"""Attention heads that carry little are taken out, with their share of all four projections."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.attention import Attention, split
from trimtab_torch.deadline import tick
from trimtab_torch.evidence import Evidence
from trimtab_torch.importance import Losses
from trimtab_torch.layers import multiply_adds
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import workbench

__all__ = ["PruneHead", "attentions", "head_importance", "without_heads"]

ROWS = 256
"""Rows that heads are ranked on, at most."""


@dataclass(frozen=True)
class PruneHead:
    """Remove attention heads, ranked by what the loss feels of a gate on each (Michel et al. 2019).

    Works on networks that use :class:`trimtab_torch.attention.Attention`; heads of
    ``nn.MultiheadAttention`` cannot be taken out. Query, key, value and output projections become
    smaller, and the exported graph with them. ``facts.json`` gives each layer's heads before and after
    (``heads``) and their importance. Seconds: one forward and backward pass over 256 training rows.

    Parameters
    ----------
    ratio
        Share of all heads to remove, 0 < ratio < 1; every layer keeps one.
    scope
        ``global``: the heads of all layers are ranked together, each layer's importance divided by its
        norm; ``layer``: the same share of each.

    Raises
    ------
    DataError
        When there is no labelled training row.
    PluginError
        When the network has no such attention, or nothing can go.

    Examples
    --------
    >>> PruneHead(ratio=0.0)
    Traceback (most recent call last):
    ...
    ValueError: prune.head.ratio must be above 0 and below 1, got 0.0
    """

    ratio: float = 0.5
    scope: Literal["global", "layer"] = "global"

    about: ClassVar[About] = About(
        name="prune.head",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_labels=True,
        faster_on=("onnxruntime",),
        smaller=True,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"prune.head.ratio must be above 0 and below 1, got {self.ratio}")
        if self.scope not in ("global", "layer"):
            raise ValueError(f"prune.head.scope must be one of global, layer, got {self.scope!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model with fewer heads into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        layers = attentions(whole.network, "prune.head")
        with workbench(job):
            evidence = Evidence.draw(whole, data.rows(Role.TRAIN), ROWS, job.seed, "prune.head")
            tick(job.deadline, "prune.head", "leave it out of optimize.techniques")
            importance = head_importance(whole.network, evidence.losses)
            gone = self._gone(importance)
            if not any(gone.values()):
                raise PluginError(
                    f"prune.head.ratio {self.ratio} takes no head from {_counted(layers)}; every layer keeps one: "
                    "raise ratio, or leave prune.head out of optimize.techniques"
                )
            network = without_heads(whole.network, gone)
            facts = {
                "heads": {name: [layer.heads, layer.heads - len(gone[name])] for name, layer in layers.items()},
                "importance": {name: [round(v, 6) for v in found.tolist()] for name, found in importance.items()},
                "parameters_before": parameters(whole.network),
                "multiply_adds": multiply_adds(network, whole.examples())[""],
                "multiply_adds_before": multiply_adds(whole.network, whole.examples())[""],
            }
        return replace(whole, network=network).save(job.folder, facts)

    def _gone(self, importance: Mapping[str, Tensor]) -> dict[str, list[int]]:
        """Return which heads of each layer go."""
        if self.scope == "layer":
            return {
                n: v.argsort(stable=True)[: math.floor(self.ratio * len(v) + 0.5)].tolist()[: len(v) - 1]
                for n, v in importance.items()
            }
        ranked = sorted(
            (float(value), name, head) for name, values in importance.items() for head, value in enumerate(values)
        )
        left = {name: len(values) for name, values in importance.items()}
        gone: dict[str, list[int]] = {name: [] for name in importance}
        wanted = math.floor(self.ratio * len(ranked) + 0.5)
        for _, name, head in ranked:
            if wanted and left[name] > 1:
                gone[name].append(head)
                left[name] -= 1
                wanted -= 1
        return gone


def attentions(network: nn.Module, where: str) -> dict[str, Attention]:
    """Return the network's attention by name.

    Raises
    ------
    PluginError
        When there is none; ``where`` says what asks.
    """
    found = {name: m for name, m in network.named_modules() if isinstance(m, Attention)}
    if found:
        return found
    other = any(isinstance(m, nn.MultiheadAttention) for m in network.modules())
    why = "nn.MultiheadAttention cannot be changed: " if other else ""
    raise PluginError(
        f"{where} finds no trimtab_torch.attention.Attention in the network; {why}build the network with it, "
        f"or leave {where} out of optimize.techniques"
    )


def _counted(layers: Mapping[str, Attention]) -> str:
    return ", ".join(f"{name} ({layer.heads})" for name, layer in layers.items())


def head_importance(network: nn.Module, losses: Losses) -> dict[str, Tensor]:
    """Return by layer how much each head matters, float32 ``[heads]``, in units of the layer's norm.

    It is the size of the loss's slope by a gate of 1 on what the head gives, averaged over rows.

    Parameters
    ----------
    losses
        As :func:`trimtab_torch.importance.scores` takes it.
    """
    layers = attentions(network, "prune.head")
    seen: dict[str, Tensor] = {}
    hooks = [layer.out.register_forward_pre_hook(_keep(seen, name)) for name, layer in layers.items()]
    sums = {name: torch.zeros(layer.heads) for name, layer in layers.items()}
    try:
        with torch.enable_grad():
            for loss in losses(network):
                slopes = torch.autograd.grad(loss, list(seen.values()), allow_unused=True, materialize_grads=True)
                for (name, value), slope in zip(seen.items(), slopes, strict=True):
                    effect = split(value.detach() * slope, -1, layers[name].heads, layers[name].head_width)
                    sums[name] += effect.sum(dim=(1, 3)).abs().sum(dim=0)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: value / value.norm().clamp_min(torch.finfo(value.dtype).tiny) for name, value in sums.items()}


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen[name] = inputs[0].clone() if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
        return (seen[name],)

    return hook


def without_heads(network: nn.Module, gone: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy of a network without some heads of its layers by name.

    Examples
    --------
    >>> network = nn.Sequential(Attention(8, 4))
    >>> fewer = without_heads(network, {"0": [1, 3]})[0]
    >>> fewer.heads, fewer.query.out_features, fewer.out.in_features
    (2, 4, 4)
    """
    smaller = copy.deepcopy(network)
    for name, heads in gone.items():
        layer = cast("Attention", smaller.get_submodule(name))
        places = torch.arange(layer.heads * layer.head_width).view(layer.heads, layer.head_width)
        kept = places[[head for head in range(layer.heads) if head not in heads]].flatten()
        for part in (layer.query, layer.key, layer.value):
            part.weight, part.bias = nn.Parameter(part.weight[kept].detach()), nn.Parameter(part.bias[kept].detach())
            part.out_features = len(kept)
        layer.out.weight = nn.Parameter(layer.out.weight[:, kept].detach())
        layer.out.in_features = len(kept)
        layer.heads -= len(heads)
    return smaller
