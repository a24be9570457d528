"""Which architectures to look at next: drawn at random, or bred by aging evolution; knows nothing of networks."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

__all__ = ["STRATEGIES", "Hunt", "Strategy"]

Strategy = Literal["evolution", "random"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

Genome = TypeVar("Genome", bound=Hashable)

TOURNAMENT = 4
"""A parent is the best of one in so many of the population."""
PATIENCE = 20
"""Draws for each genome that is wanted, at most: small spaces run out of new ones."""


@dataclass(frozen=True)
class Hunt(Generic[Genome]):
    """A search among genomes.

    Parameters
    ----------
    draw
        Gives any genome.
    mutate
        Gives a neighbour of a genome.
    score
        How good one is, the higher the better; called once for each. NaN is the worst.
    count
        Genomes to score, at most.
    strategy
        ``random``, or ``evolution``: the best of a few members of the population has a child, and the
        oldest member dies, however good it is (Real et al. 2019), so that one lucky score does not rule.
    population
        Members at a time, of ``evolution``.

    Examples
    --------
    >>> hunt = Hunt(lambda dice: dice.randint(0, 99), lambda n, dice: n + dice.choice((-1, 1)), float, 40)
    >>> best = hunt.run(0, first=[7])[0]
    >>> best[0] > 90, best[1] == best[0]
    (True, True)
    """

    draw: Callable[[random.Random], Genome]
    mutate: Callable[[Genome, random.Random], Genome]
    score: Callable[[Genome], float]
    count: int
    strategy: Strategy = "evolution"
    population: int = 16

    def run(self, seed: int, first: Iterable[Genome] = ()) -> list[tuple[Genome, float]]:
        """Score genomes, ``first`` before all others, and return them with their scores, the best first."""
        dice = random.Random(seed)  # noqa: S311 (draws are to be the same again, not to be secret)
        scores: dict[Genome, float] = {}
        alive: deque[Genome] = deque(maxlen=self.population)
        waiting = deque(first)
        for _ in range(PATIENCE * self.count):
            if len(scores) >= self.count:
                break
            genome = waiting.popleft() if waiting else self._next(alive, scores, dice)
            if genome not in scores:
                found = self.score(genome)
                scores[genome] = -math.inf if math.isnan(found) else found
            alive.append(genome)
        return sorted(scores.items(), key=lambda item: -item[1])

    def _next(self, alive: deque[Genome], scores: dict[Genome, float], dice: random.Random) -> Genome:
        if self.strategy == "random" or len(alive) < self.population:
            return self.draw(dice)
        few = dice.sample(list(alive), max(2, self.population // TOURNAMENT))
        return self.mutate(max(few, key=scores.__getitem__), dice)
