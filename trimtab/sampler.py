"""Samplers: which point of a space of settings to try next, and what came of the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from trimtab.errors import SettingsError

__all__ = ["Draws", "Grid", "Parameter", "Point", "Sampler"]

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One dimension of a space: options to choose from, or a range of numbers.

    Parameters
    ----------
    name
        Distinguishes it.
    options
        To choose from; empty where it is a range.
    low, high
        Ends of the range, both included.
    step
        Distance of the values of a range; None: every value between.
    log
        Whether to draw a range's values evenly on a logarithmic scale.
    whole
        Whether a range's values are integers.
    when
        Another parameter and the values of it for which this one counts; None: it always does.

    Examples
    --------
    >>> Parameter("ratio", low=0.2, high=0.6, step=0.2).values
    (0.2, 0.4, 0.6)
    """

    name: str
    options: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: tuple[str, tuple[Any, ...]] | None = None

    @property
    def values(self) -> tuple[Any, ...]:
        """Every value that it can have.

        Raises
        ------
        SettingsError
            For a range without a step, which has no end of them.
        """
        if self.options:
            return self.options
        step = self.step or (1 if self.whole else None)
        if step is None or self.log:
            raise SettingsError(
                f"{self.name}: a range of {self.low} to {self.high} cannot be tried value by value; "
                "give it a step, or set optimize.sampler to tpe, random or nsga2"
            )
        count = int(np.floor((self.high - self.low) / step + 1e-9)) + 1
        values = [round(self.low + i * step, 10) for i in range(count)]
        return tuple(int(v) for v in values) if self.whole else tuple(values)

    def counts(self, point: Point) -> bool:
        """Tell whether the parameter counts at a point that holds what it depends on."""
        return self.when is None or point.get(self.when[0]) in self.when[1]


class Draws(Protocol):
    """A sampler at work on one space."""

    def ask(self) -> dict[str, Any] | None:
        """Return the next point (only the parameters that count there), or None when there is none left."""
        ...

    def tell(self, point: Point, losses: Sequence[float] | None) -> None:
        """Say what came of a point that was asked for: its losses, all to be small.

        Of a point that gave nothing they are the worst so far, and None where nothing gave anything yet.
        """
        ...


class Sampler(Protocol):
    """Draws points from a space; a frozen dataclass whose fields are its settings."""

    name: ClassVar[str]

    def begin(self, space: Sequence[Parameter], objectives: int, seed: int) -> Draws:
        """Begin on a space, in which a parameter comes after those that it depends on.

        Parameters
        ----------
        objectives
            Number of losses that will be told of each point.
        seed
            The same seed and the same answers give the same points.
        """
        ...


@dataclass(frozen=True)
class Grid:
    """Every point, in the order in which the settings list them.

    Examples
    --------
    >>> space = [Parameter("train", ("none", "finetune")), Parameter("epochs", (1, 2), when=("train", ("finetune",)))]
    >>> draws = Grid().begin(space, 1, 0)
    >>> [draws.ask() for _ in range(4)]
    [{'train': 'none'}, {'train': 'finetune', 'epochs': 1}, {'train': 'finetune', 'epochs': 2}, None]
    """

    name: ClassVar[str] = "grid"

    def begin(self, space: Sequence[Parameter], objectives: int, seed: int) -> Draws:
        """Lay out the grid.

        Raises
        ------
        SettingsError
            For a range without a step.
        """
        for parameter in space:
            parameter.values  # noqa: B018 (it raises now, before anything is built)
        return _Walk(_points(space))


class _Walk:
    """Goes through points one after another, whatever comes of them."""

    def __init__(self, points: Iterator[dict[str, Any]]) -> None:
        self._points = points

    def ask(self) -> dict[str, Any] | None:
        return next(self._points, None)

    def tell(self, point: Point, losses: Sequence[float] | None) -> None:
        return None


def _points(space: Sequence[Parameter], begun: Point | None = None) -> Iterator[dict[str, Any]]:
    """Yield every point that goes on from what is begun; a parameter that does not count there is passed over."""
    point = dict(begun or {})
    if not space:
        yield point
        return
    first, *rest = space
    if not first.counts(point):
        yield from _points(rest, point)
        return
    for value in first.values:
        yield from _points(rest, {**point, first.name: value})
