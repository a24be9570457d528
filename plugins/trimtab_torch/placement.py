"""Where a network is rounded to 8 bits: in its exported graph, so that sums and pools in any forward are seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Node

from trimtab_torch.integer import Integer
from trimtab_torch.operators import (
    JOINING,
    LAYERS,
    LINEAR,
    TRANSPOSED,
    activates,
    is_grid,
    make_plain,
    name_of,
    norm_follows,
    passes,
    rank,
    values,
)
from trimtab_torch.simulate import Grid, Norm, Weighted

__all__ = ["Placement", "place"]

UNNAMED = "its weight is computed, not stored"
NO_KERNEL = "no runtime computes transposed convolutions in 8 bits"
ANSWERS = "it gives the answers, of which 8 bits know 256"


@dataclass(frozen=True)
class Call:
    """An operator with everything but input, weight and bias."""

    operator: Any
    rest: tuple[Any, ...]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Call it."""
        return cast("Tensor", self.operator(x, weight, bias, *self.rest))


@dataclass
class Placement:
    """A network that computes as its 8-bit version will.

    Parameters
    ----------
    network
        With a :class:`Grid` for each tensor, and a :class:`Weighted` for each layer, that will be in 8 bits.
    layers
        Those layers in the order in which they run: the module's name in ``network`` by the name that the
        network's author gave.
    in_float
        Convolutions and linear layers that stay float, with the reason.
    embedding
        What the last linear layer is given passes through this module; None where that is no matrix.
    """

    network: fx.GraphModule
    layers: dict[str, str] = field(default_factory=dict)
    in_float: dict[str, str] = field(default_factory=dict)
    embedding: nn.Module | None = None

    def weighted(self) -> Iterator[tuple[str, Weighted]]:
        """Yield the layers by the author's names."""
        for name, module in self.layers.items():
            yield name, cast("Weighted", self.network.get_submodule(module))

    def served(self, layer: str) -> Integer:
        """Return a layer as it serves, once it is settled."""
        return cast("Integer", self.network.get_submodule(self.layers[layer]))

    def settle(self) -> None:
        """Turn grids and layers into those that serve."""
        calls = {str(n.target): n for n in self.network.graph.nodes if n.op == "call_module"}
        for name in self.layers.values():
            layer = cast("Weighted", self.network.get_submodule(name))
            grid = cast("Grid", self.network.get_submodule(_grid_of(calls[name].all_input_nodes[0])))
            self.network.set_submodule(name, layer.settle(grid.levels()[0], _closed(calls[name])))
        for name, module in list(self.network.named_modules()):
            if isinstance(module, Grid):
                self.network.set_submodule(name, module.settle())


def _grid_of(node: Node) -> str:
    """Return the name of the grid that a value lies on."""
    while not is_grid(node):
        node = node.all_input_nodes[0]
    return str(node.target)


def _closed(node: Node) -> bool:
    """Return whether a layer gives levels."""
    while len(node.users) == 1 and activates(user := next(iter(node.users))):
        node = user
    return all(is_grid(user) for user in node.users)


