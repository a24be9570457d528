"""Networks of which some layers learn while the others stay as they are to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from trimtab.technique import Job
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import workbench

__all__ = ["OnlyThese", "entering", "gives_outputs"]

SLICE = 512


def gives_outputs(layer: nn.Module, model: FloatModel) -> bool:
    """Return whether a layer runs once, on one input, and what it gives is what the network gives."""
    given: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _m, _inputs, output: given.append(output))
    try:
        with torch.inference_mode():
            outputs = model.network(*model.examples(2))
    finally:
        hook.remove()
    return len(given) == 1 and given[0].shape == outputs.shape and torch.equal(given[0], outputs)


def entering(layer: nn.Module, network: nn.Module, parts: Sequence[Tensor], job: Job) -> Tensor:
    """Return what enters the layer on all rows."""
    seen: list[Tensor] = []
    with workbench(job) as device, torch.no_grad():
        hook = layer.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].cpu()))
        network.to(device).eval()
        try:
            for index in torch.split(torch.arange(len(parts[0])), SLICE):
                network(*(p[index].to(device) for p in parts))
        finally:
            hook.remove()
            network.cpu()
    return torch.cat(seen)


class OnlyThese(nn.Module):
    """A network of which some layers learn: the others run as they do in production, and keep every weight and figure.

    Parameters
    ----------
    network
        Whose weights from now on need gradients in those layers alone; what needed none before needs none there.
    learning
        Modules of the network; only their own weights learn, not those of what they hold.
    """

    def __init__(self, network: nn.Module, learning: Iterable[nn.Module]) -> None:
        super().__init__()
        may_learn = {weight for weight in network.parameters() if weight.requires_grad}
        self.network = network.requires_grad_(False)
        self._learning = list(learning)
        for module in self._learning:
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(weight in may_learn)

    def train(self, mode: bool = True) -> OnlyThese:
        """Put the learning layers into train mode; the others stay, so that batch norm keeps its statistics there."""
        super().train(False)
        for module in self._learning:
            module.training = mode
        return self

    def forward(self, *parts: Tensor) -> Tensor:
        """Run the network."""
        outputs: Tensor = self.network(*parts)
        return outputs
