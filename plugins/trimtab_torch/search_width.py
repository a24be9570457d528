"""Architecture search within a network: how wide each group of channels is, and how deep the factory builds it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.deadline import tick
from trimtab_torch.depths import Depth, Widths, inherit
from trimtab_torch.evidence import Evidence
from trimtab_torch.evolve import STRATEGIES, Hunt, Strategy
from trimtab_torch.importance import IMPORTANCES, Importance
from trimtab_torch.layers import channels, multiply_adds
from trimtab_torch.proxies import PROXIES, Proxy, promise
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import workbench
from trimtab_torch.trials import shortlist

__all__ = ["SearchWidth"]

ROWS = 256
"""Rows that importance is measured on, and networks are compared on, at most."""
REFRESH_ROWS = 128
"""Rows that batch norms are estimated anew on, at most."""
DEPTH_CHANGES = 0.2
"""Share of the evolution's children that are drawn anew, at any depth, where there are several."""


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


Genome = tuple[int, Widths]
"""Which depth, and how wide each of its groups is."""


@dataclass
class _Looking:
    """One search under way."""

    settings: SearchWidth
    parent: FloatModel
    data: Data
    job: Job
    held: Evidence = field(init=False)
    seen: Evidence = field(init=False)
    depths: list[Depth] = field(init=False)
    most: float = field(init=False)

    def __post_init__(self) -> None:
        held, train = self.data.rows(Role.SEARCH), self.data.rows(Role.TRAIN)
        seed, where = self.job.seed, "search.width"
        self.seen = Evidence.draw(self.parent, train, ROWS, seed, where)
        self.held = Evidence.draw(self.parent, held if len(held) else train, ROWS, seed, where)
        self.most = self.settings.budget * multiply_adds(self.parent.network, self.parent.examples())[""]
        asked = self.settings.arguments
        found = [self._depth(dict(zip(asked, values, strict=True))) for values in itertools.product(*asked.values())]
        self.depths = [d for d in found if d.groups and d.least <= self.most]
        if not self.depths:
            raise PluginError(self._nothing(found))

    def _depth(self, chosen: Mapping[str, Any]) -> Depth:
        self.tick()
        model = self.parent
        own = model.spec.arguments
        if any(own.get(name) != value for name, value in chosen.items()):
            spec = replace(model.spec, arguments={**own, **chosen})
            model = FloatModel.build(spec, model.preprocess, self.job.seed)
            inherit(self.parent.network, model.network)
        return Depth.of(chosen, model, self.settings.importance, self.seen, self.settings.round_to)

    def family(self) -> list[Genome]:
        """Return, for each depth, all widths times the one factor that spends the budget."""
        return [(at, depth.even(self.most)) for at, depth in enumerate(self.depths)]

    def draw(self, dice: random.Random) -> Genome:
        """Return any depth, at any widths that spend the budget."""
        at = dice.randrange(len(self.depths))
        return at, self.depths[at].any(self.most, dice)

    def mutate(self, genome: Genome, dice: random.Random) -> Genome:
        """Change the depth, or the width of one group."""
        at, widths = genome
        if len(self.depths) > 1 and dice.random() < DEPTH_CHANGES:
            return self.draw(dice)
        return at, self.depths[at].changed(widths, self.most, dice)

    def score(self, genome: Genome) -> float:
        """Return what a candidate promises."""
        self.tick()
        return promise(self.settings.proxy, self.build(genome).network, self.held, self.seen.first(REFRESH_ROWS))

    def build(self, genome: Genome) -> FloatModel:
        """Cut a candidate out."""
        return self.depths[genome[0]].narrowed(genome[1])

    def tick(self) -> None:
        """Raise an OutOfTimeError when the job's deadline has passed."""
        tick(self.job.deadline, "search.width", "lower search.width.candidates")

    def _nothing(self, found: Sequence[Depth]) -> str:
        narrow = [depth.least for depth in found if depth.groups]
        if not narrow:
            return "search.width finds no layer that it can narrow; leave it out of optimize.techniques"
        return (
            f"search.width.budget {self.settings.budget}: the narrowest network that search.width.round_to "
            f"{self.settings.round_to} allows takes {min(narrow) / self.most * self.settings.budget:.3f} of the "
            "parent's multiply-adds; raise budget, or lower round_to"
        )

    def told(self, genome: Genome, promised: float) -> dict[str, object]:
        """Return a candidate in words."""
        depth = self.depths[genome[0]]
        widths = depth.named(genome[1])
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
