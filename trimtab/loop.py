"""The whole loop in plain Python: window after window, look, decide, and run the rounds that were decided."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from trimtab import approval, champion, first, page, rollout, round
from trimtab.decide import decide
from trimtab.errors import InputError
from trimtab.history import Round, WindowRecord
from trimtab.journal import now
from trimtab.labels import judge_labels
from trimtab.look import look
from trimtab.monitor import Finding
from trimtab.pace import keeps_pace
from trimtab.parts import Parts
from trimtab.round import optimize
from trimtab.runtime import CHAMPION
from trimtab.serving import Serving
from trimtab.trigger import Action, Decision
from trimtab.window import Window

__all__ = ["Report", "watch"]

Optimize = Callable[[Parts, Round], Round]


@dataclass(frozen=True)
class Report:
    """What happened when one window closed.

    Parameters
    ----------
    window
        Its number; one more than the last where only late labels were looked at.
    decision
        What was decided; None at the end of the stream.
    findings
        What was found, also about earlier windows whose labels came.
    round
        The round that was run, or whose winner's shadow ended; None where there was neither.
    problems
        What somebody has to mend: broken rows, monitors that raised.
    """

    window: int
    decision: Decision | None
    findings: tuple[Finding, ...] = ()
    round: Round | None = None
    problems: tuple[str, ...] = field(default=())


def watch(parts: Parts, *, replay: bool = False, optimize: Optimize = optimize) -> Iterator[Report]:
    """Look at every window that has closed and was not looked at, in order, and act.

    A generator: each window is checked, decided and recorded when the next report is asked for. Cut
    off anywhere and started again it goes on where it was. One process of a project watches at a time;
    another that begins meanwhile ends at once.

    Parameters
    ----------
    replay
        Take the source for a whole stream: every window in it has closed, and after the last one all
        labels are there. Otherwise windows close by the clock.
    optimize
        Runs a requested round; a flow passes its own around the same function.

    Raises
    ------
    TrimtabError
        When the first rows, a server or a stored file is not as it must be; the champion is unchanged.
    """
    with parts.journal.watching() as held:
        if held is None:
            parts.progress.say(f"another process looks at the windows of {parts.project.name}; nothing was done here")
            return
        yield from _watch(parts, replay, optimize, held)


def _watch(parts: Parts, replay: bool, optimize: Optimize, held: Callable[[], bool]) -> Iterator[Report]:
    if champion.reconcile(parts) is None or any(r.cause == "first" for r in _open_rounds(parts)):
        first.begin(parts)
    seen = max((w.number for w in parts.journal.windows()), default=0)
    # the round of a window that was not recorded is asked for again, and run, when that window is looked at
    for open_round in (r for r in _open_rounds(parts) if r.window <= seen):
        done, failed = _run(parts, open_round, optimize)
        yield Report(open_round.window, None, (), done, failed)
    champion.reconcile(parts)
    if any(r.window <= seen for r in _open_rounds(parts)):
        return  # another process holds it; what is decided next depends on how it ends
    if seen and (ended := rollout.end_shadow(parts, seen)) is not None:  # a process died before it did
        yield Report(seen, None, (), ended)
    last = parts.source.last(parts.start)
    closed = list(range(seen + 1, last + 1)) if replay else _caught_up(parts, _closed_by_now(parts, seen, last))
    with parts.progress.stage("windows", len(closed)) as advance:
        for number in closed:
            if not held():
                return  # this process slept, and another goes on
            report = _look(parts, number, optimize)
            advance(f"window {number}: {report.decision.action if report.decision else ''}")
            yield report
            if report.round is not None and report.round.open:
                return  # it runs elsewhere
    if replay:
        end = last + parts.project.window.label_delay
        problems, findings = judge_labels(parts, champion.load(parts, _newest(parts)), end)
        unwritten = page.write_alarming(parts, end, findings, None)
        gone = rollout.probe(parts, end)
        ended = rollout.end_shadow(parts, end)
        yield Report(last + 1, None, tuple(findings), ended, (*problems, *unwritten, *gone.values()))


def _open_rounds(parts: Parts) -> list[Round]:
    return [r for r in parts.journal.rounds() if r.state != "closed"]


def _closed_by_now(parts: Parts, seen: int, last: int) -> list[int]:
    """Return the windows that closed since: by the clock, also those without a row (a source that fell silent)."""
    if parts.source.closes(1, parts.start) is None:
        return list(range(seen + 1, last))
    number = seen + 1
    while (closes := parts.source.closes(number, parts.start)) is not None and closes <= time.time():
        number += 1
    return list(range(seen + 1, number))


def _caught_up(parts: Parts, closed: list[int]) -> list[int]:
    """Return which of the closed windows are looked at, and write down which are left out."""
    if parts.project.schedule.catch_up == "all" or len(closed) < 2:
        return closed
    *left_out, newest = closed
    detail = {"from": left_out[0], "to": left_out[-1], "setting": "schedule.catch_up: latest"}
    parts.journal.record("left out", detail, f"left out:{left_out[0]}:{left_out[-1]}")
    return [newest]


def _newest(parts: Parts) -> int:
    return parts.journal.promotions()[-1].version


def _look(parts: Parts, number: int, optimize: Optimize) -> Report:
    begin = time.perf_counter()
    serving = champion.load(parts, _newest(parts))
    window = parts.window(number)
    looked = parts.executor.call(f"check window {number}", look, parts, serving, window)
    parts.journal.record_findings(looked.findings, serving.version, number)
    paced = parts.executor.call(f"time the champion after window {number}", keeps_pace, parts, serving, number)
    parts.journal.record_findings(paced, serving.version, number)
    late_problems, late = judge_labels(parts, serving, number)
    approval.expire(parts, number)
    gone = rollout.probe(parts, number)
    decision = decide(parts, serving, number)
    if gone and decision.action is not Action.QUARANTINE:
        decision = _told_of(gone, decision)
    asked = None
    if decision.action is Action.OPTIMIZE:
        asked = round.request(parts, number, decision.cause or "", decision.reasons)
    elif decision.action is Action.QUARANTINE:
        quarantine = {"window": number, "reasons": list(decision.reasons), "asks": decision.asks}
        parts.journal.record("quarantine", quarantine, f"quarantine:{number}")
    findings, seconds = (*looked.findings, *paced, *late), time.perf_counter() - begin
    record = _record(window, looked.rows, serving, decision, seconds)
    unwritten = page.write_alarming(parts, number, findings, record)
    parts.journal.record_window(
        number, window.start, window.end, looked.rows, serving.version, decision, time.perf_counter() - begin
    )
    done, failed = _run(parts, asked, optimize) if asked is not None else (rollout.end_shadow(parts, number), ())
    asks = decision.reasons[:1] if decision.asks else ()
    problems = (*asks, *looked.problems, *late_problems, *unwritten, *failed)
    return Report(number, decision, findings, done, problems)


def _told_of(gone: Mapping[str, str], decision: Decision) -> Decision:
    """Return a decision that tells of champions that were rolled back, by the alias of their target.

    Where the first target's was, no round starts: what was found is about what serves no more.
    """
    reasons = (*gone.values(), *decision.reasons)
    if CHAMPION in gone or decision.action is Action.IGNORE:
        return Decision(decision.window, Action.ALERT, reasons, None, decision.weighed)
    return dataclasses.replace(decision, reasons=reasons)


def _record(window: Window, rows: int, serving: Serving, decision: Decision, seconds: float) -> WindowRecord:
    """Return what the journal will tell of a window, for the page that is written before it does."""
    bounds, told = (window.number, window.start, window.end), (decision.action, decision.reasons, decision.weighed)
    return WindowRecord(*bounds, rows, serving.version, False, *told, seconds, now())


def _run(parts: Parts, asked: Round, optimize: Optimize) -> tuple[Round, tuple[str, ...]]:
    """Run a round; one that fails for what it was given is told, and the windows after it are still looked at."""
    try:
        return optimize(parts, asked), ()
    except InputError as error:
        failed = next(r for r in parts.journal.rounds() if r.operation == asked.operation)
        return failed, (f"the round asked for after window {asked.window} failed: {error}",)
