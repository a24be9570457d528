"""The flow that makes a champion's predecessor champion again."""

from __future__ import annotations

from prefect import flow

from trimtab import champion
from trimtab_prefect.carry import by_run, open_parts

__all__ = ["rollback"]


@flow(name="rollback", persist_result=False)
def rollback(
    config: str,
    overrides: list[str] | None = None,
    reason: str = "asked for",
    target: str | None = None,
    who: str | None = None,
) -> None:
    """Make the champion's predecessor champion again; it is loaded and checked before the alias moves.

    Parameters
    ----------
    config
        Path of the project file.
    overrides
        ``key.key=value`` each.
    reason
        Why, for the record.
    target
        Name of a target; None: the first one.
    who
        Asks for it, for the record; None: the flow run is named.

    Raises
    ------
    TrimtabError
        As :func:`trimtab.champion.rollback` does.
    """
    parts = open_parts(config, overrides or ())
    champion.reconcile(parts)
    operation = f"{parts.project.name}:rollback:{champion.newest_epoch(parts)}"
    champion.rollback(parts, operation, reason, parts.project.alias_of(target), who or by_run())
