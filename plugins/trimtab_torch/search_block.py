"""Architecture search over kinds of blocks: a network of another build in the place of the project's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab.window import Schema
from trimtab_torch.blocks import BLOCKS, Kind
from trimtab_torch.blockspace import BlockSpace, Genome
from trimtab_torch.deadline import tick
from trimtab_torch.evidence import Evidence
from trimtab_torch.evolve import STRATEGIES, Hunt, Strategy
from trimtab_torch.layers import multiply_adds
from trimtab_torch.proxies import PROXIES, Proxy, promise
from trimtab_torch.skeleton import Skeleton, carry_over
from trimtab_torch.spec import BLOCKNET, FloatModel, outputs_of, parameters
from trimtab_torch.training import workbench
from trimtab_torch.trials import shortlist, spread

__all__ = ["SearchBlock"]

ROWS = 256
"""Rows that networks are compared on, at most."""
REFRESH_ROWS = 128
"""Rows that batch norms are estimated anew on, at most."""


@dataclass(frozen=True)
class SearchBlock:
    """Search which blocks, kernels, widths and depths are best at the parent's resolutions, within a budget.

    Candidates are :class:`trimtab_torch.blocks.BlockNet`, which takes the place of the project's network:
    its description stands in ``spec.json``. Stem and resolutions are the parent's. The search begins with
    the one-parameter families of compound scaling (Tan & Le 2019; the resolution stays, for it is the
    data's): one for each kind of block and kernel, at the size that spends the budget. Weights are
    inherited where kernel and resolution are the same. A proxy that trains nothing ranks candidates, the
    few best of each kind are trained for a short time, and the one with the least loss on rows that nothing was
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
        That are trained for a short time, at least 1: the best of each kind that most stages are of, then
        the second best of each, since proxies compare networks of one kind better than kinds.
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
        faster_on=("onnxruntime",),
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
            space = looking.space
            hunt = Hunt(space.draw, space.mutate, looking.score, self.candidates, self.strategy, self.population)
            ranked = hunt.run(job.seed, space.families())
            # No proxy here compares one kind of block with another fairly: naswot likes what is deep.
            best = spread(ranked, lambda scored: space.kind(scored[0]), self.finalists)
            makers = [lambda genome=genome: looking.build(genome) for genome, _ in best]
            tried = shortlist(makers, self.trial_epochs, looking.held, data, job, "search.block")
        facts: dict[str, Any] = {
            "parameters_before": parameters(parent.network),
            "multiply_adds": multiply_adds(tried[0].model.network, parent.examples())[""],
            "multiply_adds_before": looking.before,
            "budget": round(looking.space.most),
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
    space: BlockSpace = field(init=False)
    before: int = field(init=False)

    def __post_init__(self) -> None:
        held, train = self.data.rows(Role.SEARCH), self.data.rows(Role.TRAIN)
        settings, schema, where = self.settings, self.parent.spec.schema, "search.block"
        self.seen = Evidence.draw(self.parent, train, REFRESH_ROWS, self.job.seed, where)
        self.held = Evidence.draw(self.parent, held if len(held) else train, ROWS, self.job.seed, where)
        examples = self.parent.examples()
        self.before = multiply_adds(self.parent.network, examples)[""]
        self.space = BlockSpace(
            Skeleton.of(self.parent.network, examples),
            outputs_of(schema),
            schema.inputs[0].shape,
            settings.blocks,
            settings.kernels,
            settings.round_to,
            settings.depthwise_cost,
            settings.budget,
            settings.budget * self.before,
        )
        if self.space.least > self.space.most:
            raise PluginError(
                f"search.block.budget {settings.budget}: the smallest network of its blocks takes "
                f"{self.space.least / self.before:.3f} of the parent's multiply-adds; raise budget, or lower round_to"
            )

    def build(self, genome: Genome) -> FloatModel:
        """Return the network, with the weights that it inherits."""
        return self._built(genome)[0]

    def inherited(self, genome: Genome) -> int:
        """Return how many layers of a network have weights of the parent."""
        return self._built(genome)[1]

    def _built(self, genome: Genome) -> tuple[FloatModel, int]:
        arguments = {"stem": self.space.stem, "stages": [asdict(stage) for stage in genome]}
        spec = replace(self.parent.spec, factory=BLOCKNET, arguments=arguments, structure=())
        model = FloatModel.build(spec, self.parent.preprocess, self.job.seed)
        return model, carry_over(self.parent.network, model.network, self.parent.examples())

    def score(self, genome: Genome) -> float:
        """Return what a network promises."""
        tick(self.job.deadline, "search.block", "lower search.block.candidates")
        return promise(self.settings.proxy, self.build(genome).network, self.held, self.seen)

    def told(self, genome: Genome, promised: float) -> dict[str, object]:
        """Return a candidate in words."""
        words = [f"{s.depth} x {s.block} {s.kernel}x{s.kernel}, {s.width} wide, stride {s.stride}" for s in genome]
        return {"stages": words, "cost": round(self.space.cost(genome)), "proxy": round(promised, 6)}
