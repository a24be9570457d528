"""Commands that tell what is known, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from trimtab.cli.terminal import AsJson, Config, Overrides, err, opened, out, print_json, show, status_of
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.settings import Project

commands = typer.Typer()


@commands.command()
def status(
    configs: Annotated[
        list[Path] | None, typer.Argument(help="Project files, or folders of them; without any every project run here.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what is known of a project: champion, windows, rounds, what was gained; of several, a line of each."""
    if configs and (len(configs) > 1 or configs[0].is_dir()):
        _show_fleet(configs, overrides or (), as_json)
        return
    reports = [status_of(project) for project in _projects(configs[0] if configs else None, overrides or ())]
    if as_json:
        print_json(reports[0] if len(reports) == 1 else reports)
        return
    for report in reports:
        show(report)


@commands.command()
def explain(
    config: Config,
    window: Annotated[int, typer.Argument(help="Its number.", show_default=False)],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say why a window was decided as it was: every finding with its scores, p-values and limits."""
    from trimtab import console
    from trimtab.explain import explain as explained
    from trimtab.journal import Journal
    from trimtab.settings import Project

    project = Project.load(config, overrides or ())
    report = explained(Journal(project.journal_url, project.name), window)
    if as_json:
        print_json(report)
        return
    for part in console.explanation(report):
        out.print(part, highlight=False, soft_wrap=True)


@commands.command()
def report(
    config: Config,
    window: Annotated[int, typer.Argument(help="Number of the window.", show_default=False)],
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; into the project's home otherwise.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Write also the full report of each monitor that has one.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Write a page about a window: what was found and decided and why, its columns, and the trigger's history."""
    from trimtab import page
    from trimtab.fullreport import write_full

    parts = opened(config, overrides)
    path = page.write(parts, window, file or parts.folder / "reports" / f"window-{window}.html")
    for written in (path, *(write_full(parts, window, path.parent) if full else ())):
        out.print(str(written), highlight=False, soft_wrap=True)


@commands.command()
def check(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that config, source and model are loadable, every problem at once, and what the gate needs."""
    from trimtab.check import examine

    result = examine(config, overrides or ())
    if as_json:
        print_json(result)
    else:
        for problem in result["problems"]:
            err.print("[red]problem[/]", Text(problem), highlight=False, soft_wrap=True)
        for note in result["notes"]:
            out.print(Text(note), highlight=False, soft_wrap=True)
        if not result["problems"]:
            out.print(f"[green]{config} is sound[/]")
    if result["problems"]:
        raise typer.Exit(InputError.exit_code)


@commands.command()
def backtest(
    config: Config,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="N_OR_DATE", help="First window; the rows before it train.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="N_OR_DATE", help="Last window.")] = None,
    triggers: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger",
            metavar="SETTINGS",
            help="A trigger to try, such as 'on=worse,moved; confirm=3 of 5'; 'project': as it is. May be repeated.",
        ),
    ] = None,
    gates: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="SETTINGS", help="A gate to try, such as 'max_quality_drop=0.02'; as --trigger."
        ),
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Add: a round never, every window, every third.")] = False,
    afresh: Annotated[bool, typer.Option("--afresh", help="Replay again what was replayed before.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Replay stored windows under several triggers and gates, beside the project, and compare what comes of it."""
    from trimtab import console
    from trimtab.backtest import backtest

    with console.Bars(err) as bars:
        report = backtest(
            config,
            overrides or (),
            bars,
            begin=begin,
            end=end,
            triggers=triggers or (),
            gates=gates or (),
            beside=beside,
            afresh=afresh,
        )
    if as_json:
        print_json(report)
    else:
        out.print(console.backtest_table(report))
    for row in report["rows"]:
        for problem in filter(None, [row["failed"], *(e["message"] for e in row.get("errors", ()) if "message" in e)]):
            err.print("[yellow]to mend[/]", Text(f"{row['trigger']}: {problem}"), highlight=False, soft_wrap=True)
    if any(row["failed"] for row in report["rows"]):
        raise typer.Exit(InputError.exit_code)


@commands.command()
def plugins(as_json: AsJson = False) -> None:
    """List what is installed, by kind: monitors, techniques, runtimes and all others."""
    from trimtab import discover

    found = {kind: {n: p.value for n, p in sorted(discover.installed(kind).items())} for kind in discover.KINDS}
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table("kind", "name", "class")
    for kind, points in found.items():
        for name, value in points.items():
            table.add_row(kind, name, value)
    out.print(table)


def _show_fleet(configs: Sequence[Path], overrides: Sequence[str], as_json: bool) -> None:
    """Print a line of each of many projects; one that is broken is told, and the exit code says so."""
    from trimtab import console
    from trimtab.fleet import Fleet
    from trimtab.overview import overview

    fleet = Fleet.read(configs, overrides)
    rows = list(overview(fleet.projects))
    if as_json:
        print_json({"projects": rows, "broken": {str(file): why for file, why in fleet.broken.items()}})
    else:
        out.print(console.fleet_table(rows))
        for line in console.fleet_rounds(rows):
            out.print(line, soft_wrap=True)
    wrong = [*fleet.broken.values(), *(f"{row['project']}: {row['error']}" for row in rows if row["error"])]
    for why in wrong:
        err.print("[red]problem[/]", Text(why), highlight=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(InputError.exit_code)


def _projects(config: Path | None, overrides: Sequence[str]) -> list[Project]:
    """Return the named project, or all that left a journal below this folder."""
    from trimtab.journal import Journal
    from trimtab.settings import Project

    if config is not None:
        return [Project.load(config, overrides)]
    journals = sorted(Path(".trimtab").glob("*/journal.db"))
    if not journals:
        raise InputError(
            f"no project has run in {Path.cwd()}: there is no .trimtab/*/journal.db; name a project file, "
            "or start with: trimtab demo"
        )
    found = [Journal(f"sqlite:///{path.absolute()}", path.parent.name).projects() for path in journals]
    return [Project.model_validate_json(text) for texts in found for text in texts.values()]
