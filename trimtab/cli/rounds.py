"""Commands that look at windows and run rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from trimtab.cli.terminal import AsJson, Config, DirectRun, Overrides, Who, err, finish, opened, out, print_json, user
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.loop import Report

commands = typer.Typer()


@commands.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the data and of everything after.")] = 0,
    direct: DirectRun = False,
    as_json: AsJson = False,
) -> None:
    """Watch eight windows of handwritten digits whose scanner is replaced, and see the model follow."""
    from trimtab import discover
    from trimtab.demo import set_stage

    write_stream: Any = discover.find("demos", "digits")
    home = Path(".trimtab") / "digits"
    stage = set_stage(write_stream, write_stream.__module__.partition(".")[0], home, seed)
    err.print(f"[bold]trimtab demo[/]: {stage.story}")
    reports = _watch(stage.config, stage.overrides, direct, replay=True)
    stage.finish()
    finish(stage.config, stage.overrides, reports, as_json)


@commands.command()
def run(config: Config, overrides: Overrides = None, direct: DirectRun = False, as_json: AsJson = False) -> None:
    """Take the source for a whole stream: look at every window in it, in order, and act."""
    reports = _watch(config, overrides or (), direct, replay=True)
    finish(config, overrides or (), reports, as_json)


@commands.command()
def watch(config: Config, overrides: Overrides = None, direct: DirectRun = False, as_json: AsJson = False) -> None:
    """Look at every window that has closed since the last time, and act. For a schedule."""
    reports = _watch(config, overrides or (), direct, replay=False)
    finish(config, overrides or (), reports, as_json)


@commands.command()
def optimize(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "manual",
    who: Who = None,
    overrides: Overrides = None,
    direct: DirectRun = False,
    as_json: AsJson = False,
) -> None:
    """Run one round now: retrain, compress, measure, judge, and promote what is proven better."""
    from trimtab.console import Bars

    with Bars(err) as bars:
        _carrier(direct).optimize(config, overrides or (), reason, who or user(), bars)
    finish(config, overrides or (), [], as_json)


@commands.command()
def rollback(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for",
    target: Annotated[str | None, typer.Option(help="Name of a target; the first one's champion otherwise.")] = None,
    who: Who = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion's predecessor champion again; it is loaded and checked before the alias moves."""
    from trimtab import champion

    parts = opened(config, overrides)
    alias = parts.project.alias_of(target)
    champion.reconcile(parts)
    operation = f"{parts.project.name}:rollback:{champion.newest_epoch(parts)}"
    champion.rollback(parts, operation, reason, alias, who or user())
    finish(config, overrides or (), [], as_json)


@commands.command()
def backfill(
    config: Config,
    begin: Annotated[str | None, typer.Option("--from", metavar="N_OR_DATE", help="First window.")] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="N_OR_DATE", help="Last window; the newest otherwise.")
    ] = None,
    who: Who = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look at windows of the past that were left out, or that were quarantined and are mended; no round is started."""
    from trimtab import backfill as past
    from trimtab.console import filled_line

    parts = opened(config, overrides)
    done = []
    for filled in past.backfill(parts, begin, end, who or user()):
        done.append(filled)
        if not as_json:
            out.print(Text(filled_line(filled)), soft_wrap=True)
    if as_json:
        print_json([{**dataclasses.asdict(f), "findings": [g.to_json() for g in f.findings]} for f in done])
    problems = [problem for filled in done for problem in filled.problems]
    for problem in problems:
        err.print("[yellow]to mend[/]", Text(problem), highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(InputError.exit_code)


def _carrier(direct: bool) -> Any:
    from trimtab import discover

    return discover.find("carriers", "direct" if direct else "prefect")()


def _watch(config: Path, overrides: Sequence[str], direct: bool, *, replay: bool) -> list[Report]:
    from trimtab.console import Bars

    with Bars(err) as bars:
        reports: list[Report] = _carrier(direct).watch(config, overrides, replay, bars)
    return reports
