"""The stack: what is given is used, what is not is started, ports are kept, what hangs or dies is started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests import answers
from tests.servers import get, until
from trimtab import up
from trimtab.errors import InputError, ServiceError
from trimtab.service import LOOPBACK, Command, Ground
from trimtab.settings import Project
from trimtab_mlflow.service import MlflowServer


@dataclass
class Answers:
    """A server that tells its environment and its process."""

    port: ClassVar[int | None] = 0
    after: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[bool] = False

    def given(self, ground: Ground) -> str | None:
        return os.environ.get(f"{self.name.upper()}_URL")

    def command(self, ground: Ground, port: int) -> Command:
        address = f"http://{LOOPBACK}:{port}"
        gives = {f"{self.name.upper()}_URL": address}
        return Command((sys.executable, answers.__file__, str(port)), address, address, {}, gives)


class Store(Answers):
    name: ClassVar[str] = "store"


class Pages(Answers):
    name: ClassVar[str] = "pages"
    after: ClassVar[tuple[str, ...]] = ("store",)


class Asked(Answers):
    name: ClassVar[str] = "asked"
    optional: ClassVar[bool] = True


class Dies(Answers):
    name: ClassVar[str] = "dies"
    optional: ClassVar[bool] = True

    def command(self, ground: Ground, port: int) -> Command:
        return Command((sys.executable, "-c", "print('no luck today'); raise SystemExit(3)"))


class Parent(Answers):
    """A server whose child answers, and would outlive it."""

    name: ClassVar[str] = "parent"
    optional: ClassVar[bool] = True

    def command(self, ground: Ground, port: int) -> Command:
        made = super().command(ground, port)
        code = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"
        return Command((sys.executable, "-c", code, *made.argv[1:]), made.address, made.ready)


def planned(folder: Path, *wanted: str) -> list[up.Planned]:
    services = {made.name: made for made in (Pages(), Store(), Asked(), Dies(), Parent())}
    return up.plan(services, {}, (), wanted, folder)


def told(service: up.Planned) -> list[str]:
    assert service.address is not None
    with urllib.request.urlopen(service.address, timeout=10) as answer:  # noqa: S310 (our own)
        return str(answer.read().decode()).split()


def test_services_are_planned_in_order_and_keep_their_ports(tmp_path: Path) -> None:
    first = planned(tmp_path)
    assert [p.name for p in first] == ["store", "pages"]
    assert [p.address for p in planned(tmp_path)] == [p.address for p in first]
    assert {p.name for p in planned(tmp_path, "asked")} == {"store", "pages", "asked"}
    with socket.socket() as taken:
        taken.bind((LOOPBACK, int(str(first[0].address).rpartition(":")[2])))
        taken.listen()
        assert planned(tmp_path)[0].address != first[0].address


def test_one_that_is_given_is_used_and_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_URL", "http://store.example")
    store, pages = planned(tmp_path)
    assert (store.address, store.command) == ("http://store.example", None)
    assert pages.command is not None


def test_ports_that_were_half_written_are_chosen_anew(tmp_path: Path) -> None:
    planned(tmp_path)
    (tmp_path / "ports.json").write_text('{"store": 50')
    assert all(p.address for p in planned(tmp_path))


def test_a_password_in_an_address_is_shown_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_URL", "http://me:secret@store.example")
    said = list[str]()
    with up.running([p for p in planned(tmp_path) if p.name == "store"], tmp_path, said.append):
        assert said == ["store: http://me:***@store.example (given)"]
        assert up.addresses(tmp_path) == {"store": "http://me:secret@store.example"}
        assert (tmp_path / up.ADDRESSES).stat().st_mode & 0o777 == 0o600


def test_stores_that_differ_are_named_without_their_passwords(tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "configs" / "digits.yaml"
    projects = {
        Path(f"{host}.yaml"): Project.load(
            config, [f"name={host}", f"registry.url=postgresql://me:secret@{host}/trimtab"]
        )
        for host in ("one", "two")
    }
    with pytest.raises(InputError, match=r"me:\*\*\*@one/trimtab; .*me:\*\*\*@two") as told:
        MlflowServer().command(Ground(tmp_path, projects), 5000)
    assert "secret" not in str(told.value)


def test_what_dies_or_hangs_is_started_again_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(up, "SILENT_SECONDS", 2.0)
    made, said = planned(tmp_path), list[str]()
    with up.running(made, tmp_path, said.append) as supervisor:
        store, pages = made
        assert said == [f"store: {store.address}", f"pages: {pages.address}"]
        assert up.addresses(tmp_path) == {"store": store.address, "pages": pages.address}
        url, process = told(pages)
        assert url == store.address  # what is before it is in its environment
        with pytest.raises(InputError, match="is up already"), up.running(made, tmp_path, said.append):
            pass
        events = up.watch_over(supervisor, made)
        os.kill(int(process), signal.SIGKILL)
        happened = [next(events)]
        while "runs again" not in happened[-1]:
            happened.append(next(events))
        assert happened[-1].startswith("pages had ended, and runs again")
        os.kill(supervisor.seen()["store"].pid, signal.SIGSTOP)
        while "was started again" not in happened[-1]:
            happened.append(next(events))
        assert happened[-1].startswith("store did not answer for 2 s")
        deadline = time.monotonic() + 60
        while not (supervisor.seen()["store"].runs and supervisor.seen()["pages"].runs):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert up.addresses(tmp_path) == {}
    assert not supervisor.runs


def test_a_child_of_what_was_killed_keeps_no_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "LOOK_SECONDS", 0.2)
    made = [p for p in planned(tmp_path, "parent") if p.name == "parent"]
    with up.running(made, tmp_path, lambda word: None) as supervisor:
        child, killed = int(told(made[0])[-1]), supervisor.seen()["parent"].pid
        assert child != killed
        events = up.watch_over(supervisor, made)
        os.kill(killed, signal.SIGKILL)
        while "runs again" not in next(events):
            pass
        until(lambda: get(str(made[0].address))[0] == 200, 60)
        assert int(told(made[0])[-1]) not in (child, killed)


def test_all_of_it_comes_back_when_its_keeper_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "LOOK_SECONDS", 0.2)
    made = planned(tmp_path)
    with up.running(made, tmp_path, list[str]().append) as supervisor:
        before = [told(p)[-1] for p in made]
        events = up.watch_over(supervisor, made)
        os.kill(int((tmp_path / "supervisord.pid").read_text()), signal.SIGKILL)
        assert next(events).startswith("supervisord had ended")
        assert all(seen.runs for seen in supervisor.seen().values())
        assert not {told(p)[-1] for p in made} & {*before}
    assert not supervisor.runs


def test_what_a_killed_up_left_is_taken_over(tmp_path: Path) -> None:
    made, said = planned(tmp_path), list[str]()
    with up.running(made, tmp_path, said.append) as supervisor:
        before = [told(p)[-1] for p in made]
        addresses = json.loads((tmp_path / up.ADDRESSES).read_text())
        again = planned(tmp_path)
        assert {p.name: p.address for p in again} == addresses
        supervisor.begin(
            [up.Program(p.name, p.command.argv, p.command.environment) for p in again if p.command], Path.cwd()
        )
        assert [told(p)[-1] for p in again] == before


def test_one_that_does_not_become_ready_is_named_with_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "READY_SECONDS", 3.0)
    made = [p for p in planned(tmp_path, "dies") if p.name == "dies"]
    with (
        pytest.raises(ServiceError, match=r"dies was not ready within 3 s .* it wrote last: .*no luck today"),
        up.running(made, tmp_path, lambda word: None),
    ):
        pass
    assert not up.Supervisor(tmp_path).runs
