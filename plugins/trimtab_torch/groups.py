"""Which channels of a network go together, and taking them out: Torch-Pruning's dependency graph, checked."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trimtab.errors import PluginError
from trimtab_torch.layers import channels, executed

__all__ = ["Group", "Reader", "cut", "describe", "find", "traced"]

NARROWED = (_ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU, nn.Parameter)
"""What may take part in a group: its narrowed form is one that the spec describes."""

KEPT_WHOLE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Embedding)
OUTPUT = "the output layer"
TOLERANCE = 1e-3
"""Of the largest output; what two orders of summation differ by."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads a group's channels.

    Parameters
    ----------
    layer
        Its name.
    columns
        Which of its input channels (or features) they are.
    channels
        For each column, the group's channel that feeds it; after a flatten one channel feeds several.
    """

    layer: str
    columns: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Channels that can only go together, through a residual sum or a depthwise convolution, say.

    Parameters
    ----------
    name
        The layer that the graph begins at.
    width
        Number of channels.
    blocks
        Channels fall into so many equal blocks (grouped convolutions, group norms), and go from each
        block in the same place: the number kept is a multiple of it.
    writers
        Layers that give the channels, with how many of theirs these are.
    readers
        Layers that read them.
    """

    name: str
    width: int
    blocks: int
    writers: Mapping[str, int]
    readers: tuple[Reader, ...]

    @property
    def places(self) -> int:
        """How many channels there are in one block."""
        return self.width // self.blocks

    def at(self, places: Sequence[int]) -> list[int]:
        """Return the channels in these places of every block."""
        return sorted(block * self.places + place for block in range(self.blocks) for place in places)


def traced(network: nn.Module, examples: Sequence[Tensor]) -> tuple[nn.Module, Any]:
    """Return a copy of ``network`` in eval mode and its dependency graph (Fang et al. 2023).

    Raises
    ------
    PluginError
        When the network cannot be traced.
    """
    traced = copy.deepcopy(network).eval()
    for weight in traced.parameters():
        weight.requires_grad_(True)  # the graph is read off autograd, which passes frozen weights over
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(traced, tuple(examples), verbose=False)
        except Exception as error:  # Torch-Pruning raises whatever its tracing trips over
            raise PluginError(
                f"Torch-Pruning cannot trace this network ({_words(error)}); "
                "leave what cuts channels (prune.channel, prune.regularized, search.width) out of optimize.techniques"
            ) from error
    return traced, graph


def describe(network: nn.Module, examples: Sequence[Tensor]) -> tuple[dict[str, Group], dict[str, str]]:
    """Return the groups by name as the graph has them, unchecked, and the layers that have none, with the reason."""
    whole, graph = traced(network, examples)
    names = {module: name for name, module in whole.named_modules()}
    groups: dict[str, Group] = {}
    alone: dict[str, str] = {}
    seen: set[nn.Module] = set()
    for layer in [m for m in graph.module2node if isinstance(m, _ConvNd | nn.Linear)]:
        if layer in seen:
            continue
        try:
            items = _items(graph, layer, range(channels(whole)[names[layer]]))
        except Exception as error:  # as above
            alone[names[layer]] = _words(error)
            continue
        seen |= {dep.target.module for dep, _, _ in items if graph.is_out_channel_pruning_fn(dep.handler)}
        reason = _unknown(items, names)
        if reason:
            alone |= dict.fromkeys(_writers(graph, items, names), reason)
        else:
            groups[names[layer]] = _group(graph, layer, items, names)
    return groups, alone


def _items(graph: Any, layer: nn.Module, idxs: Sequence[int]) -> list[tuple[Any, list[int], list[int]]]:
    """Return what goes with a layer's channels: dependency, its channels, and the layer's own that they follow."""
    group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(idxs))
    return [(item.dep, item.idxs, item.root_idxs) for item in group.items]


def _unknown(items: Sequence[tuple[Any, list[int], list[int]]], names: Mapping[nn.Module, str]) -> str | None:
    """Say what in a group cannot be narrowed, or None."""
    for dep, _, _ in items:
        target = dep.target.module
        if isinstance(target, nn.Module) and target in names and not isinstance(target, NARROWED):
            kind = type(target).__name__
            if isinstance(target, KEPT_WHOLE):
                return f"tied to {names[target]}, a {kind}, which keeps its width"
            if next(target.parameters(recurse=False), None) is not None:
                return f"tied to {names[target]}, a {kind}, which trimtab cannot narrow"
    return None


def _writers(
    graph: Any, items: Sequence[tuple[Any, list[int], list[int]]], names: Mapping[nn.Module, str]
) -> dict[str, int]:
    return {
        names[dep.target.module]: len(idxs)
        for dep, idxs, _ in items
        if isinstance(dep.target.module, _ConvNd | nn.Linear) and graph.is_out_channel_pruning_fn(dep.handler)
    }


def _group(
    graph: Any, layer: nn.Module, items: Sequence[tuple[Any, list[int], list[int]]], names: Mapping[nn.Module, str]
) -> Group:
    blocks, readers = 1, []
    for dep, idxs, roots in items:
        target = dep.target.module
        out = graph.is_out_channel_pruning_fn(dep.handler)
        pruner = graph.get_pruner_of_module(target)
        if not _is_depthwise(target):
            count = pruner.get_out_channel_groups(target) if out else pruner.get_in_channel_groups(target)
            blocks = math.lcm(blocks, count)
        if isinstance(target, _ConvNd | nn.Linear) and not out:
            readers.append(Reader(names[target], tuple(idxs), tuple(roots)))
    width = int(graph.get_out_channels(layer))
    return Group(names[layer], width, blocks, _writers(graph, items, names), tuple(readers))


