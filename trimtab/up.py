"""The whole stack on one machine: what is not given by address is started on the loopback, and kept alive."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from http.client import HTTPException
from pathlib import Path
from typing import Any

import filelock

from trimtab import discover
from trimtab.address import masked, refuse_passwords
from trimtab.errors import InputError, ServiceError
from trimtab.service import LOOPBACK, Command, Ground, Service
from trimtab.settings import Project
from trimtab.supervise import Program, Seen, Supervisor, end_rest

__all__ = ["Planned", "addresses", "installed", "plan", "running", "watch_over"]

READY_SECONDS = 180.0
SILENT_SECONDS = 60.0
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Planned:
    """A service as it is used.

    Parameters
    ----------
    name
        Of the service.
    address
        Where it is found; None: nowhere.
    command
        How it is started; None: it is given.
    after
        Names of the services that must be ready before it.
    """

    name: str
    address: str | None
    command: Command | None
    after: tuple[str, ...] = ()


def installed() -> dict[str, Service]:
    """Return every service that is installed, by name."""
    return {name: discover.find("services", name)() for name in discover.installed("services")}


def plan(
    services: Mapping[str, Service],
    projects: Mapping[Path, Project],
    overrides: Sequence[str],
    wanted: Sequence[str],
    folder: Path,
) -> list[Planned]:
    """Say which services are used, in the order in which they are started.

    Parameters
    ----------
    services
        Those that there are, by name.
    projects
        By the path of the project file.
    overrides
        ``key.key=value`` each, of every project.
    wanted
        Optional services to start too.
    folder
        For the files of the stack; the ports that were taken are remembered there.

    Raises
    ------
    InputError
        When a service cannot be started, naming what is missing, or an override holds a password.
    """
    refuse_passwords(overrides)
    used = {n: s for n, s in services.items() if not s.optional or n in wanted}
    order = TopologicalSorter({n: [a for a in s.after if a in used] for n, s in used.items()}).static_order()
    ground, planned = Ground(folder, projects, tuple(overrides)), list[Planned]()
    ports = _Ports(folder / "ports.json")
    for name in order:
        service = used[name]
        given = service.given(ground)
        command = None if given else service.command(ground, ports.of(name, service.port))
        address = given or (command.address if command else None)
        planned.append(Planned(name, address, command, tuple(a for a in service.after if a in used)))
        ground = replace(
            ground,
            environment={**ground.environment, **(command.gives if command else {})},
            addresses={**ground.addresses, **({name: address} if address else {})},
        )
    ports.keep()
    return [replace(p, command=_within(p.command, planned[:n])) for n, p in enumerate(planned)]


def _within(command: Command | None, before: Sequence[Planned]) -> Command | None:
    """Return a command with the environment that the services before it give."""
    if command is None:
        return None
    given = {k: v for p in before if p.command is not None for k, v in p.command.gives.items()}
    return replace(command, environment={**given, **command.environment})


class _Ports:
    """Ports of the loopback by service: the same as the last time, else the usual one, else a free one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ports: dict[str, int] = _read(file)  # without it they are chosen anew
        self._ours = Supervisor(file.parent).runs

    def of(self, name: str, usual: int | None) -> int:
        """Return a service's port; 0 where it needs none."""
        if usual is None:
            return 0
        known = self._ports.get(name)
        if known is None or not (self._ours or _is_free(known)):
            taken = not usual or usual in self._ports.values() or not _is_free(usual)
            self._ports[name] = _free() if taken else usual
        return self._ports[name]

    def keep(self) -> None:
        """Remember them."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._ports))


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _free() -> int:
    with socket.socket() as tried:
        tried.bind((LOOPBACK, 0))
        return int(tried.getsockname()[1])


@contextmanager
def running(planned: Sequence[Planned], folder: Path, say: Callable[[str], None]) -> Iterator[Supervisor]:
    """Start what is planned, each when those that it needs are ready; end all of it in the end.

    What a killed ``up`` left running is taken over.

    Raises
    ------
    InputError
        When another process keeps the stack of this folder up.
    ServiceError
        When a service does not become ready, with what it wrote last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, supervisor = filelock.FileLock(str(folder / "up.lock")), Supervisor(folder)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(
            f"the stack in {folder} is up already; end the other trimtab up, or use its servers"
        ) from error
    try:
        _tell_others(folder, planned)
        _start(supervisor, planned, say)
        yield supervisor
    finally:
        supervisor.end()
        (folder / ADDRESSES).unlink(missing_ok=True)
        lock.release()


