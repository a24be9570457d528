"""Every metric with its meaning, in one table, and how each follows from a project's journal and registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from trimtab.history import Promotion, Quality, Round, WindowRecord
from trimtab.journal import Journal
from trimtab.monitor import Finding
from trimtab.status import state, waiting
from trimtab.trigger import Action

__all__ = ["METRICS", "Meaning", "Reading", "families", "read"]

OUTCOMES = ("promoted", "degraded", "kept", "lost", "failed")
KINDS = ("first", "promote", "approved", "rollback", "repair")

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class Reading:
    """What was read of one project at one scrape.

    Parameters
    ----------
    project
        Its name.
    windows, findings, qualities, rounds, promotions, errors
        As the journal tells them; None each where it could not be read.
    waiting
        Whether a person is asked for.
    registry_up
        Whether the registry answered in time.
    alias
        The version that the registry's alias ``champion`` names, or None.
    """

    project: str
    journal_up: bool = False
    windows: tuple[WindowRecord, ...] = ()
    findings: tuple[Finding, ...] = ()
    qualities: tuple[Quality, ...] = ()
    rounds: tuple[Round, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    errors: int = 0
    waiting: bool = False
    registry_up: bool = False
    alias: int | None = None

    @property
    def asked(self) -> list[Round]:
        """Rounds after the first champion's."""
        return [r for r in self.rounds if r.cause != "first"]


def read(journal: Journal) -> Reading:
    """Read what the metrics need from one journal.

    Raises
    ------
    ServiceError
        When the journal cannot be read.
    """
    return Reading(
        project=journal.project,
        journal_up=True,
        windows=tuple(journal.windows()),
        findings=tuple(finding for _, finding in journal.findings()),
        qualities=tuple(journal.qualities()),
        rounds=tuple(journal.rounds()),
        promotions=tuple(journal.promotions()),
        errors=len(journal.records("error")),
        waiting=waiting(journal) is not None,
    )


@dataclass(frozen=True)
class Meaning:
    """One metric.

    Parameters
    ----------
    name
        With its unit; a counter's without ``_total``.
    kind
        ``gauge`` or ``counter``.
    help
        What it says.
    samples
        Its label values (after the project) and values in a reading; none where there is nothing to say.
    labels
        Names of the labels after ``project``.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: Callable[[Reading], Iterable[Sample]] = field(repr=False)
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name as Prometheus stores it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def families(readings: Iterable[Reading]) -> Iterator[Metric]:
    """Return the metric families of several projects' readings.

    Examples
    --------
    >>> [(s.name, s.labels, s.value) for f in families([Reading("p")]) for s in f.samples]
    [('trimtab_journal_up', {'project': 'p'}, 0.0), ('trimtab_registry_up', {'project': 'p'}, 0.0)]
    """
    readings = list(readings)
    for meaning in METRICS:
        kind = CounterMetricFamily if meaning.kind == "counter" else GaugeMetricFamily
        family = kind(meaning.name, meaning.help, labels=["project", *meaning.labels])
        for reading in readings:
            if reading.journal_up or meaning.name in ALWAYS:
                for labels, value in meaning.samples(reading):
                    family.add_metric([reading.project, *labels], value)
        yield family


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), float(value))]


def _seconds(instant: str) -> float | None:
    """Return an ISO instant as seconds since 1970; None where the journal has none (it was rebuilt)."""
    return datetime.fromisoformat(instant).timestamp() if instant else None


def _last_check(reading: Reading) -> float | None:
    return max((s for w in reading.windows if (s := _seconds(w.at)) is not None), default=None)


def _newest(reading: Reading, value: Callable[[WindowRecord], float]) -> list[Sample]:
    return _one(value(reading.windows[-1]) if reading.windows else None)


def _now(reading: Reading) -> list[Finding]:
    """Return what was found in the newest window."""
    newest = reading.windows[-1].number if reading.windows else None
    return [f for f in reading.findings if f.window == newest]


def _scores(reading: Reading) -> list[Sample]:
    return [((f.monitor, column), score) for f in _now(reading) for column, score in f.scores.items()]


def _answers(reading: Reading) -> list[Sample]:
    return [((f.monitor, f.answer.value), 1.0) for f in _now(reading)]


def _champion(reading: Reading, value: Callable[[Promotion], float | None]) -> list[Sample]:
    return _one(value(reading.promotions[-1]) if reading.promotions else None)


def _quality(reading: Reading, value: Callable[[Quality], float]) -> list[Sample]:
    """Give a value of the champion's quality on the newest window whose labels have come."""
    version = reading.promotions[-1].version if reading.promotions else None
    labelled = [q for q in reading.qualities if q.version == version and q.rows]
    return _one(value(max(labelled, key=lambda q: q.window)) if labelled else None)


def _measured(reading: Reading, name: str, scale: float) -> list[Sample]:
    """Give what the round that built the champion measured of it."""
    version = reading.promotions[-1].version if reading.promotions else None
    built = next((r for r in reading.rounds if version is not None and r.detail.get("version") == version), None)
    candidates: Iterable[Mapping[str, Any]] = built.detail.get("candidates", ()) if built is not None else ()
    value = next((c["metrics"].get(name) for c in candidates if c["won"]), None)
    return _one(None if value is None else value * scale)


