"""``serve``: one read-only page about one sweep, for browsers on this machine.

It listens on the loopback alone, answers GET alone, four names alone, and only when the Host header is its own: a page
from elsewhere whose name was made to point at 127.0.0.1 (DNS rebinding) is refused. It holds no secret, and needs
nothing that is not in this package.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, final

from vlmprof.analyze.watch_state import Watcher
from vlmprof.errors import UserError
from vlmprof.escaping import visible, visible_in
from vlmprof.store.filesystem import Where

HOST = "127.0.0.1"
NAMES = (HOST, "localhost", "[::1]")
"""What a browser on this machine may call the host; the last one through a tunnel."""
MOST_CONNECTIONS = 400
PATIENCE_S = 10.0
"""So long a client may take to send its request and to take the answer, all in all."""
FRESH_S = 1.0
"""So old an answer may be: ten open pages do not read the folder ten times."""
HERE = Path(__file__).parent
FILES = {
    "/": ("watch.html", "text/html; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@final
class ViewCache:
    """The view that the page requests, read at most once a second and by one thread at a time."""

    def __init__(self, watcher: Watcher, clock: Callable[[], float] = time.monotonic) -> None:
        self._watcher, self._clock = watcher, clock
        self._turn = threading.Lock()
        self._seen: tuple[float, HTTPStatus, bytes] | None = None

    def get(self) -> tuple[HTTPStatus, bytes]:
        """Status and JSON."""
        with self._turn:
            if self._seen is None or self._clock() >= self._seen[0]:
                began = self._clock()
                told = self._look()
                ended = self._clock()
                # Thousands of trials take a while to read: most of the time is a pause all the same.
                self._seen = (ended + max(FRESH_S, 4 * (ended - began)), *told)
            return self._seen[1:]

    def _look(self) -> tuple[HTTPStatus, bytes]:
        try:
            told = visible_in(self._watcher.look().to_json())
        except (UserError, OSError) as error:  # the folder may be away for a while
            return HTTPStatus.SERVICE_UNAVAILABLE, json.dumps({"error": visible(str(error))}).encode()
        return HTTPStatus.OK, json.dumps(told, allow_nan=False).encode()


@final
class PageServer(ThreadingHTTPServer):
    """A thread a connection, and never more than ``MOST_CONNECTIONS``.

    A client that does not send its request, or sends it byte by byte, keeps nobody else waiting: it is let go after
    ``PATIENCE_S``, or as soon as its place is needed.
    """

    request_queue_size = 512  # connections that the kernel keeps until they are accepted
    daemon_threads = True

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: dict[socket.socket, float] = {}  # the oldest first
        self._answering: set[socket.socket] = set()
        self._turn = threading.Lock()
        super().__init__((HOST, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._turn:
            self._open[request] = time.monotonic()
            silent = [one for one in self._open if one not in self._answering]
            if len(self._open) > MOST_CONNECTIONS:
                self._let_go(silent[0] if silent[0] is not request else next(iter(self._open)))
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Let go of clients that have had their time; called at least twice a second."""
        with self._turn:
            late = time.monotonic() - PATIENCE_S
            for one in [one for one, since in self._open.items() if since < late]:
                self._let_go(one)

    def _let_go(self, connection: socket.socket) -> None:
        del self._open[connection]
        with suppress(OSError):  # it is gone already
            connection.shutdown(socket.SHUT_RDWR)  # its thread, which waits for it, then ends and closes it

    def answering(self, request: socket.socket) -> None:
        """Called once the request of a connection has been read: it is no longer the first to be let go."""
        with self._turn:
            self._answering.add(request)

    def shutdown_request(self, request: Any) -> None:
        with self._turn:
            self._open.pop(request, None)
            self._answering.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; the terminal is the user's."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def make_server(folder: Where, port: int) -> PageServer:
    """A server that listens already, and answers once ``serve_forever`` is called.

    Args:
        folder: Of results.
        port: 0 takes one that is free; ``server_port`` tells which.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: the port is taken.
    """
    watcher = Watcher(folder)
    watcher.look()  # a folder without a sweep is said here, and not on a page
    views = ViewCache(watcher)

    @final
    class Handler(BaseHTTPRequestHandler):
        """One request."""

        server_version, sys_version = "vlmprof", ""
        timeout = PATIENCE_S

        def do_GET(self) -> None:
            """Answer one of four names."""
            if isinstance(self.server, PageServer):
                self.server.answering(self.connection)
            _answer(self, views)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged: the terminal is the user's."""

    try:
        return PageServer(port, Handler)
    except OSError as error:
        raise UserError(f"port {port} of {HOST} cannot be used: {error.strerror}; name another, or 0 for any") from None


def _answer(request: BaseHTTPRequestHandler, views: ViewCache) -> None:
    path = request.path.partition("?")[0]
    if request.headers.get("Host", "").lower() not in _hosts(request.server.server_address[1]):  # type: ignore[index]
        _send(request, HTTPStatus.MISDIRECTED_REQUEST, b"this page answers to 127.0.0.1 alone\n", "text/plain")
    elif path == "/view.json":
        _send(request, *views.get(), "application/json")
    elif path in FILES:
        name, kind = FILES[path]
        _send(request, HTTPStatus.OK, (HERE / name).read_bytes(), kind)
    else:
        _send(request, HTTPStatus.NOT_FOUND, b"there is no such page\n", "text/plain")


def _hosts(port: object) -> set[str]:
    return {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())


def _send(request: BaseHTTPRequestHandler, status: HTTPStatus, body: bytes, kind: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
