"""Unstructured pruning: single weights become zero, while the network trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.technique import About, Job
from trimtab_torch.settings import Shaping
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import fit, training_rows
from trimtab_torch.weights import require_weights, sparsity_of, zipped

__all__ = ["PruneWeight"]

SCOPES = ("layer", "global")


@dataclass(frozen=True)
class PruneWeight(Shaping):
    """Set the smallest weights to zero, ever more of them while the network trains (Zhu and Gupta 2017).

    The share of zeros rises steeply at first and then ever slower: ``sparsity * (1 - (1 - t) ** 3)`` for
    ``t`` from 0 at ``begin`` to 1 at ``end``. Every ``frequency`` steps the smallest weights of
    convolutions and linear layers are chosen anew; in between, and to the end, what was chosen stays
    zero. Which are the smallest says ``torch.nn.utils.prune``. Biases and norms are left alone.

    No runtime on a CPU that is known here skips single zeros, so that nothing becomes faster, and files
    are as large as before until they are zipped; hence it is experimental. ``facts.json`` counts
    ``zeros`` by layer, the ``sparsity`` of all, and ``zipped_bytes`` before and after. Its cost is that
    of training for ``epochs``.

    Parameters
    ----------
    epochs
        Passes over the training rows; 0 prunes at once, without training, and null takes ``model.epochs``.
    learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    sparsity
        Share of weights that end as zero, 0 < sparsity < 1.
    begin, end
        Share of all steps after which pruning begins and is done, 0 <= begin < end <= 1.
    frequency
        Steps between two choices, at least 1.
    scope
        ``global``: all layers' weights are ranked together. ``layer``: the same share of each.

    Raises
    ------
    DataError
        When there is no labelled training row.
    PluginError
        When the network has no convolution or linear layer.

    Examples
    --------
    >>> PruneWeight(sparsity=1.0)
    Traceback (most recent call last):
    ...
    ValueError: prune.weight.sparsity must be above 0 and below 1, got 1.0
    """

    sparsity: float = 0.8
    begin: float = 0.0
    end: float = 0.7
    frequency: int = 10
    scope: Literal["layer", "global"] = "global"

    about: ClassVar[About] = About(
        name="prune.weight",
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
        if not 0 < self.sparsity < 1:
            raise ValueError(f"prune.weight.sparsity must be above 0 and below 1, got {self.sparsity}")
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"prune.weight.begin must be at least 0 and below prune.weight.end, which is at most 1, "
                f"got {self.begin} and {self.end}"
            )
        if self.frequency < 1:
            raise ValueError(f"prune.weight.frequency must be at least 1, got {self.frequency}")
        if self.scope not in SCOPES:
            raise ValueError(f"prune.weight.scope must be one of {', '.join(SCOPES)}, got {self.scope!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the sparse model into ``job.folder``."""
        child = FloatModel.taken(model, job)
        rows, settings = training_rows(data, child.spec.schema), self.over(child.spec.settings)
        thinning = Thinning(self, require_weights(child.network, self.about.name))
        before = zipped(child.network)
        facts: dict[str, object] = {"epochs": settings.epochs, "rows": len(rows)}
        if settings.epochs:
            parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
            facts["loss"] = fit(child.network, parts, targets, settings, job, self.about.name, after_step=thinning)
        else:
            thinning.finish()
        facts |= sparsity_of(child.network) | {"zipped_bytes": [before, zipped(child.network)]}
        return child.save(job.folder, facts)


@dataclass
class Thinning:
    """Zeroes ever more of a network's weights, step by step.

    Parameters
    ----------
    settings
        The technique.
    weights
        By layer.
    """

    settings: PruneWeight
    weights: Mapping[str, nn.Parameter]
    masks: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __call__(self, done: int, steps: int) -> None:
        """Choose anew where it is time, and zero what is chosen."""
        begin = min(round(self.settings.begin * steps), steps - 1)
        end = max(round(self.settings.end * steps), begin + 1)
        due = (done - begin) % self.settings.frequency == 0 or done == end
        if begin <= done <= end and due:
            self.choose(self.settings.sparsity * cubic((done - begin) / (end - begin)))
        self.hold()

    def finish(self) -> None:
        """Zero as many as there shall be in the end."""
        with torch.no_grad():
            self.choose(self.settings.sparsity)
            self.hold()

    def choose(self, share: float) -> None:
        """Choose the smallest weights; those that are zero are the smallest of all, and stay chosen."""
        values = {name: weight.detach() for name, weight in self.weights.items()}
        if self.settings.scope == "layer":
            self.masks = {name: _mask(value.flatten(), share).view(value.shape) for name, value in values.items()}
            return
        flat = _mask(torch.cat([value.flatten() for value in values.values()]), share)
        pieces = torch.split(flat, [value.numel() for value in values.values()])
        self.masks = {n: piece.view(values[n].shape) for n, piece in zip(values, pieces, strict=True)}

    def hold(self) -> None:
        """Zero what is chosen."""
        for name, mask in self.masks.items():
            self.weights[name].mul_(mask)


def cubic(t: float) -> float:
    """Return the share of what is to go that is gone at ``t``, from 0 to 1, of the schedule.

    Examples
    --------
    >>> [cubic(t) for t in (0.0, 0.5, 1.0)]
    [0.0, 0.875, 1.0]
    """
    return 1 - (1 - t) ** 3


def _mask(weight: Tensor, share: float) -> Tensor:
    """Return 0 where one of the smallest of flat weights is, else 1."""
    count = round(share * weight.numel())
    mask: Tensor = L1Unstructured(count).compute_mask(weight, torch.ones_like(weight))  # type: ignore[no-untyped-call]
    return mask
