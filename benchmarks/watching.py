"""What the product does when a window closes, in memory: monitors are asked at their rates, and the trigger decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trimtab.monitor import Case, Finding, Sample, Summary
from trimtab.sections import MonitorsSettings
from trimtab.state import State
from trimtab.trigger import Action, Decision, Trigger
from trimtab_evidently.drift import Drift
from trimtab_evidently.performance import Performance

FALSE_ALARMS = MonitorsSettings().false_alarms


@dataclass(frozen=True)
class Rates:
    """Rates of alarms on quiet windows that the monitors are given, which by default are these two.

    Parameters
    ----------
    labelled
        Of the one that needs labels.
    others
        Of the one that does not.
    """

    labelled: float
    others: float

    @classmethod
    def of(cls, trigger: Trigger, per_year: float) -> Rates:
        """Return them for so many windows a year."""
        labelled = min(FALSE_ALARMS / 2, trigger.false_rounds / 2 / per_year)
        return cls(labelled, FALSE_ALARMS - labelled)


@dataclass
class Champion:
    """A champion as its monitors see it.

    Parameters
    ----------
    reference
        Rows that it was not fitted to, with their labels and what it says of them.
    seen
        Gives the same of a window, by its number.
    """

    reference: Sample
    seen: Callable[[int], Sample]
    _moved: dict[tuple[int, float], Finding] = field(default_factory=dict)

    @cached_property
    def _fitted(self) -> Summary:
        return Drift().fit(self.reference)

    def moved(self, number: int, alpha: float) -> Finding:
        """Ask the drift monitor about a window, once."""
        if (number, alpha) not in self._moved:
            monitor, now = Drift(), self.seen(number)
            case = Case(self._fitted, monitor.summarize(self._fitted, now), self.reference, now, alpha)
            self._moved[number, alpha] = dataclasses.replace(monitor.check(case), alpha=alpha)
        return self._moved[number, alpha]

    def worse(self, number: int, alpha: float, past: Sequence[Finding]) -> Finding:
        """Ask the performance monitor about a window whose labels came."""
        case = Case({}, {}, self.reference, self.seen(number), alpha, tuple(past))
        return dataclasses.replace(Performance().check(case), alpha=alpha, labelled=True)


class Watch:
    """Watches windows, and decides when a round runs; a round gives a new champion, of which nothing is known yet.

    Parameters
    ----------
    trigger
        Decides.
    per_year
        Windows in a year.
    delay
        Windows after which the labels of a window come.
    """

    def __init__(self, trigger: Trigger, per_year: float, delay: int) -> None:
        self._trigger, self._per_year, self._delay = trigger, per_year, delay
        self._rates = Rates.of(trigger, per_year)
        self._findings: list[Finding] = []
        self._rounds: list[tuple[int, float]] = []

    def close(
        self, number: int, champion: Champion, trainable: int = 0, trained: int = 0
    ) -> tuple[list[Finding], Decision]:
        """Look at a window that closed, judge the one whose labels came, and decide.

        Parameters
        ----------
        number, champion
            The window, and what serves it.
        trainable, trained
            Labelled rows that a round would be made on now, and that the champion was made on; not known: 0.
        """
        found = [champion.moved(number, self._rates.others)]
        if (labelled := number - self._delay) >= 1:
            past = [f for f in self._findings if f.labelled]
            found.append(champion.worse(labelled, self._rates.labelled, past))
        self._findings += found
        state = State(tuple(self._rounds), self._per_year, trainable_rows=trainable, trained_rows=trained)
        decision = self._trigger.decide(number, self._findings, state)
        if decision.action is Action.OPTIMIZE:
            self._rounds.append((number, 0.0))
            self._findings = []
        return found, decision
