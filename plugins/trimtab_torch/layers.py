"""Which layers of a network run, and in what order: what pruning spares and export looks into."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["executed"]


def executed(network: nn.Module, examples: Sequence[Tensor]) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers that a call runs, by name, in the order they last run.

    Examples
    --------
    >>> from trimtab_torch.networks import Mlp
    >>> list(executed(Mlp(inputs=2, classes=2), [torch.zeros(1, 2)]))
    ['body.0', 'body.3', 'head']
    """
    names: dict[nn.Module, str] = {m: n for n, m in network.named_modules() if isinstance(m, _ConvNd | nn.Linear)}
    order: dict[str, nn.Module] = {}

    def note(module: nn.Module, _inputs: object) -> None:
        order.pop(names[module], None)
        order[names[module]] = module

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.inference_mode():
            network(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return order
