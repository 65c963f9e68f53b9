"""``serve``: one read-only page about one sweep, for browsers on this machine.

It listens on the loopback alone, answers GET alone, four names alone, and only when the Host header is its own: a page
from elsewhere whose name was made to point at 127.0.0.1 (DNS rebinding) is refused. It holds no secret, and needs
nothing that is not in this package.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import final

from vlmprof.analyze.watch_state import Watcher
from vlmprof.errors import UserError
from vlmprof.store.filesystem import Where

HOST = "127.0.0.1"
NAMES = (HOST, "localhost", "[::1]")
"""What a browser on this machine may call the host; the last one through a tunnel."""
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
            told = self._watcher.look().to_json()
        except (UserError, OSError) as error:  # the folder may be away for a while
            return HTTPStatus.SERVICE_UNAVAILABLE, json.dumps({"error": str(error)}).encode()
        return HTTPStatus.OK, json.dumps(told, allow_nan=False).encode()


def make_server(folder: Where, port: int) -> ThreadingHTTPServer:
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
        timeout = 30  # a connection that says nothing does not keep a thread for ever

        def do_GET(self) -> None:
            """Answer one of four names."""
            _answer(self, views)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged: the terminal is the user's."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
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
