"""Which recipe a round tries next: what is promising, a little first, and more of what does well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trimtab.pareto import Losses, order
from trimtab.recipe import Recipe, Step
from trimtab.sampler import Point, Sampler
from trimtab.space import Space

__all__ = ["Halving", "Search", "Task", "by_quality"]


class Halving(BaseModel):
    """Early stopping: everything is trained a little, and the best share of it longer.

    Asynchronous successive halving (Li et al. 2020): a recipe goes up a level when it is among the best
    ``1 / factor`` of those that have finished its level, best in the sense of the Pareto front over
    quality, latency on every target, and size; where every target prefers quality, by quality alone.
    When no recipe is left to begin, each level sends up its best at once. A longer training goes on
    from where the shorter one ended, each part with a
    schedule of its own, so that nothing is trained twice and the last level has trained as long in all
    as the project says.

    Parameters
    ----------
    factor
        How many times longer each level trains, and how few go up to it.
    levels
        Number of levels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: int = Field(default=3, ge=2)
    levels: int = Field(default=3, ge=1)

    def efforts(self, full: int) -> list[int]:
        """Return what has been trained in all when each level ends, the full effort at the last.

        Examples
        --------
        >>> Halving().efforts(18), Halving().efforts(2)
        ([2, 6, 18], [1, 2])
        """
        below = [max(1, round(full / self.factor**k)) for k in range(self.levels - 1, 0, -1)]
        return sorted({*(e for e in below if e < full), full})


@dataclass(frozen=True)
class Task:
    """A recipe to build now.

    Parameters
    ----------
    recipe
        To build.
    whole
        The same trained in full, by which it is told from others.
    level
        Of early stopping.
    point
        Where the sampler drew it; None for a recipe that was given.
    """

    recipe: Recipe
    whole: Recipe
    level: int = 0
    point: Point | None = None


