"""What says before any training which of many networks will learn well: seconds instead of epochs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.errors import PluginError
from trimtab_torch.evidence import Evidence
from trimtab_torch.sensitivity import refreshed

__all__ = ["PROXIES", "Proxy", "naswot", "promise", "synflow"]

Proxy = Literal["loss", "naswot", "synflow"]
PROXIES: tuple[str, ...] = get_args(Proxy)

CODED = 64
"""Rows that are told apart by ``naswot``."""
TINY = 1e-30

_aten = torch.ops.aten
UNITS = frozenset(
    {
        _aten.relu,
        _aten.relu_,
        _aten.hardtanh,
        _aten.hardtanh_,
        _aten.leaky_relu,
        _aten.leaky_relu_,
        _aten._prelu_kernel,
        _aten.gelu,
        _aten.silu,
        _aten.silu_,
        _aten.hardswish,
        _aten.hardswish_,
        _aten.elu,
        _aten.elu_,
    }
)
"""Activations that are on or off by the sign of what enters them."""


def promise(proxy: Proxy, network: nn.Module, evidence: Evidence, seen: Evidence) -> float:
    """Return how much a network promises, the higher the better; only networks of one size compare.

    Parameters
    ----------
    proxy
        ``loss``: minus the loss on ``evidence`` (Li et al. 2020), of use where weights were inherited;
        ``naswot``, ``synflow``: the functions of this module, which ask of the shape alone.
    seen
        Rows that the batch norms are estimated anew on before.
    """
    if proxy == "synflow":
        return synflow(network, evidence.parts)
    fresh = refreshed(network, seen)
    return -evidence.loss(fresh) if proxy == "loss" else naswot(fresh, evidence.first(CODED).parts)


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums, over all activations, for each pair of rows how many units are on, or off, in both."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernel: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in UNITS:
            on = (args[0].flatten(1) > 0).double()
            both = on @ on.T + (1 - on) @ (1 - on).T
            self.kernel = both if self.kernel is None else self.kernel + both
        return func(*args, **(kwargs or {}))


def naswot(network: nn.Module, parts: Sequence[Tensor]) -> float:
    """Return the log-determinant of how alike rows look to the network's activations (Mellor et al. 2021).

    Raises
    ------
    PluginError
        When the network has no activation that is on or off.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> narrow, wide = (nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 2)) for n in (2, 64))
    >>> rows = torch.randn(8, 4)
    >>> naswot(narrow, [rows]) < naswot(wide, [rows])
    True
    """
    codes = _Codes()
    with torch.no_grad(), codes:
        network(*parts)
    if codes.kernel is None:
        raise PluginError("the network has no ReLU or the like, which the proxy naswot looks at; set proxy: loss")
    # As if each row had one unit of its own: two that are alike would make every network's determinant zero.
    return float(torch.logdet(codes.kernel + torch.eye(len(codes.kernel))))


def synflow(network: nn.Module, parts: Sequence[Tensor]) -> float:
    """Return the logarithm of the summed products of weights along all paths (Tanaka et al. 2020); no row is read.

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, -3.0)
    >>> round(synflow(layer, [torch.zeros(1, 2)]), 4) == round(float(torch.tensor(6.0).log()), 4)
    True
    """
    positive = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for value in (*positive.parameters(), *positive.buffers()):
            if value.is_floating_point():
                value.abs_()
    weights = [weight.requires_grad_(True) for weight in positive.parameters()]
    ones = [torch.ones_like(part[:1], dtype=torch.float64 if part.is_floating_point() else None) for part in parts]
    with torch.enable_grad():
        slopes = torch.autograd.grad(positive(*ones).sum(), weights, allow_unused=True, materialize_grads=True)
    flow = sum(float((w.detach() * s).sum()) for w, s in zip(weights, slopes, strict=True))
    return float(torch.tensor(max(flow, TINY), dtype=torch.float64).log())
