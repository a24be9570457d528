"""Write Grafana's dashboard: ``python deploy/grafana/dashboard.py``; a test asks that ``trimtab.json`` agrees.

Every panel's expressions stand here once, and a test runs each against a Prometheus that scraped a real round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

FILE = Path(__file__).with_name("trimtab.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
OF = 'project=~"$project"'
"""What chooses the projects in an expression: the dashboard's variable."""


@dataclass(frozen=True)
class Query:
    """An expression in PromQL, and how its series are named."""

    expr: str
    legend: str = "{{project}}"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Parameters
    ----------
    title, about
        What it shows, and how to read it.
    kind
        ``stat``, ``lines``, ``states`` or ``table``.
    unit
        In Grafana's words.
    queries
        What is drawn.
    width
        Of 24.
    may_be_empty
        Whether a project that is well and watched has nothing to show in it.
    bad_from
        In a ``stat``, the value from which it is red.
    """

    title: str
    about: str
    kind: str
    queries: Sequence[Query]
    unit: str = "none"
    width: int = 8
    may_be_empty: bool = False
    bad_from: float | None = None


def _number(title: str, about: str, expr: str, bad_from: float | None = 1) -> Panel:
    """Return a panel of one number."""
    return Panel(title, about, "stat", [Query(expr, "")], width=3, bad_from=bad_from)


LATE = f"project:trimtab_check_late:seconds{{{OF}}} > bool project:trimtab_check_late_allowed:seconds"
WANTED = f"sum by (project) (project_cause:trimtab_round_wanted:max{{{OF}}}) > 0"
CLOSED = f"max by (project, cause, outcome) (trimtab_rounds_total{{{OF}}})"
CHANGES = f"max by (project, alias, kind) (trimtab_promotions_total{{{OF}}}) > 0"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        _number("Projects", "Projects that an exporter tells of.", f"count(trimtab_project_info{{{OF}}})", None),
        _number("Not readable", "Journals that could not be read.", f"sum(1 - trimtab_journal_up{{{OF}}})"),
        _number("Registries down", "Registries that did not answer.", f"sum(1 - trimtab_registry_up{{{OF}}})"),
        _number(
            "Checks late", "Projects with a closed window that was not checked in the time allowed.", f"sum({LATE})"
        ),
        _number(
            "In quarantine",
            "Projects whose newest window is broken.",
            f'sum(trimtab_window_decision{{decision="quarantine", {OF}}})',
        ),
        _number("Want a round", "Projects in which something asks for one.", f"count({WANTED}) or vector(0)"),
        _number(
            "Degraded",
            "Projects whose champion is worse, and for which nothing better was found.",
            f"sum(trimtab_project_degraded{{{OF}}})",
        ),
        _number("Rounds open", "Requested or under way.", f"sum(trimtab_rounds_open{{{OF}}})", None),
        Panel(
            "Alerts that fire",
            "What each means and what to do: docs/howto/alerts.md.",
            "table",
            [Query(f'ALERTS{{alertname=~"Trimtab.*", alertstate="firing", {OF}}}', "")],
            width=24,
            may_be_empty=True,
        ),
    ),
    "Windows": (
        Panel(
            "Decision",
            "What was decided about the newest window.",
            "states",
            [Query(f"max by (project, decision) (trimtab_window_decision{{{OF}}}) == 1", "{{project}} {{decision}}")],
        ),
        Panel(
            "Answers of the monitors",
            "How many monitors gave each answer on the newest window.",
            "lines",
            [Query(f"project_answer:trimtab_monitors:count{{{OF}}}", "{{project}} {{answer}}")],
        ),
        Panel(
            "Scores of the monitors",
            "Of each column, on the monitor's scale; trimtab explain shows the limits.",
            "lines",
            [Query(f"trimtab_monitor_score{{{OF}}}", "{{project}} {{monitor}} {{column}}")],
        ),
        Panel(
            "Newest window",
            "Number of the newest window that was checked.",
            "lines",
            [Query(f"max by (project) (trimtab_window_number{{{OF}}})")],
        ),
        Panel("Rows", "Of the newest window.", "lines", [Query(f"max by (project) (trimtab_window_rows{{{OF}}})")]),
        Panel(
            "Late",
            "How long the next window has been closed without being checked.",
            "lines",
            [Query(f"project:trimtab_check_late:seconds{{{OF}}}")],
            unit="s",
        ),
        Panel(
            "Since the last check",
            "For windows that are counted by rows, which are never due.",
            "lines",
            [Query(f"time() - max by (project) (trimtab_last_check_timestamp_seconds{{{OF}}})")],
            unit="s",
        ),
        Panel(
            "Labels overdue",
            "Windows without a label although they should have some.",
            "lines",
            [Query(f"max by (project) (trimtab_labels_overdue_windows{{{OF}}})")],
        ),
        Panel(
            "Quarantined",
            "Windows found broken and not released since.",
            "lines",
            [Query(f"max by (project) (trimtab_quarantined_windows{{{OF}}})")],
        ),
    ),
    "Model": (
        Panel(
            "Quality",
            "The project's metric, of the champion on its newest window whose labels have come.",
            "lines",
            [
                Query(
                    f"max by (project) (trimtab_champion_quality{{{OF}}}) * on (project) group_left (metric) "
                    f"max by (project, metric) (trimtab_project_info{{{OF}}})",
                    "{{project}} {{metric}}",
                )
            ],
        ),
        Panel(
            "Labelled rows behind it",
            "How many rows the quality rests on.",
            "lines",
            [Query(f"max by (project) (trimtab_champion_quality_rows{{{OF}}})")],
        ),
        Panel(
            "Version that serves",
            "By the journal, and by the registry's alias; they differ only while a promotion is under way.",
            "lines",
            [
                Query(f"max by (project, alias) (trimtab_champion_version{{{OF}}})", "{{project}} {{alias}}"),
                Query(
                    f"max by (project, alias) (trimtab_registry_champion_version{{{OF}}})",
                    "{{project}} {{alias}} (registry)",
                ),
            ],
        ),
        Panel(
            "Latency",
            "Median of one call on the target, as the champion's round measured it.",
            "lines",
            [Query(f"max by (project, alias) (trimtab_champion_latency_seconds{{{OF}}})", "{{project}} {{alias}}")],
            unit="s",
        ),
        Panel(
            "Size",
            "On disk, of what serves.",
            "lines",
            [Query(f"max by (project, alias) (trimtab_champion_size_bytes{{{OF}}})", "{{project}} {{alias}}")],
            unit="decbytes",
        ),
        Panel(
            "Age of the champion",
            "Since it took its place.",
            "lines",
            [
                Query(
                    f"time() - max by (project, alias) (trimtab_champion_since_timestamp_seconds{{{OF}}})",
                    "{{project}} {{alias}}",
                )
            ],
            unit="s",
        ),
    ),
    "Rounds": (
        Panel(
            "What asks for a round",
            "1 and more while it does, or while a round for it is open.",
            "lines",
            [Query(f"project_cause:trimtab_round_wanted:max{{{OF}}}", "{{project}} {{cause}}")],
        ),
        Panel(
            "Rounds by outcome",
            "Closed rounds, counted from the first.",
            "lines",
            [
                Query(
                    f"sum by (project, outcome) (max by (project, cause, outcome) (trimtab_rounds_total{{{OF}}}))",
                    "{{project}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Changes of champion",
            "Promotions and rollbacks, counted from the first champion.",
            "lines",
            [
                Query(
                    f"max by (project, alias, kind) (trimtab_promotions_total{{{OF}}}) > 0",
                    "{{project}} {{alias}} {{kind}}",
                )
            ],
        ),
        Panel(
            "Time of the last round",
            "From its request to its end.",
            "lines",
            [Query(f"max by (project) (trimtab_round_duration_seconds{{{OF}}})")],
            unit="s",
        ),
        Panel(
            "Budget of the month",
            "Share of trigger.budget that is spent; nothing for projects without one.",
            "lines",
            [Query(f"project_limit:trimtab_budget_spent:ratio{{{OF}}}", "{{project}} {{limit}}")],
            unit="percentunit",
        ),
        Panel(
            "Errors",
            "That the journal keeps, counted from the first.",
            "lines",
            [Query(f"max by (project) (trimtab_errors_total{{{OF}}})")],
        ),
    ),
    "trimtab itself": (
        Panel(
            "Time of a check",
            "Of the newest window.",
            "lines",
            [Query(f"max by (project) (trimtab_window_check_seconds{{{OF}}})")],
            unit="s",
            width=12,
        ),
        Panel(
            "Time of a scrape",
            "Of the exporter, all projects together.",
            "lines",
            [Query('scrape_duration_seconds{job="trimtab"}', "{{instance}}")],
            unit="s",
            width=12,
        ),
    ),
}


def panels() -> Iterator[Panel]:
    """Yield every panel."""
    for row in ROWS.values():
        yield from row


def render() -> str:
    """Return the dashboard as Grafana imports it."""
    made = (
        dashboard.Dashboard("trimtab")
        .uid("trimtab")
        .tags(["trimtab"])
        .description("Projects that trimtab watches: windows, champions, rounds, alerts.")
        .refresh("30s")
        .time("now-24h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("project")
            .label("Project")
            .datasource(SOURCE)
            .query("label_values(trimtab_project_info, project)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for title, row in ROWS.items():
        made = made.with_row(dashboard.Row(title))
        for panel in row:
            made = made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel) -> object:
    builder = {"stat": _stat, "lines": _lines, "states": _states, "table": _table}[panel.kind](panel)
    made = builder.title(panel.title).description(panel.about).datasource(SOURCE).span(panel.width)
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
        target = target.instant() if panel.kind in ("stat", "table") else target.range()
        made = made.with_target(target.format("table") if panel.kind == "table" else target)
    return made


def _stat(panel: Panel) -> stat.Panel:
    steps = [Threshold(color="green", value=None)]
    if panel.bad_from is not None:
        steps.append(Threshold(color="red", value=panel.bad_from))
    limits = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return (
        stat.Panel()
        .height(4)
        .unit(panel.unit)
        .thresholds(limits)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _lines(panel: Panel) -> timeseries.Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    return timeseries.Panel().height(8).unit(panel.unit).min(0).legend(legend)


def _states(panel: Panel) -> statetimeline.Panel:
    return statetimeline.Panel().height(8).unit(panel.unit)


def _table(panel: Panel) -> table.Panel:
    return table.Panel().height(6).unit(panel.unit)


if __name__ == "__main__":
    FILE.write_text(render())
