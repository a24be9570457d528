"""What pruning each group alone costs: the rise of the loss, measured without training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimtab_torch.evidence import Evidence
from trimtab_torch.groups import Group, cut

__all__ = ["least", "refreshed", "sensitivity"]


def least(group: Group, scores: Tensor, kept: int) -> list[int]:
    """Return the channels to remove so that ``kept`` are left: those in the least important places of each block."""
    gone = group.places - kept // group.blocks
    return group.at(scores.argsort(stable=True)[:gone].tolist())


def sensitivity(
    network: nn.Module,
    examples: Sequence[Tensor],
    groups: Mapping[str, Group],
    scores: Mapping[str, Tensor],
    widths: Mapping[str, Sequence[int]],
    evidence: Evidence,
    seen: Evidence | None,
    tick: Callable[[], None],
    known: dict[tuple[str, int], float],
) -> dict[str, dict[int, float]]:
    """Return by group and width what the mean loss rises by when that group alone is cut to that width.

    Parameters
    ----------
    widths
        To try, by group.
    evidence
        Rows to measure the loss on.
    seen
        Rows to estimate the batch norms anew on after each cut (Li et al. 2020 show that the loss then
        says much more about the loss after training); None keeps them.
    tick
        Called before each measurement; it may raise to end them.
    known
        What was measured before of this network on these rows, by group and width; it grows.
    """
    before = evidence.loss(network)
    table: dict[str, dict[int, float]] = {}
    for name, group in groups.items():
        for width in widths[name]:
            if (name, width) not in known:
                tick()
                narrow = cut(network, examples, {name: least(group, scores[name], width)})
                known[name, width] = evidence.loss(refreshed(narrow, seen)) - before
            table.setdefault(name, {})[width] = known[name, width]
    return table


def refreshed(network: nn.Module, seen: Evidence | None) -> nn.Module:
    """Return a copy with the batch norms' statistics estimated anew on ``seen``; the network itself without rows."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if seen is None or not norms:
        return network
    fresh = copy.deepcopy(network)
    for norm in fresh.modules():
        if isinstance(norm, _BatchNorm) and norm.track_running_stats:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the batches
            norm.train()
    with torch.no_grad():
        for _ in seen.losses(fresh):
            pass
    return fresh.eval()
