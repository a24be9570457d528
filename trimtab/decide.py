"""What is done about a window: everything that the trigger weighs is put together, and it decides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from trimtab import importance
from trimtab.acknowledge import acknowledged
from trimtab.history import Round
from trimtab.monitor import Answer
from trimtab.parts import Parts
from trimtab.rows import stock
from trimtab.serving import Serving
from trimtab.state import State
from trimtab.trigger import Decision

__all__ = ["decide"]


def decide(parts: Parts, serving: Serving, number: int) -> Decision:
    """Decide what is done now that window ``number`` has closed."""
    rounds = [r for r in parts.journal.rounds() if r.cause != "first" and r.window < number]
    last = max((r.window for r in rounds), default=None)
    told = parts.journal.findings(serving.version)  # what was fine before the last round still says that it was
    found = [f for tick, f in told if f.answer is Answer.FINE or last is None or tick > last]
    quarantined = parts.journal.quarantined()
    findings = [f for f in found if (f.answer is Answer.BROKEN) == (f.window in quarantined)]
    return parts.project.trigger.decide(number, findings, state(parts, serving, number, rounds))


def state(parts: Parts, serving: Serving, number: int, rounds: Sequence[Round]) -> State:
    """Return what a decision about window ``number`` depends on beside the findings."""
    project = parts.project
    last = max((r.window for r in rounds), default=0)
    known = {n: labelled.rows for n, labelled in parts.journal.labels().items()}
    trainable, trained = stock(parts.journal, project.data, number)
    weighed = {w.number: w.weighed for w in parts.journal.windows()}.get(last, {})
    had = weighed.get("trainable_rows", 0)  # when the last round was asked for, though it failed or some were gone
    return State(
        rounds=tuple((r.window, _minutes(r)) for r in rounds),
        per_year=project.windows_per_year,
        monitors=sum(m.statistical and not m.needs_labels for m in parts.monitors),
        labelled_rows=sum(rows for n, rows in known.items() if n > last - project.window.label_delay),
        trainable_rows=trainable,
        trained_rows=max(trained, had),
        importance=importance.of_version(parts, serving.version),
        waits=None if (waiting := parts.journal.waiting()) is None else waiting.waits,
        tried=_tried(parts, serving, rounds),
        acknowledged=tuple(acknowledged(parts)),
    )


def _minutes(asked: Round) -> float:
    """Return how long a round took; 0 for one that is not closed."""
    return (asked.seconds or 0.0) / 60


def _tried(parts: Parts, serving: Serving, rounds: Sequence[Round]) -> frozenset[str]:
    """Return the statistics that had moved when a round under the present champion found nothing better for it.

    What was promoted and rolled back was nothing better: else the same drift would promote the like night after night.
    """
    promotions = parts.journal.promotions()
    moved = [r for r in rounds if r.cause == "moved" and r.state == "closed"]
    under = [r for r in moved if [p.version for p in promotions if p.epoch <= r.epoch][-1:] == [serving.version]]
    better = {p.operation for p in promotions} - {a.operation for a, b in pairwise(promotions) if b.kind == "rollback"}
    fruitless = [  # those that failed or were lost found nothing out
        r.window for r in under if r.outcome not in ("failed", "lost") and r.operation not in better
    ]
    k = parts.project.trigger.confirm[1]
    return frozenset(
        name
        for _, f in parts.journal.findings(serving.version)
        if f.answer is Answer.MOVED and any(ran - k < f.window <= ran for ran in fruitless)
        for name in f.alarms
    )
