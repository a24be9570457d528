"""Processes that are kept alive by supervisord: written down, started, restarted when they die, ended together."""

from __future__ import annotations

import configparser
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from trimtab.errors import InputError, ServiceError

__all__ = ["Program", "Seen", "Supervisor", "end_rest"]

START_SECONDS = 20.0
STOP_SECONDS = 20
RESTARTS = 1_000_000
"""Tries to start what dies at once, with a longer pause before each: for ever, but supervisord wants a number."""


@dataclass(frozen=True)
class Program:
    """A process to keep alive.

    Parameters
    ----------
    name
        Of letters, digits and hyphens.
    argv
        The program and its arguments.
    environment
        Beside what is there.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What supervisord says of a process: its state (``RUNNING``, ``BACKOFF``, ...), and since when it lives."""

    state: str
    pid: int
    since: int
    spoke: str

    @property
    def runs(self) -> bool:
        """Whether it is alive for long enough to be called so."""
        return self.state == "RUNNING"


class Supervisor:
    """A supervisord of our own, which outlives the process that started it, and is found again by its folder.

    Parameters
    ----------
    folder
        That it keeps its files in, one log of each process among them; there is one supervisord a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        # a socket's path may have some hundred characters, and a folder's more
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        self._socket = Path(tempfile.gettempdir()) / f"trimtab-{digest}.sock"
        self._conf = self.folder / "supervisord.conf"

    def begin(self, programs: Sequence[Program], cwd: Path) -> None:
        """See to it that supervisord runs with these programs and no others; those that are unchanged live on.

        Raises
        ------
        ServiceError
            When it does not start.
        """
        self._write(programs, cwd)
        if self.runs:
            self._renew()
            return
        with (self.folder / "supervisord.out").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 (our own configuration)
                [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "-c", str(self._conf)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt at the terminal is for us, who end it in order
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.runs:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise ServiceError(f"supervisord did not start; see {self.folder / 'supervisord.out'}")
            time.sleep(0.1)

    @property
    def runs(self) -> bool:
        """Whether it answers."""
        try:
            self._ask("getState")
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def start(self, name: str) -> None:
        """Start a process that does not run; return at once."""
        if self.seen()[name].state in ("STOPPED", "EXITED", "FATAL"):
            with _unless(Faults.ALREADY_STARTED):
                self._ask("startProcess", name, False)

    def stop(self, name: str) -> None:
        """End a process, which stays ended until it is started; return when it has."""
        with _unless(Faults.NOT_RUNNING):
            self._ask("stopProcess", name, True)

    def seen(self) -> dict[str, Seen]:
        """Return what is known of each process."""
        return {
            told["name"]: Seen(told["statename"], told["pid"], told["start"], told["spawnerr"] or told["description"])
            for told in self._ask("getAllProcessInfo")
        }

    def said(self, name: str, lines: int = 5) -> str:
        """Return the last lines that a process wrote."""
        try:
            written = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return "nothing"
        return " | ".join(written[-lines:]) or "nothing"

    def end(self) -> None:
        """End every process, and supervisord; wait until they have ended."""
        if not self.runs:
            return
        self._ask("shutdown")
        deadline = time.monotonic() + 2 * STOP_SECONDS
        while self.runs and time.monotonic() < deadline:
            time.sleep(0.1)

    def bury(self, orphans: Iterable[int]) -> None:
        """End the process groups that a supervisord which was killed left behind: they hold their ports."""
        for pid in orphans:
            with suppress(ProcessLookupError, PermissionError):  # it ended, and the number may be another's
                os.killpg(pid, signal.SIGKILL)

    def _ask(self, question: str, *arguments: Any) -> Any:
        transport = SupervisorTransport("", "", f"unix://{self._socket}")
        try:
            return getattr(xmlrpc.client.ServerProxy("http://127.0.0.1", transport).supervisor, question)(*arguments)
        finally:
            transport.close()

    def _renew(self) -> None:
        """Take the written programs over: end those that are gone or changed, and add what is new or changed."""
        ((added, changed, removed),) = self._ask("reloadConfig")
        for name in [*changed, *removed]:
            self._ask("stopProcessGroup", name, True)
            self._ask("removeProcessGroup", name)
        for name in [*changed, *added]:
            self._ask("addProcessGroup", name)

    def _write(self, programs: Sequence[Program], cwd: Path) -> None:
        conf = configparser.RawConfigParser()
        conf.optionxform = str  # type: ignore[assignment,method-assign]
        conf["supervisord"] = {
            "logfile": _text(self.folder / "supervisord.log"),
            "pidfile": _text(self.folder / "supervisord.pid"),
            "childlogdir": _text(self.folder),
            "identifier": "trimtab",
        }
        conf["unix_http_server"] = {"file": _text(self._socket), "chmod": "0700"}
        conf["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        for program in programs:
            conf[f"program:{program.name}"] = {
                "command": " ".join(_quoted(word, f"an argument of {program.name}") for word in program.argv),
                "directory": _text(cwd.absolute()),
                "environment": ",".join(f"{k}={_quoted(v, k)}" for k, v in program.environment.items()),
                "autostart": "false",
                "autorestart": "true",
                "startretries": str(RESTARTS),
                "stopwaitsecs": str(STOP_SECONDS),
                "stopasgroup": "true",
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": _text(self.folder / f"{program.name}.log"),
                "stdout_logfile_maxbytes": "20MB",
                "stdout_logfile_backups": "2",
            }
        self._conf.touch(mode=0o600)  # environments may hold passwords
        with self._conf.open("w") as file:
            conf.write(file)


def end_rest(process: int) -> None:
    """End what a process of ours left behind when it died: a server's child would keep the port, and go on answering.

    Parameters
    ----------
    process
        Its number, which is that of its group: supervisord gives each process one of its own.
    """
    with suppress(ProcessLookupError, PermissionError):  # all ended, or the number is another's by now
        os.killpg(process, signal.SIGKILL)


@contextmanager
def _unless(code: int) -> Iterator[None]:
    """Let one fault pass: what was asked for came about by itself in between."""
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != code:
            raise


def _text(value: object) -> str:
    """Return text as supervisord reads it: it expands what follows a percent sign."""
    return str(value).replace("%", "%%")


def _quoted(word: str, what: str) -> str:
    """Return a word of a command or an environment as supervisord, which splits like a shell, reads it.

    Raises
    ------
    InputError
        For a word that its format cannot hold, naming ``what`` it is: it may hold a password.
    """
    if any(mark in word for mark in ('"', "\n", "\\")):
        raise InputError(f"{what}: a quotation mark, a backslash or a line break cannot be handed to a service")
    return f'"{_text(word)}"'
