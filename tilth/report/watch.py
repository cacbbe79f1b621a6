"""`tilth report RUN --watch`: the run's page, made anew whenever it is asked for, on this machine alone.

One page under one address on 127.0.0.1. Anything else is refused: other paths, other methods, and requests that name
another host (a page elsewhere whose name was pointed at this machine). The browser asks again while the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tilth.core.errors import DataError, TilthError
from tilth.core.rundir import read_json
from tilth.core.text import visible

from . import page

SECONDS = 5
"""Between two requests of a browser while the run goes on."""
HOST = "127.0.0.1"


class Watch(ThreadingHTTPServer):
    """Serves one run's page until `shutdown`. Raises DataError if the port (0: any free one) cannot be had."""

    daemon_threads = True

    def __init__(self, run: Path, port: int = 0) -> None:
        self.run = run
        page.render(run)  # what is no run is said now
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as err:
            why = getattr(err, "strerror", None) or str(err)
            raise DataError(f"the page cannot be served: {why}.", where=f"port {port}", fix="Name another.") from None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def goes_on(self) -> bool:
        """Whether the run has not ended, as far as it says itself."""
        try:
            return read_json(self.run / "status.json", missing={}).get("status", "running") == "running"
        except TilthError:
            return True


class _Handler(BaseHTTPRequestHandler):
    server: Watch
    server_version, sys_version = "tilth", ""
    timeout = 10

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._answer(HTTPStatus.FORBIDDEN, "This page is for this machine.")
        elif self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "There is one page here: /")
        else:
            goes_on = self.server.goes_on()
            try:
                self._answer(HTTPStatus.OK, page.render(self.server.run), "text/html", goes_on)
            except TilthError as err:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, visible(str(err)), again=goes_on)

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain", again: bool = False) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            **({"Refresh": str(SECONDS)} if again else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are nobody's business."""


def serve(run: Path, port: int, say: Callable[[str], None]) -> str:
    """Serve until Ctrl-C; returns the address it was."""
    with Watch(run, port) as server:
        say(f"{server.url}  (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        return server.url
