"""The trigger: findings over time become a decision, by a pure function."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import comb
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trimtab.monitor import Answer, Finding
from trimtab.state import Heard, State, only, weight_of, windows_in

__all__ = ["Action", "Budget", "Decision", "Trigger"]

MONTHS_PER_YEAR = 12


class Action(StrEnum):
    """What is done about a window."""

    IGNORE = "ignore"
    ALERT = "alert"
    QUARANTINE = "quarantine"
    OPTIMIZE = "optimize"


@dataclass(frozen=True)
class Decision:
    """What is done after a window closed, and why.

    Parameters
    ----------
    window
        The window that closed.
    action
        One of :class:`Action`.
    reasons
        In words and numbers, from the findings.
    cause
        What starts a round, in the words of ``trigger.on``: ``worse``, ``slower``, ``moved``, ``grown``,
        ``rows`` or ``every``; ``estimated`` where it is not known but estimated that the champion is worse; None where
        none starts.
    weighed
        What the decision was made from beside the findings, as JSON values.
    asks
        Whether it takes a person to go on: the same was broken in window after window.
    """

    window: int
    action: Action
    reasons: tuple[str, ...] = ()
    cause: str | None = None
    weighed: Mapping[str, Any] = field(default_factory=dict)
    asks: bool = False


def _confirm(value: object) -> object:
    match = re.fullmatch(r"(\d+)\s+of\s+(\d+)", str(value).strip()) if isinstance(value, str) else None
    if match is None:
        return value
    m, k = int(match.group(1)), int(match.group(2))
    if not 1 <= m <= k:
        raise ValueError(f"{value!r} must be 'm of k' with 1 <= m <= k")
    return m, k


def _windows(value: object) -> object:
    match = re.fullmatch(r"(\d+)\s+windows?", str(value).strip())
    return int(match.group(1)) if match else value


CAUSE = re.compile(r"worse|moved|slower|grown (?!1(\.0*)?x)[1-9]\d*(\.\d+)?x|rows [1-9]\d*|every [1-9]\d*(d| windows?)")


def _cause(value: object) -> object:
    words = " ".join(str(value).split())
    if CAUSE.fullmatch(words) is None:
        raise ValueError(
            f"{value!r} is no cause of a round; there are worse, moved, slower, grown 4x (more than 1x), rows 10000, "
            "every 30d, every 8 windows"
        )
    return words


class Budget(BaseModel):
    """What rounds may take in any month.

    Parameters
    ----------
    rounds
        Most of them.
    minutes
        Most minutes that they take together, after which no other starts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)

    def spent(self, window: int, state: State) -> str | None:
        """Say what is spent of it, where nothing is left; else None."""
        taken = self.taken(window, state)
        if self.rounds is not None and len(taken) >= self.rounds:
            return f"{len(taken)} of {self.rounds} rounds of the month (setting trigger.budget.rounds)"
        if self.minutes is not None and sum(taken) >= self.minutes:
            return f"{sum(taken):.0f} of {self.minutes:g} minutes of the month (setting trigger.budget.minutes)"
        return None

    def taken(self, window: int, state: State) -> list[float]:
        """Return the minutes of each round of the month that ends with ``window``."""
        month = state.per_year / MONTHS_PER_YEAR
        return [minutes for ran, minutes in state.rounds if window - ran < month]


