"""Transfer: the last layers learn while the others stand still, then one group after the other thaws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.technique import About, Job
from trimtab_torch.frozen import OnlyThese
from trimtab_torch.preserve import Kept
from trimtab_torch.settings import Augmented, Settings
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import fit, training_rows

__all__ = ["Transfer", "layer_groups"]


@dataclass(frozen=True)
class Transfer(Augmented):
    """Train the last layers with all others frozen, then thaw the rest from behind (Yosinski et al. 2014).

    First layers hold what any picture of the kind needs, last ones what these labels need, and a new last
    layer's large first steps should not spoil the others. The layers are put into groups in the order in
    which they run. The last group is trained alone for ``epochs``; frozen layers keep every weight and
    batch norm figure to the last bit. Then for ``thaw_epochs`` one group more learns at a time, the
    earlier the more slowly (gradual unfreezing with discriminative learning rates, Howard and Ruder 2018).
    It costs at most what ``finetune`` of as many epochs does: no gradient is computed for frozen layers.
    ``facts.json`` names the layers of each group (``groups``).

    Parameters
    ----------
    epochs
        Passes over the training rows while only the last group learns; None takes ``model.epochs``.
    learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings. Each stage is a cycle of the
        rate of its own.
    thaw_epochs
        Passes over the training rows after that, divided among the groups to thaw: where they are fewer than
        these, several thaw at a time. 0: none ever thaws. None: as many as ``epochs``.
    groups
        Groups of layers, at least 2; at most as many as the network has layers are used.
    decay
        By what the learning rate of a group is divided in the group before it, at least 1.

    Examples
    --------
    >>> Transfer(groups=1)
    Traceback (most recent call last):
    ...
    ValueError: transfer.groups must be at least 2, got 1
    """

    thaw_epochs: int | None = None
    groups: int = 4
    decay: float = 2.6

    about: ClassVar[About] = About(
        name="transfer",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        needs_labels=True,
        rung=3,
        effort="epochs",
        inherits=True,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thaw_epochs is not None and self.thaw_epochs < 0:
            raise ValueError(f"transfer.thaw_epochs must be 0 or more, got {self.thaw_epochs}")
        if self.groups < 2:
            raise ValueError(f"transfer.groups must be at least 2, got {self.groups}")
        if not (self.decay >= 1 and math.isfinite(self.decay)):
            raise ValueError(f"transfer.decay must be at least 1 and finite, got {self.decay}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the further trained model into ``job.folder``."""
        child = FloatModel.taken(model, job)
        rows, settings = training_rows(data, child.spec.schema), self.over(child.spec.settings)
        parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
        groups = layer_groups(child.network, child.examples(2), self.groups)
        names = {module: name for name, module in child.network.named_modules()}
        thaw = settings.epochs if self.thaw_epochs is None else self.thaw_epochs
        loss, may_learn = math.nan, [weight for weight in child.network.parameters() if weight.requires_grad]
        for stage, (learning, epochs) in enumerate(stages(len(groups), settings.epochs, thaw)):
            for weight in may_learn:  # what the network itself holds fixed never thaws
                weight.requires_grad_(True)
            loss = self._train(child.network, groups, learning, parts, targets, settings.but(epochs=epochs), job, stage)
        facts = {"epochs": settings.epochs, "thaw_epochs": thaw, "rows": len(rows), "loss": loss}
        return child.save(job.folder, facts | {"groups": [[names[m] for m in group] for group in groups]})

    def _train(
        self,
        network: nn.Module,
        groups: Sequence[Sequence[nn.Module]],
        learning: int,
        parts: Sequence[Tensor],
        targets: Tensor,
        settings: Settings,
        job: Job,
        stage: int,
    ) -> float:
        """Train the last ``learning`` groups."""
        thawed = groups[len(groups) - learning :]
        rates = {
            weight: self.decay ** -float(learning - 1 - place)
            for place, group in enumerate(thawed)
            for module in group
            for weight in module.parameters(recurse=False)
        }
        whole = learning == len(groups)
        view = network if whole else OnlyThese(network, [m for group in thawed for m in group])
        own = replace(job, seed=job.seed + stage)
        kept = Kept.of(network)
        return fit(view, parts, targets, settings, own, self.about.name, after_step=kept, rates=rates)


def stages(groups: int, epochs: int, thaw: int) -> list[tuple[int, int]]:
    """Return how many groups learn, counted from the last, and for how many epochs, stage by stage.

    Examples
    --------
    >>> stages(4, epochs=5, thaw=6)
    [(1, 5), (2, 2), (3, 2), (4, 2)]
    >>> stages(4, epochs=5, thaw=2), stages(4, epochs=5, thaw=0)
    ([(1, 5), (3, 1), (4, 1)], [(1, 5)])
    """
    steps = min(groups - 1, thaw)
    thawed = [1 + round((groups - 1) * (step + 1) / steps) for step in range(steps)]
    shares = [len(part) for part in np.array_split(np.arange(thaw), steps)] if steps else []
    return [(1, epochs), *zip(thawed, shares, strict=True)]


def layer_groups(network: nn.Module, examples: Sequence[Tensor], most: int) -> list[list[nn.Module]]:
    """Put the modules that have weights of their own into groups of about as many layers, in the order they run.

    What only scales and shifts (a norm) belongs to the layer before it. A module that is never called by
    itself, whose weights another uses, stands before all others.

    Examples
    --------
    >>> from trimtab_torch.networks import Mlp
    >>> network = Mlp(inputs=2, outputs=2, norm=True)
    >>> names = {module: name for name, module in network.named_modules()}
    >>> [[names[m] for m in group] for group in layer_groups(network.eval(), [torch.zeros(1, 2)], 2)]
    [['body.0', 'body.1', 'body.4', 'body.5'], ['head']]
    """
    owners = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    order = dict.fromkeys(_as_they_run(network, owners, examples))
    layers: list[list[nn.Module]] = []
    for module in [*(m for m in owners if m not in order), *order]:
        if not layers or any(weight.dim() > 1 for weight in module.parameters(recurse=False)):
            layers.append([])
        layers[-1].append(module)
    count = min(most, len(layers))
    parts = np.array_split(np.arange(len(layers)), count)
    return [[module for place in part for module in layers[place]] for part in parts]


def _as_they_run(network: nn.Module, owners: Sequence[nn.Module], examples: Sequence[Tensor]) -> list[nn.Module]:
    """Return modules in the order in which they are first called."""
    called: list[nn.Module] = []
    hooks = [m.register_forward_pre_hook(lambda module, _inputs: called.append(module)) for m in owners]
    try:
        with torch.inference_mode():
            network(*examples)
    finally:
        for hook in hooks:
            hook.remove()
    return called
