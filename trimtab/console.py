"""What a person sees in the terminal: progress while the loop works, and tables of what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trimtab.runtime import CHAMPION

if TYPE_CHECKING:
    from trimtab.backfill import Backfilled

__all__ = [
    "Bars",
    "backtest_table",
    "candidates_tables",
    "explanation",
    "gained_line",
    "mean_line",
    "windows_table",
]

COLOURS = {"fine": "green", "moved": "yellow", "worse": "red", "slower": "yellow", "broken": "red", "unknown": "dim"}
OUTCOMES = {
    "passed": "green",
    "rejected": "red",
    "unknown": "yellow",
    "failed": "red",
    "behind": "dim",
    "stopped": "dim",
}
DASH = "–"  # noqa: RUF001 (an en dash marks an empty cell)


class Bars:
    """Progress as bars, one a stage, with the time left; a stage within another goes when it is done.

    Parameters
    ----------
    console
        Where they are drawn; on a terminal they move, in a log each stage leaves one line.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[now]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.depth = 0

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[str], None]]:
        """Draw a bar for a stage."""
        bar = self.progress.add_task(name, total=total, now="")

        def advance(done: str) -> None:
            self.progress.update(bar, advance=1, now=done[:60])

        self.depth += 1
        try:
            yield advance
        finally:
            self.depth -= 1
        self.progress.update(bar, now="", visible=not self.depth)
        if not self.console.is_terminal:
            self.console.print(f"{name}: done ({total})")

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(message)


def windows_table(status: Mapping[str, Any]) -> Table:
    """Return a table of windows: finding, decision, champion, quality."""
    table = Table(title="Windows", title_justify="left")
    for name in ("window", "rows", "finding", "decision", "champion", "quality", "why"):
        table.add_column(name, justify="right" if name in ("window", "rows", "quality") else "left", overflow="fold")
    for row in status["windows"]:
        finding = row["finding"]
        table.add_row(
            str(row["window"]),
            str(row["rows"]),
            f"[{COLOURS[finding]}]{finding}[/]",
            (row["decision"] or DASH) + (", released" if row["released"] is not None else ""),
            DASH if row["champion"] is None else f"v{row['champion']}",
            _figure(row["quality"], status["metric"]),
            _shorten("; ".join(row["reasons"])),
        )
    return table


