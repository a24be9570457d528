"""What is read of one project at one scrape, as plain values: what its journal tells, and its registry's aliases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trimtab.files import duration
from trimtab.history import Labelled, Promotion, Quality, Round, WindowRecord
from trimtab.journal import Journal
from trimtab.monitor import Finding
from trimtab.settings import Project
from trimtab.state import State
from trimtab.status import waiting

__all__ = ["Reading", "Told", "read"]

NANOSECONDS = 10**9


@dataclass(frozen=True)
class Told:
    """What a journal told.

    Parameters
    ----------
    start
        Where window 1 begins (nanoseconds since 1970, or a row number); None before the first window.
    windows, labels, qualities, rounds, promotions
        As the journal has them; promotions of every target.
    found
        What was found in the newest window.
    quarantined
        Numbers of the windows in quarantine.
    errors
        Number of errors that it keeps.
    waiting
        Whether a person is asked for.
    """

    start: int | None = None
    windows: tuple[WindowRecord, ...] = ()
    found: tuple[Finding, ...] = ()
    quarantined: Collection[int] = frozenset()
    labels: Mapping[int, Labelled] | None = None
    qualities: tuple[Quality, ...] = ()
    rounds: tuple[Round, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    errors: int = 0
    waiting: bool = False

    @property
    def newest(self) -> WindowRecord | None:
        """The newest window that was checked."""
        return self.windows[-1] if self.windows else None

    @property
    def asked(self) -> list[Round]:
        """Rounds after the first champion's."""
        return [r for r in self.rounds if r.cause != "first"]

    @property
    def champions(self) -> dict[str, Promotion]:
        """The newest change of each target's champion, by the alias."""
        return {p.alias: p for p in self.promotions}


@dataclass(frozen=True)
class Reading:
    """What was read of one project.

    Parameters
    ----------
    project
        Its settings.
    told
        What the journal told; None where it could not be read.
    aliases
        The version that each alias of a champion names in the registry; None where it did not answer.
    """

    project: Project
    told: Told | None = None
    aliases: Mapping[str, int] | None = None

    @property
    def period(self) -> float | None:
        """Length of a window in seconds; None where windows are counted by rows."""
        every = self.project.window.every
        return duration(every) / NANOSECONDS if isinstance(every, str) else None

    def due(self, told: Told) -> float | None:
        """Return when the next window closes (seconds since 1970), and can be checked; None where that is not known."""
        if self.period is None or told.start is None:
            return None
        following = told.newest.number + 1 if told.newest is not None else 1
        return told.start / NANOSECONDS + following * self.period

    def causes(self, told: Told) -> frozenset[str]:
        """Return what asked for a round in the newest window, whether or not one was allowed to start.

        What was said of a champion that was replaced since is settled.
        """
        newest, champion = told.newest, told.champions.get("champion")
        if newest is None or champion is None or champion.version != newest.champion:
            return frozenset()
        requested = (r.cause for r in told.asked if r.window == newest.number)
        return frozenset({*newest.weighed.get("causes", ()), *requested})

    def overdue(self, told: Told) -> int | None:
        """Count the windows whose labels should have come, of which there is none, and which still wait for them."""
        window, newest = self.project.window, told.newest
        if self.project.source.label is None or newest is None:
            return None
        due = newest.number - window.label_delay
        have = told.labels or {}
        return sum(
            due - window.label_patience <= w.number <= due
            and w.rows > 0
            and w.number not in told.quarantined
            and not (w.number in have and have[w.number].rows)
            for w in told.windows
        )

    def taken(self, told: Told) -> list[float]:
        """Return the minutes of each round of the month that the next window would end."""
        following = told.newest.number + 1 if told.newest is not None else 1
        rounds = tuple((r.window, (r.seconds or 0.0) / 60) for r in told.asked)
        state = State(rounds=rounds, per_year=self.project.windows_per_year)
        return self.project.trigger.budget.taken(following, state)


def read(journal: Journal) -> Told:
    """Read what the metrics need from one journal.

    Raises
    ------
    ServiceError
        When the journal cannot be read.
    """
    windows = tuple(journal.windows())
    newest = windows[-1].number if windows else 0
    found = journal.findings(after=newest - 1)  # what is found in a window is found when it closes, or later
    return Told(
        start=journal.fixed()[1] if journal.project in journal.projects() else None,
        windows=windows,
        found=tuple(f for _, f in found if windows and f.window == newest),
        quarantined=journal.quarantined(),
        labels=journal.labels(),
        qualities=tuple(journal.qualities()),
        rounds=tuple(journal.rounds()),
        promotions=tuple(journal.promotions(None)),
        errors=len(journal.records("error")),
        waiting=waiting(journal) is not None,
    )
