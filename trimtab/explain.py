"""Why was it decided so? One window's findings, what they were tested at, and what the decision weighed."""

from __future__ import annotations

from typing import Any

from trimtab.acts import acts
from trimtab.errors import InputError
from trimtab.journal import Journal
from trimtab.monitor import Finding

__all__ = ["explain"]


def explain(journal: Journal, number: int) -> dict[str, Any]:
    """Return everything that is known about a window, as JSON values.

    Returns
    -------
    dict
        ``window`` (bounds, rows, champion, action, reasons, what was weighed), ``findings`` (each with
        answer, alpha, p, reasons and, by statistic, effect and p-value), ``quality`` by version, ``rounds``
        that it led to (with why nothing was trained, where nothing can be), and what a person said about it:
        ``acknowledged``, and ``acts`` (asked for a round, released it, promoted or rejected what was proposed).

    Raises
    ------
    InputError
        When the window was not looked at.
    """
    windows = {w.number: w for w in journal.windows()}
    if number not in windows:
        have = f"windows {min(windows)} to {max(windows)} were" if windows else "none was"
        raise InputError(f"window {number} was not looked at; {have}. Run: trimtab watch")
    window = windows[number]
    found = [(tick, f) for tick, f in journal.findings() if f.window == number]
    return {
        "window": {
            "number": number,
            "start": window.start,
            "end": window.end,
            "rows": window.rows,
            "champion": window.champion,
            "action": None if window.action is None else window.action.value,
            "reasons": list(window.reasons),
            "weighed": dict(window.weighed),
        },
        "findings": [{**f.to_json(), "closed": tick, "statistics": _statistics(f)} for tick, f in found],
        "quality": {str(q.version): q.value for q in journal.qualities() if q.window == number and q.told},
        "rounds": [
            {
                "operation": r.operation,
                "cause": r.cause,
                "outcome": r.outcome,
                "reasons": list(r.reasons),
                "untrained": r.detail.get("untrained", ""),
            }
            for r in journal.rounds()
            if r.window == number and r.cause != "first"
        ],
        "acknowledged": [dict(said) for _, _, said in journal.records("ack") if said["until"] >= number],
        "acts": [act for act in acts(journal) if act["window"] == number and act["act"] != "acknowledged"],
    }


def _statistics(finding: Finding) -> list[dict[str, Any]]:
    """Return each statistic with its score and, where it was tested, its adjusted p-value; what alarmed first."""
    alarms = finding.alarms
    names = [n for n in finding.scores if not (n.endswith(".p") and n.removesuffix(".p") in finding.scores)]
    rows = [
        {"name": n, "score": finding.scores[n], "p": finding.scores.get(f"{n}.p"), "alarms": n in alarms} for n in names
    ]
    return sorted(rows, key=lambda r: (not r["alarms"], names.index(r["name"])))
