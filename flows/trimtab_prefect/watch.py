"""The flow that looks at windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect import flow

from trimtab import loop
from trimtab.history import Round
from trimtab.loop import Report
from trimtab.parts import Parts
from trimtab_prefect import tell
from trimtab_prefect.carry import carries, carrying, open_parts
from trimtab_prefect.optimize import optimized
from trimtab_prefect.patience import PAUSES, patiently

__all__ = ["watch"]

Where = Literal["here", "elsewhere"]
ARRIVES = timedelta(minutes=2)
"""In which an event has started its flow run, also on a busy machine: a new process took 20 seconds to begin there."""


@flow(name="watch", persist_result=False)
def watch(
    config: str,
    overrides: list[str] | None = None,
    replay: bool = False,
    rounds: Where = "here",
) -> list[Report]:
    """Look at every window that has closed and was not looked at, and act.

    Parameters
    ----------
    config
        Path of the project file.
    overrides
        ``key.key=value`` each.
    replay
        Take the source for a whole stream: every window in it has closed.
    rounds
        Where a round that a window starts is run: ``here``, in this flow run, or ``elsewhere``, by the deployment
        that the event ``trimtab.round.requested`` starts; later windows wait for it. A round that is found open
        and that nobody runs, though it was requested more than :data:`ARRIVES` ago, is run here in any case: its
        event was lost.

    Raises
    ------
    TrimtabError
        As :func:`trimtab.loop.watch` does.
    """
    reports: list[Report] = []
    pauses = () if carries() else PAUSES
    patiently(lambda: reports.extend(_watch(config, overrides or [], replay, rounds)), pauses)
    return reports


def _watch(config: str, overrides: list[str], replay: bool, rounds: Where) -> Iterator[Report]:
    parts = open_parts(config, overrides)
    found_open = {r.operation for r in parts.journal.rounds() if r.open}

    def run_round(parts: Parts, asked: Round) -> Round:
        tell.drift(parts, tell.found_at(parts.journal, asked.window))
        tell.round_requested(parts.journal, asked)
        runs = asked.operation not in found_open or parts.journal.leased(asked.operation)
        if rounds == "elsewhere" and (runs or _age(asked) < ARRIVES):
            return asked
        with carrying(parts):
            return optimized(config, overrides, asked.cause, asked.operation)

    known = _settled(parts, _outcomes(parts) | tell.outcomes(parts.journal))  # a person may have said so elsewhere
    for report in loop.watch(parts, replay=replay, optimize=run_round):
        tell.window_closed(parts, report)
        known = _settled(parts, known)
        yield report


def _age(asked: Round) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(asked.requested)


def _settled(parts: Parts, known: Mapping[str, str | None]) -> dict[str, str | None]:
    """Tell of rounds that became something else than is known: what waited was settled, or what served rolled back."""
    outcomes = _outcomes(parts)
    for operation in (o for o, outcome in known.items() if outcomes.get(o, outcome) != outcome):
        tell.round_closed(parts, operation)
    return outcomes


def _outcomes(parts: Parts) -> dict[str, str | None]:
    """Return what became of every closed round, by its operation."""
    return {r.operation: r.outcome for r in parts.journal.rounds() if not r.open}
