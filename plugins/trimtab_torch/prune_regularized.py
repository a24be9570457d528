"""Structured pruning by regularisation: training itself says which channels are not needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

from torch import Tensor

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.allocation import unit_of
from trimtab_torch.groups import Group, cut, find
from trimtab_torch.layers import channels, multiply_adds
from trimtab_torch.penalty import Penalty, Pull, members, norms
from trimtab_torch.sensitivity import least
from trimtab_torch.settings import Augmented
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import fit, training_rows, workbench

__all__ = ["PruneRegularized"]


@dataclass(frozen=True)
class PruneRegularized(Augmented):
    """Train under a penalty that pulls channels to zero, then remove those that it has brought there.

    Channels that depend on each other go together, as in ``prune.channel``; here the penalty and the
    labels decide how many of each group go. The norm of a channel is that of all weights that write, scale
    and read it. The output layer stays, as does every layer whose narrowing the network does not bear;
    ``facts.json`` names them (``left_alone``), gives every layer's channels before and after
    (``channels``) and the multiply-adds before and after. Its shape follows from its training, so a
    search can neither time it beforehand nor begin it with fewer epochs. Train or distill afterwards.

    Parameters
    ----------
    epochs, learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    penalty
        ``group_lasso`` (Yuan and Lin 2006; on all weights of a channel: Fang et al. 2023) makes whole channels
        zero; ``l1`` makes single weights zero, ``l2`` makes all smaller.
    strength
        Of the penalty beside the loss, above 0; more removes more. Over the whole training it takes this
        many times the mean channel's length (``l1``: the mean weight's size), were it not for the loss,
        however many the epochs; ``l2`` divides each weight by e to this power.
    threshold
        Channels go whose norm is at most this share of the largest one of their group, 0 <= threshold < 1.
        ``l1`` and ``l2`` leave few channels exactly at zero: they want a larger one.
    round_to
        Channels kept are a multiple of this, the next one above; a layer no wider stays whole. So many of
        each group, its largest, are not pulled, and no layer dies.

    Raises
    ------
    DataError
        When there is no labelled training row.
    PluginError
        When the network cannot be traced, or no channel falls under the threshold.

    Examples
    --------
    >>> PruneRegularized(strength=0.0)
    Traceback (most recent call last):
    ...
    ValueError: prune.regularized.strength must be above 0 and finite, got 0.0
    """

    penalty: Pull = "group_lasso"
    strength: float = 1.0
    threshold: float = 0.1
    round_to: int = 8

    about: ClassVar[About] = About(
        name="prune.regularized",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_labels=True,
        inherits=True,
        faster_on=("onnxruntime", "openvino", "torch"),
        smaller=True,
        libraries=("torch", "torch-pruning"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty not in get_args(Pull):
            have = ", ".join(get_args(Pull))
            raise ValueError(f"prune.regularized.penalty must be one of {have}, got {self.penalty!r}")
        if not 0 < self.strength < math.inf:
            raise ValueError(f"prune.regularized.strength must be above 0 and finite, got {self.strength}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"prune.regularized.threshold must be in [0, 1), got {self.threshold}")
        if self.round_to < 1:
            raise ValueError(f"prune.regularized.round_to must be at least 1, got {self.round_to}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the narrower model into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        rows, settings = training_rows(data, whole.spec.schema), self.over(whole.spec.settings)
        network, examples = whole.network, whole.examples(2)
        with workbench(job):
            groups, alone = find(network, examples)
        if not groups:
            raise PluginError(
                "prune.regularized finds no layer that it can prune; leave it out of optimize.techniques" + _said(alone)
            )
        before = multiply_adds(network, examples)[""]
        pulled = members(network, examples, groups)
        stay = {name: min(group.width, unit_of(group, self.round_to)) for name, group in groups.items()}
        penalty = Penalty.on(self.penalty, self.strength, groups, pulled, stay)
        parts, targets = whole.prepare(rows.inputs), whole.targets(rows.labels)
        loss = fit(network, parts, targets, settings, job, self.about.name, after_step=penalty)
        lengths = {name: norms(group, pulled[name]).detach() for name, group in groups.items()}
        removed = self._removed(groups, lengths, alone)
        narrow = cut(network, examples, removed)
        widths, narrowed = channels(network), channels(narrow)
        facts = {
            "epochs": settings.epochs,
            "rows": len(rows),
            "loss": loss,
            "channels": {name: [widths[name], narrowed[name]] for name in widths},
            "parameters_before": parameters(network),
            "multiply_adds": multiply_adds(narrow, examples)[""],
            "multiply_adds_before": before,
            "left_alone": alone,
        }
        return replace(whole, network=narrow).save(job.folder, facts)

    def _removed(
        self, groups: Mapping[str, Group], lengths: Mapping[str, Tensor], alone: Mapping[str, str]
    ) -> dict[str, list[int]]:
        removed = {name: least(g, lengths[name], self._width(g, lengths[name])) for name, g in groups.items()}
        if not any(removed.values()):
            smallest = min(float((length / length.max()).min()) for length in lengths.values())
            raise PluginError(
                f"prune.regularized brought no {self.round_to} channels of any group under threshold {self.threshold} "
                f"(the smallest is {smallest:.2g} of its group's largest); raise strength ({self.strength}), epochs or "
                "threshold, or lower round_to" + _said(alone)
            )
        return removed

    def _width(self, group: Group, lengths: Tensor) -> int:
        """Return the width that is left of a group: what lies above the threshold, and what rounding adds."""
        above = int((lengths > self.threshold * lengths.max()).sum()) * group.blocks
        unit = unit_of(group, self.round_to)
        return min(group.width, max(unit, unit * math.ceil(above / unit)))


def _said(alone: Mapping[str, str]) -> str:
    return "".join(f"; {name} was left alone: {why}" for name, why in alone.items())