def _counted(names: Iterable[str], present: Iterable[str | None]) -> list[Sample]:
    """Count every name, also one that never came: a counter that appears at 1 shows no increase."""
    counts = dict.fromkeys(names, 0)
    for name in present:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return [((name,), float(count)) for name, count in counts.items()]


def _is_degraded(reading: Reading) -> bool:
    return state(reading.asked, bool(reading.promotions)) == "degraded"


ALWAYS = ("trimtab_journal_up", "trimtab_registry_up", "trimtab_registry_champion_version")
"""Told also while the journal is down."""

METRICS: tuple[Meaning, ...] = (
    Meaning(
        "trimtab_journal_up",
        "gauge",
        "1 when the journal was read at this scrape, else 0; every metric of the journal is then absent.",
        lambda r: _one(r.journal_up),
    ),
    Meaning(
        "trimtab_registry_up",
        "gauge",
        "1 when the model registry answered within the time of a scrape, else 0.",
        lambda r: _one(r.registry_up),
    ),
    Meaning(
        "trimtab_registry_champion_version",
        "gauge",
        "Version that the registry's alias 'champion' names; absent without one.",
        lambda r: _one(r.alias),
    ),
    Meaning(
        "trimtab_project_degraded",
        "gauge",
        "1 while the champion is known to be worse and no candidate won, else 0.",
        lambda r: _one(_is_degraded(r)),
    ),
    Meaning(
        "trimtab_project_waiting",
        "gauge",
        "1 while a person is asked for, since the same is broken in window after window, else 0.",
        lambda r: _one(r.waiting),
    ),
    Meaning(
        "trimtab_last_check_timestamp_seconds",
        "gauge",
        "When a window was last checked, in seconds since 1970.",
        lambda r: _one(_last_check(r)),
    ),
    Meaning(
        "trimtab_window_number",
        "gauge",
        "Number of the newest window that was checked.",
        lambda r: _newest(r, lambda w: w.number),
    ),
    Meaning("trimtab_window_rows", "gauge", "Rows of the newest window.", lambda r: _newest(r, lambda w: w.rows)),
    Meaning(
        "trimtab_window_check_seconds",
        "gauge",
        "Time that checking the newest window took.",
        lambda r: _newest(r, lambda w: w.seconds),
    ),
    Meaning(
        "trimtab_monitor_score",
        "gauge",
        "Score that a monitor gave a column (or metric) in the newest window; its scale is the monitor's.",
        _scores,
        ("monitor", "column"),
    ),
    Meaning(
        "trimtab_monitor_answer",
        "gauge",
        "1 for the answer that a monitor gave on the newest window: broken, worse, moved, unknown or fine.",
        _answers,
        ("monitor", "answer"),
    ),
    Meaning(
        "trimtab_champion_version",
        "gauge",
        "Version that serves, by the journal.",
        lambda r: _champion(r, lambda p: p.version),
    ),
    Meaning(
        "trimtab_champion_epoch",
        "gauge",
        "Number of changes of champion so far; each promotion and rollback takes the next.",
        lambda r: _champion(r, lambda p: p.epoch),
    ),
    Meaning(
        "trimtab_champion_since_timestamp_seconds",
        "gauge",
        "When the champion took its place, in seconds since 1970.",
        lambda r: _champion(r, lambda p: _seconds(p.at)),
    ),
    Meaning(
        "trimtab_champion_quality_ratio",
        "gauge",
        "Share of right predictions of the champion on its newest window whose labels have come.",
        lambda r: _quality(r, lambda q: q.value),
    ),
    Meaning(
        "trimtab_champion_quality_rows",
        "gauge",
        "Labelled rows behind trimtab_champion_quality_ratio.",
        lambda r: _quality(r, lambda q: q.rows),
    ),
    Meaning(
        "trimtab_champion_quality_window",
        "gauge",
        "Number of the window behind trimtab_champion_quality_ratio.",
        lambda r: _quality(r, lambda q: q.window),
    ),
    Meaning(
        "trimtab_champion_latency_seconds",
        "gauge",
        "Median time of one call of the champion on the project's target, as its round measured it.",
        lambda r: _measured(r, "p50_ms", 1e-3),
    ),
    Meaning(
        "trimtab_champion_size_bytes",
        "gauge",
        "Size on disk of what serves, as its round measured it.",
        lambda r: _measured(r, "size_bytes", 1.0),
    ),
    Meaning(
        "trimtab_rounds_open",
        "gauge",
        "Rounds that were requested and are not closed.",
        lambda r: _one(sum(a.state != "closed" for a in r.asked)),
    ),
    Meaning(
        "trimtab_rounds",
        "counter",
        "Rounds that were closed, by outcome: promoted, degraded, kept, lost or failed.",
        lambda r: _counted(OUTCOMES, (a.outcome for a in r.asked)),
        ("outcome",),
    ),
    Meaning(
        "trimtab_windows",
        "counter",
        "Windows that were checked, by decision: ignore, alert, quarantine or optimize.",
        lambda r: _counted((a.value for a in Action), (w.action.value if w.action else None for w in r.windows)),
        ("decision",),
    ),
    Meaning(
        "trimtab_promotions",
        "counter",
        "Changes of champion, by kind: first, promote, approved, rollback or repair.",
        lambda r: _counted(KINDS, (p.kind for p in r.promotions)),
        ("kind",),
    ),
    Meaning("trimtab_errors", "counter", "Errors that the journal keeps.", lambda r: _one(r.errors)),
)
