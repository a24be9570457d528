"""The whole chain: a broken window, a real exporter, Prometheus and Alertmanager, and the webhook that is told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import fakes, shelf
from tests.servers import alertmanager, prometheus, until
from trimtab import loop
from trimtab.settings import Project
from trimtab_prometheus.exporter import exposed

pytestmark = [pytest.mark.servers("prometheus", "alertmanager"), pytest.mark.usefixtures("lock_of_its_own")]
TOKEN = "a-token-of-this-test"  # noqa: S105 (of nobody's)


@contextmanager
def webhook() -> Iterator[tuple[str, list[tuple[str | None, dict[str, Any]]]]]:
    """Yield an address, and what was sent there: the authorization and the body."""
    heard: list[tuple[str | None, dict[str, Any]]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.headers["Authorization"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Ear)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_broken_window_is_told_to_the_webhook_and_so_is_that_it_was_released(tmp_path: Path) -> None:
    with shelf.installed(tmp_path / "site"), webhook() as (address, heard):
        rows = [*(fakes.quiet(n, seed) for n, seed in ((400, 0), (200, 1))), fakes.broken(200, 2)]
        there = shelf.world(tmp_path / "home", fakes.stream("told", *rows))
        list(loop.watch(there.process(), replay=True))
        project = Project.model_validate(fakes.settings(there.home, there.stream, **there.changes))

        def told(status: str) -> list[dict[str, Any]]:
            return [a for _, body in heard for a in body["alerts"] if a["status"] == status]

        with (
            exposed([project], "127.0.0.1", 0) as exporter,
            alertmanager(tmp_path, address, TOKEN) as manager,
            prometheus(tmp_path, exporter.split("/")[2], manager),
        ):
            until(lambda: told("firing"), 90)
            there.process().journal.release(2, "somebody", "a test")
            until(lambda: told("resolved"), 120)
    (name,) = {a["labels"]["alertname"] for a in told("firing")}
    assert name == "TrimtabDataBroken"
    assert {auth for auth, _ in heard} == {f"Bearer {TOKEN}"}
    first = told("firing")[0]
    assert first["labels"]["project"] == "p"
    assert "p: the newest window is broken" in first["annotations"]["summary"]
    assert "trimtab release CONFIG WINDOW" in first["annotations"]["description"]
