"""A monitor's own full report on a window, where it has one and somebody asks for it: the rows are read again."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from trimtab import champion
from trimtab.errors import InputError
from trimtab.monitor import Case
from trimtab.parts import Parts
from trimtab.reference import reference_of
from trimtab.segments import BySegment
from trimtab.sight import seen_by_champion
from trimtab.survey import survey

__all__ = ["Reports", "write_full"]


@runtime_checkable
class Reports(Protocol):
    """A monitor that has a report of its own."""

    def full_report(self, case: Case, path: Path) -> None:
        """Write it (HTML)."""
        ...


def write_full(parts: Parts, number: int, folder: Path) -> list[Path]:
    """Write the full report of each monitor that has one, on a draw of the rows, and return where.

    Raises
    ------
    InputError
        When the window was not looked at.
    DataError
        When its rows cannot be read.
    """
    version = next((w.champion for w in parts.journal.windows() if w.number == number), None)
    if version is None:
        raise InputError(f"window {number} was not looked at, so there is nothing to report; run: trimtab watch")
    serving, window = champion.load(parts, version), parts.window(number)
    seen = survey(window.partitions, serving.schema, number, (), parts.project.monitors.rows)
    sample, reference = seen_by_champion(parts, serving, window, seen), reference_of(parts, serving, number)
    written = []
    for monitor in (m.monitor if isinstance(m, BySegment) else m for m in parts.monitors):
        if isinstance(monitor, Reports):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"window-{number}-{monitor.name}.html"
            monitor.full_report(Case({}, {}, reference, sample, parts.project.monitors.false_alarms), path)
            written.append(path)
    return written
