"""The command line. Nothing heavy is imported at the top, so that help and completion answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from trimtab.cli import operating, people, rounds, telling
from trimtab.cli.terminal import err
from trimtab.errors import TrimtabError

__all__ = ["app", "main"]

OUR_FAULT = 70

app = typer.Typer(
    name="trimtab",
    help="Keeps a deployed model accurate, small and fast while its data moves.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for part in (rounds, people, telling, operating):
    app.add_typer(part.commands)
debugging = False


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Take options that hold for every command."""
    global debugging
    debugging = debug


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
