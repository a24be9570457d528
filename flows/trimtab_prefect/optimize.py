"""The flow of one round."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from trimtab import round
from trimtab.errors import InputError
from trimtab.history import Round
from trimtab.journal import Journal
from trimtab_prefect import tell
from trimtab_prefect.carry import by_run, carries, open_journal, open_parts
from trimtab_prefect.patience import PAUSES, patiently

__all__ = ["optimize", "optimized"]


@flow(name="optimize", persist_result=False)
def optimize(
    config: str,
    overrides: list[str] | None = None,
    reason: str = "manual",
    operation: str | None = None,
    who: str | None = None,
) -> Round | None:
    """Run a round that was requested, or that a person asks for.

    Parameters
    ----------
    config
        Path of the project file.
    overrides
        ``key.key=value`` each.
    reason
        Why, for the record, where a person asks.
    operation
        Operation id of a round that the journal has as requested (the event ``trimtab.round.requested``
        carries it); ``reason`` is then not looked at. One that begins with ``doctor:`` is no round: it
        asks whether an event starts this flow, and that is answered.
    who
        Asks for it, for the record; None: the flow run is named.

    Raises
    ------
    TrimtabError
        As :func:`trimtab.round.optimize` does; InputError for an unknown operation.
    """
    if operation is not None and operation.startswith(tell.DOCTOR):
        return None
    pauses = () if carries() else PAUSES
    return patiently(lambda: _optimize(config, overrides or (), reason, operation, who), pauses)


def _optimize(config: str, overrides: Sequence[str], reason: str, operation: str | None, who: str | None) -> Round:
    told = None if operation is None else _asked(open_journal(config, overrides), operation)
    if told is not None and not told.open:
        return told  # its event came more than once
    parts = open_parts(config, overrides)
    asked = told or round.request_by_hand(parts, reason, who or by_run())
    try:
        return round.optimize(parts, asked)
    finally:
        tell.round_closed(parts, asked.operation)


def optimized(
    config: str, overrides: list[str], reason: str, operation: str | None = None, who: str | None = None
) -> Round:
    """Run the flow for a round, and return the round; parameters as the flow's."""
    done = optimize(config, overrides, reason, operation, who)
    if done is None:
        raise InputError(f"operation={operation!r} is no round, but a question whether an event starts this flow")
    return done


def _asked(journal: Journal, operation: str) -> Round:
    rounds = journal.rounds()
    found = next((r for r in rounds if r.operation == operation), None)
    if found is None:
        still_open = ", ".join(r.operation for r in rounds if r.state != "closed") or "none"
        raise InputError(
            f"operation={operation!r}: the journal of {journal.project} has no such round; open rounds: {still_open}"
        )
    return found