def fleet_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of many projects: a line of each, which fits a terminal of eighty columns."""
    title = f"{len(rows)} project{'' if len(rows) == 1 else 's'}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption, table.caption_justify = "rounds and minutes: of this month, of what the budget allows", "left"
    late = any(row["overdue"] is not None for row in rows)
    table.add_column("project", overflow="fold")
    for name in ["state", "champion", "window", "decision", "rounds", "minutes"] + ["late"] * late:
        table.add_column(name, justify="right" if name in ("window", "rounds", "minutes") else "left", no_wrap=True)
    for row in rows:
        cells = [
            row["project"],
            f"[{STATES.get(row['state'], 'white')}]{row['state']}[/]",
            DASH if row["champion"] is None else f"v{row['champion']}",
            DASH if row["window"] is None else str(row["window"]),
            row["decision"] or DASH,
            _spent(row["rounds"], row["most_rounds"]),
            _spent(row["minutes"], row["most_minutes"]),
            DASH if row["overdue"] is None else f"[red]{_age(row['overdue'])}[/]",
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def fleet_rounds(rows: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """Yield a line for each round that runs, or waits for a person."""
    for row in rows:
        if row["open"]:
            yield Text(f"{row['open']} runs")
        if row["proposed"]:
            yield Text(f"{row['proposed']} waits: trimtab promote, or trimtab reject", style="yellow")


STATES = {"serving": "green", "degraded": "red", "unknown": "red", "waiting": "yellow", "optimizing": "cyan"}


def _age(seconds: float) -> str:
    """Return a length of time in its largest unit.

    Examples
    --------
    >>> _age(90), _age(7200), _age(200_000)
    ('1 min', '2 h', '2 d')
    """
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds // 60:.0f} min"


def _spent(spent: float | None, most: float | None) -> str:
    """Return what rounds took, of what they may.

    Examples
    --------
    >>> _spent(2, 3), _spent(17.4, None)
    ('2 of 3', '17')
    """
    if spent is None:
        return DASH
    return f"{spent:.0f}" + ("" if most is None else f" of {most:g}")


def explanation(report: Mapping[str, Any]) -> Iterator[Table | Text]:
    """Yield what there is to say about a window: the decision, and a table for each monitor."""
    window = report["window"]
    yield Text(
        f"window {window['number']} ({window['start']} to {window['end']}, {window['rows']} rows, "
        f"champion v{window['champion']}): {window['action']}"
    )
    for reason in window["reasons"]:
        yield Text(f"  {reason}")
    if weighed := ", ".join(f"{name} {_weighed(value)}" for name, value in window["weighed"].items()):
        yield Text(f"  weighed: {weighed}")
    for finding in report["findings"]:
        yield _finding_table(finding)
    for said in report["acknowledged"]:
        of = said["monitor"] + (f":{said['statistic']}" if said["statistic"] else "")
        yield Text(f"{of} is expected up to window {said['until']} (says {said['who']}): {said['expected']}")
    yield from (Text(act_line(act)) for act in report["acts"])
    for asked in report["rounds"]:
        yield Text(f"led to a round ({asked['cause']}): {asked['outcome'] or 'open'}")
        if asked["untrained"]:
            yield Text(f"  {asked['untrained']}")


def filled_line(filled: Backfilled) -> str:
    """Return one line that says what came of a window of the past."""
    found = ", ".join(f"{f.monitor} {f.answer}" for f in filled.findings)
    return f"window {filled.window}: {filled.did}" + (f" ({found})" if found else "")


def act_line(act: Mapping[str, Any]) -> str:
    """Return one line that says what somebody did."""
    return f"{act['at']}: {act['who']} {act['act']} {act['what']}" + (f": {act['reason']}" if act["reason"] else "")


def _finding_table(finding: Mapping[str, Any]) -> Table:
    """Return a table of a finding's statistics, what alarmed first."""
    tested = f", tested at {finding['alpha']:.2g}" if finding["alpha"] is not None else ""
    title = f"{finding['monitor']}: {finding['answer']}{tested}{' (an estimate)' if finding['estimated'] else ''}"
    table = Table(title=title, title_justify="left", caption="\n".join(finding["reasons"]), caption_justify="left")
    for name in ("statistic", "score", "adjusted p", ""):
        table.add_column(name, justify="left" if name in ("statistic", "") else "right", overflow="fold")
    for row in finding["statistics"]:
        p = DASH if row["p"] is None else f"{row['p']:.2g}"
        table.add_row(row["name"], f"{row['score']:.4g}", p, "alarms" if row["alarms"] else "")
    return table


def _weighed(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) or DASH
    return f"{value:.3g}" if isinstance(value, float) else DASH if value is None else str(value)


def candidates_tables(asked: Mapping[str, Any]) -> list[Table]:
    """Return a table of one round's candidates for each target."""
    aliases = list(dict.fromkeys(a for c in asked.get("candidates", ()) for a in c["targets"])) or [CHAMPION]
    return [_candidates_table(asked, alias) for alias in aliases]


def _candidates_table(asked: Mapping[str, Any], alias: str) -> Table:
    """Return a table of candidates on one target: quality, latency, speed-up, size, verdict with reasons."""
    where = "" if alias == CHAMPION else f" for {alias}"
    title = f"Candidates{where} of the round after window {asked['window']}: {asked['outcome'] or asked['state']}"
    table = Table(title=title, title_justify="left", caption=_won(asked, alias), caption_justify="left")
    for name in ("candidate", "runtime", "quality", "p50 / p99 ms", "speed-up", "kB", "verdict", "why"):
        table.add_column(name, overflow="fold")
    for c in asked.get("candidates", ()):
        here = c["targets"].get(alias, c)
        m, look = here["metrics"], here["look"]
        table.add_row(
            ("[bold]" if here["won"] else "") + c["recipe"] + (" ★" if here["won"] else ""),
            here["runtime"] or DASH,
            _quality(m, look),
            _latency(m, look),
            _speedup(m, look, here["contended"]),
            f"{look['size_bytes'] / 1e3:.0f}" if look else DASH,
            f"[{OUTCOMES.get(here['outcome'], 'white')}]{here['outcome']}[/]",
            _shorten("; ".join(here["reasons"][:2]), 160),
        )
    return table


def _won(asked: Mapping[str, Any], alias: str) -> str | None:
    won = asked.get("targets", {}).get(alias)
    lines = [] if won is None else [f"★ {won['winner']} on {won['runtime']}: {won['why']}"]
    return "\n".join([*lines, *asked.get("spared", ()), *filter(None, [asked.get("untrained")])]) or None