def _start(supervisor: Supervisor, planned: Sequence[Planned], say: Callable[[str], None]) -> None:
    programs = [Program(p.name, p.command.argv, p.command.environment) for p in planned if p.command is not None]
    supervisor.begin(programs, Path.cwd())
    ready: dict[str, Planned] = {}
    for service in planned:
        _make_ready(supervisor, [p for p in planned if p.name in service.after and p.name not in ready], ready, say)
        if service.command is not None:
            supervisor.start(service.name)
    _make_ready(supervisor, [p for p in planned if p.name not in ready], ready, say)


ADDRESSES = "addresses.json"


def _tell_others(folder: Path, planned: Sequence[Planned]) -> None:
    known = {p.name: p.address for p in planned if p.address}
    (folder / ADDRESSES).touch(mode=0o600)  # addresses may hold passwords
    (folder / ADDRESSES).write_text(json.dumps(known))


def addresses(folder: Path) -> dict[str, str]:
    """Return the addresses of the stack that is up in a folder, by service; none where none is."""
    return _read(folder / ADDRESSES)


def _read(file: Path) -> dict[str, Any]:
    """Read a file of ours; nothing where there is none, or where the process that wrote it was killed at that."""
    try:
        told: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return told


def _make_ready(
    supervisor: Supervisor, services: Sequence[Planned], ready: dict[str, Planned], say: Callable[[str], None]
) -> None:
    for service in services:
        if service.command is not None:
            _await(supervisor, service.name, service.command)
        ready[service.name] = service
        say(f"{service.name}: {masked(service.address or 'runs')}{'' if service.command else ' (given)'}")


def _await(supervisor: Supervisor, name: str, command: Command) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not (supervisor.seen()[name].runs and _answers(command)):
        if time.monotonic() > deadline:
            seen = supervisor.seen()[name]
            raise ServiceError(
                f"{name} was not ready within {READY_SECONDS:.0f} s ({seen.state}: {seen.spoke}); it wrote last: "
                f"{supervisor.said(name)}"
            )
        time.sleep(0.2)


def _answers(command: Command) -> bool:
    if command.ready is None:
        return True
    try:
        with urllib.request.urlopen(command.ready, timeout=5):  # noqa: S310 (our own loopback address)
            return True
    except (OSError, HTTPException):
        return False


def watch_over(supervisor: Supervisor, planned: Sequence[Planned]) -> Iterator[str]:
    """Look at the processes again and again, and yield what happened to them; what hangs is started anew.

    What dies is started anew by supervisord, whether anybody looks or not; and all of it here, should that die.
    """
    return _events(supervisor, planned, supervisor.seen())


def _events(supervisor: Supervisor, planned: Sequence[Planned], seen: dict[str, Seen]) -> Iterator[str]:
    ours = {p.name: p.command for p in planned if p.command is not None}
    while True:
        seen = yield from _until_it_ends(supervisor, ours, seen)
        supervisor.bury(s.pid for s in seen.values() if s.pid)
        _start(supervisor, planned, lambda _: None)
        seen = supervisor.seen()
        yield "supervisord had ended, and all of it was started again"


def _until_it_ends(
    supervisor: Supervisor, ours: Mapping[str, Command], before: dict[str, Seen]
) -> Generator[str, None, dict[str, Seen]]:
    """Yield what happens until supervisord no longer answers; return what was seen last."""
    answered = dict.fromkeys(ours, time.monotonic())
    lived = {name: before[name].pid for name in ours}
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            seen = supervisor.seen()
        except OSError:
            return before
        for name, command in ours.items():
            now, was = seen[name], before[name]
            if command.ready is not None and was.pid and now.pid != was.pid:
                end_rest(was.pid)
            anew = now.runs and now.pid != lived[name]
            if anew:
                yield f"{name} had ended, and runs again (process {now.pid})"
                lived[name] = now.pid
            elif was.runs and not now.runs:
                yield f"{name} ended ({now.state}: {now.spoke}); it is started again"
            if anew or not now.runs or _answers(command):
                answered[name] = time.monotonic()
            elif time.monotonic() - answered[name] > SILENT_SECONDS:
                supervisor.stop(name)
                supervisor.start(name)
                answered[name] = time.monotonic()
                yield f"{name} did not answer for {SILENT_SECONDS:.0f} s, and was started again"
        before = seen
