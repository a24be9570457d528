"""Looking at a window: every monitor is asked, and what it raises is told."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import champion
from trimtab.errors import DataError, ReadError, ServiceError, SettingsError, TrimtabError
from trimtab.monitor import Answer, Case, Finding, Monitor, Sample, Summary
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.summaries import REFERENCE, Summaries
from trimtab.survey import Survey, survey
from trimtab.window import Window

__all__ = ["Looked", "ask", "look", "seen_by_champion", "survey_of", "without_labels"]


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
    """Ask every monitor that needs no labels; those that guard first.

    Of broken rows the others are shown what can be read, so that one bad column hides nothing of the rest.
    """
    guards = [m for m in parts.monitors if m.guards]
    raw = survey_of(parts, serving, window, guards)
    problems, findings = ask(parts, guards, serving, Sample(serving.schema, raw.frame, window.number), raw)
    broken = [f for f in findings if f.answer is Answer.BROKEN]
    unseen, sample, why = _shown(parts, serving, window, bool(broken))
    if why is not None and not broken:
        broken = [Finding("integrity", window.number, Answer.BROKEN, (why,))]
        findings = [*findings, *broken]
    more_problems, more = ask(parts, without_labels(parts), serving, sample, unseen)
    reasons = [r for f in broken for r in f.reasons]
    return Looked(raw.rows, [*problems, *reasons, *more_problems], [*findings, *more])


def without_labels(parts: Parts) -> list[Monitor]:
    """Return the monitors that neither guard nor need labels."""
    return [m for m in parts.monitors if not m.guards and not m.needs_labels]


def _shown(parts: Parts, serving: Serving, window: Window, broken: bool) -> tuple[Survey, Sample, str | None]:
    """Return what the other monitors see of a window, and why the model cannot read its rows, if it cannot."""
    schema, number, others = serving.schema, window.number, without_labels(parts)
    try:
        unseen = survey_of(parts, serving, window, others, fitted=False)
    except Exception as error:  # such as a group column that is missing: then every row is looked at
        why, unseen = _bearable(error, broken), survey_of(parts, serving, window, others)
        return unseen, Sample(schema, unseen.frame, number, schema.readable(unseen.frame)), why
    try:
        return unseen, seen_by_champion(parts, serving, window, unseen), None
    except Exception as error:
        why = _bearable(error, broken)
        return unseen, Sample(schema, unseen.frame, number, schema.readable(unseen.frame)), why


def _bearable(error: Exception, broken: bool) -> str:
    """Return what was wrong with rows; whatever else is wrong is raised again.

    Rows that are known to be broken may make anything raise.
    """
    of_rows = isinstance(error, DataError) and not isinstance(error, ReadError)
    if of_rows or (broken and not isinstance(error, TrimtabError)):
        return str(error)
    raise error


def seen_by_champion(parts: Parts, serving: Serving, window: Window, seen: Survey) -> Sample:
    """Return the drawn rows of a window as monitors see them, with what the champion answers."""
    places, grouped = window.span.start + seen.places, parts.project.data.block or serving.schema.group
    groups = champion.groups_of(parts, serving, seen.frame, places) if grouped else None
    return champion.observe(serving.session, serving.schema, seen.frame, window.number, groups)


def survey_of(
    parts: Parts, serving: Serving, window: Window, monitors: Sequence[Monitor], fitted: bool = True
) -> Survey:
    """Look at every row once; without those that the version was fitted to where ``fitted`` is False."""
    keep = None if fitted or not len(serving.fitted) else champion.unseen(parts, serving, window.span.start)
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
    each = functools.partial(parts.executor.map, f"look at window {window.number}")
    seen = survey(window.partitions, serving.schema, window.number, fits, most, keep, each)
    return dataclasses.replace(seen, failed={**seen.failed, **failed})


def _fit(parts: Parts, serving: Serving, monitor: Monitor) -> Summary:
    """Return what a monitor fitted to the version's reference, once."""
    key = (serving.version, monitor.name)
    if key not in parts.fits:
        parts.fits[key] = monitor.fit(serving.reference)
    return parts.fits[key]


def ask(
    parts: Parts, monitors: Sequence[Monitor], serving: Serving, sample: Sample, seen: Survey, since: int = 0
) -> tuple[list[str], list[Finding]]:
    """Ask monitors about a window; they are shown their findings on earlier ones, beginning with ``since``."""
    problems: list[str] = []
    findings: list[Finding] = []
    told = [f for _, f in parts.journal.findings(serving.version) if since <= f.window < sample.number]
    for monitor in monitors:
        try:
            if monitor.name in seen.failed:
                raise seen.failed[monitor.name]
            past = {f.window: f for f in told if f.monitor == monitor.name}
            earlier = tuple(past[n] for n in sorted(past))
            fitted, kept = parts.fits[serving.version, monitor.name], seen.seen[monitor.name]
            alpha = _alpha(parts, monitor)
            case = Case(fitted, kept, serving.reference, sample, alpha, earlier, parts.metric)
            finding = _sound(monitor.check(case))
            tested = alpha if monitor.statistical else None
            finding = dataclasses.replace(finding, alpha=tested, labelled=monitor.needs_labels)
        except (SettingsError, ServiceError):
            raise
        except Exception as error:  # a plugin may raise anything, and the other monitors must still look
            message = f"monitor {monitor.name!r} raised {type(error).__name__} on window {sample.number}: {error}"
            parts.journal.record("error", {"monitor": monitor.name, "window": sample.number, "message": message})
            problems.append(message)
            findings.append(Finding(monitor.name, sample.number, Answer.UNKNOWN, (message,)))
            continue
        findings.append(finding)
        problems += _keep(parts, monitor, serving, case)
    return problems, findings


def _sound(finding: Any) -> Finding:
    if not isinstance(finding, Finding) or not isinstance(finding.answer, Answer):
        raise TypeError(f"check must give a Finding whose answer is an Answer, it gave {finding!r:.200}")
    return finding


def _alpha(parts: Parts, monitor: Monitor) -> float:
    """Return one statistical monitor's share of a window's false alarms (Bonferroni over monitors).

    What needs labels starts rounds by itself: of these its part follows from ``trigger.false_rounds``, half
    of which are for it. The others share the rest.
    """
    project = parts.project
    alike = sum(m.statistical and m.needs_labels == monitor.needs_labels for m in parts.monitors)
    labelled = min(project.monitors.false_alarms / 2, project.trigger.false_rounds / 2 / project.windows_per_year)
    if not any(m.statistical and m.needs_labels for m in parts.monitors):
        labelled = 0.0
    share = labelled if monitor.needs_labels else project.monitors.false_alarms - labelled
    return share / max(1, alike)


def _keep(parts: Parts, monitor: Monitor, serving: Serving, case: Case) -> list[str]:
    """Store what a monitor keeps of a window, and with it what it fitted to the version's reference."""
    number, kept = case.current.number, Summaries(parts.folder / "sketches")
    try:
        summary = monitor.keep(case)
        if summary:
            if (serving.version, monitor.name) not in parts.stored:
                kept.write(serving.version, REFERENCE, monitor.name, case.fitted)
                parts.stored.add((serving.version, monitor.name))
            kept.write(serving.version, number, monitor.name, summary)
    except Exception as error:  # as above; a finding counts without what is drawn of it
        message = f"monitor {monitor.name!r} raised {type(error).__name__} in keeping window {number}: {error}"
        parts.journal.record("error", {"monitor": monitor.name, "window": number, "message": message})
        return [message]
    return []
