"""Looking at a window: every monitor is asked, what it raises is told, and labels are judged when they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab import champion
from trimtab.data import Rows
from trimtab.errors import ArtifactError, DataError, ReadError, ServiceError, SettingsError
from trimtab.history import Quality
from trimtab.metric import answer, score
from trimtab.monitor import Answer, Case, Finding, Monitor, Sample, Summary
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.survey import Survey, survey
from trimtab.window import Window, arrived

__all__ = ["Looked", "judge_labels", "look"]


@dataclass(frozen=True)
class Looked:
    """What a look at a window gave.

    Parameters
    ----------
    rows
        How many it has.
    problems
        What somebody has to mend: broken rows, monitors that raised.
    findings
        One a monitor that was asked.
    """

    rows: int
    problems: list[str]
    findings: list[Finding]


def look(parts: Parts, serving: Serving, window: Window) -> Looked:
    """Ask every monitor that needs no labels; those that guard first, and only them on broken rows."""
    guards = [m for m in parts.monitors if m.guards]
    raw = _survey(parts, serving, window, guards)
    sample = Sample(serving.schema, raw.frame, window.number)
    problems, findings = _ask(parts, guards, serving, sample, raw)
    if any(f.answer is Answer.BROKEN for f in findings):
        return Looked(raw.rows, [*problems, *(r for f in findings for r in f.reasons)], findings)
    others = [m for m in parts.monitors if not m.guards and not m.needs_labels]
    try:
        unseen = _survey(parts, serving, window, others, fitted=False)
        sample = champion.observe(serving.session, serving.schema, unseen.frame, window.number)
    except ReadError:
        raise
    except DataError as error:
        broken = Finding("integrity", window.number, Answer.BROKEN, (str(error),))
        return Looked(raw.rows, [*problems, str(error)], [*findings, broken])
    more_problems, more = _ask(parts, others, serving, sample, unseen)
    return Looked(raw.rows, [*problems, *more_problems], [*findings, *more])


def _survey(parts: Parts, serving: Serving, window: Window, monitors: Sequence[Monitor], fitted: bool = True) -> Survey:
    """Look at every row once; without those that the version was fitted to where ``fitted`` is False."""

    def unseen(batch: pd.DataFrame, first: int) -> npt.NDArray[np.bool_]:
        return champion.unseen(parts, serving, batch, window.span.start + first)

    keep = None if fitted or not len(serving.fitted) else unseen
    fits: list[tuple[Monitor, Summary]] = []
    failed: dict[str, Exception] = {}
    for monitor in monitors:
        try:
            fits.append((monitor, _fit(parts, serving, monitor)))
        except (SettingsError, ServiceError):
            raise
        except Exception as error:  # a plugin may raise anything, and the other monitors must still look
            failed[monitor.name] = error
    most = parts.project.monitors.rows
    seen = survey(window.batches(), serving.schema, window.number, fits, most, keep)
    return dataclasses.replace(seen, failed={**seen.failed, **failed})


def _fit(parts: Parts, serving: Serving, monitor: Monitor) -> Summary:
    """Return what a monitor fitted to the version's reference, once."""
    key = (serving.version, monitor.name)
    if key not in parts.fits:
        parts.fits[key] = monitor.fit(serving.reference)
    return parts.fits[key]


def _ask(
    parts: Parts, monitors: Sequence[Monitor], serving: Serving, sample: Sample, seen: Survey
) -> tuple[list[str], list[Finding]]:
    problems: list[str] = []
    findings: list[Finding] = []
    told = [f for _, f in parts.journal.findings(serving.version) if f.window < sample.number]
    for monitor in monitors:
        try:
            if monitor.name in seen.failed:
                raise seen.failed[monitor.name]
            past = {f.window: f for f in told if f.monitor == monitor.name}
            earlier = tuple(past[n] for n in sorted(past))
            fitted, kept = parts.fits[serving.version, monitor.name], seen.seen[monitor.name]
            case = Case(fitted, kept, serving.reference, sample, _alpha(parts), parts.metric, earlier)
            finding = _sound(monitor.check(case))
        except (SettingsError, ServiceError):
            raise
        except Exception as error:  # a plugin may raise anything, and the other monitors must still look
            message = f"monitor {monitor.name!r} raised {type(error).__name__} on window {sample.number}: {error}"
            parts.journal.record("error", {"monitor": monitor.name, "window": sample.number, "message": message})
            problems.append(message)
            findings.append(Finding(monitor.name, sample.number, Answer.UNKNOWN, (message,)))
            continue
        findings.append(finding)
        if finding.answer in (Answer.MOVED, Answer.WORSE):
            problems += _explain(parts, monitor, serving, case)
    return problems, findings


def _sound(finding: Any) -> Finding:
    if not isinstance(finding, Finding) or not isinstance(finding.answer, Answer):
        raise TypeError(f"check must give a Finding whose answer is an Answer, it gave {finding!r:.200}")
    return finding


def _alpha(parts: Parts) -> float:
    """Return one statistical monitor's share of the window's false alarms (Bonferroni over monitors)."""
    return parts.project.monitors.false_alarms / max(1, sum(m.statistical for m in parts.monitors))


def _explain(parts: Parts, monitor: Monitor, serving: Serving, case: Case) -> list[str]:
    number = case.current.number
    path = parts.folder / "reports" / f"window-{number}-{monitor.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        drawn = monitor.report(case, path)
    except Exception as error:  # as above; a finding counts without its page
        message = f"monitor {monitor.name!r} raised {type(error).__name__} in its report on window {number}: {error}"
        parts.journal.record("error", {"monitor": monitor.name, "window": number, "message": message})
        return [message]
    if drawn:
        page = {"window": number, "monitor": monitor.name, "path": str(path), "version": serving.version}
        parts.journal.record("report", page, f"report:{number}:{monitor.name}:{serving.version}")
    return []


def judge_labels(parts: Parts, serving: Serving, closed: int) -> tuple[list[str], list[Finding]]:
    """Judge windows whose labels have come by the time window ``closed`` closes; what has none yet waits."""
    problems: list[str] = []
    findings: list[Finding] = []
    delay, quarantined, recorded = (
        parts.project.window.label_delay,
        parts.journal.quarantined(),
        parts.journal.windows(),
    )
    due = {w.number: w.champion for w in recorded if not w.labelled and w.number <= closed - delay}
    if not delay and closed not in {w.number for w in recorded}:
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
    return any(label in batch and bool(batch[label].notna().any()) for batch in window.batches())


def _broken_since(parts: Parts, serving: Serving, window: Window) -> list[Finding]:
    """Let the guards look again at rows whose labels came late: they had not seen those."""
    guards = [m for m in parts.monitors if m.guards]
    raw = _survey(parts, serving, window, guards)
    _, findings = _ask(parts, guards, serving, Sample(serving.schema, raw.frame, window.number), raw)
    broken = [f for f in findings if f.answer is Answer.BROKEN]
    try:
        for batch in window.batches():
            serving.schema.encode(batch)
            serving.schema.encode_labels(batch)
    except ReadError:
        raise
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
    judges = [m for m in parts.monitors if m.needs_labels]
    unseen = _survey(parts, serving, window, judges, fitted=False)
    sample = champion.observe(serving.session, serving.schema, unseen.frame, window.number)
    problems, findings = _ask(parts, judges, serving, sample, unseen)
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
