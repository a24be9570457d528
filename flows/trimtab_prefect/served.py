"""The process of the embedded Prefect server: it serves one socket, and ends when its standard input closes.

Nothing heavy is imported at the top, so that it also ends when its parent dies while it starts.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

__all__ = ["serve"]


def serve(descriptor: int) -> None:
    """Serve Prefect's API on a listening socket until the process is told to stop or its parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _end_with_parent() -> None:
    """Read what never comes; the kernel closes the other end when the parent dies, however it dies."""
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
