"""The flow that looks at windows."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from trimtab import loop
from trimtab.history import Round
from trimtab.loop import Report
from trimtab.parts import Parts
from trimtab_prefect import tell
from trimtab_prefect.carry import carrying, open_parts
from trimtab_prefect.optimize import optimized

__all__ = ["watch"]


@flow(name="watch", persist_result=False)
def watch(
    config: str,
    overrides: list[str] | None = None,
    replay: bool = False,
    rounds: Literal["here", "elsewhere"] = "here",
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
        and that nobody runs is run here in any case: its event was lost.

    Raises
    ------
    TrimtabError
        As :func:`trimtab.loop.watch` does.
    """
    parts = open_parts(config, overrides or ())

    found_open = {r.operation for r in parts.journal.rounds() if r.open}

    def run_round(parts: Parts, asked: Round) -> Round:
        tell.drift(parts, tell.found_at(parts, asked.window))
        tell.round_requested(parts, asked)
        if rounds == "elsewhere" and asked.operation not in found_open:
            return asked
        with carrying(parts):
            return optimized(config, overrides or [], asked.cause, asked.operation)

    reports = []
    for report in loop.watch(parts, replay=replay, optimize=run_round):
        tell.window_closed(parts, report)
        reports.append(report)
    return reports
