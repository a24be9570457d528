"""The whole loop in plain Python: window after window, look, decide, and run the rounds that were decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab import champion, first, round
from trimtab.data import Rows
from trimtab.errors import ArtifactError, DataError, InputError, ServiceError, SettingsError
from trimtab.history import Quality, Round
from trimtab.metric import answer, score
from trimtab.monitor import Answer, Finding, Monitor, Sample
from trimtab.parts import Parts
from trimtab.round import optimize
from trimtab.serving import Serving
from trimtab.trigger import Action, Decision
from trimtab.window import Window, arrived

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
        The round that was run, or None.
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
    off anywhere and started again it goes on where it was.

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
    last = parts.source.last(parts.start)
    closed = list(range(seen + 1, last + 1)) if replay else _closed_by_now(parts, seen, last)
    with parts.progress.stage("windows", len(closed)) as advance:
        for number in closed:
            report = _look(parts, number, optimize)
            advance(f"window {number}: {report.decision.action if report.decision else ''}")
            yield report
    if replay:
        problems, findings = _judge_labels(parts, champion.load(parts, _newest(parts)), last + _delay(parts))
        yield Report(last + 1, None, tuple(findings), None, tuple(problems))


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


def _newest(parts: Parts) -> int:
    return parts.journal.promotions()[-1].version


def _delay(parts: Parts) -> int:
    return parts.project.window.label_delay


def _look(parts: Parts, number: int, optimize: Optimize) -> Report:
    begin = time.perf_counter()
    serving = champion.load(parts, _newest(parts))
    window = parts.window(number)
    problems, findings = parts.executor.call(f"check window {number}", _check, parts, serving, window)
    parts.journal.record_findings(findings, serving.version, number)
    late_problems, late = _judge_labels(parts, serving, number)
    decision = _decide(parts, serving, number)
    asked = None
    if decision.action is Action.OPTIMIZE:
        asked = round.request(parts, number, decision.cause or "", decision.reasons)
    elif decision.action is Action.QUARANTINE:
        quarantine = {"window": number, "reasons": list(decision.reasons)}
        parts.journal.record("quarantine", quarantine, f"quarantine:{number}")
    parts.journal.record_window(
        number, window.start, window.end, len(window.frame), serving.version, decision, time.perf_counter() - begin
    )
    done, failed = _run(parts, asked, optimize) if asked is not None else (None, ())
    return Report(number, decision, (*findings, *late), done, (*problems, *late_problems, *failed))


def _run(parts: Parts, asked: Round, optimize: Optimize) -> tuple[Round, tuple[str, ...]]:
    """Run a round; one that fails for what it was given is told, and the windows after it are still looked at."""
    try:
        return optimize(parts, asked), ()
    except InputError as error:
        failed = next(r for r in parts.journal.rounds() if r.operation == asked.operation)
        return failed, (f"the round asked for after window {asked.window} failed: {error}",)


def _decide(parts: Parts, serving: Serving, number: int) -> Decision:
    rounds = [r for r in parts.journal.rounds() if r.cause != "first" and r.window < number]
    last_round = max((r.window for r in rounds), default=None)
    findings = parts.journal.findings(serving.version, after=-1 if last_round is None else last_round)
    return parts.project.trigger.decide(number, [f for _, f in findings], last_round)


def _check(parts: Parts, serving: Serving, window: Window) -> tuple[list[str], list[Finding]]:
    """Run every monitor that needs no labels; those that guard first, and only them on broken rows."""
    raw = Sample(serving.schema, window.frame, window.number)
    guards = [m for m in parts.monitors if m.guards]
    problems, findings = _ask(parts, guards, serving, raw)
    if any(f.answer is Answer.BROKEN for f in findings):
        return [*problems, *(r for f in findings for r in f.reasons)], findings
    others = [m for m in parts.monitors if not m.guards and not m.needs_labels]
    try:
        frame = champion.unseen(parts, serving, window)
        sample = champion.observe(serving.session, serving.schema, frame, window.number)
    except DataError as error:
        return [*problems, str(error)], [*findings, Finding("integrity", window.number, Answer.BROKEN, (str(error),))]
    more_problems, more = _ask(parts, others, serving, sample)
    return [*problems, *more_problems], [*findings, *more]


def _ask(
    parts: Parts, monitors: Sequence[Monitor], serving: Serving, sample: Sample
) -> tuple[list[str], list[Finding]]:
    problems: list[str] = []
    findings: list[Finding] = []
    for monitor in monitors:
        try:
            finding = _sound(monitor.check(serving.reference, sample, _alpha(parts)))
        except (SettingsError, ServiceError):
            raise
        except Exception as error:  # a plugin may raise anything, and the other monitors must still look
            message = f"monitor {monitor.name!r} raised {type(error).__name__} on window {sample.number}: {error}"
            parts.journal.record("error", {"monitor": monitor.name, "window": sample.number, "message": message})
            problems.append(message)
            finding = Finding(monitor.name, sample.number, Answer.UNKNOWN, (message,))
        findings.append(finding)
        if finding.answer in (Answer.MOVED, Answer.WORSE):
            problems += _explain(parts, monitor, serving, sample)
    return problems, findings


def _sound(finding: Any) -> Finding:
    if not isinstance(finding, Finding) or not isinstance(finding.answer, Answer):
        raise TypeError(f"check must give a Finding whose answer is an Answer, it gave {finding!r:.200}")
    return finding


def _alpha(parts: Parts) -> float:
    """Return one statistical monitor's share of the window's false alarms (Bonferroni over monitors)."""
    return parts.project.monitors.false_alarms / max(1, sum(m.statistical for m in parts.monitors))


def _explain(parts: Parts, monitor: Monitor, serving: Serving, sample: Sample) -> list[str]:
    path = parts.folder / "reports" / f"window-{sample.number}-{monitor.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        drawn = monitor.report(serving.reference, sample, path)
    except Exception as error:  # as above; a finding counts without its page
        message = (
            f"monitor {monitor.name!r} raised {type(error).__name__} in its report on window {sample.number}: {error}"
        )
        parts.journal.record("error", {"monitor": monitor.name, "window": sample.number, "message": message})
        return [message]
    if drawn:
        page = {"window": sample.number, "monitor": monitor.name, "path": str(path), "version": serving.version}
        parts.journal.record("report", page, f"report:{sample.number}:{monitor.name}:{serving.version}")
    return []


def _judge_labels(parts: Parts, serving: Serving, closed: int) -> tuple[list[str], list[Finding]]:
    """Judge windows whose labels have come by the time window ``closed`` closes; what has none yet waits."""
    problems: list[str] = []
    findings: list[Finding] = []
    quarantined = parts.journal.quarantined()
    recorded = parts.journal.windows()
    due = {w.number: w.champion for w in recorded if not w.labelled and w.number <= closed - _delay(parts)}
    if not _delay(parts) and closed not in {w.number for w in recorded}:
        due[closed] = serving.version
    for number, served in due.items():
        window = parts.window(number)
        if number in quarantined or not _has_labels(serving, window):
            continue
        broken = _broken_since(parts, serving, window) if number in {w.number for w in recorded} else []
        if broken:
            _quarantine(parts, serving, number, broken)
            more_problems, more = [f"window {number}: {r}" for f in broken for r in f.reasons], broken
        else:
            more_problems, more = _judge(parts, serving, window, served, closed)
        problems, findings = [*problems, *more_problems], [*findings, *more]
    return problems, findings


def _has_labels(serving: Serving, window: Window) -> bool:
    label = serving.schema.label
    return label in window.frame and bool(window.frame[label].notna().any())


def _broken_since(parts: Parts, serving: Serving, window: Window) -> list[Finding]:
    """Let the guards look again at rows whose labels came late: they had not seen those."""
    raw = Sample(serving.schema, window.frame, window.number)
    _, findings = _ask(parts, [m for m in parts.monitors if m.guards], serving, raw)
    broken = [f for f in findings if f.answer is Answer.BROKEN]
    try:
        serving.schema.encode(window.frame)
        serving.schema.encode_labels(window.frame)
    except DataError as error:
        return broken or [Finding("integrity", window.number, Answer.BROKEN, (str(error),))]
    return broken


def _quarantine(parts: Parts, serving: Serving, number: int, broken: Sequence[Finding]) -> None:
    reasons = [f"window {number}: {r}" for f in broken for r in f.reasons]
    parts.journal.record("quarantine", {"window": number, "reasons": reasons}, f"quarantine:{number}")
    parts.journal.record_findings(broken, serving.version, number)


def _judge(
    parts: Parts, serving: Serving, window: Window, served: int | None, closed: int
) -> tuple[list[str], list[Finding]]:
    frame = champion.unseen(parts, serving, window)
    sample = champion.observe(serving.session, serving.schema, frame, window.number)
    problems, findings = _ask(parts, [m for m in parts.monitors if m.needs_labels], serving, sample)
    _record_quality(parts, window.number, served, serving, sample)
    parts.journal.record_findings(findings, serving.version, closed)
    missing = sample.labels is not None and not arrived(sample.labels).all()
    if not (missing and any(f.answer is Answer.UNKNOWN for f in findings)):
        parts.journal.mark_labelled(window.number)
    return problems, findings


def _record_quality(parts: Parts, number: int, served: int | None, serving: Serving, sample: Sample) -> None:
    """Record the quality of the champion that served, of the present and of the first, on the same rows."""
    if sample.labels is None:
        return
    have = arrived(sample.labels)
    rows = Rows(sample.inputs, sample.labels, np.arange(len(sample), dtype=np.uint64)).take(have)
    for version in {served or serving.version, serving.version, parts.journal.promotions()[0].version}:
        try:
            value = score(parts.metric, answer(champion.load(parts, version).session, rows))
        except ArtifactError as error:  # an old version is for comparison only: the watch goes on without it
            parts.journal.record("error", {"version": version, "message": str(error)}, f"lost:{version}")
            continue
        parts.journal.record_quality(Quality(number, version, value, len(rows)))
