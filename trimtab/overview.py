"""Many projects in one table: of each what its journal tells, and nothing that a server would have to be asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.database import is_there
from trimtab.errors import TrimtabError
from trimtab.files import duration
from trimtab.history import PROPOSED, Round, WindowRecord
from trimtab.journal import Journal
from trimtab.settings import Project
from trimtab.state import State
from trimtab.status import state, waiting
from trimtab.trigger import Action

__all__ = ["overview"]

AT_ONCE = 4
NANOSECONDS = 10**9


def overview(projects: Mapping[Path, Project]) -> Iterator[dict[str, Any]]:
    """Yield a row for each project, in order; a journal that does not answer is told in its row.

    Yields
    ------
    dict
        ``project``, ``file``, ``state``, ``champion``, ``window`` (its number), ``decision`` and ``at`` of the newest
        window, ``open`` and ``proposed`` (operations of rounds), ``overdue`` (seconds since a window should have been
        looked at; None where it is not, or no instant is known), ``rounds`` and ``minutes`` of the month with
        ``most_rounds`` and ``most_minutes``, and ``error``.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(_row, projects.items())


def _row(item: tuple[Path, Project]) -> dict[str, Any]:
    file, project = item
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"project": project.name, "file": str(file), "state": "new"}
    if not is_there(project.journal_url):
        return row
    try:
        journal = Journal(project.journal_url, project.name)
        try:
            return row | _told(project, journal)
        finally:
            journal.engine.dispose()
    except TrimtabError as error:
        return row | {"state": "unknown", "error": str(error)}


COLUMNS = (
    *("project", "file", "state", "champion", "window", "decision", "at", "open", "proposed", "overdue"),
    *("rounds", "minutes", "most_rounds", "most_minutes", "error"),
)


def _told(project: Project, journal: Journal) -> dict[str, Any]:
    if project.name not in journal.projects():
        return {}
    rounds = [r for r in journal.rounds() if r.cause != "first"]
    windows, promotions = journal.windows(), journal.promotions()
    proposed = next((r for r in reversed(rounds) if r.outcome == PROPOSED), None)
    newest = windows[-1] if windows else None
    taken = _taken(project, rounds, newest)
    return {
        "state": state(rounds, bool(promotions), proposed is not None or _person_needed(journal, newest)),
        "champion": promotions[-1].version if promotions else None,
        "window": None if newest is None else newest.number,
        "decision": None if newest is None or newest.action is None else newest.action.value,
        "at": None if newest is None else newest.at,
        "open": next((r.operation for r in rounds if r.open), None),
        "proposed": None if proposed is None else proposed.operation,
        "overdue": _overdue(project, journal, newest),
        "rounds": len(taken),
        "minutes": sum(taken),
        "most_rounds": project.trigger.budget.rounds,
        "most_minutes": project.trigger.budget.minutes,
    }


def _person_needed(journal: Journal, newest: WindowRecord | None) -> bool:
    return newest is not None and newest.action is Action.QUARANTINE and waiting(journal) is not None


def _taken(project: Project, rounds: list[Round], newest: WindowRecord | None) -> list[float]:
    """Return the minutes of each round of the month that the next window would end."""
    following = newest.number + 1 if newest is not None else 1
    ran = tuple((r.window, (r.seconds or 0.0) / 60) for r in rounds)
    return project.trigger.budget.taken(following, State(rounds=ran, per_year=project.windows_per_year))


def _overdue(project: Project, journal: Journal, newest: WindowRecord | None) -> float | None:
    """Return the seconds since the schedule should have looked at the next window; None where it is not due."""
    every, start = project.window.every, journal.fixed()[1]
    if not isinstance(every, str) or start is None:
        return None
    following = newest.number + 1 if newest is not None else 1
    closed = start / NANOSECONDS + following * duration(every) / NANOSECONDS
    due = project.timetable.after(datetime.fromtimestamp(closed, UTC)).timestamp()
    late = time.time() - due
    return late if late > 0 else None
