"""Labels that come: windows are judged by them in order, and again when more of them come."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from trimtab import champion
from trimtab.data import Rows, segments_of
from trimtab.errors import ArtifactError, DataError, ReadError
from trimtab.history import Labelled, Quality
from trimtab.look import ask
from trimtab.metric import answer, score
from trimtab.monitor import Answer, Finding, Sample
from trimtab.parts import Parts
from trimtab.serving import Serving
from trimtab.sight import seen_by_champion, survey_of
from trimtab.window import Window, arrived

__all__ = ["judge_labels"]


def judge_labels(
    parts: Parts, serving: Serving, closed: int, filled: Collection[int] = ()
) -> tuple[list[str], list[Finding]]:
    """Judge windows whose labels have come by the time window ``closed`` closes; what has none yet waits.

    Where more labels of a window have come, it is judged again, and so are all after it, in order: what is
    found over several windows is then what would have been found had the labels come at once. Windows that were
    ``filled`` in later are judged however old they are.
    """
    problems: list[str] = []
    findings: list[Finding] = []
    served, released = {w.number: w.champion for w in parts.journal.windows()}, parts.journal.released()
    counts = _more(parts, serving, closed, served, filled)
    for number in _from(parts, serving, counts):
        window = parts.window(number)
        if number in released and (why := _unreadable(parts, serving, window)) is not None:
            problems.append(f"window {number} was released, and its labels are not used: {why}")
            counts.pop(number, None)
            continue
        look = number in served and number not in released
        broken = _broken_since(parts, serving, window, number in counts) if look else []
        if broken:
            _quarantine(parts, serving, number, broken)
            counts.pop(number, None)  # they are judged once a person released them
            more_problems, more = [f"window {number}: {r}" for f in broken for r in f.reasons], broken
        else:
            more_problems, more = _judge(parts, serving, window, served.get(number), closed)
        problems, findings = [*problems, *more_problems], [*findings, *more]
    for number, labelled in counts.items():
        parts.journal.record_labels(number, dataclasses.replace(labelled, closed=closed))
    return problems, findings


def _more(
    parts: Parts, serving: Serving, closed: int, served: dict[int, int | None], filled: Collection[int]
) -> dict[int, Labelled]:
    """Return how many labels there are of each window of which there are more than when it was judged."""
    project, known, quarantined = parts.project, parts.journal.labels(), parts.journal.quarantined()
    awaited = {*parts.journal.released(), *filled}  # however long that took
    newest, last = closed - project.window.label_delay, parts.source.last(parts.start)
    candidates = {n for n in served if n <= newest} | ({closed} if newest == closed else set())
    found: dict[int, Labelled] = {}
    for number in sorted(candidates - quarantined):
        before = known.get(number, Labelled(0, False))
        if before.closed == closed and closed not in served and closed <= last:
            before = Labelled(0, False)  # judged in a look at this window that was cut off: nothing came of it
        if before.complete or (number < newest - project.window.label_patience and number not in awaited):
            continue
        now = _count(serving, parts.window(number))
        if now.rows > before.rows:
            found[number] = now
    return found


def _count(serving: Serving, window: Window) -> Labelled:
    """Count the rows of a window that have a label."""
    label, rows, have = serving.schema.label, 0, 0
    for batch in window.batches():
        rows += len(batch)
        have += int(batch[label].notna().sum()) if label in batch else 0
    return Labelled(have, have == rows)


def _from(parts: Parts, serving: Serving, counts: dict[int, Labelled]) -> list[int]:
    """Return the windows to judge: those that have more labels, and what was judged of later ones."""
    if not counts:
        return []
    quarantined, judges = parts.journal.quarantined(), {m.name for m in parts.monitors if m.needs_labels}
    judged = {f.window for _, f in parts.journal.findings(serving.version) if f.monitor in judges}
    return sorted({*counts} | {n for n in judged - quarantined if n > min(counts)})


def _news(parts: Parts, serving: Serving) -> int:
    """Return the first window whose labels no round could know when it was asked for.

    Evidence over time begins there: what led to a round does not lead to another.
    """
    rounds = [r.window for r in parts.journal.rounds() if r.cause != "first"]
    return max(rounds, default=0) - parts.project.window.label_delay + 1


def _broken_since(parts: Parts, serving: Serving, window: Window, more: bool) -> list[Finding]:
    """Let the guards look again at rows whose labels came late: they had not seen those.

    Rows without more labels are only read: somebody may have altered them since they were judged.
    """
    guards = [m for m in parts.monitors if m.guards and more]
    if guards:
        raw = survey_of(parts, serving, window, guards)
        _, findings = ask(parts, guards, serving, Sample(serving.schema, raw.frame, window.number), raw)
        if broken := [f for f in findings if f.answer is Answer.BROKEN]:
            return broken
    why = _unreadable(parts, serving, window)
    return [] if why is None else [Finding("integrity", window.number, Answer.BROKEN, (why,))]


def _unreadable(parts: Parts, serving: Serving, window: Window) -> str | None:
    """Say why rows or labels are not what the champion knows; None where they are."""
    try:
        for batch in window.batches():
            segments_of(batch, parts.project.data.segments)
            serving.schema.encode(batch)
            serving.schema.encode_labels(batch)
    except ReadError:
        raise
    except DataError as error:
        return str(error)
    return None


def _quarantine(parts: Parts, serving: Serving, number: int, broken: Sequence[Finding]) -> None:
    reasons = [f"window {number}: {r}" for f in broken for r in f.reasons]
    parts.journal.record("quarantine", {"window": number, "reasons": reasons}, f"quarantine:{number}")
    parts.journal.record_findings(broken, serving.version, number)


def _judge(
    parts: Parts, serving: Serving, window: Window, served: int | None, closed: int
) -> tuple[list[str], list[Finding]]:
    trained = window.number <= champion.trained_up_to(parts)
    judges = [m for m in parts.monitors if m.needs_labels and not trained]
    unseen = survey_of(parts, serving, window, judges, fitted=False)
    sample = seen_by_champion(parts, serving, window, unseen)
    problems, findings = ask(parts, judges, serving, sample, unseen, _news(parts, serving))
    versions = {served or serving.version, parts.journal.promotions()[0].version}
    _record_quality(parts, window.number, versions | (set() if trained else {serving.version}), sample)
    parts.journal.record_findings(findings, serving.version, closed)
    missing = sample.labels is not None and not arrived(sample.labels).all()
    if not (missing and any(f.answer is Answer.UNKNOWN for f in findings)):
        parts.journal.mark_labelled(window.number)
    return problems, findings


def _record_quality(parts: Parts, number: int, versions: set[int], sample: Sample) -> None:
    """Record the quality of versions on the same rows."""
    if sample.labels is None:
        return
    have = arrived(sample.labels)
    rows = Rows(sample.inputs, sample.labels, np.arange(len(sample), dtype=np.uint64)).take(have)
    for version in versions:
        try:
            value = score(parts.metric, answer(champion.load(parts, version).session, rows))
        except ArtifactError as error:  # an old version is for comparison only: the watch goes on without it
            parts.journal.record("error", {"version": version, "message": str(error)}, f"lost:{version}")
            continue
        parts.journal.record_quality(Quality(number, version, value, len(rows)))
