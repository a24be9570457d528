"""What there is to tell about a window, gathered for a page that explains it, and the page as a file."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab import discover, importance
from trimtab.errors import InputError, ServiceError, TrimtabError
from trimtab.history import Promotion, Quality, Round, WindowRecord
from trimtab.monitor import Answer, Figure, Finding
from trimtab.parts import Parts
from trimtab.summaries import REFERENCE, Summaries

__all__ = ["Page", "Past", "Shown", "page_of", "write", "write_alarming"]

ALARMING = (Answer.BROKEN, Answer.WORSE, Answer.SLOWER, Answer.MOVED)


@dataclass(frozen=True)
class Shown:
    """One column of a window beside the reference, with what its monitor found.

    Parameters
    ----------
    figure
        How its values lie.
    finding
        That has its scores, under the figure's name.
    importance
        Share of the model's answers that rests on it; None for what the champion itself says, and where it is
        not known.
    since
        The first of the windows in a row, up to this one, in which it alarmed; None where it does not now.
    """

    figure: Figure
    finding: Finding
    importance: float | None
    since: int | None

    @property
    def moved(self) -> bool:
        """Whether its values, or the share of those that are missing, moved."""
        return bool({self.figure.name, f"{self.figure.name}.missing"} & {*self.finding.alarms})

    @property
    def reach(self) -> float:
        """Its effect, in terms of the limit where there is one."""
        effect = self.finding.scores.get(self.figure.name, 0.0)
        return effect / (self.finding.limits.get(self.figure.name) or 1.0)


@dataclass(frozen=True)
class Past:
    """One window as the trigger's history tells it.

    Parameters
    ----------
    record
        When it was, what was decided.
    findings
        What each monitor found in it, by the monitor's name; the last word where labels came late.
    rounds, promotions
        Of rounds that were asked for after it, and champions that changed between it and the next.
    qualities
        Of versions on its labelled rows, by version.
    """

    record: WindowRecord
    findings: Mapping[str, Finding]
    rounds: tuple[Round, ...]
    promotions: tuple[Promotion, ...]
    qualities: Mapping[int, Quality]


@dataclass(frozen=True)
class Page:
    """Everything that a page about one window shows.

    Parameters
    ----------
    project, metric
        Names.
    larger_is_better
        Which way of the metric is up.
    window
        That it is about.
    columns
        The most important to the model first, then by how far they moved.
    history
        Every window up to now, oldest first.
    notes
        What cannot be shown, and why.
    """

    project: str
    metric: str
    larger_is_better: bool
    window: Past
    columns: tuple[Shown, ...]
    history: tuple[Past, ...]
    notes: tuple[str, ...] = ()


def write_alarming(parts: Parts, closed: int, findings: Sequence[Finding], record: WindowRecord | None) -> list[str]:
    """Write a page about each window in which something alarmed, and record where it lies.

    Parameters
    ----------
    closed
        The window at whose close the findings were made.
    findings
        Of it, and of earlier ones whose labels came.
    record
        Of the window that closed, which the journal does not have yet; None where none did.

    Returns
    -------
    list
        What went wrong: a page that explains is never worth a window.
    """
    problems = []
    for number in sorted({f.window for f in findings if f.answer in ALARMING}):
        try:
            path = write(parts, number, parts.folder / "reports" / f"window-{number}.html", record)
        except ServiceError:
            raise
        except Exception as error:  # a monitor of a stranger's may have kept anything
            message = f"the page about window {number} was not written: {type(error).__name__}: {error}"
            parts.journal.record("error", {"window": number, "message": message})
            problems.append(message)
        else:
            told = {"window": number, "closed": closed, "path": str(path.absolute())}
            parts.journal.record("report", told, f"{parts.project.name}:report:{number}:{closed}")
    return problems


def write(parts: Parts, number: int, path: Path, record: WindowRecord | None = None) -> Path:
    """Write the page about a window, whole or not at all, and return its path.

    Raises
    ------
    InputError
        When the window was not looked at.
    """
    render: Any = discover.find("pages", "html")
    text = render(page_of(parts, number, record))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    draft.write_text(text, encoding="utf-8")
    return draft.replace(path)


def page_of(parts: Parts, number: int, record: WindowRecord | None = None) -> Page:
    """Gather what there is to tell about a window, from the journal and from what monitors kept of it.

    Parameters
    ----------
    record
        Of a window that the journal does not have yet.

    Raises
    ------
    InputError
        When the window was not looked at.
    """
    history = _history(parts, record)
    window = next((past for past in history if past.record.number == number), None)
    if window is None:
        seen = [past.record.number for past in history]
        have = f"windows {seen[0]} to {seen[-1]} were" if seen else "none was"
        raise InputError(f"window {number} was not looked at; {have}: name one of these, or watch first")
    notes: list[str] = []
    columns = _columns(parts, window, history, notes)
    return Page(
        parts.project.name, parts.metric.name, parts.metric.larger_is_better, window, columns, history, tuple(notes)
    )


def _history(parts: Parts, record: WindowRecord | None) -> tuple[Past, ...]:
    records = parts.journal.windows()
    if record is not None and all(r.number != record.number for r in records):
        records.append(record)
    findings: dict[int, dict[str, Finding]] = {}
    for _, finding in parts.journal.findings():  # in the order of their making: the last word stays
        findings.setdefault(finding.window, {})[finding.monitor] = finding
    qualities: dict[int, dict[int, Quality]] = {}
    for quality in parts.journal.qualities():
        if quality.told:
            qualities.setdefault(quality.window, {})[quality.version] = quality
    rounds = [r for r in parts.journal.rounds() if r.cause != "first"]
    promotions = [(_after(p, rounds, records), p) for p in parts.journal.promotions() if p.kind != "first"]
    return tuple(
        Past(
            r,
            findings.get(r.number, {}),
            tuple(asked for asked in rounds if asked.window == r.number),
            tuple(p for after, p in promotions if after == r.number),
            qualities.get(r.number, {}),
        )
        for r in records
    )


def _after(promotion: Promotion, rounds: Sequence[Round], records: Sequence[WindowRecord]) -> int:
    """Return the number of the window after which a promotion came; by the clock where no round made it."""
    asked = next((r.window for r in rounds if promotion.operation == r.operation), None)
    if asked is not None:
        return asked
    return max((r.number for r in records if r.at <= promotion.at), default=0)


def _columns(parts: Parts, window: Past, history: Sequence[Past], notes: list[str]) -> tuple[Shown, ...]:
    version = window.record.champion
    if version is None:
        return ()
    drawn = list(_figures(parts, version, window, notes))
    if not drawn:
        notes.append("nothing was kept of this window's columns: no monitor that was asked about it draws any")
        return ()
    try:
        shares = importance.of_version(parts, version)
    except TrimtabError as error:
        shares = {}
        notes.append(f"how important the columns are to version {version} is not known: {error}")
    before = [past for past in reversed(history) if past.record.number <= window.record.number]
    found = (
        Shown(figure, finding, _share(figure.name, shares), _since(figure.name, finding.monitor, before))
        for finding, figure in drawn
    )
    return tuple(sorted(found, key=lambda s: (s.importance is None, -(s.importance or 0.0), -s.reach, s.figure.name)))


def _figures(parts: Parts, version: int, window: Past, notes: list[str]) -> Iterator[tuple[Finding, Figure]]:
    kept, number = Summaries(parts.folder / "sketches"), window.record.number
    for monitor in parts.monitors:
        finding = window.findings.get(monitor.name)
        read = functools.partial(kept.read, version, monitor=monitor.name)
        try:
            fitted, seen = read(window=REFERENCE), read(window=number)
            if finding is not None and fitted is not None and seen is not None:
                yield from ((finding, figure) for figure in monitor.figures(fitted, seen))
        except Exception as error:  # a plugin may raise anything, and the page shows what else there is
            notes.append(f"what monitor {monitor.name!r} kept cannot be drawn: {type(error).__name__}: {error}")


def _share(name: str, shares: Mapping[str, float]) -> float | None:
    """Return the importance of the column that a statistic is of: ``image.mean`` is of ``image``."""
    of = max((column for column in shares if name == column or name.startswith(f"{column}.")), key=len, default=None)
    return None if of is None else shares[of]


def _since(name: str, monitor: str, newest_first: Sequence[Past]) -> int | None:
    """Return the first window of those in a row in which a column alarmed; windows that did not judge it count not."""
    first = None
    for past in newest_first:
        finding = past.findings.get(monitor)
        if finding is None or not {name, f"{name}.missing"} & {*finding.scores}:
            continue
        if not {name, f"{name}.missing"} & {*finding.alarms}:
            break
        first = past.record.number
    return first
