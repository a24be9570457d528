"""The trigger: findings over time become a decision, by a pure function."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trimtab.monitor import Answer, Finding

__all__ = ["Action", "Decision", "Trigger"]


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
        ``worse`` or ``moved`` where a round starts.
    asks
        Whether it takes a person to go on: the same was broken in window after window.
    """

    window: int
    action: Action
    reasons: tuple[str, ...] = ()
    cause: str | None = None
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


class Trigger(BaseModel):
    """Decides what is done about findings.

    Parameters
    ----------
    on
        Answers that start a round: ``worse`` at once, ``moved`` when confirmed.
    confirm
        ``m of k``: ``moved`` counts when m of the last k windows moved.
    cooldown
        Windows after that of a round in which no other round starts.
    ask_after
        Windows in a row that are quarantined for the same column until a person is asked: what comes again
        and again is no accident, and without sound windows the model is not watched.

    Examples
    --------
    >>> moved = Finding("drift", 5, Answer.MOVED, ("column a moved",))
    >>> Trigger().decide(5, [moved], None).action.value
    'alert'
    >>> worse = Finding("performance", 5, Answer.WORSE, ("accuracy 0.60, was 0.98",))
    >>> Trigger().decide(6, [moved, worse], None).action.value
    'optimize'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: tuple[Literal["worse", "moved"], ...] = ("worse", "moved")
    confirm: Annotated[tuple[int, int], BeforeValidator(_confirm)] = (2, 3)
    cooldown: Annotated[int, BeforeValidator(_windows), Field(ge=0)] = 1
    ask_after: Annotated[int, BeforeValidator(_windows), Field(ge=1)] = 3

    def decide(self, window: int, findings: Iterable[Finding], last_round: int | None) -> Decision:
        """Decide what is done now that ``window`` has closed.

        Parameters
        ----------
        window
            The window that closed.
        findings
            Everything found under the current champion that has not yet led to a round, about this
            window and earlier ones (labels come late); of a quarantined window only what is broken, of a
            released one all but that.
        last_round
            The window after which the last round ran, or None.
        """
        found = list(findings)
        broken = [f for f in found if f.answer is Answer.BROKEN and f.window == window]
        if broken:
            again = _again(found, window, self.ask_after)
            return Decision(window, Action.QUARANTINE, (*again, *_reasons(broken)), asks=bool(again))
        worse = _standing(found)
        moved = [f for f in found if f.answer is Answer.MOVED and f.window > window - self.confirm[1]]
        confirmed = len({f.window for f in moved}) >= self.confirm[0]
        causes = [*(worse if "worse" in self.on else []), *(moved if "moved" in self.on and confirmed else [])]
        if causes and last_round is not None and window - last_round <= self.cooldown:
            cooling = f"cooling down: the last round ran after window {last_round}, cooldown {self.cooldown}"
            return Decision(window, Action.ALERT, (cooling, *_reasons(causes)))
        if causes:
            cause = Answer.WORSE if causes[0] in worse else Answer.MOVED
            return Decision(window, Action.OPTIMIZE, _reasons(causes), cause.value)
        now = [f for f in (*worse, *moved) if f.window == window or f in worse]
        if now:
            waits = ("waiting for labels, or for the drift to be confirmed",) if moved else ()
            return Decision(window, Action.ALERT, (*_reasons(now), *waits))
        return Decision(window, Action.IGNORE, ())


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


def _standing(findings: Sequence[Finding]) -> list[Finding]:
    """Return what was found worse, however late its labels came, unless a later window was found fine again."""
    fine = {f.monitor: f.window for f in sorted(findings, key=lambda f: f.window) if f.answer is Answer.FINE}
    return [f for f in findings if f.answer is Answer.WORSE and f.window > fine.get(f.monitor, -1)]


def _reasons(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(f"window {f.window}: {reason}" for f in findings for reason in (f.reasons or (f.answer.value,)))
