"""The flow of one round."""

from __future__ import annotations

from prefect import flow

from trimtab import round
from trimtab.errors import InputError
from trimtab.history import Round
from trimtab.parts import Parts
from trimtab_prefect import tell
from trimtab_prefect.carry import open_parts

__all__ = ["optimize", "optimized"]


@flow(name="optimize", persist_result=False)
def optimize(
    config: str, overrides: list[str] | None = None, reason: str = "manual", operation: str | None = None
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

    Raises
    ------
    TrimtabError
        As :func:`trimtab.round.optimize` does; InputError for an unknown operation.
    """
    if operation is not None and operation.startswith(tell.DOCTOR):
        return None
    parts = open_parts(config, overrides or ())
    asked = round.request_by_hand(parts, reason) if operation is None else _asked(parts, operation)
    try:
        return round.optimize(parts, asked)
    finally:
        tell.round_closed(parts, asked.operation)


def optimized(config: str, overrides: list[str], reason: str, operation: str | None = None) -> Round:
    """Run the flow for a round, and return the round; parameters as the flow's."""
    done = optimize(config, overrides, reason, operation)
    if done is None:
        raise InputError(f"operation={operation!r} is no round, but a question whether an event starts this flow")
    return done


def _asked(parts: Parts, operation: str) -> Round:
    rounds = parts.journal.rounds()
    found = next((r for r in rounds if r.operation == operation), None)
    if found is None:
        still_open = ", ".join(r.operation for r in rounds if r.state != "closed") or "none"
        raise InputError(
            f"operation={operation!r}: the journal of {parts.project.name} has no such round; open rounds: {still_open}"
        )
    return found
