"""What a network is made of: which layers run and in what order, how wide they are, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["channels", "executed", "multiply_adds", "width_of"]


def executed(network: nn.Module, examples: Sequence[Tensor]) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers that a call runs, by name, in the order they last run.

    Examples
    --------
    >>> from trimtab_torch.networks import Mlp
    >>> list(executed(Mlp(inputs=2, outputs=2), [torch.zeros(1, 2)]))
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


def width_of(layer: nn.Module) -> int:
    """Return the number of channels that a convolution or linear layer gives."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def channels(network: nn.Module) -> dict[str, int]:
    """Return the number of channels that each convolution and linear layer gives, by name."""
    return {name: width_of(m) for name, m in network.named_modules() if isinstance(m, _ConvNd | nn.Linear)}


def multiply_adds(network: nn.Module, examples: Sequence[Tensor]) -> Mapping[str, int]:
    """Return the multiply-adds of one row by layer name, counted by torch; those of the whole under ``""``.

    Examples
    --------
    >>> from trimtab_torch.networks import Mlp
    >>> counts = multiply_adds(Mlp(inputs=2, outputs=3, hidden=[8]).eval(), [torch.zeros(2, 2)])
    >>> counts["body.0"], counts["head"], counts[""]
    (16, 24, 40)
    """
    # Gradients stay on: without them a transformer layer runs as one fused operator, which is not counted.
    with FlopCounterMode(display=False) as counter:
        network(*examples)
    rows, root = len(examples[0]), type(network).__name__
    counted = {name: sum(flops.values()) // 2 // rows for name, flops in counter.get_flop_counts().items()}
    layers = {name.removeprefix(f"{root}."): count for name, count in counted.items() if name.startswith(f"{root}.")}
    return {**layers, "": counted.get("Global", 0)}