def _is_depthwise(module: object) -> bool:
    return isinstance(module, _ConvNd) and module.groups == module.out_channels > 1


def cut(network: nn.Module, examples: Sequence[Tensor], removed: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a narrower copy of ``network``, in eval mode, without the removed channels of each group by name."""
    trains = {name: weight.requires_grad for name, weight in network.named_parameters()}
    narrow, graph = traced(network, examples)
    modules = dict(narrow.named_modules())
    for name, idxs in removed.items():
        if idxs:
            layer = modules[name]
            graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(idxs)).prune()
    for name, weight in narrow.named_parameters():
        weight.grad = None
        weight.requires_grad_(trains[name])
    return narrow


def find(network: nn.Module, examples: Sequence[Tensor]) -> tuple[dict[str, Group], dict[str, str]]:
    """Return the groups that can be pruned, by name, and the layers that cannot, with the reason.

    Each group is tried: with the weights that read its removed channels set to zero the network must
    give what it gives without them. So a reshape, an index or a sum that the graph has read wrongly is
    found here, and not by users. Normalisations that mix channels are left out of that comparison.
    """
    described, alone = describe(network, examples)
    order = list(executed(network, examples))
    last = set(order[-1:])
    noisy = [_noise(e) for e in examples]
    groups = {name: group for name, group in described.items() if last.isdisjoint(group.writers)}
    if _breaks(network, noisy, list(groups.values())):  # who is it, then?
        groups = {}
    for name, group in described.items():
        if name not in groups:
            reason = _breaks(network, noisy, [group])
            if reason:
                alone |= dict.fromkeys(group.writers, reason)
            else:
                groups[name] = group
    if _breaks(network, noisy, list(groups.values())):
        groups, more = _together(network, noisy, groups)
        alone |= more
    alone |= {n: "keeps its width" for n, m in network.named_modules() if isinstance(m, KEPT_WHOLE)}
    known = {writer for group in groups.values() for writer in group.writers} | set(alone)
    return groups, alone | {n: "the graph does not reach it" for n in order if n not in known}


def _together(
    network: nn.Module, examples: Sequence[Tensor], groups: Mapping[str, Group]
) -> tuple[dict[str, Group], dict[str, str]]:
    """Take the groups up one by one, and leave those alone that break the network beside the ones before."""
    kept: dict[str, Group] = {}
    alone: dict[str, str] = {}
    for name, group in groups.items():
        reason = _breaks(network, examples, [*kept.values(), group])
        if reason:
            alone |= {writer: f"beside {', '.join(kept)}: {reason}" for writer in group.writers}
        else:
            kept[name] = group
    return kept, alone


def _breaks(network: nn.Module, examples: Sequence[Tensor], groups: Sequence[Group]) -> str | None:
    """Say why half of each group's channels cannot go, or None."""
    narrowest = [g for g in groups if g.places < 2]
    if narrowest:
        blocks = f" in each of {narrowest[0].blocks} blocks" if narrowest[0].blocks > 1 else ""
        return f"it has a single channel{blocks}"
    removed = {g.name: g.at(range(0, g.places - 1, 2)) for g in groups}
    try:
        narrow = cut(network, examples, removed)
        found, expected = _outputs(narrow, examples), _outputs(_silenced(network, groups, removed), examples)
    except Exception as error:  # Torch-Pruning raises whatever its tracing trips over, and so does the network
        return f"the network then raises {_words(error)}"
    if [f.shape for f in found] != [e.shape for e in expected]:
        return OUTPUT
    gap = max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True))
    scale = max(float(e.abs().max()) for e in expected)
    if not gap <= TOLERANCE * max(scale, TOLERANCE):
        return "its channels do not stay apart on their way to the layers that read them"
    return None


def _silenced(network: nn.Module, groups: Sequence[Group], removed: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy whose layers do not hear the removed channels."""
    silenced = copy.deepcopy(network).eval()
    modules: dict[str, Any] = dict(silenced.named_modules())
    with torch.no_grad():
        for group in groups:
            gone = set(removed[group.name])
            for reader in group.readers:
                deaf = [c for c, channel in zip(reader.columns, reader.channels, strict=True) if channel in gone]
                _columns(modules[reader.layer], deaf)
    return silenced


def _columns(layer: Any, columns: Sequence[int]) -> None:
    """Set the weights that read these input channels to zero."""
    if isinstance(layer, _ConvNd) and layer.transposed:
        layer.weight[list(columns)] = 0
    elif isinstance(layer, _ConvNd) and layer.groups > 1:
        inside, outside = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        for column in columns:
            block = column // inside
            layer.weight[block * outside : (block + 1) * outside, column % inside] = 0
    else:
        layer.weight[:, list(columns)] = 0


def _outputs(network: nn.Module, examples: Sequence[Tensor]) -> list[Tensor]:
    """Return what the network gives, its channel-mixing normalisations passed by."""
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    hooks = [norm.register_forward_hook(lambda _module, inputs, _output: inputs[0]) for norm in norms]
    try:
        with torch.no_grad():
            found = network(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return [found] if isinstance(found, Tensor) else list(found)


def _noise(example: Tensor) -> Tensor:
    return torch.randn_like(example) if example.is_floating_point() else example


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
