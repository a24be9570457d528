"""What a decision depends on beside the findings, and which alarms are heard of those that a person expects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.monitor import Finding

__all__ = ["Acknowledged", "Heard", "State", "only", "weight_of", "windows_in"]

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Acknowledged:
    """An alarm of which a person said that it is expected.

    Parameters
    ----------
    monitor
        Which monitor's.
    statistic
        Which of its statistics; None: every alarm of the monitor.
    expected
        Why, in the person's words.
    until
        The last window for which it holds.
    who
        Who said so.
    """

    monitor: str
    statistic: str | None
    expected: str
    until: int
    who: str

    def quiets(self, finding: Finding) -> frozenset[str] | None:
        """Return which of a finding's alarms it quiets; None: all of it."""
        if finding.monitor != self.monitor or finding.window > self.until:
            return frozenset()
        if self.statistic is None:
            return None
        return frozenset({self.statistic} & {*finding.alarms})


@dataclass(frozen=True)
class State:
    """What a decision depends on beside the findings; times are counted in windows.

    Parameters
    ----------
    rounds
        The window after which each round ran, and the minutes that it took, oldest first.
    per_year
        Windows in a year.
    monitors
        Statistical ones that look without labels: what any of them may say by chance is divided among them.
    labelled_rows
        Rows whose labels came since the last round.
    trainable_rows, trained_rows
        Labelled rows that a round would be made on now, and that the last one was or could have been made on, as
        far as the journal knows, or the first champion.
    importance
        Share of each feature in what the champion answers; they sum to 1. Empty: not known.
    tried
        Statistics that had moved when a round found nothing better for it, under the present champion.
    waits
        What the winner of a round waits for before it is promoted or rejected, in words; None: none waits.
    acknowledged
        What a person said to be expected, also what no longer holds: of the windows for which it held it is
        still expected.
    """

    rounds: tuple[tuple[int, float], ...] = ()
    per_year: float = 52.0
    monitors: int = 1
    labelled_rows: int = 0
    trainable_rows: int = 0
    trained_rows: int = 0
    importance: Mapping[str, float] = field(default_factory=dict)
    tried: frozenset[str] = frozenset()
    waits: str | None = None
    acknowledged: tuple[Acknowledged, ...] = ()

    @property
    def last(self) -> int | None:
        """The window after which the last round ran."""
        return max((window for window, _ in self.rounds), default=None)

    @property
    def grown(self) -> float:
        """How many times as many labelled rows there are as at the last round; 1 where that is not known."""
        return self.trainable_rows / self.trained_rows if self.trained_rows else 1.0


@dataclass(frozen=True)
class Heard:
    """Findings without the alarms of which a person said that they are expected."""

    findings: tuple[Finding, ...]
    quieted: tuple[str, ...]

    @classmethod
    def of(cls, window: int, findings: Sequence[Finding], state: State) -> Heard:
        """Leave out what is expected, and name who says so of what holds for the window that closed."""
        heard: list[Finding] = []
        quieted: dict[str, None] = {}
        for finding in findings:
            spoke = [a for a in state.acknowledged if a.quiets(finding) != frozenset()]
            if not finding.answer.alarms or not spoke:
                heard.append(finding)
                continue
            for one in (a for a in spoke if a.until >= window):
                quieted[f"{one.monitor}: acknowledged by {one.who} as expected ({one.expected})"] = None
            names = {*finding.alarms}
            left = names.difference(*(a.quiets(finding) or names for a in spoke))
            if left:
                heard.append(only(finding, left))
        return cls(tuple(heard), tuple(quieted))


def only(finding: Finding, alarms: Collection[str]) -> Finding:
    """Return a finding with some of its alarms, and as rare by chance as these are where that is known.

    Examples
    --------
    >>> both = Finding("m", 1, "moved", scores={"a.p": 1e-6, "b.p": 0.01}, alarms=("a", "b"), p=2e-6)
    >>> only(both, {"b"}).p
    0.02
    """
    kept = tuple(a for a in finding.alarms if a in alarms)
    p_values = {a: finding.scores.get(f"{a}.p", 0.0) for a in finding.alarms}
    rarest = min(p_values.values(), default=0.0)
    if kept == finding.alarms or finding.p is None or not kept:
        return dataclasses.replace(finding, alarms=kept)
    least = min(p_values[a] for a in kept)
    p = finding.p * (least / rarest) if rarest > 0 else max(finding.p, least)
    return dataclasses.replace(finding, alarms=kept, p=min(1.0, p))


def weight_of(finding: Finding, importance: Mapping[str, float]) -> float:
    """Return the share of the champion's answers that hangs on what alarmed; 1 where that is not known."""
    if not importance or not finding.alarms:
        return 1.0
    columns: set[str] = set()
    for statistic in finding.alarms:
        about = {c for part in statistic.split(" ~ ") for c in _columns(part, importance)}
        if not about:
            return 1.0
        columns |= about
    return sum(importance[c] for c in columns)


def _columns(part: str, known: Collection[str]) -> list[str]:
    """Return the columns that a statistic is about, which may carry a segment: ``price [region=north]``.

    Examples
    --------
    >>> _columns("heat [C].missing [site=a]", ["heat [C]", "heat"]), _columns("heat [site=a]", ["heat [C]", "heat"])
    (['heat [C]'], ['heat'])
    """
    for name in (part, part.rpartition(" [")[0], part.partition(" [")[0]):
        if about := [c for c in known if name == c or name.startswith(f"{c}.")]:
            return about
    return []


def windows_in(words: str, per_year: float) -> float:
    """Return how many windows a length of time is, such as ``30d`` or ``8 windows``.

    Examples
    --------
    >>> windows_in("8 windows", 52.18), round(windows_in("30d", 52.18), 2)
    (8.0, 4.29)
    """
    count, unit = re.fullmatch(r"(\d+)\s*(d|windows?)", words).groups()  # type: ignore[union-attr]
    return float(count) * (per_year / DAYS_PER_YEAR if unit == "d" else 1.0)
