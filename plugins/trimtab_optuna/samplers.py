"""Random, Bayesian and genetic sampling of a search's space, by Optuna (Akiba et al. 2019)."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna

from trimtab.sampler import Draws, Parameter, Point

__all__ = ["Nsga2", "Random", "Tpe"]


@dataclass(frozen=True)
class _Optuna:
    """What Optuna's samplers have in common."""

    @abstractmethod
    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's own."""

    def begin(self, space: Sequence[Parameter], objectives: int, seed: int) -> Draws:
        """Begin a study in memory.

        Parameters
        ----------
        space
            Parameters, each after those that it depends on.
        objectives
            Number of losses of each point.
        seed
            The same seed and the same answers give the same points.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.sampler(seed)
        return _Study(optuna.create_study(directions=["minimize"] * objectives, sampler=sampler), space)


@dataclass(frozen=True)
class Random(_Optuna):
    """Points drawn independently of each other and of what came of them.

    Examples
    --------
    >>> draws = Random().begin([Parameter("ratio", low=0.2, high=0.8)], 1, 0)
    >>> 0.2 <= draws.ask()["ratio"] <= 0.8
    True
    """

    name: ClassVar[str] = "random"

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's own."""
        return optuna.samplers.RandomSampler(seed)


@dataclass(frozen=True)
class Tpe(_Optuna):
    """Tree-structured Parzen estimators (Bergstra et al. 2011; for several losses Ozaki et al. 2022).

    Parameters
    ----------
    startup
        Points drawn at random before the first that is not.
    """

    startup: int = 5

    name: ClassVar[str] = "tpe"

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise ValueError(f"tpe.startup must be at least 1, got {self.startup}")

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's own."""
        return optuna.samplers.TPESampler(n_startup_trials=self.startup, multivariate=True, group=True, seed=seed)


@dataclass(frozen=True)
class Nsga2(_Optuna):
    """A genetic algorithm that sorts by Pareto fronts (Deb et al. 2002).

    Parameters
    ----------
    population
        Points of a generation.
    """

    population: int = 8

    name: ClassVar[str] = "nsga2"

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"nsga2.population must be at least 2, got {self.population}")

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return Optuna's own."""
        return optuna.samplers.NSGAIISampler(population_size=self.population, seed=seed)


class _Study:
    """An Optuna study at work on a space."""

    def __init__(self, study: optuna.Study, space: Sequence[Parameter]) -> None:
        self._study = study
        self._space = space
        self._open: list[tuple[Point, optuna.Trial]] = []

    def ask(self) -> dict[str, Any] | None:
        """Draw every parameter that counts, one after the other."""
        trial = self._study.ask()
        point: dict[str, Any] = {}
        for parameter in self._space:
            if parameter.counts(point):
                point[parameter.name] = _suggest(trial, parameter)
        self._open.append((point, trial))
        return point

    def tell(self, point: Point, losses: Sequence[float] | None) -> None:
        """Tell the study of a point that it drew."""
        place = next(i for i, (drawn, _) in enumerate(self._open) if drawn == point)
        _, trial = self._open.pop(place)
        if losses is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, list(losses))


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    if parameter.options:
        # An option may be a list or a mapping, which Optuna cannot keep: it is told the place.
        place = trial.suggest_categorical(parameter.name, range(len(parameter.options)))
        return parameter.options[place]
    if parameter.whole:
        step = int(parameter.step or 1)
        return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high), step=step, log=parameter.log)
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
