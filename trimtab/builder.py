"""Building several recipes: one after another here, or at the same time by a runner's workers, each step once."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from typing import Any

from trimtab.candidate import Built, Candidate
from trimtab.errors import PluginError, ServiceError
from trimtab.executor import Executor
from trimtab.recipe import Kitchen, Order, Recipe
from trimtab.runner import Workers

__all__ = ["Builder", "Outcome"]

Outcome = Candidate | Exception
"""What was built, or why it was not."""


@dataclass(frozen=True)
class Builder:
    """Builds recipes, and tells of each step as soon as it is there.

    Parameters
    ----------
    kitchen
        Of the round.
    formats
        That the targets' runtimes take.
    workers, executor
        Who builds, and under whose name.
    tell
        Is told of each step, as :meth:`trimtab.recipe.Kitchen.build` tells it.
    """

    kitchen: Kitchen
    formats: Collection[str]
    workers: Workers
    executor: Executor
    tell: Callable[[Mapping[str, Any]], None]

    @property
    def at_once(self) -> bool:
        """Whether all recipes are built before the first is given; else each when it is asked for."""
        return self.workers.separate

    def build(self, recipes: Sequence[Recipe], deadline: float) -> Iterator[Outcome]:
        """Yield what came of each recipe, in their order; nothing is built while the caller has one in hand.

        Parameters
        ----------
        deadline
            On the clock of :func:`time.monotonic`.

        Raises
        ------
        ServiceError
            When a server or the runner does not answer.
        """
        if not self.at_once:
            for recipe in recipes:
                yield self._alone(recipe, deadline)
        elif recipes:
            batch = _Batch(self, recipes, deadline)
            yield from self.executor.call(f"build {len(recipes)} candidates", batch.run)

    def _alone(self, recipe: Recipe, deadline: float) -> Outcome:
        try:
            return self.kitchen.build(recipe, self.formats, self.executor.call, self.tell, deadline)
        except ServiceError:
            raise
        except Exception as error:  # a technique may raise anything, and the other recipes go on
            return error


class _Batch:
    """Recipes that are built at the same time; a step that several of them begin with is built once.

    Of the steps that could be built next those of the first recipes go first, so that when time runs out
    whole candidates are there and not the beginnings of all.
    """

    def __init__(self, builder: Builder, recipes: Sequence[Recipe], deadline: float) -> None:
        self.builder, self.recipes, self.deadline = builder, recipes, deadline

    def run(self) -> list[Outcome]:
        """Build, and return what came of each; no worker builds any more when it returns or raises."""
        self._walks = [self.builder.kitchen.walk(recipe, self.builder.formats) for recipe in self.recipes]
        self._outcomes: dict[int, Outcome] = {}
        self._asked: dict[str, tuple[Order, list[int]]] = {}
        self._flying: dict[Future[None], str] = {}
        for place in range(len(self.recipes)):
            self._advance(place, None)
        try:
            while self._asked:
                self._send()
                done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
                dead = [print_ for future in done if (print_ := self._land(future)) is not None]
                if dead:
                    self._one_by_one(dead)
        except Exception:
            wait(self._flying)
            raise
        return [self._outcomes[place] for place in range(len(self.recipes))]

    def _advance(self, place: int, made: Built | None) -> None:
        """Go on with a recipe to its next step that is not built."""
        walk = self._walks[place]
        try:
            while True:
                order = next(walk) if made is None else walk.send(made)
                if not order.done:
                    self._asked.setdefault(order.fingerprint, (order, []))[1].append(place)
                    return
                made = self._told(order, False)
        except StopIteration as end:
            self._outcomes[place] = end.value
        except ServiceError:
            raise
        except Exception as error:  # as above
            self._outcomes[place] = error

    def _told(self, order: Order, fresh: bool) -> Built:
        made = order.built(fresh)
        self.builder.tell(dataclasses.asdict(made))
        return made

    def _send(self) -> None:
        """Give the workers what they have room for."""
        waiting = [print_ for print_ in self._asked if print_ not in self._flying.values()]
        for print_ in sorted(waiting, key=lambda p: min(self._asked[p][1])):
            if len(self._flying) >= self.builder.workers.number:
                return
            self._flying[self._submit(print_)] = print_

    def _submit(self, print_: str) -> Future[None]:
        until = time.time() + self.deadline - time.monotonic()
        return self.builder.workers.submit(functools.partial(make, until=until), self._asked[print_][0].anywhere())

    def _land(self, future: Future[None]) -> str | None:
        """Take up what came of a step, and return its fingerprint where its worker died, by whose fault ever."""
        print_ = self._flying.pop(future)
        return None if self._settled(print_, future) else print_

    def _settled(self, print_: str, future: Future[None]) -> bool:
        """Take up what came of a step, and tell whether its worker lived to say it."""
        try:
            future.result()
        except BrokenExecutor:
            return False
        except ServiceError:
            raise
        except Exception as error:  # as above
            self._fail(print_, error)
            return True
        order, places = self._asked.pop(print_)
        for number, place in enumerate(sorted(places)):
            self._advance(place, self._told(order, number == 0))
        return True

    def _fail(self, print_: str, error: Exception) -> None:
        for place in self._asked.pop(print_)[1]:
            self._outcomes[place] = error

    def _one_by_one(self, dead: list[str]) -> None:
        """Build what was under way when a worker died again, alone: who dies then has only itself to blame."""
        wait(self._flying)
        dead += [print_ for future in list(self._flying) if (print_ := self._land(future)) is not None]
        self.builder.workers.close()
        for print_ in sorted(dead, key=lambda p: min(self._asked[p][1])):
            if not self._settled(print_, self._submit(print_)):
                word = self._asked[print_][0].step.word
                why = f"a worker that built {word} died, and so did another that built nothing else meanwhile"
                way = "it may have run out of memory: leave the technique out of optimize.techniques, or try it alone"
                self._fail(print_, PluginError(f"{why}; {way}"))
                self.builder.workers.close()


def make(order: Order, until: float) -> None:
    """Build a step in a worker.

    Parameters
    ----------
    until
        The deadline in seconds since 1970: machines agree on that, as far as their clocks do.
    """
    if not order.done:
        order.check()
        order.make(time.monotonic() + until - time.time())
