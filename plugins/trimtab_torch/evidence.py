"""A few labelled rows on which pruning asks what a network loses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab.data import Rows
from trimtab.errors import DataError
from trimtab_torch.spec import FloatModel

__all__ = ["Evidence"]

BATCH = 64
PRUNING = "prune.channel"
OTHERWISE = ", or set prune.channel.importance to l2 and prune.channel.scope to layer, which read no rows"


@dataclass(frozen=True)
class Evidence:
    """Rows as a network takes them.

    Parameters
    ----------
    parts
        The network's arguments.
    targets
        What it is to give: class indices, or a regression's standardised labels ``[rows, 1]``.
    """

    parts: tuple[Tensor, ...]
    targets: Tensor

    @classmethod
    def draw(cls, model: FloatModel, rows: Rows, most: int, seed: int, where: str = PRUNING) -> Evidence:
        """Draw at most ``most`` labelled rows, for what ``where`` says.

        Raises
        ------
        DataError
            When there is none.
        """
        labelled = np.flatnonzero(np.isfinite(rows.labels) if rows.labels.dtype.kind == "f" else rows.labels >= 0)
        if not len(labelled):
            otherwise = OTHERWISE if where == PRUNING else ""
            raise DataError(
                f"{where} has no labelled row to see what each part of the network does; wait for the labels of a "
                f"later window{otherwise}"
            )
        some = rows.take(np.sort(np.random.default_rng(seed).permutation(labelled)[:most]))
        return cls(model.prepare(some.inputs), model.targets(some.labels))

    def first(self, most: int) -> Evidence:
        """Return the first ``most`` rows alone."""
        return Evidence(tuple(part[:most] for part in self.parts), self.targets[:most])

    def losses(self, network: nn.Module) -> Iterator[Tensor]:
        """Yield the network's loss summed over each batch of rows."""
        rows = torch.arange(len(self.targets))
        for index in rows.tensor_split(-(-len(rows) // BATCH)):  # no batch of one row, which batch norm refuses
            outputs, targets = network(*(part[index] for part in self.parts)), self.targets[index]
            kind = functional.mse_loss if targets.is_floating_point() else functional.cross_entropy
            yield kind(outputs, targets, reduction="sum")

    def loss(self, network: nn.Module) -> float:
        """Return the network's mean loss over the rows."""
        with torch.inference_mode():
            return float(sum(float(loss) for loss in self.losses(network))) / len(self.targets)
