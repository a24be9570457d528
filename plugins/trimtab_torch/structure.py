"""Edits of a factory's network that a spec names: kinds that are known here, each on a layer that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from trimtab.errors import ArtifactError

__all__ = ["Edit", "Fold", "LowRank", "Scheme", "read_edits", "write_edits"]

Scheme = Literal["matrix", "channel", "spatial"]
OF: dict[Scheme, type[nn.Module]] = {"matrix": nn.Linear, "channel": _ConvNd, "spatial": nn.Conv2d}


class Edit(Protocol):
    """A change of a network's structure: a frozen dataclass of plain values, whose ``kind`` a spec names."""

    kind: ClassVar[str]

    def apply(self, network: nn.Module) -> None:
        """Change the network in place; what its new weights are is filled in later.

        Raises
        ------
        ArtifactError
            When the network has no such layer.
        """
        ...


@dataclass(frozen=True)
class LowRank:
    """A layer as two, one after the other, with ``rank`` numbers between them.

    Parameters
    ----------
    layer
        Its name; the two are ``layer.0`` and ``layer.1``.
    rank
        At least 1.
    scheme
        ``matrix``: two linear layers. ``channel``: the convolution with ``rank`` channels, and one of size
        1 after it (Zhang et al. 2016). ``spatial``: a column, and a row after it (Jaderberg et al. 2014).

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1))
    >>> LowRank("0", 4, "spatial").apply(network)
    >>> [tuple(weight.shape) for weight in network.parameters()]
    [(4, 8, 3, 1), (16, 4, 1, 3), (16,)]
    """

    layer: str
    rank: int
    scheme: Scheme

    kind: ClassVar[str] = "low_rank"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.scheme not in get_args(Scheme):
            raise ValueError(f"scheme must be one of {', '.join(get_args(Scheme))}, got {self.scheme!r}")

    def apply(self, network: nn.Module) -> None:
        """Put the two layers in the layer's place."""
        whole = _found(network, self.layer, OF[self.scheme])
        network.set_submodule(self.layer, self.pair(whole))

    def pair(self, whole: Any) -> nn.Sequential:
        """Return the two layers, with weights yet to be filled in."""
        biased = whole.bias is not None
        if self.scheme == "matrix":
            into, out = whole.in_features, whole.out_features
            return nn.Sequential(nn.Linear(into, self.rank, bias=False), nn.Linear(self.rank, out, bias=biased))
        parts = ("kernel_size", "stride", "padding", "dilation")
        around = {p: getattr(whole, p) for p in parts}
        kind, mode = type(whole), whole.padding_mode
        if self.scheme == "channel":
            first = kind(whole.in_channels, self.rank, **around, bias=False, padding_mode=mode)
            return nn.Sequential(first, kind(self.rank, whole.out_channels, 1, bias=biased))
        one = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        down = {p: v if isinstance(v, str) else (v[0], one[p]) for p, v in around.items()}
        right = {p: v if isinstance(v, str) else (one[p], v[1]) for p, v in around.items()}
        return nn.Sequential(
            kind(whole.in_channels, self.rank, **down, bias=False, padding_mode=mode),
            kind(self.rank, whole.out_channels, **right, bias=biased, padding_mode=mode),
        )


@dataclass(frozen=True)
class Fold:
    """A batch norm that has gone into the layer before it, which has a bias from then on.

    Parameters
    ----------
    layer, norm
        Their names.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
    >>> Fold("0", "1").apply(network)
    >>> [name for name, _ in network.named_parameters()], network[1]
    (['0.weight', '0.bias'], Identity())
    """

    layer: str
    norm: str

    kind: ClassVar[str] = "fold"

    def apply(self, network: nn.Module) -> None:
        """Give the layer a bias, and put nothing in the norm's place."""
        layer, norm = _found(network, self.layer, _ConvNd, nn.Linear), _found(network, self.norm, _BatchNorm)
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(norm.num_features))
        network.set_submodule(self.norm, nn.Identity())


EDITS: dict[str, type[Any]] = {edit.kind: edit for edit in (Fold, LowRank)}
"""All that a spec may ask for: no name in a file is ever imported."""


def _found(network: nn.Module, name: str, *kinds: type[nn.Module]) -> Any:
    try:
        module = network.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, kinds):
        raise ArtifactError(
            f"the stored model's structure names {name!r}, which is no {' or '.join(k.__name__ for k in kinds)} of the "
            "network that model.factory builds; restore the factory as it was when the model was trained"
        )
    return module


def write_edits(edits: Sequence[Edit]) -> list[dict[str, Any]]:
    """Return edits as JSON takes them: their kind as ``edit``, and their values."""
    return [{"edit": edit.kind, **asdict(cast("Any", edit))} for edit in edits]


def read_edits(described: object, where: Path) -> tuple[Edit, ...]:
    """Return the edits that :func:`write_edits` described.

    Raises
    ------
    ArtifactError
        For a kind that is not known, or values that are not those of the kind.

    Examples
    --------
    >>> read_edits([{"edit": "low_rank", "layer": "head", "rank": 2, "scheme": "matrix"}], Path("spec.json"))
    (LowRank(layer='head', rank=2, scheme='matrix'),)
    """
    if not isinstance(described, list):
        raise ArtifactError(f"{where}: structure must be a list of edits, got {described!r}; the file was altered")
    return tuple(_read(edit, where) for edit in described)


def _read(described: Any, where: Path) -> Edit:
    kind = described.get("edit") if isinstance(described, dict) else None
    if not isinstance(kind, str) or kind not in EDITS:
        raise ArtifactError(
            f"{where}: structure holds the edit {kind!r}, this trimtab knows {', '.join(EDITS)}; upgrade trimtab"
        )
    values = {name: value for name, value in described.items() if name != "edit"}
    try:
        edit: Edit = EDITS[kind](**values)
        for field in fields(cast("Any", edit)):
            if not isinstance(values[field.name], int if field.type == "int" else str):
                raise ValueError(f"{field.name} is {values[field.name]!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{where}: {described} is no edit {kind!r}: {error}; the file was altered") from error
    return edit
