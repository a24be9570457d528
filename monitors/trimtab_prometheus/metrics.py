"""Every metric with its meaning, in one table, and how each follows from what was read of a project."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from trimtab.history import PROPOSED, Promotion, Quality, WindowRecord, degraded
from trimtab.runtime import CHAMPION
from trimtab.trigger import Action
from trimtab_prometheus.reading import Reading, Told

__all__ = ["LABELS", "METRICS", "Meaning", "families"]

OUTCOMES = ("promoted", "shadow", "proposed", "rejected", "rolled back", "degraded", "kept", "lost", "failed")
KINDS = ("first", "promote", "approved", "rollback", "repair")
CAUSES = ("worse", "estimated", "slower", "moved", "grown", "rows", "every")
ASKED = ("manual", "alert")
"""Causes of rounds that somebody asked for."""

LABELS: Mapping[str, str] = {
    "project": "The project's name.",
    "alias": "Alias of a target's champion in the registry: `champion` of the first target, `champion-NAME` of others.",
    "monitor": "A monitor's name, as in `monitors.use`.",
    "column": "A column, a statistic of one, or a metric, as the monitor names it.",
    "answer": "`broken`, `worse`, `slower`, `moved`, `unknown` or `fine`.",
    "decision": "`ignore`, `alert`, `quarantine` or `optimize`.",
    "cause": "What asks for a round, in the words of `trigger.on`: `worse`, `slower`, `moved`, `grown`, `rows` or "
    "`every`; `estimated` where it is estimated that the champion is worse; `manual` where a person asked, `alert` "
    "where an alert did.",
    "outcome": "`promoted`, `shadow` (its winner is judged on live windows first), `proposed` (its winner waits for a "
    "person), `rejected` (by live windows or by a person), `rolled back` (promoted, and worse on the windows after "
    "that), `degraded` (the champion is worse and nothing better was found), `kept` (nothing better, and nothing was "
    "wrong), `lost` (another promotion came first) or `failed`.",
    "kind": "`first`, `promote`, `approved`, `rollback` or `repair`.",
    "metric": "The project's metric (`model.metric`).",
    "every": "Length of a window (`window.every`).",
    "version": "Version of trimtab.",
}
"""What each label holds."""

Sample = tuple[tuple[str, ...], float]


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
    """Return the metric families of several projects' readings, and trimtab's own version."""
    readings = list(readings)
    built = GaugeMetricFamily(
        "trimtab_build_info", "Always 1; its label is the version of trimtab.", labels=["version"]
    )
    built.add_metric([importlib.metadata.version("trimtab")], 1.0)
    yield built
    for meaning in METRICS:
        kind = CounterMetricFamily if meaning.kind == "counter" else GaugeMetricFamily
        family = kind(meaning.name, meaning.help, labels=["project", *meaning.labels])
        for reading in readings:
            for labels, value in meaning.samples(reading):
                family.add_metric([reading.project.name, *labels], value)
        yield family


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), float(value))]


def _told(value: Callable[[Told], float | None]) -> Callable[[Reading], list[Sample]]:
    """Give one value of what the journal told."""
    return lambda r: [] if r.told is None else _one(value(r.told))


def _newest(value: Callable[[WindowRecord], float]) -> Callable[[Reading], list[Sample]]:
    """Give one value of the newest window."""
    return _told(lambda t: None if t.newest is None else value(t.newest))


def _both(samples: Callable[[Reading, Told], Iterable[Sample]]) -> Callable[[Reading], Iterable[Sample]]:
    """Give what follows from settings and journal together."""
    return lambda r: () if r.told is None else samples(r, r.told)


def _seconds(instant: str | None) -> float | None:
    """Return an ISO instant as seconds since 1970; None where the journal has none (it was rebuilt)."""
    return datetime.fromisoformat(instant).timestamp() if instant else None


def _last_check(told: Told) -> float | None:
    return max((s for w in told.windows if (s := _seconds(w.at)) is not None), default=None)


def _scores(_: Reading, told: Told) -> list[Sample]:
    return [((f.monitor, column), score) for f in told.found for column, score in f.scores.items()]


def _answers(_: Reading, told: Told) -> list[Sample]:
    return [((f.monitor, f.answer.value), 1.0) for f in told.found]


def _decision(_: Reading, told: Told) -> list[Sample]:
    """Say of every decision whether it is the newest window's; a release takes a quarantine back."""
    if told.newest is None:
        return []
    taken = told.newest.action
    if taken is Action.QUARANTINE and told.newest.number not in told.quarantined:
        taken = None
    return [((action.value,), float(action is taken)) for action in Action]


