"""Structured pruning: whole channels are taken out, so that the network itself becomes smaller and faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from torch import Tensor, nn

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.allocation import Cost, by_share, cheapest, levels, ranked
from trimtab_torch.deadline import tick
from trimtab_torch.evidence import Evidence
from trimtab_torch.groups import Group, cut, describe, find
from trimtab_torch.importance import IMPORTANCES, Importance, scores
from trimtab_torch.layers import channels, multiply_adds
from trimtab_torch.preserve import Kept
from trimtab_torch.recovery import recover
from trimtab_torch.sensitivity import least, sensitivity
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import workbench

__all__ = ["PruneChannel"]

SCOPES = ("layer", "global", "sensitivity")
ROWS = 256
"""Rows that importance and sensitivity are measured on, at most."""
REFRESH_ROWS = 128
"""Rows that batch norms are estimated anew on before each of these measurements, at most."""


@dataclass(frozen=True)
class PruneChannel:
    """Remove whole channels of convolutions and linear layers, along the dependency graph of Fang et al. 2023.

    Channels that depend on each other (through a residual sum, say) go together, and are ranked by
    their importance together. The output layer stays, as does every layer whose narrowing the network
    does not bear; ``facts.json`` names them (``left_alone``), gives every layer's channels before and
    after (``channels``), and what each group's widths cost where that was measured (``sensitivity``).
    Accuracy suffers: train or distill afterwards.

    Parameters
    ----------
    ratio
        Share of channels to remove, 0 <= ratio < 1.
    round_to
        Channels kept are a multiple of this, at least one; a layer no wider stays whole. Int8 kernels
        for AVX512 like 16.
    importance
        What ranks channels: ``l1`` or ``l2``, a group's norm; ``median``, its distance from the others
        (He et al. 2019); ``bn_scale``, the batch norm's factor (Liu et al. 2017); ``taylor``, the loss
        that goes with the channel, on training rows (Molchanov et al. 2019).
    scope
        How many go where. ``layer``: the same share everywhere. ``global``: all channels are ranked
        together. ``sensitivity``: every group is cut alone to several widths and the rise of the loss
        measured, without training; widths are chosen that save at least the multiply-adds that
        ``layer`` saves, at the least summed rise. Batch norms are estimated anew before each measurement.
    rounds
        Cuts to get there, at least 1; importance is measured anew before each (Molchanov et al. 2017).
    recovery_epochs
        Passes over the training rows after each cut: distillation from the round's teacher, or training
        on the labels where there is none. Shapes do not depend on it.

    Raises
    ------
    DataError
        When ``taylor``, ``sensitivity`` or a recovery finds no labelled row.
    PluginError
        When the network cannot be traced, or the settings remove nothing.

    Examples
    --------
    >>> PruneChannel(ratio=1.5)
    Traceback (most recent call last):
    ...
    ValueError: prune.channel.ratio must be in [0, 1), got 1.5
    """

    ratio: float = 0.5
    round_to: int = 8
    importance: Importance = "l2"
    scope: Literal["layer", "global", "sensitivity"] = "sensitivity"
    rounds: int = 1
    recovery_epochs: int = 0

    about: ClassVar[About] = About(
        name="prune.channel",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_labels=True,
        effort="recovery_epochs",
        inherits=True,
        faster_on=("onnxruntime", "openvino", "torch"),
        smaller=True,
        libraries=("torch", "torch-pruning"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"prune.channel.ratio must be in [0, 1), got {self.ratio}")
        for name, value, least_value in (
            ("round_to", self.round_to, 1),
            ("rounds", self.rounds, 1),
            ("recovery_epochs", self.recovery_epochs, 0),
        ):
            if value < least_value:
                raise ValueError(f"prune.channel.{name} must be at least {least_value}, got {value}")
        for name, word, have in (("importance", self.importance, IMPORTANCES), ("scope", self.scope, SCOPES)):
            if word not in have:
                raise ValueError(f"prune.channel.{name} must be one of {', '.join(have)}, got {word!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the narrower model into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        with workbench(job):
            cutting = _Cutting(self, whole, data, job, f"{model.digest}{data.digest}{job.seed}{self.importance}")
            network = cutting.cut()
        return replace(whole, network=network).save(job.folder, cutting.facts(network))


MEASURED: dict[str, dict[tuple[str, int], float]] = {}
"""Sensitivities that this process has measured: a search prunes one network at many ratios."""


@dataclass
class _Cutting:
    """One pruning under way.

    Parameters
    ----------
    settings, model, data, job
        As the technique was given them.
    origin
        Tells the network, the rows and the importance that a sensitivity follows from.
    """

    settings: PruneChannel
    model: FloatModel
    data: Data
    job: Job
    origin: str
    examples: tuple[Tensor, ...] = field(init=False)
    groups: dict[str, Group] = field(init=False)
    left_alone: dict[str, str] = field(init=False)
    seen: Evidence | None = field(init=False)
    table: dict[str, dict[int, float]] = field(default_factory=dict, init=False)
    recovered: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.examples = self.model.examples(2)
        self.groups, self.left_alone = find(self.model.network, self.examples)
        if not self.groups:
            raise PluginError(
                "prune.channel finds no layer that it can prune; leave it out of optimize.techniques" + self._alone()
            )
        self.seen = self._seen()

    def _seen(self) -> Evidence | None:
        asked = self.settings.importance == "taylor" or self.settings.scope == "sensitivity"
        if not asked:
            return None
        return Evidence.draw(self.model, self.data.rows(Role.TRAIN), ROWS, self.job.seed)

    def cut(self) -> nn.Module:
        """Return the network after all rounds."""
        network = self.model.network
        first = self._scores(network, self.groups)
        kept = self._widths(first)
        if all(kept[name] == group.width for name, group in self.groups.items()) and self.settings.ratio > 0:
            raise PluginError(self._nothing())
        for done in range(1, self.settings.rounds + 1):
            self.tick()
            groups = {n: g for n, g in describe(network, self.examples)[0].items() if n in self.groups}
            ranks = first if done == 1 else self._scores(network, groups)
            widths = {n: self._width_after(done, self.groups[n], kept[n]) for n in groups}
            removed = {n: least(g, ranks[n], widths[n]) for n, g in groups.items() if widths[n] < g.width}
            network = cut(network, self.examples, removed)
            if self.settings.recovery_epochs:
                self._recover(network)
        return network

    def _width_after(self, done: int, group: Group, kept: int) -> int:
        """Return a group's width after so many rounds: the same number goes in each, in whole blocks."""
        later = (group.width - kept) // group.blocks * (self.settings.rounds - done) / self.settings.rounds
        return kept + group.blocks * round(later)

    def _scores(self, network: nn.Module, groups: Mapping[str, Group]) -> dict[str, Tensor]:
        losses = self.seen.losses if self.seen else lambda _network: iter(())
        return scores(self.settings.importance, network, self.examples, groups, losses)

    def _widths(self, ranks: Mapping[str, Tensor]) -> dict[str, int]:
        ratio, round_to = self.settings.ratio, self.settings.round_to
        plain = by_share(self.groups, ratio, round_to)
        if self.settings.scope == "layer":
            return plain
        if self.settings.scope == "global":
            return ranked(self.groups, ranks, ratio, round_to)
        known = MEASURED.setdefault(self.origin, {})
        tried = {name: levels(group, ratio, round_to) for name, group in self.groups.items()}
        held = self.data.rows(Role.SEARCH)
        evidence = Evidence.draw(self.model, held if len(held) else self.data.rows(Role.TRAIN), ROWS, self.job.seed)
        network, few = self.model.network, self.seen.first(REFRESH_ROWS) if self.seen else None
        self.table = sensitivity(network, self.examples, self.groups, ranks, tried, evidence, few, self.tick, known)
        cost = Cost.of(network, self.examples, self.groups)
        return cheapest(self.table, cost, cost(plain))

    def _recover(self, network: nn.Module) -> None:
        """Train the network in place for a few epochs."""
        model, epochs = replace(self.model, network=network), self.settings.recovery_epochs
        kept = Kept.of(network)
        self.recovered.append(recover(model, self.data, self.job, epochs, "prune.channel", kept))

    def tick(self) -> None:
        """Raise an OutOfTimeError when the job's deadline has passed."""
        tick(self.job.deadline, "prune.channel", "set prune.channel.scope to layer")

    def _nothing(self) -> str:
        return (
            f"prune.channel.ratio {self.settings.ratio} with round_to {self.settings.round_to} removes no channel "
            f"from any of {len(channels(self.model.network))} layers; raise ratio or lower round_to" + self._alone()
        )

    def _alone(self) -> str:
        return "".join(f"; {name} was left alone: {why}" for name, why in self.left_alone.items())

    def facts(self, network: nn.Module) -> dict[str, object]:
        """Return what the pruning did."""
        before, after = channels(self.model.network), channels(network)
        whole = {n for group in self.groups.values() for n in group.writers if before[n] == after[n]}
        why = {"layer": "whole after rounding", "global": "ranked high", "sensitivity": "dear to cut"}
        alone = {name: why[self.settings.scope] for name in sorted(whole) if self.settings.ratio > 0}
        facts: dict[str, object] = {
            "channels": {name: [before[name], after[name]] for name in before},
            "parameters_before": parameters(self.model.network),
            "multiply_adds": multiply_adds(network, self.examples)[""],
            "multiply_adds_before": multiply_adds(self.model.network, self.examples)[""],
            "left_alone": {**self.left_alone, **alone},
        }
        if self.table:
            facts["sensitivity"] = {n: {str(w): round(r, 6) for w, r in row.items()} for n, row in self.table.items()}
        if self.recovered:
            facts["recovery_loss"] = [round(loss, 6) for loss in self.recovered]
        return facts