class _Variadic(nn.Module):
    """A network as what is exported: whatever its forward calls its arguments."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *parts: Tensor) -> Tensor:
        """Call it."""
        return cast("Tensor", self.network(*parts))


def place(network: nn.Module, examples: Sequence[Tensor], per_channel: bool, last_in_float: bool) -> Placement:
    """Export a network and put in what rounds.

    Every convolution and linear layer is given levels. It gives levels where what follows goes on in 8
    bits: the next layer, a residual sum, a concatenation, a pool. A tensor has one grid, whoever reads
    it. Attention's own products, other norms and softmax stay float.

    Parameters
    ----------
    network
        In eval mode; its weights are what will be trained.
    examples
        Its arguments for a few rows.
    per_channel
        Of each :class:`Weighted`.
    last_in_float
        Whether the last layer is to answer in float.
    """
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    rows = torch.export.Dim("rows")
    with torch.enable_grad():  # without gradients a transformer layer would be one fused operator
        program = torch.export.export(
            _Variadic(network), tuple(examples), dynamic_shapes=(tuple({0: rows} for _ in examples),)
        )
    return _Placing(program.module(check_guards=False), per_channel).place(last_in_float)


class _Placing:
    """The work of :func:`place`, on one exported graph."""

    def __init__(self, root: Any, per_channel: bool) -> None:
        self.root, self.graph, self.per_channel = root, cast("fx.Graph", root.graph), per_channel
        self.layers: dict[str, str] = {}
        self.in_float: dict[str, str] = {}
        self.whole: dict[Node, bool] = {}
        """Whether a value can be had in 8 bits, and by what it is given alone."""
        self.grids: dict[Node, Node] = {}

    def place(self, last_in_float: bool) -> Placement:
        make_plain(self.graph)
        layers = [n for n in self.graph.nodes if n.target in LAYERS]
        linear = next((n for n in reversed(layers) if n.target == LINEAR), None)
        embedding = self._mark(linear) if linear is not None and rank(linear.args[0]) == 2 else None
        for node in layers:
            why = self._why_not(node)
            if last_in_float and len(layers) > 1 and node is layers[-1]:
                why = ANSWERS
            if why is None:
                self._weigh(node)
            else:
                self.in_float[name_of(node) or node.name] = why
        self._spread()
        for node in list(self.graph.nodes):
            self._round(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        return Placement(fx.GraphModule(self.root, self.graph), self.layers, self.in_float, embedding)

    def _mark(self, linear: Node) -> nn.Module:
        """Let what a layer is given pass through a module, where it can be seen."""
        (given, *rest) = linear.args
        self.root.add_module("embedding", nn.Identity())
        with self.graph.inserting_before(linear):
            passed = self.graph.call_module("embedding", (given,))
        passed.meta = dict(cast("Node", given).meta)
        linear.args = (passed, *rest)
        return cast("nn.Module", self.root.embedding)

    def _why_not(self, node: Node) -> str | None:
        if node.target in TRANSPOSED:
            return NO_KERNEL
        return None if name_of(node) else UNNAMED

    def _weigh(self, node: Node) -> None:
        """Put a weighted layer in the place of an operator and of the batch norm that alone reads it."""
        x, weight, *others = node.args
        bias = others[0] if others else None
        norm = next(iter(node.users)) if norm_follows(node) else None
        module = Weighted(
            Call(node.target, tuple(others[1:])),
            self._held(weight),
            self._held(bias),
            self._norm(norm) if norm is not None else None,
            self.per_channel,
            transposed=node.target == LINEAR and rank(x) != 2,
        )
        name, last = f"layer{len(self.layers)}", norm if norm is not None else node
        self.root.add_module(name, module)
        with self.graph.inserting_after(last):
            call = self.graph.call_module(name, (x,))
        call.meta = dict(last.meta)
        last.replace_all_uses_with(call)
        self.layers[self._named(node)] = name
        for old in dict.fromkeys((last, node)):
            self.graph.erase_node(old)

    def _named(self, node: Node) -> str:
        """Return a layer's name, with a number where another call has the same weight: a block that runs twice."""
        own = name_of(node)
        numbered = (f"{own}#{number}" for number in itertools.count(2))
        return own if own not in self.layers else next(name for name in numbered if name not in self.layers)

    def _held(self, node: Any) -> Any:
        """Return the tensor that a node fetches, or None."""
        if not isinstance(node, Node):
            return None
        value: Any = self.root
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value

    def _norm(self, node: Node) -> Norm:
        weight, bias, mean, variance = map(self._held, node.args[1:5])
        return Norm(weight, bias, mean, variance, cast("float", node.args[6]), cast("float", node.args[7]))

    def _spread(self) -> None:
        """See, in the order of the graph, which values can be had in 8 bits."""
        for node in self.graph.nodes:
            if node.op == "placeholder" or self._layer(node) is not None:
                self.whole[node] = True
            elif passes(node) or activates(node):
                self.whole[node] = self.whole.get(node.all_input_nodes[0], False)
            elif node.target in JOINING:
                given = node.all_input_nodes
                self.whole[node] = len(given) == len(values(node)) and all(self.whole.get(n, False) for n in given)

    def _layer(self, node: Node) -> Weighted | None:
        found = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        return found if isinstance(found, Weighted) else None

    def _round(self, node: Node) -> None:
        """Put a grid before a layer, and behind whatever else has to come in 8 bits."""
        if self._layer(node) is not None:
            self._on_grid(node, node.all_input_nodes[0])
        elif node.target in JOINING and self.whole[node]:
            for given in node.all_input_nodes:
                self._on_grid(node, given)
            self._close(node)
        if (layer := self._layer(node)) is not None and not _is_linear(layer):
            self._close(node)

    def _close(self, node: Node) -> None:
        """Put a grid behind a layer or a sum and the activation that runtimes fuse into it, for every reader."""
        end = node
        while len(end.users) == 1 and activates(user := next(iter(end.users))):
            end = user
        self._grid(end, list(end.users))

    def _on_grid(self, reader: Node, given: Node) -> None:
        """Put a grid where a value comes from, unless there is one, and again right before who reads it."""
        if given.target == "embedding":
            reader, given = given, given.all_input_nodes[0]
        direct, first = given, reader
        while passes(given):
            first, given = given, given.all_input_nodes[0]
        if not is_grid(given):
            given = self._grid(given, list(given.users) if self._from_layer(given) else [first])
        if passes(direct):  # runtimes look for levels right before a layer
            self._grid(direct, [reader], str(given.target))

    def _from_layer(self, node: Node) -> bool:
        """Return whether a layer or a sum that runs in 8 bits gives a value."""
        while activates(node):
            node = node.all_input_nodes[0]
        return self._layer(node) is not None or (node.target in JOINING and self.whole[node])

    def _grid(self, node: Node, readers: list[Node], name: str | None = None) -> Node:
        """Let readers of a value read it from a grid: a new one, or that of a name."""
        if node not in self.grids:
            if name is None:
                name = f"grid{len(self.grids)}"
                self.root.add_module(name, Grid())
            with self.graph.inserting_after(node):
                self.grids[node] = self.graph.call_module(name, (node,))
            self.grids[node].meta = dict(node.meta)
        grid = self.grids[node]
        for reader in readers:
            if reader is not grid:
                reader.replace_input_with(node, grid)
        return grid


def _is_linear(layer: Weighted) -> bool:
    return isinstance(layer.call, Call) and layer.call.operator == LINEAR
