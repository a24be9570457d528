"""Attention to a neighbourhood: what a long sequence costs then grows with its length, not with its square."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.attention import Attention
from trimtab_torch.layers import multiply_adds
from trimtab_torch.prune_head import attentions
from trimtab_torch.spec import FloatModel

__all__ = ["AttentionLocal"]

NEIGHBOURS = 3
"""Blocks that each block of a window's length looks at: itself and both beside it."""


@dataclass(frozen=True)
class AttentionLocal:
    """Let each position of a sequence see its neighbours only (sliding window, Beltagy et al. 2020).

    Works on networks that use :class:`trimtab_torch.attention.Attention`, which then multiplies blocks
    with their neighbours instead of everything with everything. Weights stay; train or distill
    afterwards. A sequence no longer than three windows would gain nothing, and such a layer is left
    alone; at four windows onnxruntime was still slower by a sixth, at sixteen twice as fast.
    ``facts.json`` gives each layer's length (``lengths``) and the multiply-adds. Takes no time.

    Parameters
    ----------
    window
        Positions to either side that are seen, at least 1.

    Raises
    ------
    PluginError
        When the network has no such attention, or its sequences are too short for the window.

    Examples
    --------
    >>> AttentionLocal(window=0)
    Traceback (most recent call last):
    ...
    ValueError: attention.local.window must be at least 1, got 0
    """

    window: int = 32

    about: ClassVar[About] = About(
        name="attention.local",
        takes=FLOAT,
        gives=FLOAT,
        faster_on=("onnxruntime",),
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"attention.local.window must be at least 1, got {self.window}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model with local attention into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        lengths = _lengths(whole.network, whole.examples())
        long = [name for name, length in lengths.items() if length > NEIGHBOURS * self.window]
        if not long:
            raise PluginError(
                f"attention.local.window {self.window}: the longest sequence has {max(lengths.values())} positions, "
                f"and only beyond {NEIGHBOURS} windows is anything saved; lower window, or leave "
                "attention.local out of optimize.techniques"
            )
        network = copy.deepcopy(whole.network)
        for name in long:
            layer = network.get_submodule(name)
            if isinstance(layer, Attention):
                layer.window = self.window
        facts: dict[str, object] = {
            "window": self.window,
            "lengths": lengths,
            "left_alone": {name: "too short a sequence" for name in lengths if name not in long},
            "multiply_adds": multiply_adds(network, whole.examples())[""],
            "multiply_adds_before": multiply_adds(whole.network, whole.examples())[""],
        }
        return replace(whole, network=network).save(job.folder, facts)


def _lengths(network: nn.Module, examples: Sequence[Tensor]) -> dict[str, int]:
    """Return the length of the sequence that each attention works on, by name; 0 where none runs."""
    layers = attentions(network, "attention.local")
    found = dict.fromkeys(layers, 0)

    def note(name: str) -> RemovableHandle:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = max(found[name], inputs[0].shape[1])

        return layers[name].register_forward_pre_hook(hook)

    hooks = [note(name) for name in layers]
    try:
        with torch.inference_mode():
            network(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return found
