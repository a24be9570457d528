"""Architecture search within a network: how wide each group of channels is, and how deep the factory builds it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.allocation import Cost, by_share, unit_of
from trimtab_torch.deadline import tick
from trimtab_torch.evidence import Evidence
from trimtab_torch.evolve import STRATEGIES, Hunt, Strategy
from trimtab_torch.groups import Group, cut, find
from trimtab_torch.importance import IMPORTANCES, Importance, scores
from trimtab_torch.layers import channels, multiply_adds
from trimtab_torch.proxies import PROXIES, Proxy, promise
from trimtab_torch.sensitivity import least
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import workbench
from trimtab_torch.trials import shortlist

__all__ = ["SearchWidth", "inherit"]

ROWS = 256
"""Rows that importance is measured on, and networks are compared on, at most."""
REFRESH_ROWS = 128
"""Rows that batch norms are estimated anew on, at most."""
STEPS = 30
"""Halvings by which the width of the family's member that fits the budget is found."""


@dataclass(frozen=True)
class SearchWidth:
    """Search how wide each group of channels, and how deep the network, is best within a budget of multiply-adds.

    Every candidate is cut out of the parent along the dependency graph that ``prune.channel`` uses, and so
    inherits the weights of the channels that matter most. All spend the whole budget. The search begins
    with the one-parameter family of sizes (compound scaling, Tan & Le 2019): each depth at the one factor
    of all its widths that meets the budget. A proxy that trains nothing ranks candidates, the few best
    are trained for a short time, and the one with the least loss on rows that nothing was trained on
    stays; train or distill it afterwards. ``facts.json`` names the finalists and what was tried.

    Cost: each candidate takes what a cut and a forward pass over some 400 rows take, each finalist
    ``trial_epochs`` of training.

    Parameters
    ----------
    budget
        Multiply-adds of one row that a candidate may have, as a share of the parent's, 0 < budget < 1.
    round_to
        Widths are multiples of this, at least one; a layer no wider stays whole.
    arguments
        Values of the factory's arguments to choose among, such as
        ``{blocks: [[1, 1, 1], [1, 2, 1]]}`` for depths: by argument a list. Where they are not the
        parent's own, weights are inherited by name as far as their shapes overlap, and what is new is drawn.
    strategy
        ``evolution`` (aging evolution, Real et al. 2019) or ``random``.
    proxy
        ``loss``, on held rows after batch norms were estimated anew (Li et al. 2020); ``naswot`` (Mellor
        et al. 2021); ``synflow`` (Tanaka et al. 2020).
    candidates
        That the proxy ranks, at least 1.
    population
        Of the evolution, at least 2.
    finalists
        That are trained for a short time, at least 1.
    trial_epochs
        Of each finalist; 0 trusts the proxy alone.
    importance
        What ranks channels, as ``prune.channel`` has it.

    Raises
    ------
    DataError
        When there is no labelled row.
    PluginError
        When the network cannot be traced, nothing in it can be narrowed, or nothing fits the budget.

    Examples
    --------
    >>> SearchWidth(budget=1.5)
    Traceback (most recent call last):
    ...
    ValueError: search.width.budget must be above 0 and below 1, got 1.5
    """

    budget: float = 0.4
    round_to: int = 8
    arguments: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    strategy: Strategy = "evolution"
    proxy: Proxy = "loss"
    candidates: int = 64
    population: int = 16
    finalists: int = 3
    trial_epochs: int = 1
    importance: Importance = "taylor"

    about: ClassVar[About] = About(
        name="search.width",
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
        if not 0 < self.budget < 1:
            raise ValueError(f"search.width.budget must be above 0 and below 1, got {self.budget}")
        for name, value, lowest in (
            ("round_to", self.round_to, 1),
            ("candidates", self.candidates, 1),
            ("population", self.population, 2),
            ("finalists", self.finalists, 1),
            ("trial_epochs", self.trial_epochs, 0),
        ):
            if value < lowest:
                raise ValueError(f"search.width.{name} must be at least {lowest}, got {value}")
        for name, word, have in (
            ("strategy", self.strategy, STRATEGIES),
            ("proxy", self.proxy, PROXIES),
            ("importance", self.importance, IMPORTANCES),
        ):
            if word not in have:
                raise ValueError(f"search.width.{name} must be one of {', '.join(have)}, got {word!r}")
        for name, values in self.arguments.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ValueError(f"search.width.arguments.{name} must be a list of values to try, got {values!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model with the best architecture into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        with workbench(job):
            looking = _Looking(self, whole, data, job)
            ranked = Hunt(
                looking.draw, looking.mutate, looking.score, self.candidates, self.strategy, self.population
            ).run(job.seed, looking.family())
            best = ranked[: self.finalists]
            makers = [lambda genome=genome: looking.build(genome) for genome, _ in best]
            tried = shortlist(makers, self.trial_epochs, looking.held, data, job, "search.width")
        facts = looking.facts(tried[0].model)
        facts["candidates"] = len(ranked)
        facts["finalists"] = [looking.told(*best[t.at]) | {"loss": round(t.loss, 6)} for t in tried]
        facts["proxy"] = {"name": self.proxy, "best": round(ranked[0][1], 6), "worst": round(ranked[-1][1], 6)}
        return tried[0].model.save(job.folder, facts)


Genome = tuple[int, tuple[int, ...]]
"""Which depth, and the width of each of its groups in their order."""


@dataclass(frozen=True)
class _Depth:
    """The parent at one choice of the factory's arguments, before anything is narrowed.

    Parameters
    ----------
    arguments
        That were chosen; none: the parent itself.
    model
        With the weights that it inherits.
    groups, cost, ranks
        What can be narrowed, what that saves, and in which order channels go.
    """

    arguments: Mapping[str, Any]
    model: FloatModel
    groups: Mapping[str, Group]
    cost: Cost
    ranks: Mapping[str, Tensor]

    def possible(self, name: str, round_to: int) -> list[int]:
        """Return the widths that a group may have, from the narrowest."""
        group = self.groups[name]
        unit = unit_of(group, round_to)
        return [*range(unit, group.width, unit), group.width]


@dataclass
class _Looking:
    """One search under way."""

    settings: SearchWidth
    parent: FloatModel
    data: Data
    job: Job
    held: Evidence = field(init=False)
    seen: Evidence = field(init=False)
    depths: list[_Depth] = field(init=False)
    most: float = field(init=False)

    def __post_init__(self) -> None:
        held, train = self.data.rows(Role.SEARCH), self.data.rows(Role.TRAIN)
        seed, where = self.job.seed, "search.width"
        self.seen = Evidence.draw(self.parent, train, ROWS, seed, where)
        self.held = Evidence.draw(self.parent, held if len(held) else train, ROWS, seed, where)
        self.most = self.settings.budget * multiply_adds(self.parent.network, self.parent.examples())[""]
        found = [self._depth(chosen) for chosen in self._choices()]
        self.depths = [d for d in found if d.groups and d.cost(self._narrowest(d)) <= self.most]
        if not self.depths:
            raise PluginError(self._nothing(found))

    def _choices(self) -> list[dict[str, Any]]:
        asked = self.settings.arguments
        return [dict(zip(asked, values, strict=True)) for values in itertools.product(*asked.values())]

    def _depth(self, chosen: Mapping[str, Any]) -> _Depth:
        self.tick()
        model = self.parent
        own = model.spec.arguments
        if any(own.get(name) != value for name, value in chosen.items()):
            spec = replace(model.spec, arguments={**own, **chosen})
            model = FloatModel.build(spec, model.preprocess, self.job.seed)
            inherit(self.parent.network, model.network)
        examples = model.examples()
        groups, _ = find(model.network, examples)
        cost = Cost.of(model.network, examples, groups)
        ranks = scores(self.settings.importance, model.network, examples, groups, self.seen.losses)
        return _Depth(chosen, model, groups, cost, ranks)

    def _narrowest(self, depth: _Depth) -> dict[str, int]:
        return {name: depth.possible(name, self.settings.round_to)[0] for name in depth.groups}

    def family(self) -> list[Genome]:
        """Return, for each depth, all widths times the one factor that spends the budget."""
        return [
            (at, self._widths(depth, by_share_within(depth, self.most, self.settings.round_to)))
            for at, depth in enumerate(self.depths)
        ]

    def _widths(self, depth: _Depth, kept: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(kept[name] for name in depth.groups)

    def draw(self, dice: random.Random) -> Genome:
        """Return any depth, at any widths that spend the budget."""
        at = dice.randrange(len(self.depths))
        depth = self.depths[at]
        kept = {name: dice.choice(depth.possible(name, self.settings.round_to)) for name in depth.groups}
        return at, self._widths(depth, self._spend(depth, kept, dice))

    def mutate(self, genome: Genome, dice: random.Random) -> Genome:
        """Change the depth, or the width of one group and of others as much as the budget then asks."""
        at, widths = genome
        if len(self.depths) > 1 and dice.random() < 0.2:
            return self.draw(dice)
        depth = self.depths[at]
        kept = dict(zip(depth.groups, widths, strict=True))
        name = dice.choice(list(kept))
        kept[name] = dice.choice(depth.possible(name, self.settings.round_to))
        return at, self._widths(depth, self._spend(depth, kept, dice, spare=name))

    def _spend(self, depth: _Depth, kept: dict[str, int], dice: random.Random, spare: str = "") -> dict[str, int]:
        """Narrow groups drawn by lot until the budget holds (``spare`` last), then widen what still fits."""
        while depth.cost(kept) > self.most:
            open_ = [n for n in kept if kept[n] > depth.possible(n, self.settings.round_to)[0]]
            self._step(depth, kept, dice.choice([n for n in open_ if n != spare] or open_), -1)
        names = list(kept)
        while names:
            name = dice.choice(names)
            before = kept[name]
            self._step(depth, kept, name, 1)
            if kept[name] == before or depth.cost(kept) > self.most:
                kept[name] = before
                names.remove(name)
        return kept

    def _step(self, depth: _Depth, kept: dict[str, int], name: str, by: int) -> None:
        possible = depth.possible(name, self.settings.round_to)
        kept[name] = possible[min(len(possible) - 1, possible.index(kept[name]) + by)]

    def score(self, genome: Genome) -> float:
        """Return what a candidate promises."""
        self.tick()
        return promise(self.settings.proxy, self.build(genome).network, self.held, self.seen.first(REFRESH_ROWS))

    def build(self, genome: Genome) -> FloatModel:
        """Cut a candidate out."""
        depth = self.depths[genome[0]]
        kept = zip(depth.groups.items(), genome[1], strict=True)
        removed = {name: least(group, depth.ranks[name], width) for (name, group), width in kept if width < group.width}
        return replace(depth.model, network=cut(depth.model.network, depth.model.examples(), removed))

    def tick(self) -> None:
        """Raise an OutOfTimeError when the job's deadline has passed."""
        tick(self.job.deadline, "search.width", "lower search.width.candidates")

    def _nothing(self, found: Sequence[_Depth]) -> str:
        if not any(d.groups for d in found):
            return "search.width finds no layer that it can narrow; leave it out of optimize.techniques"
        least_share = min(d.cost(self._narrowest(d)) for d in found if d.groups) / self.most * self.settings.budget
        return (
            f"search.width.budget {self.settings.budget}: the narrowest network that search.width.round_to "
            f"{self.settings.round_to} allows takes {least_share:.3f} of the parent's multiply-adds; raise budget, or "
            "lower round_to"
        )

    def told(self, genome: Genome, promised: float) -> dict[str, object]:
        """Return a candidate in words."""
        depth = self.depths[genome[0]]
        widths = dict(zip(depth.groups, genome[1], strict=True))
        return {
            "arguments": dict(depth.arguments),
            "widths": widths,
            "multiply_adds": round(depth.cost(widths)),
            "proxy": round(promised, 6),
        }

    def facts(self, model: FloatModel) -> dict[str, Any]:
        """Return what came of the parent."""
        before, after = channels(self.parent.network), channels(model.network)
        return {
            "channels": {name: [before.get(name, 0), after.get(name, 0)] for name in {**before, **after}},
            "parameters_before": parameters(self.parent.network),
            "multiply_adds": multiply_adds(model.network, model.examples())[""],
            "multiply_adds_before": round(self.most / self.settings.budget),
        }


def by_share_within(depth: _Depth, most: float, round_to: int) -> dict[str, int]:
    """Return the widths when all groups lose the same share, the smallest one that the budget allows."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        fits = depth.cost(by_share(depth.groups, middle, round_to)) <= most
        low, high = (low, middle) if fits else (middle, high)
    return by_share(depth.groups, high, round_to)


def inherit(source: nn.Module, target: nn.Module) -> int:
    """Copy into ``target``, in place, what of ``source`` has the same name, as far as shapes overlap; count tensors.

    Examples
    --------
    >>> wide, narrow = nn.Linear(3, 2), nn.Linear(2, 2)
    >>> inherit(wide, narrow), torch.equal(narrow.weight, wide.weight[:, :2])
    (2, True)
    """
    known, count = source.state_dict(), 0
    with torch.no_grad():
        for name, value in target.state_dict().items():
            old = known.get(name)
            if old is not None and old.dim() == value.dim():
                box = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, value.shape, strict=True))
                value[box] = old[box]
                count += 1
    return count
