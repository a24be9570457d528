"""What a person sees in the terminal: progress while the loop works, and tables of what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Bars", "candidates_table", "gained_line", "mean_line", "windows_table"]

COLOURS = {"fine": "green", "moved": "yellow", "worse": "red", "broken": "red", "unknown": "dim"}
OUTCOMES = {"passed": "green", "rejected": "red", "unknown": "yellow", "failed": "red"}
DASH = "–"  # noqa: RUF001 (an en dash marks an empty cell)


class Bars:
    """Progress as bars, one a stage, with the time left.

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

        yield advance
        self.progress.update(bar, now="")
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
            row["decision"] or DASH,
            DASH if row["champion"] is None else f"v{row['champion']}",
            _share(row["quality"]),
            _shorten("; ".join(row["reasons"])),
        )
    return table


def candidates_table(asked: Mapping[str, Any]) -> Table:
    """Return a table of one round's candidates: quality, latency, speed-up, size, verdict with reasons."""
    title = f"Candidates of the round after window {asked['window']}: {asked['outcome'] or asked['state']}"
    table = Table(title=title, title_justify="left")
    for name in ("candidate", "quality", "p50 / p95 ms", "speed-up", "kB", "verdict", "why"):
        table.add_column(name, overflow="fold")
    for c in asked.get("candidates", ()):
        m = c["metrics"]
        table.add_row(
            ("[bold]" if c["won"] else "") + c["recipe"] + (" ★" if c["won"] else ""),
            f"{_share(m['quality'])} ({_share(m['quality_low'])} to {_share(m['quality_high'])})"
            if "quality" in m
            else DASH,
            f"{m['p50_ms']:.3f} / {m['p95_ms']:.3f}" if m else DASH,
            f"{m['speedup']:.2f} ({m['speedup_low']:.2f} to {m['speedup_high']:.2f})"
            + (" contended" if c["contended"] else "")
            if m
            else DASH,
            f"{m['size_bytes'] / 1e3:.0f}" if m else DASH,
            f"[{OUTCOMES.get(c['outcome'], 'white')}]{c['outcome']}[/]",
            _shorten("; ".join(c["reasons"][:2]), 160),
        )
    return table


def gained_line(status: Mapping[str, Any]) -> str | None:
    """Return one line that says what was gained over the first champion, or None."""
    gained = status["gained"]
    if gained is None:
        return None
    parts = [f"v{gained['champion']} against v{gained['first']}:"]
    if gained["quality_after"] is not None:
        since = ", ".join(str(n) for n in gained["windows"])
        parts.append(
            f"quality {_share(gained['quality_before'])} -> {_share(gained['quality_after'])} on windows {since} "
            f"({gained['rows']} rows it never saw),"
        )
    if "speedup" in gained:
        low, high = gained["speedup_low"], gained["speedup_high"]
        parts.append(f"{gained['speedup']:.2f} times as fast ({low:.2f} to {high:.2f}),")
        parts.append(f"{gained['size_ratio']:.2f} of the size ({gained['size_bytes'] / 1e3:.0f} kB)")
    return " ".join(parts).rstrip(",")


def mean_line(status: Mapping[str, Any]) -> str | None:
    """Return one line with the mean quality of the champions that served and of the first had it stayed."""
    quality = status["quality"]
    if quality["served"] is None:
        return None
    return (
        f"mean quality over {quality['windows']} windows: {_share(quality['served'])} with the champions that served, "
        f"{_share(quality['never_replaced'])} had the first never been replaced"
    )


def links(status: Mapping[str, Any]) -> Sequence[str]:
    """Return the lines that say where more is to be seen."""
    lines = [f"{title}: {command}" for title, command in status.get("links", {}).items()]
    if status["reports"]:
        lines.append(f"drift report: {status['reports'][-1]['path']}")
    return lines


def _share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f} %"


def _shorten(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
