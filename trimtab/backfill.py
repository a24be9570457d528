"""Windows of the past are looked at: those that were left out after an outage, and those in quarantine, once mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trimtab import champion
from trimtab.errors import InputError, SettingsError
from trimtab.journal import Journal
from trimtab.labels import judge_labels
from trimtab.look import Looked, look
from trimtab.monitor import Answer, Finding
from trimtab.parts import Parts
from trimtab.stretch import Stretch
from trimtab.trigger import Action, Decision

__all__ = ["Backfilled", "backfill"]


@dataclass(frozen=True)
class Backfilled:
    """What came of one window.

    Parameters
    ----------
    window
        Its number.
    did
        ``looked at`` (it had been left out), ``mended`` (it is out of quarantine), ``still broken``, ``known`` (it was
        looked at before and is sound, or a person released it), or ``labels judged``.
    findings
        What was found, also in its labels.
    problems
        What somebody has to mend.
    """

    window: int
    did: str
    findings: tuple[Finding, ...] = ()
    problems: tuple[str, ...] = ()


def backfill(parts: Parts, begin: str | None, end: str | None, who: str) -> Iterator[Backfilled]:
    """Look at windows of a range that were left out or are quarantined, in order, and then judge their labels.

    Each is looked at with the champion that served then, beside what was known of the windows before it. What is
    found is recorded as of then, and no round is asked for: the next watch decides about the present. Done again,
    nothing is left to do.

    Parameters
    ----------
    begin, end
        First and last window, as :meth:`trimtab.stretch.Stretch.of` reads them; None: the first one, and the newest
        that was looked at.
    who
        For the record.

    Raises
    ------
    InputError
        When there is no champion yet, or another process looks at windows.
    SettingsError
        When there are no such windows, or they were not reached yet.
    """
    with parts.journal.watching() as held:
        if held is None:
            name = parts.project.name
            raise InputError(
                f"another process looks at the windows of {name} at this moment; try again when it is done"
            )
        yield from _backfill(parts, begin, end, who)


def _backfill(parts: Parts, begin: str | None, end: str | None, who: str) -> Iterator[Backfilled]:
    if champion.reconcile(parts) is None:
        raise InputError("the project has no champion yet; run trimtab watch first")
    numbers = _numbers(parts, begin, end)
    for number in numbers:
        yield _one(parts, number, who)
    if filled := _filled(parts.journal) & {*numbers}:
        newest = parts.journal.windows()[-1].number
        serving = champion.load(parts, parts.journal.promotions()[-1].version)
        problems, findings = judge_labels(parts, serving, newest, filled)
        yield from _labelled(findings, problems)


def _numbers(parts: Parts, begin: str | None, end: str | None) -> range:
    seen = max((w.number for w in parts.journal.windows()), default=0)
    stretch = Stretch.of(parts.source, parts.start, begin, end)
    if stretch.first > seen or (end is not None and stretch.last > seen):
        raise SettingsError(
            f"windows {stretch.first} to {stretch.last}: only those up to {seen} were reached yet, and trimtab watch "
            "looks at later ones when they have closed; name an earlier one with --from and --to"
        )
    return range(stretch.first, min(stretch.last, seen) + 1)


def _one(parts: Parts, number: int, who: str) -> Backfilled:
    known = number in {w.number for w in parts.journal.windows()}
    if known and number not in parts.journal.quarantined():
        return Backfilled(number, "known")
    serving = champion.load(parts, _served(parts.journal, number))
    window = parts.window(number)
    looked = parts.executor.call(f"check window {number} of the past", look, parts, serving, window)
    parts.journal.record_findings(looked.findings, serving.version, number)
    broken = any(f.answer is Answer.BROKEN for f in looked.findings)
    if not known:
        decision = _decision(number, looked, who)
        if broken:
            why = {"window": number, "reasons": list(decision.reasons), "asks": False}
            parts.journal.record("quarantine", why, f"quarantine:{number}")
        bounds = (window.start, window.end, looked.rows, serving.version)
        parts.journal.record_window(number, *bounds, decision, 0.0)
    elif not broken:
        parts.journal.release(number, who, "its rows were mended: looked at again, they are sound")
    did = "looked at" if not known and not broken else "still broken" if broken else "mended"
    parts.journal.record(
        "backfill", {"window": number, "who": who, "did": did}, None if broken else f"backfill:{number}"
    )
    return Backfilled(number, did, tuple(looked.findings), tuple(looked.problems))


def _filled(journal: Journal) -> set[int]:
    """Return the windows that were filled in, now or before: their labels may still be to be judged."""
    told = (detail for _, _, detail in journal.records("backfill"))
    return {detail["window"] for detail in told if detail["did"] != "still broken"}


def _served(journal: Journal, number: int) -> int:
    """Return the version that served when a window closed: no round came between it and the next one looked at."""
    later = (w.champion for w in journal.windows() if w.number >= number and w.champion is not None)
    return next(later, journal.promotions()[-1].version)


def _decision(number: int, looked: Looked, who: str) -> Decision:
    """Return what is written of a window of the past: what was found, and that nothing was started."""
    alarming = [f for f in looked.findings if f.answer.alarms or f.answer is Answer.BROKEN]
    found = [f"window {number}: {reason}" for f in alarming for reason in (f.reasons or (f.answer.value,))]
    broken = any(f.answer is Answer.BROKEN for f in alarming)
    action = Action.QUARANTINE if broken else Action.ALERT if alarming else Action.IGNORE
    return Decision(number, action, (*found, f"no round: looked at later, as {who} asked for"))


def _labelled(findings: list[Finding], problems: list[str]) -> Iterator[Backfilled]:
    """Yield what labels said, by window; the windows after the filled ones are judged again in order."""
    for number in sorted({f.window for f in findings}):
        yield Backfilled(number, "labels judged", tuple(f for f in findings if f.window == number))
    if problems:
        yield Backfilled(max((f.window for f in findings), default=0), "labels judged", (), tuple(problems))
