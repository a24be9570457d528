"""What commands share: their options, where they print, and how a project is opened and shown."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.loop import Report
    from trimtab.parts import Parts
    from trimtab.settings import Project

# a file or a pipe has no width of its own, and tables of eighty columns cannot be read
WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
out, err = Console(width=WIDTH), Console(stderr=True)

Config = Annotated[Path, typer.Argument(help="Project file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one setting, such as source.path=rows.csv. May be repeated."),
]
Configs = Annotated[list[Path], typer.Argument(help="Project files, or folders of them.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Who = Annotated[str | None, typer.Option("--who", help="Name for the record; the login name otherwise.")]
DirectRun = Annotated[bool, typer.Option("--direct", help="Run the loop without Prefect.")]


def opened(config: Path, overrides: Sequence[str] | None) -> Parts:
    """Put a project's parts together."""
    from trimtab.parts import assemble
    from trimtab.settings import Project

    return assemble(Project.load(config, overrides or ()), beside=config.parent)


def finish(config: Path, overrides: Sequence[str], reports: Sequence[Report], as_json: bool) -> None:
    """Show what is known of a project after a command, and what somebody has to mend."""
    from trimtab.settings import Project

    report = status_of(Project.load(config, overrides))
    if as_json:
        print_json(report)
    else:
        show(report)
    problems = [(r.window, problem) for r in reports for problem in r.problems]
    for window, problem in problems:
        err.print("[yellow]to mend[/]", Text(f"after window {window}: {problem}"), highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(InputError.exit_code)


def status_of(project: Project) -> dict[str, Any]:
    """Return what is known of a project."""
    from trimtab.journal import Journal
    from trimtab.parts import registry_of
    from trimtab.status import describe

    return describe(Journal(project.journal_url, project.name), registry_of(project))


def show(report: dict[str, Any]) -> None:
    """Print what is known of a project."""
    from trimtab import console

    out.print(console.windows_table(report))
    for asked in report["rounds"]:
        for table in console.candidates_tables(asked):
            out.print(table)
    state = f"{report['project']}: {report['state']}, champion v{report['champion']}, epoch {report['epoch']}"
    if report["waiting"] is not None:
        out.print(Text(report["waiting"], style="yellow"), highlight=False, soft_wrap=True)
    acts = [console.act_line(act) for act in report["acts"][-5:]]
    said = [console.mean_line(report), console.gained_line(report), *console.links(report)]
    lines = [state, report["rollout"], *acts, *said]
    for line in filter(None, lines):
        out.print(line, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a value for programs."""
    sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


def user() -> str:
    """Return the name of who types; the number where the machine knows no name for it (in a container)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
