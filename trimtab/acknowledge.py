"""A person says that an alarm is expected: it stays in the journal, and starts no round until a day that they name."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from trimtab.errors import SettingsError, nearest
from trimtab.parts import Parts
from trimtab.state import Acknowledged

__all__ = ["acknowledge", "acknowledged"]

FIELDS = ("monitor", "statistic", "expected", "until", "who")


def acknowledge(parts: Parts, alarm: str, expected: str, until: str, who: str) -> Acknowledged:
    """Record that an alarm is expected.

    Parameters
    ----------
    alarm
        A monitor's name, or ``MONITOR:STATISTIC`` as ``trimtab explain`` writes it; it must have alarmed.
    expected
        Why it is expected.
    until
        The last day (``2026-12-31``, UTC) or the last window (``40``) for which it holds.
    who
        Says so.

    Raises
    ------
    SettingsError
        When nothing like it has alarmed, no reason is given, or ``until`` is neither day nor window.
    """
    if not expected.strip():
        raise SettingsError("--expected is empty: say why the alarm is expected; whoever reads it later must know")
    monitor, _, statistic = alarm.partition(":")
    known = _alarmed(parts)
    if alarm not in known:
        have = f"have alarmed: {', '.join(known)}" if known else "nothing has alarmed"
        raise SettingsError(f"no alarm {alarm!r}; {have}.{nearest(alarm, known)}")
    said = Acknowledged(monitor, statistic or None, expected, _window(parts, until), who)
    detail = {name: getattr(said, name) for name in FIELDS} | {"written": until}
    parts.journal.record("ack", detail, f"ack:{alarm}:{said.until}:{expected}")
    return said


def acknowledged(parts: Parts) -> list[Acknowledged]:
    """Return every alarm of which a person said that it is expected, oldest first."""
    return [Acknowledged(**{name: said[name] for name in FIELDS}) for _, _, said in parts.journal.records("ack")]


def _alarmed(parts: Parts) -> list[str]:
    """Return everything that has alarmed, in the words in which it is acknowledged."""
    found: dict[str, None] = {}
    for _, finding in parts.journal.findings():
        if finding.answer.alarms:
            found |= dict.fromkeys([finding.monitor, *(f"{finding.monitor}:{name}" for name in finding.alarms)])
    return [*found]


def _window(parts: Parts, until: str) -> int:
    """Return the last window that a day, or a window's number in words, names."""
    if match := re.fullmatch(r"(?:window )?(\d+)", until.strip()):
        return int(match[1])
    try:
        day = datetime.fromisoformat(until.strip()).replace(tzinfo=UTC)
    except ValueError as error:
        raise SettingsError(f"--until {until!r} is neither a day, such as 2026-12-31, nor a window's number") from error
    first, second = (parts.source.closes(n, parts.start) for n in (1, 2))
    if first is None or second is None:
        raise SettingsError(
            f"--until {until!r} is a day, but windows of {parts.project.window.every} rows carry no time; "
            "name the last window's number"
        )
    ends = (day + timedelta(days=1)).timestamp()
    return max(0, math.ceil((ends - first) / (second - first)) + 1)
