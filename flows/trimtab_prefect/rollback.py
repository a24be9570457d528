"""The flow that makes a champion's predecessor champion again."""

from __future__ import annotations

from prefect import flow

from trimtab import champion
from trimtab_prefect.carry import open_parts

__all__ = ["rollback"]


@flow(name="rollback", persist_result=False)
def rollback(
    config: str, overrides: list[str] | None = None, reason: str = "asked for", target: str | None = None
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

    Raises
    ------
    TrimtabError
        As :func:`trimtab.champion.rollback` does.
    """
    parts = open_parts(config, overrides or ())
    champion.reconcile(parts)
    operation = f"{parts.project.name}:rollback:{champion.newest_epoch(parts)}"
    champion.rollback(parts, operation, reason, parts.project.alias_of(target))
