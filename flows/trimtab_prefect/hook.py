"""The endpoint that Alertmanager calls: an alert that may start a round writes it into the journal, and tells Prefect.

FastAPI and uvicorn come with Prefect's own server.
"""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from trimtab.alerted import Alert, Reply, answer
from trimtab.errors import InputError, ServiceError, SettingsError, nearest
from trimtab.journal import Journal
from trimtab.settings import Project
from trimtab_prefect import tell
from trimtab_prefect.message import Message

__all__ = ["LEAST_TOKEN", "MOST_BYTES", "PATH", "application", "exposed", "serve"]

PATH = "/alerts"
MOST_BYTES = 1_000_000
"""Of one call; a group of a hundred alerts has some hundred thousand."""
LEAST_TOKEN = 16
"""Characters of a token: what is shorter can be tried out."""
STOP_SECONDS = 20.0
NAMED = 10

logger = logging.getLogger(__name__)


def serve(projects: Sequence[Project], host: str, port: int, token: str, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    projects
        Whose rounds alerts may start.
    host
        Address to bind to.
    port
        Port to bind to; 0 takes a free one.
    token
        That a call must bear (``Authorization: Bearer TOKEN``).
    say
        Told the address once the server listens.

    Raises
    ------
    SettingsError
        When there is no token, or a short one.
    InputError
        When the address cannot be bound.
    """
    with exposed(projects, host, port, token) as address:
        say(address)
        threading.Event().wait()


@contextmanager
def exposed(projects: Sequence[Project], host: str, port: int, token: str) -> Iterator[str]:
    """Serve in a thread, and yield the address that Alertmanager is told (``http://host:port/alerts``)."""
    app = application(projects, token)
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); name an address of this machine and a port "
            "of 0 to 65535 that is not in use, or 0 for a free one"
        ) from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{listening.getsockname()[1]}{PATH}"
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS)
        listening.close()


def application(projects: Sequence[Project], token: str) -> FastAPI:
    """Return the endpoint as an ASGI application.

    Raises
    ------
    SettingsError
        When there is no token, or a short one.
    """
    if len(token) < LEAST_TOKEN or not token.isprintable() or not token.isascii():
        raise SettingsError(
            f"the token of the hook has {len(token)} characters, and must have at least {LEAST_TOKEN}, all of them "
            "printable ASCII: whoever can call the hook can start rounds. Put one into TRIMTAB_HOOK_TOKEN, or into a "
            "file that --token-file names; openssl rand -hex 24 makes one"
        )
    known = {p.name: p for p in projects}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(PATH)
    async def alerts(request: Request) -> JSONResponse:
        if not _bears(request, token):
            said = "the call bears no token, or another: Authorization: Bearer TOKEN"
            return JSONResponse({"error": said}, 401, {"WWW-Authenticate": "Bearer"})
        body = await _body(request)
        if body is None:
            return JSONResponse({"error": f"the body has more than {MOST_BYTES} bytes"}, 413)
        try:
            message = Message.model_validate_json(body)
        except ValidationError as error:
            told = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_input=False)]
            return JSONResponse({"error": "this is no message of Alertmanager's webhook, version 4", "told": told}, 422)
        try:
            return await run_in_threadpool(_answered, known, [sent.alert for sent in message.alerts])
        except ServiceError as error:
            return JSONResponse({"error": str(error)}, 503)  # Alertmanager tries again

    return app


def _bears(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"


async def _body(request: Request) -> bytes | None:
    """Return what was sent; None when it is too much, of which no more is read then."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


def _answered(known: Mapping[str, Project], alerts: Sequence[Alert]) -> JSONResponse:
    """Act on each alert; one that names no project of ours makes the whole answer an error, after the others."""
    told = [_told(alert, _reply(known, alert)) for alert in alerts]
    return JSONResponse({"alerts": told}, 404 if any(t["did"] == "refused" for t in told) else 200)


def _reply(known: Mapping[str, Project], alert: Alert) -> Reply:
    project = known.get(alert.project)
    if project is None:
        have = ", ".join([*sorted(known)[:NAMED], *(["..."] if len(known) > NAMED else [])])
        what = f"it names the project {alert.project!r}" if alert.project else "it has no label project"
        return Reply("refused", f"{what}; there are {have}.{nearest(alert.project, known)}")
    reply = answer(project, alert)
    logger.info("%s of %s: %s: %s", alert.name, alert.project, reply.did, reply.why)
    if reply.did == "requested" and reply.round is not None and PREFECT_API_URL.value():
        tell.round_requested(Journal(project.journal_url, project.name), reply.round)
    return reply


def _told(alert: Alert, reply: Reply) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "project": alert.project,
        "fingerprint": alert.fingerprint,
        "did": reply.did,
        "why": reply.why,
        "round": None if reply.round is None else reply.round.operation,
    }