def _causes(reading: Reading, told: Told) -> list[Sample]:
    if told.newest is None:
        return []
    spoke = reading.causes(told)
    return [((cause,), float(cause in spoke)) for cause in _known_causes(reading)]


def _known_causes(reading: Reading) -> list[str]:
    """Return the causes that this project's trigger knows, whether or not they ever spoke."""
    on = {cause.partition(" ")[0] for cause in reading.project.trigger.on}
    return [c for c in CAUSES if c in on or (c == "estimated" and "worse" in on)]


def _champions(value: Callable[[Promotion], float | None]) -> Callable[[Reading], list[Sample]]:
    """Give a value of each target's champion."""

    def samples(reading: Reading) -> list[Sample]:
        champions = reading.told.champions if reading.told is not None else {}
        return [((a,), float(v)) for a, p in champions.items() if (v := value(p)) is not None]

    return samples


def _aliases(reading: Reading) -> list[Sample]:
    return [((alias,), float(version)) for alias, version in (reading.aliases or {}).items()]


def _quality(value: Callable[[Quality], float]) -> Callable[[Reading], list[Sample]]:
    """Give a value of the first target's champion's quality on the newest window whose labels have come."""

    def newest(told: Told) -> float | None:
        champion = told.champions.get(CHAMPION)
        labelled = [q for q in told.qualities if champion is not None and q.version == champion.version and q.told]
        return value(max(labelled, key=lambda q: q.window)) if labelled else None

    return _told(newest)


def _measured(name: str, scale: float) -> Callable[[Reading], list[Sample]]:
    """Give what the round that built each target's champion measured of it there."""

    def samples(reading: Reading) -> list[Sample]:
        told = reading.told
        if told is None:
            return []
        found = ((alias, _metrics(told, alias, p.version).get(name)) for alias, p in told.champions.items())
        return [((alias,), value * scale) for alias, value in found if value is not None]

    return samples


def _metrics(told: Told, alias: str, version: int) -> Mapping[str, Any]:
    """Return what was measured of a version by the round that built it for a target."""
    for done in told.rounds:
        won = {CHAMPION: done.detail.get("version")}
        won |= {a: target["version"] for a, target in done.detail.get("targets", {}).items()}
        if won.get(alias) == version:
            on = (c["targets"].get(alias, {}) for c in done.detail.get("candidates", ()))
            return next((t["metrics"] for t in on if t.get("won")), {})
    return {}


def _rounds(reading: Reading, told: Told) -> list[Sample]:
    """Count every pair of cause and outcome, also one that never came: a counter that begins at 1 shows no increase.

    An outcome that was followed by another is still counted: a counter that fell would look like one begun anew.
    """
    causes = [*_known_causes(reading), *ASKED]
    return _counted(
        [(cause, outcome) for cause in causes for outcome in OUTCOMES],
        ((r.cause, outcome) for r in told.asked for outcome in r.outcomes),
    )


def _open(reading: Reading, told: Told) -> list[Sample]:
    return _counted([(c,) for c in [*_known_causes(reading), *ASKED]], ((r.cause,) for r in told.asked if r.open))


def _windows(_: Reading, told: Told) -> list[Sample]:
    return _counted([(a.value,) for a in Action], ((w.action.value,) for w in told.windows if w.action))


def _promotions(reading: Reading, told: Told) -> list[Sample]:
    known = [(alias, kind) for alias in reading.project.aliases for kind in KINDS]
    return _counted(known, ((p.alias, p.kind) for p in told.promotions))


def _counted(known: Iterable[tuple[str, ...]], present: Iterable[tuple[str, ...]]) -> list[Sample]:
    counts = dict.fromkeys(known, 0)
    for labels in present:
        counts[labels] = counts.get(labels, 0) + 1
    return [(labels, float(count)) for labels, count in counts.items()]


def _latest(pairs: Iterable[tuple[tuple[str, ...], str | None]]) -> list[Sample]:
    """Return the latest instant of each of several labels."""
    latest: dict[tuple[str, ...], float] = {}
    for labels, instant in pairs:
        if (seconds := _seconds(instant)) is not None:
            latest[labels] = max(seconds, latest.get(labels, 0.0))
    return list(latest.items())


def _last_failed(told: Told) -> bool:
    closed = [r for r in told.asked if not r.open]
    return bool(closed) and max(closed, key=lambda r: r.closed or "").outcome == "failed"


def _last_took(told: Told) -> float | None:
    closed = [r for r in told.asked if not r.open]
    return max(closed, key=lambda r: r.closed or "").seconds if closed else None


