"""A server that tells what STORE_URL is in its environment, and the number of its process."""

import http.server
import os
import sys
from typing import Any


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.environ.get('STORE_URL', '')} {os.getpid()}".encode())

    def log_message(self, *_: Any) -> None:
        """Nothing is told."""


if __name__ == "__main__":
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
