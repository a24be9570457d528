"""Architecture search over kinds of blocks: a network of another build in the place of the project's."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab.window import Schema
from trimtab_torch.blocks import BLOCKS, Kind, Stage, cost
from trimtab_torch.deadline import tick
from trimtab_torch.evidence import Evidence
from trimtab_torch.evolve import STRATEGIES, Hunt, Strategy
from trimtab_torch.layers import multiply_adds
from trimtab_torch.proxies import PROXIES, Proxy, promise
from trimtab_torch.skeleton import Skeleton, carry_over
from trimtab_torch.spec import BLOCKNET, FloatModel, outputs_of, parameters
from trimtab_torch.training import workbench
from trimtab_torch.trials import shortlist

__all__ = ["SearchBlock"]

ROWS = 256
"""Rows that networks are compared on, at most."""
REFRESH_ROWS = 128
"""Rows that batch norms are estimated anew on, at most."""
DEEPER, WIDER = 1.2, 1.1
"""By which depth and width grow with each step of the compound scaling (Tan & Le 2019)."""
SIZES = 60
"""Sizes of that family that are looked through, a quarter step apart."""
WIDEST = 2
"""A stage is at most so many times as wide as the parent's."""

LOOKS: Mapping[Kind, int] = {"plain": 1, "residual": 2, "separable": 1, "inverted": 1}
"""Convolutions of a block that look beyond one pixel."""

Genome = tuple[Stage, ...]