@dataclass
class Search:
    """Proposes recipes one after another, and learns from what came of them.

    First the recipes that are given, in full; then what the sampler draws from the space, with early
    stopping where it is on.

    Parameters
    ----------
    space, sampler, seed
        What to draw from, and how.
    given
        Recipes to try first.
    candidates
        Most recipes to begin.
    objectives
        Number of losses that :meth:`tell` is given.
    halving
        Early stopping, or None.
    later
        Recipes to try when there is nothing left to draw.
    rank
        Sorts losses, the best first: who goes up a level.
    defaults
        The trainer's settings, from which a technique takes what it is not told.
    """

    space: Space
    sampler: Sampler
    seed: int
    given: Sequence[Recipe]
    candidates: int
    objectives: int
    halving: Halving | None = None
    later: Sequence[Recipe] = ()
    rank: Callable[[Sequence[Losses]], list[int]] = order
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._queue, self._later = list(dict.fromkeys(self.given)), list(dict.fromkeys(self.later))
        self._begun: set[Recipe] = set()
        self._draws = self.sampler.begin(self.space.parameters, self.objectives, self.seed)
        self._dry = False
        self._levels: dict[int, list[tuple[Task, tuple[float, ...]]]] = {}
        self._raised: set[tuple[Recipe, int]] = set()

    @property
    def done(self) -> bool:
        """Whether no further recipe will be begun."""
        return self._dry or len(self._begun) >= self.candidates

    def batch(self, most: int) -> list[Task]:
        """Return what to build next, as far as it can be said before it is known what comes of any of it.

        Parameters
        ----------
        most
            Number of tasks; fewer near the end, and none when nothing is left that is worth it.
        """
        tasks: list[Task] = []
        while len(tasks) < most and (task := self.ask(last=not tasks)) is not None:
            tasks.append(task)
        return tasks

    def ask(self, last: bool = True) -> Task | None:
        """Return what to build next, or None when nothing is left that is worth it.

        Parameters
        ----------
        last
            Whether the search was told of everything that it proposed, so that the end of it can be told.
        """
        if self._queue and not self.done:
            return self._next(self._queue)
        begun = self._promote(at_end=False) or self._draw() or self._last()
        return begun or (self._promote(at_end=True) if last else None)

    def _next(self, queue: list[Recipe]) -> Task:
        recipe = queue.pop(0)
        self._begun.add(recipe)
        return Task(recipe, recipe)

    def _last(self) -> Task | None:
        self._later = [r for r in self._later if r not in self._begun]
        return self._next(self._later) if self._later and len(self._begun) < self.candidates else None

    def tell(self, task: Task, losses: Sequence[float] | None) -> None:
        """Say what came of a task; None: it failed, or was stopped."""
        if task.point is not None and task.level == 0:
            self._draws.tell(task.point, losses if losses is not None else self._worst())
        if losses is not None:
            self._levels.setdefault(task.level, []).append((task, tuple(losses)))

    def promise(self, foresee: Callable[[Recipe], float | None]) -> str:
        """Say what the search would try, and what that would take by what steps took so far.

        Parameters
        ----------
        foresee
            Seconds that a recipe takes; None where a step of it was never built.
        """
        some = [*self.given, *self.space.simple()][: self.candidates]
        known = [seconds for recipe in some if (seconds := foresee(recipe)) is not None]
        about = f"about {math.fsum(known) / len(known) * self.candidates:.0f} s" if known else "nobody knows how long"
        return f"up to {self.candidates} recipes such as {some[0].name}, {about}"

    def left(self) -> list[Recipe]:
        """Return recipes that were given and not begun, for the list of what was not tried."""
        return [r for r in (*self._queue, *self._later) if r not in self._begun]

    def _draw(self) -> Task | None:
        while not self.done:
            point = self._draws.ask()
            if point is None:
                self._dry = True
                return None
            recipe = self.space.recipe(point)
            if recipe is None or recipe in self._begun:
                self._draws.tell(point, self._worst())
                self._misses += 1
                self._dry = self._misses >= PATIENCE
                continue
            self._misses = 0
            self._begun.add(recipe)
            return Task(self._at(recipe, 0), recipe, 0, point)
        return None

    _misses: int = field(default=0, init=False)

    def _worst(self) -> list[float] | None:
        """Return the worst of each loss so far: told of a point that gave nothing, it sends a sampler elsewhere."""
        told = [losses for _, losses in self._levels.get(0, [])]
        return [max(column) for column in zip(*told, strict=True)] or None

    def _promote(self, at_end: bool) -> Task | None:
        if self.halving is None:
            return None
        for level in sorted(self._levels, reverse=not at_end):
            unfinished = (r for r in self._levels[level] if level + 1 < len(self._chain(r[0].whole)))
            tried = [(t, losses) for t, losses in unfinished if t.recipe != t.whole]
            share = len(tried) / self.halving.factor
            places = self.rank([losses for _, losses in tried])[: math.ceil(share) if at_end else math.floor(share)]
            for task, _ in (tried[i] for i in places):
                if (task.whole, level) not in self._raised:
                    self._raised.add((task.whole, level))
                    return Task(self._at(task.whole, level + 1), task.whole, level + 1)
        return None

    def _at(self, recipe: Recipe, level: int) -> Recipe:
        """Return the recipe as a level trains it: its last training step in pieces that grow."""
        chain = self._chain(recipe)
        if len(chain) == 1:
            return recipe
        place = max(i for i, step in enumerate(recipe.steps) if self._full(step))
        about = recipe.steps[place].load().about
        begins_anew = about.renews_parent and about.rung is None  # it does not go on from what it is given
        further = [chain[0], *(b - a for a, b in itertools.pairwise(chain[: level + 1]))]
        efforts = [chain[level]] if begins_anew else further
        pieces = [_with_effort(recipe.steps[place], effort) for effort in efforts]
        return recipe.model_copy(update={"steps": (*recipe.steps[:place], *pieces, *recipe.steps[place + 1 :])})

    def _chain(self, recipe: Recipe) -> list[int]:
        fulls = [full for step in recipe.steps if (full := self._full(step))]
        full = fulls[-1] if fulls else 0
        return self.halving.efforts(full) if self.halving is not None and full > 1 else [full]

    def _full(self, step: Step) -> int:
        """Return how long a step trains in full; 0 for one that does not, or not so that it can go on."""
        technique = step.load()
        about = technique.about
        if about.effort is None or not (about.renews_parent or about.needs_teacher):
            return 0
        if about.renews_parent and self.space.shrinks:
            return 0  # what compresses learns from it, and builds it in full anyway
        return int(getattr(technique, about.effort) or self.defaults.get(about.effort) or 0)


def by_quality(losses: Sequence[Losses]) -> list[int]:
    """Return the places from the best to the worst by the first loss, which is that of quality.

    Examples
    --------
    >>> by_quality([(3, 1), (1, 3), (2, 2)])
    [1, 2, 0]
    """
    return sorted(range(len(losses)), key=lambda i: losses[i][0])


PATIENCE = 200
"""Draws in a row that give nothing new, after which a space counts as tried."""


def _with_effort(step: Step, effort: int) -> Step:
    name = step.load().about.effort
    return step.model_copy(update={"settings": {**step.settings, name: effort}})
