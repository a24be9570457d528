"""Real servers for tests: which programs each needs, and how one is started on the loopback and ended again."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "deploy" / "prometheus"


@dataclass(frozen=True)
class Server:
    """Programs that must be on the machine, and how they come there.

    Folders beside those of PATH are searched too: Debian keeps PostgreSQL's programs out of it.
    """

    programs: tuple[str, ...]
    install: str
    folders: str = ""

    def missing(self) -> list[str]:
        return [name for name in self.programs if self.find(name) is None]

    def find(self, program: str) -> str | None:
        beside = sorted(Path("/").glob(f"{self.folders}/{program}".lstrip("/")), reverse=True) if self.folders else []
        return str(beside[0]) if beside else shutil.which(program)


SERVERS = {
    "prometheus": Server(("prometheus", "promtool"), "apt-get install prometheus"),
    "alertmanager": Server(("prometheus-alertmanager", "amtool"), "apt-get install prometheus-alertmanager"),
    "postgresql": Server(("initdb", "postgres"), "apt-get install postgresql", "/usr/lib/postgresql/*/bin"),
    "chromium": Server(("chromium", "chromedriver"), "apt-get install chromium chromium-driver"),
}


def lacking(names: Sequence[str]) -> str | None:
    """Say which server's programs are not on this machine, and how they come there; None: all are."""
    for name in names:
        if missing := SERVERS[name].missing():
            return f"needs {name} ({', '.join(missing)} not found): {SERVERS[name].install}"
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def running(command: Sequence[str], log: Path, ready: str, seconds: float = 60) -> Iterator[None]:
    """Run a server until the end of the block; it is ready when an address answers 200."""
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
    try:
        until(lambda: process.poll() is not None or get(ready)[0] == 200, seconds, lambda: log.read_text())
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def until(
    true: Callable[[], object], seconds: float, otherwise: Callable[[], str] = lambda: "it did not happen"
) -> None:
    """Wait for something, so many seconds at most."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.2)


def get(address: str) -> tuple[int, str]:
    """Return status and text; status 0 where nothing listens, or what listened died before it had answered."""
    try:
        with urllib.request.urlopen(address, timeout=20) as response:  # noqa: S310 (our own loopback address)
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def send(address: str, body: object, seconds: float = 60) -> str:
    """Post JSON and return what is answered; a server that is busy (503) is asked again, as its own clients do."""
    content, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(address, content, kind)  # noqa: S310 (our own loopback address)
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus with the configuration that trimtab ships."""

    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        status, text = get(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(text)
        assert (status, answer["status"]) == (200, "success"), answer
        assert not answer.get("warnings"), answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now."""
        data = self.ask("query", query=expression)
        assert data["resultType"] == "vector", expression
        return list(data["result"])


@contextmanager
def prometheus(folder: Path, exporter: str, alertmanager: str = "127.0.0.1:9") -> Iterator[Prometheus]:
    """Start Prometheus with the files of ``deploy/prometheus`` as they are, every 2 seconds instead of every 15.

    Parameters
    ----------
    exporter, alertmanager
        ``host:port`` of each.
    """
    place = folder / "prometheus"
    shutil.copytree(CONFIGURATION, place)
    (place / "targets" / "exporter.yml").write_text(f'- targets: ["{exporter}"]\n')
    (place / "targets" / "alertmanager.yml").write_text(f'- targets: ["{alertmanager}"]\n')
    shipped = (place / "prometheus.yml").read_text()
    quick = shipped.replace("interval: 15s", "interval: 2s").replace("timeout: 10s", "timeout: 2s")
    (place / "prometheus.yml").write_text(quick)
    listen = f"127.0.0.1:{free_port()}"
    command = [
        str(SERVERS["prometheus"].find("prometheus")),
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={listen}",
        f"--web.console.templates={place / 'consoles'}",
        f"--web.console.libraries={place / 'consoles'}",
    ]
    with running(command, folder / "prometheus.log", f"http://{listen}/-/ready"):
        yield Prometheus(f"http://{listen}")


@contextmanager
def alertmanager(folder: Path, webhook: str, token: str, hook: str = "http://127.0.0.1:9/alerts") -> Iterator[str]:
    """Start Alertmanager with the file that trimtab ships, its places filled in; yield its ``host:port``."""
    secret, file, listen = folder / "token", folder / "alertmanager.yml", f"127.0.0.1:{free_port()}"
    secret.write_text(token)
    text = (CONFIGURATION / "alertmanager.yml").read_text()
    for placeholder, value in (
        ("https://webhook.invalid/REPLACE-ME", webhook),
        ("/etc/alertmanager/secrets/webhook-token", str(secret)),
        ("http://hook:9465/alerts", hook),
        ("/etc/alertmanager/secrets/hook-token", str(secret)),
        ("group_wait: 10s", "group_wait: 1s"),
        ("group_interval: 1m", "group_interval: 2s"),
    ):
        assert placeholder in text
        text = text.replace(placeholder, value)
    file.write_text(text)
    command = [
        str(SERVERS["alertmanager"].find("prometheus-alertmanager")),
        f"--config.file={file}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={listen}",
        "--cluster.listen-address=",
    ]
    with running(command, folder / "alertmanager.log", f"http://{listen}/-/ready"):
        yield listen


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server; its addresses hold a password, which nothing may show."""

    port: int
    folder: Path
    numbers: Iterator[int]

    PASSWORD = "open-sesame"  # noqa: S105 (of a server that lives for a test)

    def address(self, database: str, driver: str = "postgresql+psycopg") -> str:
        return f"{driver}://trimtab:{self.PASSWORD}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make a new database, and return its address."""
        name = f"d{next(self.numbers)}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(self.address(database, "postgresql"), autocommit=True)

    def answers(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgresql() -> Iterator[Postgres]:
    """Run a PostgreSQL of our own, whose language sorts words unlike SQLite does; root may not, so postgres does."""
    # not below a test's own folder, which another user may not enter
    folder = Path(tempfile.mkdtemp(prefix="trimtab-postgresql-", dir=os.environ.get("TMPDIR", "/tmp")))  # noqa: S108
    password, log = folder / "password", folder / "log"
    password.write_text(Postgres.PASSWORD)
    log.touch()
    owner = "postgres" if os.getuid() == 0 else None
    if owner is not None:
        for path in (folder, password, log):
            shutil.chown(path, owner)
    asked: dict[str, Any] = {"cwd": folder, "user": owner, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}}
    find, data = SERVERS["postgresql"].find, str(folder / "data")
    language = ["--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8"]
    login = ["--username=trimtab", f"--pwfile={password}", "--auth=scram-sha-256"]
    command = [str(find("initdb")), f"--pgdata={data}", "--no-sync", *language, *login]
    made = subprocess.run(command, **asked, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    server = Postgres(free_port(), folder, count(1))
    flags = {"port": server.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
    options = [word for name, value in flags.items() for word in ("-c", f"{name}={value}")]
    with log.open("w") as told:
        process = subprocess.Popen([str(find("postgres")), "-D", data, *options], **asked, stdout=told, stderr=told)
    try:
        until(lambda: process.poll() is not None or server.answers(), 60, log.read_text)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # ends the connections that there are, and then itself
        process.wait(30)
        shutil.rmtree(folder)
