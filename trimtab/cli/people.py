"""Commands by which a person says what becomes of a round, a window or an alarm."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.text import Text

from trimtab.cli.terminal import AsJson, Config, Overrides, Who, err, finish, opened, out, print_json, user
from trimtab.errors import InputError

commands = typer.Typer()


@commands.command()
def promote(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "approved",
    who: Who = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Promote what waits since the last round, proposed or in shadow; it becomes the anchor, too."""
    from trimtab import approval

    approval.approve(opened(config, overrides), who or user(), reason)
    finish(config, overrides or (), [], as_json)


@commands.command()
def reject(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "rejected",
    who: Who = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do not promote what waits since the last round; the champion stays, and rounds may start again."""
    from trimtab import approval

    approval.reject(opened(config, overrides), who or user(), reason)
    finish(config, overrides or (), [], as_json)


@commands.command()
def release(
    config: Config,
    window: Annotated[int, typer.Argument(help="Number of a quarantined window.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for",
    who: Who = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Take a window out of quarantine: it is looked at, its labels are judged, and it can be trained on."""
    from trimtab import release as releasing

    parts = opened(config, overrides)
    problems, findings = releasing.release(parts, window, who or user(), reason)
    finish(config, overrides or (), [], as_json)
    for finding in findings:
        said = "; ".join([f"window {window}: {finding.monitor} says {finding.answer}", *finding.reasons])
        err.print(Text(said), highlight=False, soft_wrap=True)
    if problems:
        raise InputError("; ".join(problems))


@commands.command()
def ack(
    config: Config,
    alarm: Annotated[str, typer.Argument(help="MONITOR or MONITOR:STATISTIC, as explain writes it.")],
    expected: Annotated[str, typer.Option(help="Why the alarm is expected.")],
    until: Annotated[str, typer.Option(help="Last day (2026-12-31) or number of the last window.")],
    who: Who = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say that an alarm is expected: it stays in the journal, and starts no round until then."""
    from trimtab.acknowledge import acknowledge

    parts = opened(config, overrides)
    said = acknowledge(parts, alarm, expected, until, who or user())
    if as_json:
        print_json(dataclasses.asdict(said))
    else:
        out.print(Text(f"{alarm} is expected up to window {said.until}: {expected}"))