def _quality(m: Mapping[str, float], look: Mapping[str, float]) -> str:
    if "quality" in m:
        return f"{m['quality']:.3f} ({m['quality_low']:.3f} to {m['quality_high']:.3f})"
    return f"~{look['quality_search']:.3f}" if "quality_search" in look else DASH


def _latency(m: Mapping[str, float], look: Mapping[str, float]) -> str:
    if not m:
        return f"~{look['look_p50_ms']:.3f}" if look else DASH
    return f"{m['p50_ms']:.3f} / " + (f"{m['p99_ms']:.3f}" if "p99_ms" in m else f"{DASH}")


def _speedup(m: Mapping[str, float], look: Mapping[str, float], contended: bool | None) -> str:
    if not m:
        return f"~{look['look_speedup']:.2f}" if look else DASH
    said = f"{m['speedup']:.2f} ({m['speedup_low']:.2f} to {m['speedup_high']:.2f})"
    return said + (" contended" if contended else "")


def backtest_table(report: Mapping[str, Any]) -> Table:
    """Return a table of a backtest: one row for each trigger and gate."""
    windows = report["windows"]
    title = f"Backtest of {report['project']}, windows {windows['first']} to {windows['last']}"
    note = "minutes: of building and measuring, as if each had been alone; never replaced: the first champion's quality"
    table = Table(title=title, title_justify="left", caption=note, caption_justify="left")
    gated = len({row["gate"] for row in report["rows"]}) > 1
    for name in ("trigger", *(["gate"] if gated else [])):
        table.add_column(name, overflow="fold")
    for name in BACKTEST:
        table.add_column(name, justify="right")
    for row in report["rows"]:
        failed = f"\n[red]failed: {escape(row['failed'])}[/]" if row["failed"] else ""
        figures = [DASH] * len(BACKTEST) if failed else _replayed(row, report)
        table.add_row(escape(row["trigger"]) + failed, *([escape(row["gate"])] if gated else []), *figures)
    return table


BACKTEST = ("moved", "worse", "broken", "rounds", "promoted", "minutes", "mean quality", "never replaced")


def _replayed(row: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    alarms = [str(len(windows)) for windows in row["alarms"].values()]
    rounds = [str(len(row["rounds"])), str(row["promotions"]), f"{row['minutes']:.1f}"]
    quality = [_figure(row["quality"][key], report["metric"]) for key in ("served", "never_replaced")]
    return [*alarms, *rounds, *quality]


def gained_line(status: Mapping[str, Any]) -> str | None:
    """Return one line that says what was gained over the first champion, or None."""
    gained = status["gained"]
    if gained is None:
        return None
    parts = [f"v{gained['champion']} against v{gained['first']}:"]
    if gained["quality_after"] is not None:
        since = ", ".join(str(n) for n in gained["windows"])
        before, after = (_figure(gained[f"quality_{when}"], status["metric"]) for when in ("before", "after"))
        parts.append(f"{status['metric']} {before} -> {after} on windows {since} ({gained['rows']} rows it never saw),")
    if "speedup" in gained:
        low, high = gained["speedup_low"], gained["speedup_high"]
        parts.append(f"{gained['speedup']:.2f} times as fast ({low:.2f} to {high:.2f}),")
        parts.append(f"{gained['size_ratio']:.2f} of the size ({gained['size_bytes'] / 1e3:.0f} kB)")
    return " ".join(parts).rstrip(",")


def mean_line(status: Mapping[str, Any]) -> str | None:
    """Return one line with the mean quality of the champions that served and of the first had it stayed."""
    quality, metric = status["quality"], status["metric"]
    if quality["served"] is None:
        return None
    served, never = (_figure(quality[key], metric) for key in ("served", "never_replaced"))
    return (
        f"mean {metric} over {quality['windows']} windows: {served} with the champions that served, "
        f"{never} had the first never been replaced"
    )


def links(status: Mapping[str, Any]) -> Sequence[str]:
    """Return the lines that say where more is to be seen."""
    lines = [f"{title}: {command}" for title, command in status.get("links", {}).items()]
    if status["reports"]:
        last = status["reports"][-1]
        lines.append(f"report on window {last['window']}: {last['path']}")
    return lines


def _figure(value: float | None, metric: str) -> str:
    if value is None:
        return DASH
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.3f}"


def _shorten(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
