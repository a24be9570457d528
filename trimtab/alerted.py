"""An alert from outside asks for a round: whether it may start one, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from trimtab.database import is_there
from trimtab.history import Round
from trimtab.journal import Journal
from trimtab.settings import Project
from trimtab.state import State

__all__ = ["CAUSE", "HOOK", "LABEL", "Alert", "Reply", "answer"]

CAUSE = "alert"
"""Cause of a round that an alert asked for, where the newest window found none."""
HOOK = "hook"
"""Who asks for it, as the journal keeps it."""
LABEL = "trimtab_round"
"""Label of an alert that may start a round; its value is ``true`` then."""


@dataclass(frozen=True)
class Alert:
    """One alert, as Alertmanager tells of it.

    Parameters
    ----------
    name
        The label ``alertname``.
    project
        The label ``project``.
    fingerprint
        Of its labels.
    started
        When it began to fire: with the fingerprint it says which alert it is, however often it is sent.
    firing
        Whether it still does.
    asks
        Whether it has the label that lets it start a round.
    summary
        For people.
    """

    name: str
    project: str
    fingerprint: str
    started: datetime
    firing: bool = True
    asks: bool = False
    summary: str = ""

    @property
    def operation(self) -> str:
        """Operation id of the round that it asks for.

        Examples
        --------
        >>> Alert("Worse", "p", "c0ffee", datetime(2026, 1, 5, 12, tzinfo=UTC)).operation
        'p:round:alert:c0ffee:20260105T120000.000000Z'
        """
        instant = self.started.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return f"{self.project}:round:alert:{self.fingerprint}:{instant}"


@dataclass(frozen=True)
class Reply:
    """What was done about an alert.

    Parameters
    ----------
    did
        ``requested``: a round was. ``known``: the same alert asked for one before. ``held``: no round may start now;
        sent again it may. ``ignored``: it does not ask for one.
    why
        In words.
    round
        That is or was asked for, or that holds it.
    """

    did: str
    why: str
    round: Round | None = None


def answer(project: Project, alert: Alert) -> Reply:
    """Write the round that an alert asks for into the journal, unless something speaks against it.

    What holds a round of the loop's own holds this one: cool-down, budget, and a proposal that waits for a
    person. The same alert asks for one round, however often it is sent.

    Raises
    ------
    ServiceError
        When the journal cannot be read or written.
    """
    if not alert.firing:
        return Reply("ignored", "it is resolved")
    if not alert.asks and alert.name not in project.trigger.alerts:
        able = ", ".join(project.trigger.alerts) or "none"
        return Reply("ignored", f"it starts no round: trigger.alerts names {able}, and it has no {LABEL}: 'true'")
    if not is_there(project.journal_url):
        return _without_champion(project)
    journal = Journal(project.journal_url, project.name)
    try:
        return _asked(project, journal, alert)
    finally:
        journal.engine.dispose()


def _without_champion(project: Project) -> Reply:
    return Reply("held", f"{project.name} has no champion yet: the first trimtab watch makes one")


def _asked(project: Project, journal: Journal, alert: Alert) -> Reply:
    rounds = journal.rounds()
    before = next((r for r in rounds if r.operation == alert.operation), None)
    if before is not None:
        return _known(before)
    if not journal.promotions():
        return _without_champion(project)
    newest = max((w.number for w in journal.windows()), default=0)
    if held := project.trigger.held(newest, _state(project, journal, rounds)):
        return Reply("held", held)
    reason = f"alert {alert.name}{f': {alert.summary}' if alert.summary else ''}"
    cause = _cause(journal, newest)
    asked = journal.request_round(alert.operation, newest, cause, (reason,), HOOK, alone=True)
    if asked.operation != alert.operation:
        return Reply("held", f"no round: {asked.operation} is open", asked)
    return Reply("requested", f"a round was requested ({cause})", asked)


def _known(before: Round) -> Reply:
    became = f"which is {before.outcome}" if before.outcome is not None else f"which is {before.state}"
    return Reply("known", f"the same alert asked for a round before, {became}", before)


def _state(project: Project, journal: Journal, rounds: list[Round]) -> State:
    """Return what may hold a round back; an open one is told of apart."""
    ran = [r for r in rounds if r.cause != "first" and not r.open]
    waiting = journal.waiting()
    return State(
        rounds=tuple((r.window, (r.seconds or 0.0) / 60) for r in ran),
        per_year=project.windows_per_year,
        waits=None if waiting is None else waiting.waits,
    )


def _cause(journal: Journal, newest: int) -> str:
    """Return what the newest window found to ask for a round, of the champion that serves: the round is for that."""
    champion = journal.promotions()[-1].version
    weighed = next((w.weighed for w in journal.windows() if w.number == newest and w.champion == champion), {})
    return next(iter(weighed.get("causes", ())), CAUSE)
