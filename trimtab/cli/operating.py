"""Commands that serve, deploy and try the stack."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from trimtab.cli.terminal import AsJson, Configs, Overrides, err, out, print_json
from trimtab.errors import InputError

if TYPE_CHECKING:
    from trimtab.settings import Project

STACK = Path(".trimtab") / "up"
"""Where the stack that is up keeps its files."""

commands = typer.Typer()


@commands.command()
def up(
    configs: Configs,
    with_prometheus: Annotated[
        bool, typer.Option("--with-prometheus", help="Also Prometheus and Alertmanager, where they are installed.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Start what is not running of the whole stack, on the loopback, and keep it running until Ctrl-C."""
    import signal

    from trimtab import up as stack

    projects, wanted = _load(configs, overrides or ()), ("prometheus", "alertmanager") if with_prometheus else ()
    planned = stack.plan(stack.installed(), projects, overrides or (), wanted, STACK)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with stack.running(planned, STACK, lambda word: out.print(Text(word), soft_wrap=True)) as supervisor:
            out.print(f"[green]up[/]: {len(projects)} projects; logs in {supervisor.folder}; Ctrl-C ends it")
            for event in stack.watch_over(supervisor, planned):
                err.print("[yellow]stack[/]", Text(event), highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        err.print("down; started again it goes on where it was")


@commands.command()
def deploy(configs: Configs, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Register projects with the Prefect server of PREFECT_API_URL: watched by schedule, optimized on an event."""
    from trimtab import discover

    made = discover.find("schedulers", "prefect")().deploy(_load(configs, overrides or ()), overrides or (), Path.cwd())
    if as_json:
        print_json(made)
    else:
        for name in made:
            out.print(name, highlight=False)


@commands.command()
def doctor(configs: Configs, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Try the stack as it really works: schedules, events, aliases, scrapes; and say what to mend."""
    from trimtab import up as stack
    from trimtab.doctor import examine

    known, failed = stack.addresses(STACK), []
    for name, value in known.items():
        if name == "mlflow":
            os.environ.setdefault("TRIMTAB_REGISTRY__URL", value)
    checks = []
    for check in examine(_load(configs, overrides or ()), known):
        checks.append(dataclasses.asdict(check))
        failed += [check] if check.problem else []
        if not as_json:
            mark = "[red]problem[/]" if check.problem else "[green]works[/]  "
            said = check.what if check.problem is None else f"{check.what}: {check.problem}"
            out.print(mark, Text(said), highlight=False, soft_wrap=True)
    if as_json:
        print_json(checks)
    if failed:
        raise typer.Exit(InputError.exit_code)


@commands.command()
def metrics(
    configs: Configs,
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.")] = 9464,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    overrides: Overrides = None,
) -> None:
    """Serve Prometheus metrics, read from journal and registry at each scrape."""
    from trimtab import discover

    serve = discover.find("exporters", "prometheus")
    projects = [*_load(configs, overrides or ()).values()]
    serve(projects, host, port, lambda at: err.print(f"serving metrics on {at}"))


@commands.command()
def hook(
    configs: Configs,
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.")] = 9465,
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="Holds the token that callers bear; TRIMTAB_HOOK_TOKEN otherwise.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Let Alertmanager start rounds: serve its webhook, for callers that bear the token."""
    from trimtab import discover

    serve = discover.find("hooks", "alertmanager")
    projects = [*_load(configs, overrides or ()).values()]
    serve(projects, host, port, _token(token_file), lambda at: err.print(f"Alertmanager may call {at}"))


def _load(configs: Sequence[Path], overrides: Sequence[str]) -> dict[Path, Project]:
    """Read project files, and every one of the folders named; say which are broken, and are left out."""
    from trimtab.fleet import Fleet

    fleet = Fleet.read(configs, overrides)
    for why in fleet.broken.values():
        err.print("[yellow]left out[/]", Text(why), highlight=False, soft_wrap=True)
    return dict(fleet.projects)


def _token(file: Path | None) -> str:
    """Read the token of the hook from a file, or from the environment."""
    if file is None:
        return os.environ.get("TRIMTAB_HOOK_TOKEN", "")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file} cannot be read ({error}); name a file that holds one line") from error