class Trigger(BaseModel):
    """Decides what is done about findings.

    Parameters
    ----------
    on
        What starts a round. ``worse``: labels say that the champion got worse; at once. ``moved``: the
        data moved in what matters; when confirmed, and by windows alone whose labels have not said that all
        is well (where ``worse`` is named too). ``grown 4x``: the labelled rows that a round would be made on
        (by ``data.train``) are at least four times those of the last round, or of the first champion: what was
        trained on few rows can be bettered though it got no worse. ``slower``: the champion takes longer
        than when it was promoted. ``rows 10000``: so many rows were labelled since the last round.
        ``every 30d`` (or ``every 8 windows``): so long after the last one.
    confirm
        ``m of k``: ``moved``, and ``worse`` where it is an estimate without labels, count when m of the
        last k windows say so.
    importance
        Least share of what the champion answers that hangs on the columns that moved (0 to 1), for
        ``moved`` to start a round. What says how columns belong together counts as all of it.
    false_rounds
        Rounds without a cause that are put up with, per year; half for ``worse``, half for ``moved``.
    cooldown
        Windows after that of a round in which no other round starts.
    budget
        Rounds and minutes of any month.
    ask_after
        Windows in a row that are quarantined for the same column until a person is asked: what comes again
        and again is no accident, and without sound windows the model is not watched.
    alerts
        Names of alerts that may start a round, where Alertmanager tells ``trimtab hook`` of them; one with the
        label ``trimtab_round: "true"`` may, too.

    Examples
    --------
    >>> moved = Finding("drift", 5, Answer.MOVED, ("column a moved",))
    >>> Trigger().decide(5, [moved]).action.value
    'alert'
    >>> worse = Finding("performance", 5, Answer.WORSE, ("accuracy 0.60, was 0.98",))
    >>> Trigger().decide(6, [moved, worse]).action.value
    'optimize'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: tuple[Annotated[str, BeforeValidator(_cause)], ...] = ("worse", "moved", "grown 4x")
    confirm: Annotated[tuple[int, int], BeforeValidator(_confirm)] = (2, 3)
    importance: float = Field(default=0.05, ge=0, le=1)
    false_rounds: float = Field(default=1.0, gt=0)
    cooldown: Annotated[int, BeforeValidator(_windows), Field(ge=0)] = 1
    budget: Budget = Budget()
    ask_after: Annotated[int, BeforeValidator(_windows), Field(ge=1)] = 3
    alerts: tuple[str, ...] = ("TrimtabModelWorse",)

    def decide(self, window: int, findings: Iterable[Finding], state: State | None = None) -> Decision:
        """Decide what is done now that ``window`` has closed.

        Parameters
        ----------
        window
            The window that closed.
        findings
            Everything found under the current champion that has not yet led to a round, about this
            window and earlier ones (labels come late); of a quarantined window only what is broken, of a
            released one all but that.
        state
            What else counts.
        """
        state = state or State()
        found = list(findings)
        broken = [f for f in found if f.answer is Answer.BROKEN and f.window == window]
        if broken:
            again = _again(found, window, self.ask_after)
            return Decision(window, Action.QUARANTINE, (*again, *_reasons(broken)), asks=bool(again))
        heard = Heard.of(window, found, state)
        causes, waiting, weighed = self._causes(window, heard, state)
        reasons = tuple(r for _, told in causes for r in told)
        if causes and (held := self.held(window, state)):
            return Decision(window, Action.ALERT, (held, *reasons), None, weighed)
        if causes:
            return Decision(window, Action.OPTIMIZE, reasons, causes[0][0], weighed)
        if waiting:
            return Decision(window, Action.ALERT, waiting, None, weighed)
        return Decision(window, Action.IGNORE, heard.quieted if any(heard.quieted) else (), None, weighed)

    def _causes(
        self, window: int, heard: Heard, state: State
    ) -> tuple[list[tuple[str, tuple[str, ...]]], tuple[str, ...], dict[str, Any]]:
        """Return what starts a round with its reasons, what only alerts, and what was weighed."""
        worse = _standing(heard.findings, estimated=False)
        recent = [f for f in heard.findings if f.window > window - self.confirm[1]]
        level = self.level(state.per_year) / max(1, state.monitors)
        estimated = [f for f in _standing(heard.findings, estimated=True) if f in recent]
        guessed = self._confirmed([f for f in estimated if f.p is None or f.p <= level])
        moved = [f for f in recent if f.answer is Answer.MOVED]
        slower = [f for f in recent if f.answer is Answer.SLOWER and f.window == window]
        well = _well(recent) if "worse" in self.on else set()
        certain = [f for f in moved if f.window not in well and (f.p is None or f.p <= level)]
        news = [only(f, {*f.alarms} - state.tried) for f in certain if not f.alarms or not {*f.alarms} <= state.tried]
        news = [f for f in news if f.p is None or f.p <= level]
        weights = [weight_of(f, state.importance) for f in news]
        weight = max(weights, default=0.0)
        counted = self._confirmed([f for f, w in zip(news, weights, strict=True) if w >= self.importance])
        spoken = [
            ("worse", "worse", worse),
            ("worse", "estimated", guessed),
            ("slower", "slower", slower),
            ("moved", "moved", counted),
        ]
        causes = [(cause, _reasons(told)) for named, cause, told in spoken if named in self.on and told]
        causes += self._due(window, state)
        weighed: dict[str, Any] = {"level": level, "importance": weight, "per_year": state.per_year}
        weighed |= {"last_round": state.last, "causes": [cause for cause, _ in causes]}
        weighed |= {"trainable_rows": state.trainable_rows}
        alarmed = [f for f in heard.findings if f.answer is Answer.WORSE or f in moved or f in slower]
        now = [f for f in alarmed if f.window == window or f in worse]
        if not now:
            return causes, (), weighed
        waits = self._waits([f for f in moved if f.window not in well], certain, news, weight, level) if moved else ()
        return causes, (*_reasons(now), *waits, *heard.quieted), weighed

    def _confirmed(self, findings: Sequence[Finding]) -> list[Finding]:
        """Return findings where windows enough say so; else none."""
        return [*findings] if len({f.window for f in findings}) >= self.confirm[0] else []

    def _waits(
        self, moved: Sequence[Finding], certain: Sequence[Finding], news: Sequence[Finding], weight: float, level: float
    ) -> tuple[str, ...]:
        """Say why what moved starts no round."""
        if not moved:
            return ("no round: its labels say that all is well",)
        if not certain:
            allowed = f"trigger.false_rounds allows {self.false_rounds:g} rounds without cause a year"
            return (f"no round: p is above {level:.1e}, and {allowed}",)
        if not news:
            return ("no round: one was run for it, and nothing better was found",)
        if weight < self.importance:
            least = f"trigger.importance is {self.importance:g}"
            return (f"no round: {weight:.3f} of the champion's answers hang on it, and {least}",)
        return ("waiting for labels, or for the drift to be confirmed",)

    def _due(self, window: int, state: State) -> list[tuple[str, tuple[str, ...]]]:
        """Return the causes that only count."""
        found: list[tuple[str, tuple[str, ...]]] = []
        for cause in self.on:
            kind, _, words = cause.partition(" ")
            since = window - (state.last or 0)
            if kind == "rows" and state.labelled_rows >= int(words):
                found.append((kind, (f"{state.labelled_rows} rows were labelled since the last round ({cause})",)))
            elif kind == "grown" and state.grown >= float(words.removesuffix("x")):
                now, before = state.trainable_rows, state.trained_rows
                found.append(
                    (kind, (f"there are {now} labelled rows to train on, {before} at the last round ({cause})",))
                )
            elif kind == "every" and since >= windows_in(words, state.per_year):
                found.append((kind, (f"{since} windows since the last round ({cause})",)))
        return found

    def held(self, window: int, state: State) -> str | None:
        """Say why no round may start after a window, or None."""
        if state.waits is not None:
            return f"no round: {state.waits}"
        if state.last is not None and window - state.last <= self.cooldown:
            return f"cooling down: the last round ran after window {state.last}, cooldown {self.cooldown}"
        if spent := self.budget.spent(window, state):
            return f"no round: spent are {spent}"
        return None

    def level(self, per_year: float) -> float:
        """Return the p-value that ``moved``, or ``worse`` without labels, needs in each window for a round.

        Where several monitors may say so, each has its part of it.

        With it, m of k quiet windows in a row say so by chance in half of ``false_rounds`` per year: at
        the end of each window there are as many ways to reach m as choices of m - 1 among the k - 1 before.

        Examples
        --------
        >>> round(Trigger().level(52), 3), round(Trigger().level(8766), 4)
        (0.069, 0.0053)
        """
        m, k = self.confirm
        return float(min(1.0, (self.false_rounds / 2 / per_year / comb(k - 1, m - 1)) ** (1 / m)))


def _again(findings: Sequence[Finding], window: int, windows: int) -> tuple[str, ...]:
    """Ask for a person where the same was at fault in each of the last windows."""
    subjects: dict[int, set[str]] = {}
    for f in (f for f in findings if f.answer is Answer.BROKEN):
        subjects.setdefault(f.window, set()).update(f.about or (f.monitor,))
    newest = [subjects.get(number, set()) for number in range(window - windows + 1, window + 1)]
    same = sorted(set.intersection(*newest))
    if not same:
        return ()
    return (
        f"a person is needed: {', '.join(map(repr, same))} broken in {windows} windows in a row, up to {window}; mend "
        "the source, release what is right (trimtab release CONFIG WINDOW), or begin a new project on the new rows",
    )


def _standing(findings: Sequence[Finding], estimated: bool) -> list[Finding]:
    """Return what was found worse, however late its labels came, unless a later window was found fine again.

    What labels say of a window is believed before an estimate of it.
    """
    fine = {f.monitor: f.window for f in sorted(findings, key=lambda f: f.window) if f.answer is Answer.FINE}
    told = {f.window for f in findings if f.labelled and f.answer in (Answer.FINE, Answer.WORSE)}
    return [
        f
        for f in findings
        if f.answer is Answer.WORSE
        and f.estimated == estimated
        and f.window > fine.get(f.monitor, -1)
        and not (estimated and f.window in told)
    ]


def _well(findings: Sequence[Finding]) -> set[int]:
    """Return the windows of which labels say that all is well."""
    told = [f for f in findings if f.labelled]
    return {f.window for f in told if f.answer is Answer.FINE} - {f.window for f in told if f.answer is Answer.WORSE}


def _reasons(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(f"window {f.window}: {reason}" for f in findings for reason in (f.reasons or (f.answer.value,)))
