"""The page about a window: one HTML file that needs no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trimtab.monitor import Answer, Finding
from trimtab.page import Page, Past, Shown
from trimtab_matplotlib import charts

__all__ = ["render"]

DRAWN, MOST_DRAWN = 30, 60
DASH = "–"  # noqa: RUF001 (an en dash marks an empty cell)


def render(page: Page) -> str:
    """Return a page as HTML.

    Findings and decision come first, then the columns: the 30 most important to the model, and others
    that moved, are drawn, 60 at most; a table has all. Then quality, and the trigger's history. Every text that
    comes with the data is escaped, and the page's own policy forbids scripts and requests.

    Examples
    --------
    >>> from trimtab.history import WindowRecord
    >>> from trimtab.trigger import Action
    >>> record = WindowRecord(5, "row 0", "row 9", 9, 1, False, Action.ALERT, ("<b> moved",), {}, 0.1, "")
    >>> past = Past(record, {}, (), (), {})
    >>> html = render(Page("p", "accuracy", True, past, (), (past,)))
    >>> "&lt;b&gt; moved" in html, "<script" in html
    (True, False)
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "figure": _figure,
        "short": lambda value: _figure(value, 2),
        "instant": _instant,
        "p_value": _p_value,
        "percent": _percent,
        "quality": lambda value: _quality(value, page.metric),
    }
    return environment.get_template("page.html").render(
        page=page,
        record=page.window.record,
        findings=sorted(page.window.findings.values(), key=_severity),
        scores=_scores,
        answers=_answers,
        drawn=_drawn(page.columns),
        histogram=charts.histogram,
        qualities=charts.qualities(page),
        version=version("trimtab"),
        DASH=DASH,
    )


def _severity(finding: Finding) -> tuple[int, str]:
    return list(Answer).index(finding.answer), finding.monitor


def _drawn(columns: Sequence[Shown]) -> list[Shown]:
    """Choose what is drawn, in the order of the columns."""
    moved = [shown for shown in columns[DRAWN:] if shown.moved]
    return [*columns[:DRAWN], *moved[: MOST_DRAWN - DRAWN]]


def _scores(finding: Finding) -> list[dict[str, Any]]:
    """Return a finding's scores as rows of a table, each with its limit, and its p-value with that one's."""
    scores, limits, alarms = finding.scores, finding.limits, {*finding.alarms}
    names = [name for name in scores if name.removesuffix(".p") == name or name.removesuffix(".p") not in scores]
    return [
        {
            "name": name,
            "score": scores[name],
            "limit": limits.get(name),
            "p": scores.get(f"{name}.p"),
            "alpha": limits.get(f"{name}.p"),
            "alarm": name in alarms,
        }
        for name in names
    ]


def _answers(past: Past) -> dict[str, list[str]]:
    """Return the monitors of a window by what they said, worst first."""
    said: Mapping[str, list[str]] = {answer.value: [] for answer in Answer}
    for finding in past.findings.values():
        said[finding.answer.value].append(finding.monitor)
    return {answer: sorted(monitors) for answer, monitors in said.items() if monitors}


def _instant(text: str) -> str:
    """Word a window's bound; one that is no instant stays as it is.

    Examples
    --------
    >>> _instant("2026-02-16T00:00:00+00:00"), _instant("row 400")
    ('2026-02-16 00:00 UTC', 'row 400')
    """
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::00)?(.*)\+00:00$", r"\1 \2\3 UTC", text)


def _figure(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}g}"


def _p_value(value: float | None) -> str:
    """Word a p-value.

    Examples
    --------
    >>> _p_value(0.0412), _p_value(3e-12), _p_value(0.0), _p_value(None) == DASH
    ('0.041', '3e-12', '<1e-300', True)
    """
    if value is None:
        return DASH
    if value < 1e-300:
        return "<1e-300"
    return f"{value:.0e}" if value < 0.001 else f"{value:.2g}"


def _percent(value: float | None) -> str:
    """Word a share.

    Examples
    --------
    >>> _percent(0.1234), _percent(0.0), _percent(0.0004)
    ('12.3 %', '0 %', '0.04 %')
    """
    if value is None:
        return DASH
    return f"{100 * value:.2f} %" if 0 < value < 0.001 else f"{100 * value:.1f} %".replace(".0 %", " %")


def _quality(value: float | None, metric: str) -> str:
    if value is None:
        return DASH
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4g}"