@dataclass(frozen=True)
class SearchBlock:
    """Search which blocks, kernels, widths and depths are best at the parent's resolutions, within a budget.

    Candidates are :class:`trimtab_torch.blocks.BlockNet`, which takes the place of the project's network:
    its description stands in ``spec.json``. Stem and resolutions are the parent's. The search begins with
    the one-parameter families of compound scaling (Tan & Le 2019; the resolution stays, for it is the
    data's): one for each kind of block and kernel, at the size that spends the budget. Weights are
    inherited where kernel and resolution are the same. A proxy that trains nothing ranks candidates, the
    few best are trained for a short time, and the one with the least loss on rows that nothing was
    trained on stays; **train or distill it afterwards, for most of its weights are new.** For models of
    one image.

    Cost: each candidate a forward pass over some 200 rows, each finalist ``trial_epochs`` of training.

    Parameters
    ----------
    budget
        Multiply-adds of one row that a candidate may have, as a share of the parent's, above 0.
    depthwise_cost
        As how many multiply-adds one of a depthwise convolution counts, at least 1: runtimes do fewer of
        them in a second, since each number that is read serves one channel only.
    blocks
        Kinds to choose among: ``plain``, ``residual``, ``separable``, ``inverted``.
    kernels
        Sizes to choose among; odd.
    round_to
        Widths are multiples of this.
    strategy
        ``evolution`` (aging evolution, Real et al. 2019) or ``random``.
    proxy
        ``naswot`` (Mellor et al. 2021), ``synflow`` (Tanaka et al. 2020), or ``loss`` on held rows, which
        says little of fresh weights.
    candidates
        That the proxy ranks, at least 1.
    population
        Of the evolution, at least 2.
    finalists
        That are trained for a short time, at least 1.
    trial_epochs
        Of each finalist; 0 trusts the proxy alone.

    Raises
    ------
    DataError
        When there is no labelled row.
    PluginError
        When rows are no single image, the parent has no convolutions, or nothing fits the budget.

    Examples
    --------
    >>> SearchBlock(blocks=("dense",))
    Traceback (most recent call last):
    ...
    ValueError: search.block.blocks must be some of plain, residual, separable, inverted, got 'dense'
    """

    budget: float = 0.4
    depthwise_cost: float = 4.0
    blocks: tuple[Kind, ...] = ("plain", "residual", "separable", "inverted")
    kernels: tuple[int, ...] = (3, 5)
    round_to: int = 8
    strategy: Strategy = "evolution"
    proxy: Proxy = "naswot"
    candidates: int = 64
    population: int = 16
    finalists: int = 4
    trial_epochs: int = 1

    about: ClassVar[About] = About(
        name="search.block",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_labels=True,
        inherits=True,
        faster_on=("onnxruntime", "openvino", "torch"),
        smaller=True,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"search.block.budget must be above 0, got {self.budget}")
        if not self.depthwise_cost >= 1:
            raise ValueError(f"search.block.depthwise_cost must be at least 1, got {self.depthwise_cost}")
        for kind in self.blocks or ("",):
            if kind not in BLOCKS:
                raise ValueError(f"search.block.blocks must be some of {', '.join(BLOCKS)}, got {kind!r}")
        for kernel in self.kernels or (0,):
            if kernel < 1 or not kernel % 2:
                raise ValueError(f"search.block.kernels must be odd and above 0, got {kernel}")
        for name, value, lowest in (
            ("round_to", self.round_to, 1),
            ("candidates", self.candidates, 1),
            ("population", self.population, 2),
            ("finalists", self.finalists, 1),
            ("trial_epochs", self.trial_epochs, 0),
        ):
            if value < lowest:
                raise ValueError(f"search.block.{name} must be at least {lowest}, got {value}")
        for name, word, have in (("strategy", self.strategy, STRATEGIES), ("proxy", self.proxy, PROXIES)):
            if word not in have:
                raise ValueError(f"search.block.{name} must be one of {', '.join(have)}, got {word!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the model with the best blocks into ``job.folder``."""
        parent = FloatModel.taken(model, job)
        _require_image(parent.spec.schema)
        with workbench(job):
            looking = _Looking(self, parent, data, job)
            hunt = Hunt(looking.draw, looking.mutate, looking.score, self.candidates, self.strategy, self.population)
            ranked = hunt.run(job.seed, looking.families())
            best = ranked[: self.finalists]
            makers = [lambda genome=genome: looking.build(genome) for genome, _ in best]
            tried = shortlist(makers, self.trial_epochs, looking.held, data, job, "search.block")
        facts: dict[str, Any] = {
            "parameters_before": parameters(parent.network),
            "multiply_adds": multiply_adds(tried[0].model.network, parent.examples())[""],
            "multiply_adds_before": looking.before,
            "budget": round(looking.most),
            "inherited_layers": looking.inherited(best[tried[0].at][0]),
            "candidates": len(ranked),
            "finalists": [looking.told(*best[t.at]) | {"loss": round(t.loss, 6)} for t in tried],
            "proxy": {"name": self.proxy, "best": round(ranked[0][1], 6), "worst": round(ranked[-1][1], 6)},
        }
        return tried[0].model.save(job.folder, facts)


def _require_image(schema: Schema) -> None:
    shapes = [list(i.shape) for i in schema.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise PluginError(
            f"search.block works on rows that are one image [channels, height, width], these hold {shapes}; leave it "
            "out of optimize.techniques, and try search.width"
        )


@dataclass
class _Looking:
    """One search under way."""

    settings: SearchBlock
    parent: FloatModel
    data: Data
    job: Job
    held: Evidence = field(init=False)
    seen: Evidence = field(init=False)
    skeleton: Skeleton = field(init=False)
    before: int = field(init=False)
    most: float = field(init=False)

    def __post_init__(self) -> None:
        held, train = self.data.rows(Role.SEARCH), self.data.rows(Role.TRAIN)
        seed, where = self.job.seed, "search.block"
        self.seen = Evidence.draw(self.parent, train, REFRESH_ROWS, seed, where)
        self.held = Evidence.draw(self.parent, held if len(held) else train, ROWS, seed, where)
        examples = self.parent.examples()
        self.skeleton = Skeleton.of(self.parent.network, examples)
        self.before = multiply_adds(self.parent.network, examples)[""]
        self.most = self.settings.budget * self.before
        cheapest = min(self.cost(g) for g in self._uniform(-SIZES))
        if cheapest > self.most:
            raise PluginError(
                f"search.block.budget {self.settings.budget}: the smallest network of its blocks takes "
                f"{cheapest / self.before:.3f} of the parent's multiply-adds; raise budget, or lower round_to"
            )

    @property
    def _stem(self) -> dict[str, int]:
        unit = self.settings.round_to
        width = max(unit, unit * round(self.skeleton.stem_width * min(1.0, self.settings.budget**0.5) / unit))
        return {"width": width, "stride": self.skeleton.stem_stride}

    def cost(self, genome: Sequence[Stage]) -> float:
        """Return what counts against the budget."""
        schema = self.parent.spec.schema
        return cost(
            outputs_of(schema), schema.inputs[0].shape, self._stem, genome, depthwise=self.settings.depthwise_cost
        )

    def _uniform(self, step: float) -> list[Genome]:
        """Return a network of each kind and kernel, at one step of the compound scaling."""
        return [
            tuple(
                Stage(
                    kind,
                    kernel,
                    self._near(level.width * WIDER**step, level.width),
                    max(1, round(level.depth / LOOKS[kind] * DEEPER**step)),
                    level.stride,
                )
                for level in self.skeleton.levels
            )
            for kind in self.settings.blocks
            for kernel in self.settings.kernels
        ]

    def _near(self, width: float, parents: int) -> int:
        unit = self.settings.round_to
        return min(max(unit, unit * round(width / unit)), self._widest(parents))

    def _widest(self, parents: int) -> int:
        unit = self.settings.round_to
        return max(unit, unit * (WIDEST * parents // unit))

    def families(self) -> list[Genome]:
        """Return of each kind and kernel the largest of its family that the budget allows."""
        found: list[Genome] = []
        for step in range(SIZES, -SIZES, -1):
            for genome in self._uniform(step / 4):
                if self.cost(genome) <= self.most and not any(_build_of(f) == _build_of(genome) for f in found):
                    found.append(genome)
        return found

    def draw(self, dice: random.Random) -> Genome:
        """Return any network that the budget allows."""
        genome = tuple(self._any(dice, at) for at in range(len(self.skeleton.levels)))
        return self._spend(genome, dice)

    def _any(self, dice: random.Random, at: int) -> Stage:
        level = self.skeleton.levels[at]
        kind, kernel = dice.choice(self.settings.blocks), dice.choice(self.settings.kernels)
        widths = range(self.settings.round_to, self._widest(level.width) + 1, self.settings.round_to)
        return Stage(kind, kernel, dice.choice(widths), dice.randint(1, level.depth + 1), level.stride)

    def mutate(self, genome: Genome, dice: random.Random) -> Genome:
        """Change one thing of one stage, and other widths as much as the budget then asks."""
        at = dice.randrange(len(genome))
        other = self._any(dice, at)
        name = dice.choice(("block", "kernel", "width", "depth"))
        changed = replace(genome[at], **{name: getattr(other, name)})
        return self._spend((*genome[:at], changed, *genome[at + 1 :]), dice)

    def _spend(self, genome: Genome, dice: random.Random) -> Genome:
        """Narrow stages drawn by lot until the budget holds, the narrow ones in depth; then widen what still fits."""
        while self.cost(genome) > self.most:
            genome = self._changed(genome, dice.randrange(len(genome)), -1)
        open_ = list(range(len(genome)))
        while open_:
            at = dice.choice(open_)
            wider = self._changed(genome, at, 1)
            if wider == genome or self.cost(wider) > self.most:
                open_.remove(at)
            else:
                genome = wider
        return genome

    def _changed(self, genome: Genome, at: int, by: int) -> Genome:
        stage, unit = genome[at], self.settings.round_to
        width = min(self._widest(self.skeleton.levels[at].width), stage.width + by * unit)
        if width >= unit:
            changed = replace(stage, width=width)
        elif stage.depth > 1:
            changed = replace(stage, depth=stage.depth - 1)
        else:  # the cheapest of its kind: another kind is
            changed = min(
                (replace(stage, block=b, kernel=k) for b in self.settings.blocks for k in self.settings.kernels),
                key=lambda s: self.cost((*genome[:at], s, *genome[at + 1 :])),
            )
        return (*genome[:at], changed, *genome[at + 1 :])

    def build(self, genome: Genome) -> FloatModel:
        """Return the network, with the weights that it inherits."""
        arguments = {"stem": self._stem, "stages": [asdict(stage) for stage in genome]}
        spec = replace(self.parent.spec, factory=BLOCKNET, arguments=arguments)
        model = FloatModel.build(spec, self.parent.preprocess, self.job.seed)
        carry_over(self.parent.network, model.network, self.parent.examples())
        return model

    def inherited(self, genome: Genome) -> int:
        """Return how many layers of a network have weights of the parent."""
        return carry_over(self.parent.network, self.build(genome).network, self.parent.examples())

    def score(self, genome: Genome) -> float:
        """Return what a network promises."""
        tick(self.job.deadline, "search.block", "lower search.block.candidates")
        return promise(self.settings.proxy, self.build(genome).network, self.held, self.seen)

    def told(self, genome: Genome, promised: float) -> dict[str, object]:
        """Return a candidate in words."""
        words = [f"{s.depth} x {s.block} {s.kernel}x{s.kernel}, {s.width} wide, stride {s.stride}" for s in genome]
        return {"stages": words, "cost": round(self.cost(genome)), "proxy": round(promised, 6)}


def _build_of(genome: Genome) -> list[tuple[str, int]]:
    return [(stage.block, stage.kernel) for stage in genome]