def _budget_minutes(reading: Reading) -> list[Sample]:
    minutes = reading.project.trigger.budget.minutes
    return [] if minutes is None else _one(minutes * 60)


METRICS: tuple[Meaning, ...] = (
    Meaning(
        "trimtab_project_info",
        "gauge",
        "Always 1; its labels are settings of the project.",
        lambda r: [((_metric(r), _every(r)), 1.0)],
        ("metric", "every"),
    ),
    Meaning(
        "trimtab_journal_up",
        "gauge",
        "1 when the journal could be read at this scrape, else 0; every metric of the journal is then absent.",
        lambda r: _one(r.told is not None),
    ),
    Meaning(
        "trimtab_registry_up",
        "gauge",
        "1 when the model registry answers, else 0.",
        lambda r: _one(r.aliases is not None),
    ),
    Meaning(
        "trimtab_registry_champion_version",
        "gauge",
        "Version that the alias names in the registry; absent where it names none.",
        _aliases,
        ("alias",),
    ),
    Meaning(
        "trimtab_project_degraded",
        "gauge",
        "1 while the champion is known to be worse and no candidate won, else 0.",
        _told(lambda t: degraded(t.rounds)),
    ),
    Meaning(
        "trimtab_project_waiting",
        "gauge",
        "1 while a person is asked for, since the same is broken in window after window, else 0.",
        _told(lambda t: t.waiting),
    ),
    Meaning(
        "trimtab_project_proposed",
        "gauge",
        "1 while the winner of a round waits for a person's approval, else 0.",
        _told(lambda t: any(r.outcome == PROPOSED for r in t.rounds)),
    ),
    Meaning(
        "trimtab_last_check_timestamp_seconds",
        "gauge",
        "When a window was last checked, in seconds since 1970.",
        _told(_last_check),
    ),
    Meaning(
        "trimtab_check_due_timestamp_seconds",
        "gauge",
        "When the next window closes and can be checked, in seconds since 1970; absent where windows are counted by "
        "rows, and before the first run.",
        _both(lambda r, t: _one(r.due(t))),
    ),
    Meaning(
        "trimtab_window_period_seconds",
        "gauge",
        "Length of a window; absent where windows are counted by rows.",
        lambda r: _one(r.period),
    ),
    Meaning(
        "trimtab_window_number", "gauge", "Number of the newest window that was checked.", _newest(lambda w: w.number)
    ),
    Meaning("trimtab_window_rows", "gauge", "Rows of the newest window.", _newest(lambda w: w.rows)),
    Meaning(
        "trimtab_window_check_seconds",
        "gauge",
        "Time that checking the newest window took.",
        _newest(lambda w: w.seconds),
    ),
    Meaning(
        "trimtab_window_decision",
        "gauge",
        "1 for what was decided about the newest window, 0 for the other decisions; a quarantined window that a person "
        "released has none.",
        _both(_decision),
        ("decision",),
    ),
    Meaning(
        "trimtab_window_cause",
        "gauge",
        "1 for what asked for a round in the newest window, also where cool-down or budget held it back, and until a "
        "new champion settles it; 0 for the project's other causes. The cause moved is confirmed drift.",
        _both(_causes),
        ("cause",),
    ),
    Meaning(
        "trimtab_monitor_score",
        "gauge",
        "Score that a monitor gave a column (or metric) in the newest window; its scale is the monitor's.",
        _both(_scores),
        ("monitor", "column"),
    ),
    Meaning(
        "trimtab_monitor_answer",
        "gauge",
        "1 for the answer that a monitor gave on the newest window.",
        _both(_answers),
        ("monitor", "answer"),
    ),
    Meaning(
        "trimtab_quarantined_windows",
        "gauge",
        "Windows in quarantine: found broken, and not released since.",
        _told(lambda t: len(t.quarantined)),
    ),
    Meaning(
        "trimtab_labels_overdue_windows",
        "gauge",
        "Windows whose labels should have come (window.label_delay), of which there is none, and which still count "
        "when they come (window.label_patience); absent without source.label.",
        _both(lambda r, t: _one(r.overdue(t))),
    ),
    Meaning(
        "trimtab_champion_version",
        "gauge",
        "Version that serves, by the journal.",
        _champions(lambda p: p.version),
        ("alias",),
    ),
    Meaning(
        "trimtab_champion_epoch",
        "gauge",
        "Number of the change that made it champion; each promotion and rollback of the project takes the next.",
        _champions(lambda p: p.epoch),
        ("alias",),
    ),
    Meaning(
        "trimtab_champion_since_timestamp_seconds",
        "gauge",
        "When the champion took its place, in seconds since 1970.",
        _champions(lambda p: _seconds(p.at)),
        ("alias",),
    ),
    Meaning(
        "trimtab_champion_quality",
        "gauge",
        "The project's metric (trimtab_project_info) of the first target's champion on its newest window whose labels "
        "have come.",
        _quality(lambda q: q.value),
    ),
    Meaning(
        "trimtab_champion_quality_rows",
        "gauge",
        "Labelled rows behind trimtab_champion_quality.",
        _quality(lambda q: q.rows),
    ),
    Meaning(
        "trimtab_champion_quality_window",
        "gauge",
        "Number of the window behind trimtab_champion_quality.",
        _quality(lambda q: q.window),
    ),
    Meaning(
        "trimtab_champion_latency_seconds",
        "gauge",
        "Median time of one call of the champion on its target, as its round measured it.",
        _measured("p50_ms", 1e-3),
        ("alias",),
    ),
    Meaning(
        "trimtab_champion_size_bytes",
        "gauge",
        "Size on disk of what serves, as its round measured it.",
        _measured("size_bytes", 1.0),
        ("alias",),
    ),
    Meaning(
        "trimtab_rounds_open",
        "gauge",
        "Rounds that were requested and are not closed.",
        _both(_open),
        ("cause",),
    ),
    Meaning(
        "trimtab_rounds",
        "counter",
        "Rounds that were closed; one that was in shadow, proposed or rolled back counts under every outcome it had.",
        _both(_rounds),
        ("cause", "outcome"),
    ),
    Meaning(
        "trimtab_round_requested_timestamp_seconds",
        "gauge",
        "When a round was last requested, in seconds since 1970.",
        _both(lambda _, t: _latest(((r.cause,), r.requested) for r in t.asked)),
        ("cause",),
    ),
    Meaning(
        "trimtab_round_closed_timestamp_seconds",
        "gauge",
        "When a round was last closed, in seconds since 1970.",
        _both(lambda _, t: _latest(((r.outcome or "",), r.closed) for r in t.asked)),
        ("outcome",),
    ),
    Meaning(
        "trimtab_round_failed", "gauge", "1 when the last round that was closed failed, else 0.", _told(_last_failed)
    ),
    Meaning(
        "trimtab_round_duration_seconds",
        "gauge",
        "Time from request to end of the last round that was closed.",
        _told(_last_took),
    ),
    Meaning(
        "trimtab_round_seconds",
        "counter",
        "Time from request to end of all closed rounds together.",
        _told(lambda t: sum(r.seconds or 0.0 for r in t.asked)),
    ),
    Meaning(
        "trimtab_budget_rounds",
        "gauge",
        "Rounds that a month may have (trigger.budget.rounds); absent without that limit.",
        lambda r: _one(r.project.trigger.budget.rounds),
    ),
    Meaning(
        "trimtab_budget_rounds_spent",
        "gauge",
        "Rounds of the month that ends with the next window.",
        _both(lambda r, t: _one(len(r.taken(t)))),
    ),
    Meaning(
        "trimtab_budget_seconds",
        "gauge",
        "Time that the rounds of a month may take (trigger.budget.minutes); absent without that limit.",
        _budget_minutes,
    ),
    Meaning(
        "trimtab_budget_seconds_spent",
        "gauge",
        "Time that the rounds of the month that ends with the next window took.",
        _both(lambda r, t: _one(sum(r.taken(t)) * 60)),
    ),
    Meaning(
        "trimtab_windows",
        "counter",
        "Windows that were checked, by what was decided about them.",
        _both(_windows),
        ("decision",),
    ),
    Meaning(
        "trimtab_promotions",
        "counter",
        "Changes of champion.",
        _both(_promotions),
        ("alias", "kind"),
    ),
    Meaning(
        "trimtab_promotion_timestamp_seconds",
        "gauge",
        "When a champion last changed, in seconds since 1970; absent for what never was.",
        _both(lambda _, t: _latest(((p.alias, p.kind), p.at) for p in t.promotions)),
        ("alias", "kind"),
    ),
    Meaning("trimtab_errors", "counter", "Errors that the journal keeps.", _told(lambda t: t.errors)),
)


def _metric(reading: Reading) -> str:
    named = reading.project.model.metric
    return named if isinstance(named, str) else next(iter(named))


def _every(reading: Reading) -> str:
    every = reading.project.window.every
    return every if isinstance(every, str) else f"{every} rows"
