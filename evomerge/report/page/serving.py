"""The page of a run on this machine alone, made anew when its journal has grown, or why it won was measured.

It listens on 127.0.0.1, answers to that name only (a page of another site cannot read it under a name of its
own), and sends what the page itself says again as headers.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from evomerge.errors import EvomergeError, InputError
from evomerge.record.ablation import FILE
from evomerge.record.record import Record, begun
from evomerge.report.page import page
from evomerge.report.page.document import policy
from evomerge.visible import visible

HOST = "127.0.0.1"
EVERY = 20  # seconds after which a browser looks again, while the search goes on


class Site:
    """The newest page of the run in ``folder``.

    Raises:
        InputError: nothing was searched there yet.
    """

    def __init__(self, folder: str | Path) -> None:
        journal = begun(folder)
        self._folder, self._files = folder, (journal, journal.with_name(FILE))
        self._lock = threading.Lock()
        self._state: list[tuple[int, int] | None] = []
        self._page = b""

    def page(self) -> bytes:
        """In UTF-8.

        Raises:
            EvomergeError: the record cannot be read.
        """
        with self._lock:
            state = [_state(file) for file in self._files]
            if state != self._state:
                self._page = page(Record(self._folder), refresh=EVERY).encode()
                self._state = state
            return self._page


def _state(file: Path) -> tuple[int, int] | None:
    """What changes when the file does; None where there is none."""
    try:
        now = file.stat()
    except FileNotFoundError:
        return None
    return now.st_mtime_ns, now.st_size


def server(site: Site, port: int) -> ThreadingHTTPServer:
    """Serves ``site`` once it is told to; port 0 is a free one.

    Raises:
        InputError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "evomerge", ""

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            known = {f"{name}:{made.server_port}" for name in (HOST, "localhost")}
            if self.headers.get("Host") not in known:
                self._send(HTTPStatus.FORBIDDEN, b"this page is for this machine alone\n")
            elif self.path not in ("/", "/index.html"):
                self._send(HTTPStatus.NOT_FOUND, b"there is one page here: /\n")
            else:
                try:
                    self._send(HTTPStatus.OK, site.page(), "text/html")
                except (EvomergeError, OSError) as error:
                    text = f"{visible(str(error))}\n".encode()
                    self._send(HTTPStatus.INTERNAL_SERVER_ERROR, text)

        def _send(self, status: HTTPStatus, content: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", f"{policy()}; frame-ancestors 'none'")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Silence: what a browser asks for is no news."""

    try:
        made = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--serve {port}: cannot listen on {HOST}: {why}; choose another one, or 0 for one that is free"
        ) from None
    return made
