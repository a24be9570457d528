"""The command line. Nothing heavy is imported at the top, so that help and completion answer at once."""

from __future__ import annotations

import dataclasses
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

from trimtab.errors import InputError, TrimtabError

if TYPE_CHECKING:
    from trimtab.loop import Report
    from trimtab.settings import Project

__all__ = ["app", "main"]

OUR_FAULT = 70
STACK = Path(".trimtab") / "up"
"""Where the stack that is up keeps its files."""

app = typer.Typer(
    name="trimtab",
    help="Keeps a deployed model accurate, small and fast while its data moves.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# a file or a pipe has no width of its own, and tables of eighty columns cannot be read
WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
out, err = Console(width=WIDTH), Console(stderr=True)
debugging = False

Config = Annotated[Path, typer.Argument(help="Project file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one setting, such as source.path=rows.csv. May be repeated."),
]
Configs = Annotated[list[Path], typer.Argument(help="Project files, or folders of them.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DirectRun = Annotated[bool, typer.Option("--direct", help="Run the loop without Prefect.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Take options that hold for every command."""
    global debugging
    debugging = debug


@app.command()
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
    _finish(stage.config, stage.overrides, reports, as_json)


@app.command()
def run(config: Config, overrides: Overrides = None, direct: DirectRun = False, as_json: AsJson = False) -> None:
    """Take the source for a whole stream: look at every window in it, in order, and act."""
    reports = _watch(config, overrides or (), direct, replay=True)
    _finish(config, overrides or (), reports, as_json)


@app.command()
def watch(config: Config, overrides: Overrides = None, direct: DirectRun = False, as_json: AsJson = False) -> None:
    """Look at every window that has closed since the last time, and act. For a schedule."""
    reports = _watch(config, overrides or (), direct, replay=False)
    _finish(config, overrides or (), reports, as_json)


@app.command()
def optimize(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "manual",
    overrides: Overrides = None,
    direct: DirectRun = False,
    as_json: AsJson = False,
) -> None:
    """Run one round now: retrain, compress, measure, judge, and promote what is proven better."""
    from trimtab.console import Bars

    with Bars(err) as bars:
        _runner(direct).optimize(config, overrides or (), reason, bars)
    _finish(config, overrides or (), [], as_json)


@app.command()
def rollback(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for",
    target: Annotated[str | None, typer.Option(help="Name of a target; the first one's champion otherwise.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion's predecessor champion again; it is loaded and checked before the alias moves."""
    from trimtab import champion
    from trimtab.parts import assemble
    from trimtab.settings import Project

    parts = assemble(Project.load(config, overrides or ()), beside=config.parent)
    alias = parts.project.alias_of(target)
    champion.reconcile(parts)
    operation = f"{parts.project.name}:rollback:{champion.newest_epoch(parts)}"
    champion.rollback(parts, operation, reason, alias)
    _finish(config, overrides or (), [], as_json)


@app.command()
def promote(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "approved",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Promote what the last round proposed, where promotion is manual; it becomes the anchor, too."""
    from trimtab import approval
    from trimtab.parts import assemble
    from trimtab.settings import Project

    approval.approve(assemble(Project.load(config, overrides or ()), beside=config.parent), _user(), reason)
    _finish(config, overrides or (), [], as_json)


@app.command()
def reject(
    config: Config,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "rejected",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do not promote what the last round proposed; the champion stays, and rounds may start again."""
    from trimtab import approval
    from trimtab.parts import assemble
    from trimtab.settings import Project

    approval.reject(assemble(Project.load(config, overrides or ()), beside=config.parent), _user(), reason)
    _finish(config, overrides or (), [], as_json)


@app.command()
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
        _print_json(report)
    else:
        out.print(console.backtest_table(report))
    for row in report["rows"]:
        for problem in filter(None, [row["failed"], *(e["message"] for e in row.get("errors", ()) if "message" in e)]):
            err.print("[yellow]to mend[/]", Text(f"{row['trigger']}: {problem}"), highlight=False, soft_wrap=True)
    if any(row["failed"] for row in report["rows"]):
        raise typer.Exit(InputError.exit_code)


@app.command()
def release(
    config: Config,
    window: Annotated[int, typer.Argument(help="Number of a quarantined window.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Take a window out of quarantine: it is looked at, its labels are judged, and it can be trained on."""
    from trimtab import release as releasing
    from trimtab.parts import assemble
    from trimtab.settings import Project

    parts = assemble(Project.load(config, overrides or ()), beside=config.parent)
    problems, findings = releasing.release(parts, window, _user(), reason)
    _finish(config, overrides or (), [], as_json)
    for finding in findings:
        said = "; ".join([f"window {window}: {finding.monitor} says {finding.answer}", *finding.reasons])
        err.print(Text(said), highlight=False, soft_wrap=True)
    if problems:
        raise InputError("; ".join(problems))


@app.command()
def check(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check that config, source and model are loadable, every problem at once, and what the gate needs."""
    from trimtab.check import examine

    result = examine(config, overrides or ())
    if as_json:
        _print_json(result)
    else:
        for problem in result["problems"]:
            err.print("[red]problem[/]", Text(problem), highlight=False, soft_wrap=True)
        for note in result["notes"]:
            out.print(Text(note), highlight=False, soft_wrap=True)
        if not result["problems"]:
            out.print(f"[green]{config} is sound[/]")
    if result["problems"]:
        raise typer.Exit(InputError.exit_code)


@app.command()
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
    from trimtab.parts import assemble
    from trimtab.settings import Project

    parts = assemble(Project.load(config, overrides or ()), beside=config.parent)
    path = page.write(parts, window, file or parts.folder / "reports" / f"window-{window}.html")
    for written in (path, *(write_full(parts, window, path.parent) if full else ())):
        out.print(str(written), highlight=False, soft_wrap=True)


@app.command()
def status(
    config: Annotated[Path | None, typer.Argument(help="Project file; without it every project run here.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say what is known of a project: champion, windows, rounds, what was gained."""
    reports = [_status(project) for project in _projects(config, overrides or ())]
    if as_json:
        _print_json(reports[0] if len(reports) == 1 else reports)
        return
    for report in reports:
        _show(report)


@app.command()
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
        _print_json(report)
        return
    for part in console.explanation(report):
        out.print(part, highlight=False, soft_wrap=True)


@app.command()
def ack(
    config: Config,
    alarm: Annotated[str, typer.Argument(help="MONITOR or MONITOR:STATISTIC, as explain writes it.")],
    expected: Annotated[str, typer.Option(help="Why the alarm is expected.")],
    until: Annotated[str, typer.Option(help="Last day (2026-12-31) or number of the last window.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say that an alarm is expected: it stays in the journal, and starts no round until then."""
    from trimtab.acknowledge import acknowledge
    from trimtab.parts import assemble
    from trimtab.settings import Project

    parts = assemble(Project.load(config, overrides or ()), beside=config.parent)
    said = acknowledge(parts, alarm, expected, until, _user())
    if as_json:
        _print_json(dataclasses.asdict(said))
    else:
        out.print(Text(f"{alarm} is expected up to window {said.until}: {expected}"))


@app.command()
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


@app.command()
def deploy(configs: Configs, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Register projects with the Prefect server of PREFECT_API_URL: watched by schedule, optimized on an event."""
    from trimtab import discover

    made = discover.find("schedulers", "prefect")().deploy(_load(configs, overrides or ()), overrides or (), Path.cwd())
    if as_json:
        _print_json(made)
    else:
        for name in made:
            out.print(name, highlight=False)


@app.command()
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


@app.command()
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
        _print_json(checks)
    if failed:
        raise typer.Exit(InputError.exit_code)


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List what is installed: monitors, techniques, runtimes, sources, trainers, registries."""
    from trimtab import discover

    found = {kind: {n: p.value for n, p in sorted(discover.installed(kind).items())} for kind in discover.KINDS}
    if as_json:
        _print_json(found)
        return
    from rich.table import Table

    table = Table("kind", "name", "class")
    for kind, points in found.items():
        for name, value in points.items():
            table.add_row(kind, name, value)
    out.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes a message, an exit code and a record in the journal."""
    _be_quiet()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given)
    except TrimtabError as error:
        _give_up(error, given, error.exit_code, str(error))
    except KeyboardInterrupt:
        err.print("stopped; started again it goes on where it was")
        sys.exit(130)
    except Exception as error:  # whatever is left is ours: no traceback unless asked for, a code of its own
        message = f"{type(error).__name__}: {error}; this is a fault of trimtab's: report it with --debug's output"
        _give_up(error, given, OUR_FAULT, message)


def _give_up(error: Exception, given: Sequence[str], code: int, message: str) -> None:
    if debugging:
        err.print_exception()
    err.print("[bold red]error[/]", Text(message), highlight=False, soft_wrap=True)
    _record(given, message, code)
    sys.exit(code)


def _record(given: Sequence[str], message: str, code: int) -> None:
    """Keep the error in the journal of the project that the command named, where there is one."""
    import yaml

    try:
        config = next(Path(a) for a in given if a.endswith((".yaml", ".yml")))
        content = yaml.safe_load(config.read_text())
        name, url = str(content["name"]), (content.get("journal") or {}).get("url")
        file = Path(content.get("home") or Path(".trimtab") / name) / "journal.db"
        if url or file.is_file():
            from trimtab.journal import Journal

            command = next(a for a in given if not a.startswith("-"))
            if command == "backtest":  # leaves the project as it is
                return
            detail = {"command": command, "message": message, "exit_code": code}
            Journal(url or f"sqlite:///{file.absolute()}", name).record("error", detail)
    except (StopIteration, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, TrimtabError):
        return


def _load(configs: Sequence[Path], overrides: Sequence[str]) -> dict[Path, Project]:
    """Read project files, and every one of the folders named."""
    from trimtab.errors import SettingsError
    from trimtab.settings import Project

    files = [f for path in configs for f in (sorted(path.glob("*.y*ml")) if path.is_dir() else [path])]
    if not files:
        raise SettingsError(
            f"no *.yaml in {', '.join(map(str, configs))}; name a project file, or a folder that holds some"
        )
    projects = {file: Project.load(file, overrides) for file in files}
    names = [p.name for p in projects.values()]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SettingsError(f"name: several project files share the name {twice[0]!r}; give each its own")
    return projects


def _user() -> str:
    """Return the name of who types; the number where the machine knows no name for it (in a container)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _be_quiet() -> None:
    """Nothing is sent home, and other libraries' notices do not tear the progress apart."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it logs the traceback of what it raises, and we tell that ourselves
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)


def _runner(direct: bool) -> Any:
    from trimtab import discover

    return discover.find("runners", "direct" if direct else "prefect")()


def _watch(config: Path, overrides: Sequence[str], direct: bool, *, replay: bool) -> list[Report]:
    from trimtab.console import Bars

    with Bars(err) as bars:
        reports: list[Report] = _runner(direct).watch(config, overrides, replay, bars)
    return reports


def _finish(config: Path, overrides: Sequence[str], reports: Sequence[Report], as_json: bool) -> None:
    from trimtab.settings import Project

    report = _status(Project.load(config, overrides))
    if as_json:
        _print_json(report)
    else:
        _show(report)
    problems = [(r.window, problem) for r in reports for problem in r.problems]
    for window, problem in problems:
        err.print("[yellow]to mend[/]", Text(f"after window {window}: {problem}"), highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(InputError.exit_code)


def _status(project: Project) -> dict[str, Any]:
    from trimtab.journal import Journal
    from trimtab.parts import registry_of
    from trimtab.status import describe

    return describe(Journal(project.journal_url, project.name), registry_of(project))


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


def _show(report: dict[str, Any]) -> None:
    from trimtab import console

    out.print(console.windows_table(report))
    for asked in report["rounds"]:
        for table in console.candidates_tables(asked):
            out.print(table)
    state = f"{report['project']}: {report['state']}, champion v{report['champion']}, epoch {report['epoch']}"
    if report["waiting"] is not None:
        out.print(Text(report["waiting"], style="yellow"), highlight=False, soft_wrap=True)
    lines = [state, console.mean_line(report), console.gained_line(report), *console.links(report)]
    for line in filter(None, lines):
        out.print(line, highlight=False, soft_wrap=True)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")
