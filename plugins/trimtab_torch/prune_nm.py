"""N:M sparsity: of every M weights in a row along the inputs at most N are not zero."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.settings import Shaping
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import fit, training_rows
from trimtab_torch.weights import sparsity_of, weights_of, zipped

__all__ = ["PruneNm", "nm_mask"]

METHODS = ("sr_ste", "fixed")


@dataclass(frozen=True)
class PruneNm(Shaping):
    """Keep the largest N of every M weights that follow each other along a layer's inputs, and train under that.

    In a convolution these are the weights of M neighbouring input channels at one place of the kernel; so
    hardware lays them out that computes such patterns (NVIDIA's tensor cores, 2:4). Layers whose inputs
    are no multiple of M (the first one, depthwise convolutions) stay dense: ``left_alone`` in
    ``facts.json`` names them, ``pattern`` and ``zeros`` tell of the rest.

    No runtime on a CPU that is known here gains by it, and files are as large as before until they are
    zipped; hence it is experimental. Its cost is that of training for ``epochs``.

    Parameters
    ----------
    epochs
        Passes over the training rows; 0 prunes without training, and null takes ``model.epochs``.
    learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    pattern
        ``N:M``, 1 <= N < M, such as ``2:4`` or ``1:4``.
    method
        ``sr_ste``: the network computes with the largest N of each M as they are at every step, all weights
        go on learning as if they had been used, and those that were not shrink (Zhou et al. 2021).
        ``fixed``: the choice is made once, before training.
    refinement
        How much what is not used shrinks in ``sr_ste``, in units of the learning rate, 0 or more.

    Raises
    ------
    DataError
        When there is no labelled training row.
    PluginError
        When no layer's inputs are a multiple of M.

    Examples
    --------
    >>> PruneNm(pattern="4:2")
    Traceback (most recent call last):
    ...
    ValueError: prune.nm.pattern must be N:M with whole numbers, 1 <= N < M, such as 2:4, got '4:2'
    """

    pattern: str = "2:4"
    method: Literal["sr_ste", "fixed"] = "sr_ste"
    refinement: float = 2e-4

    about: ClassVar[About] = About(
        name="prune.nm",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_labels=True,
        effort="epochs",
        experimental=True,
        inherits=True,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.pattern)
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(
                f"prune.nm.pattern must be N:M with whole numbers, 1 <= N < M, such as 2:4, got {self.pattern!r}"
            )
        if self.method not in METHODS:
            raise ValueError(f"prune.nm.method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not 0 <= self.refinement < float("inf"):
            raise ValueError(f"prune.nm.refinement must be 0 or more and finite, got {self.refinement}")

    @property
    def numbers(self) -> tuple[int, int]:
        """N and M."""
        kept, of = self.pattern.split(":")
        return int(kept), int(of)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the sparse model into ``job.folder``."""
        child = FloatModel.taken(model, job)
        rows, settings = training_rows(data, child.spec.schema), self.over(child.spec.settings)
        layers, alone = self._layers(child.network)
        before = zipped(child.network)
        facts: dict[str, object] = {"epochs": settings.epochs, "rows": len(rows), "pattern": self.pattern}
        with self._held(layers):
            if settings.epochs:
                parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
                facts["loss"] = fit(child.network, parts, targets, settings, job, self.about.name)
        facts |= sparsity_of(child.network) | {"left_alone": alone, "zipped_bytes": [before, zipped(child.network)]}
        return child.save(job.folder, facts)

    def _layers(self, network: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
        """Return the layers to prune, and those to leave alone with the reason."""
        _, of = self.numbers
        layers, alone = {}, {}
        for name in weights_of(network):
            layer = network.get_submodule(name)
            inputs = inputs_of(layer)
            if inputs % of:
                alone[name] = f"each output reads {inputs} inputs, no multiple of {of}"
            else:
                layers[name] = layer
        if not layers:
            raise PluginError(
                f"prune.nm.pattern {self.pattern} fits no layer; set another, or leave prune.nm out of "
                "optimize.techniques" + "".join(f"; {name}: {why}" for name, why in alone.items())
            )
        return layers, alone

    @contextmanager
    def _held(self, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        """Let the layers compute with their pattern, and leave them with it in the end."""
        for layer in layers.values():
            weight: Any = layer.weight
            form = _Refined(self, axis_of(layer)) if self.method == "sr_ste" else _Fixed(self, axis_of(layer), weight)
            parametrize.register_parametrization(layer, "weight", form)
        try:
            yield
        finally:
            for layer in layers.values():
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def axis_of(layer: nn.Module) -> int:
    """Return along which axis of its weight a layer's inputs lie."""
    return 0 if isinstance(layer, _ConvNd) and layer.transposed else 1


def inputs_of(layer: Any) -> int:
    """Return how many inputs (or channels of them) each of a layer's outputs reads.

    Examples
    --------
    >>> inputs_of(nn.ConvTranspose2d(8, 6, 3, groups=2))
    4
    """
    return int(layer.in_channels // layer.groups if isinstance(layer, _ConvNd) else layer.in_features)


def nm_mask(weight: Tensor, kept: int, of: int, axis: int = 1) -> Tensor:
    """Return 1 for the ``kept`` largest of every ``of`` weights along an axis, else 0; of equals the first.

    Examples
    --------
    >>> nm_mask(torch.tensor([[1.0, -3.0, 2.0, 0.5, 4.0, 4.0, 4.0, 4.0]]), 2, 4)
    tensor([[0., 1., 1., 0., 1., 1., 0., 0.]])
    """
    last = weight.detach().movedim(axis, -1)
    blocks = last.reshape(*last.shape[:-1], -1, of).abs()
    order = blocks.sort(dim=-1, descending=True, stable=True).indices[..., :kept]
    mask = torch.zeros_like(blocks).scatter_(-1, order, 1.0)
    return mask.reshape(last.shape).movedim(-1, axis)


class _Fixed(nn.Module):
    """Multiplies with the mask that the weight has now."""

    def __init__(self, settings: PruneNm, axis: int, weight: Tensor) -> None:
        super().__init__()
        self.mask = nm_mask(weight, *settings.numbers, axis)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask.to(weight.device)


class _Refined(nn.Module):
    """Multiplies with the mask that the weight has at each step; the slope passes by it, with a pull to zero."""

    def __init__(self, settings: PruneNm, axis: int) -> None:
        super().__init__()
        self.settings, self.axis = settings, axis

    def forward(self, weight: Tensor) -> Tensor:
        mask = nm_mask(weight, *self.settings.numbers, self.axis)
        pruned: Tensor = _StraightThrough.apply(weight, mask, self.settings.refinement)  # type: ignore[no-untyped-call]
        return pruned


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, refinement: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.refinement = refinement
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        weight, mask = ctx.saved_tensors
        return slopes[0] + ctx.refinement * (1 - mask) * weight, None, None
