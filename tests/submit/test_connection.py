"""The door of a cluster, against dashboards that are played: each fault is one clear line, and no token is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from vlmprof.errors import UserError
from vlmprof.submit.connection import Connection, connect

TOKEN = "0123456789abcdef" * 4


class Dashboard(ThreadingHTTPServer):
    """Answers as told, and remembers what it was shown."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.ray, self.status, self.shown = TOKEN, version("ray"), 200, [""]
        self.redirect = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization", "")
        self.server.shown.append(shown)
        wrong = 403 if shown else 401
        status = self.server.status if not self.server.token or shown == f"Bearer {self.server.token}" else wrong
        body = json.dumps({"ray_version": self.server.ray, "version": "4"}).encode() if status == 200 else b"no"
        if self.server.redirect and shown:
            status = 302
        self.send_response(status)
        self.send_header("Location", self.server.redirect)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    server = Dashboard()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    return file


def test_the_right_token_opens_and_is_never_told(dashboard: Dashboard) -> None:
    connection = connect(dashboard.url)
    assert connection == Connection(url=dashboard.url, ray=version("ray"), token=TOKEN)
    assert connection.warnings == ()
    assert TOKEN not in repr(connection)
    assert connection.headers == {"Authorization": f"Bearer {TOKEN}"}


def test_a_cluster_without_a_token_is_named_and_shown_none(dashboard: Dashboard) -> None:
    dashboard.token = ""
    connection = connect(dashboard.url.removeprefix("http://"))
    assert connection.token == "" and connection.headers == {}
    assert ["asks for no token" in one for one in connection.warnings] == [True]
    assert set(dashboard.shown) == {""}, "a token was sent to who did not ask"


def test_a_wrong_token_says_where_it_came_from(
    dashboard: Dashboard, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_file.write_text("wrong-token")
    with pytest.raises(UserError, match=f"does not accept the token in {token_file}") as raised:
        connect(dashboard.url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong-token")
    with pytest.raises(UserError, match=r"does not accept the token in RAY_AUTH_TOKEN"):
        connect(dashboard.url)
    assert "wrong-token" not in str(raised.value)


@pytest.mark.parametrize("content", ["", None])
def test_no_token_at_all_says_how_to_get_one(dashboard: Dashboard, token_file: Path, content: str | None) -> None:
    token_file.unlink() if content is None else token_file.write_text(content)
    with pytest.raises(UserError, match=r"asks for a token, and there is none in RAY_AUTH_TOKEN nor in .*chmod 600"):
        connect(dashboard.url)


def test_a_token_that_others_can_read_is_warned_of(dashboard: Dashboard, token_file: Path) -> None:
    token_file.chmod(0o644)
    assert connect(dashboard.url).warnings == (
        f"other users of this machine can read your token: chmod 600 {token_file}",
    )


def test_a_token_over_plain_http_beyond_this_machine_is_warned_of() -> None:
    connection = Connection(url="http://head.example:8265", ray=version("ray"), token=TOKEN)
    assert "unencrypted" in connection.warnings[0]
    assert Connection(url="https://head.example", ray=version("ray"), token=TOKEN).warnings == ()


def test_a_redirect_is_not_followed_with_the_token(dashboard: Dashboard) -> None:
    other = Dashboard()
    dashboard.redirect = f"{other.url}/api/version"
    with pytest.raises(UserError, match=r"is not the dashboard of a Ray cluster"):
        connect(dashboard.url)
    assert other.shown == [""]
    other.server_close()


def test_nobody_there(dashboard: Dashboard) -> None:
    with pytest.raises(
        UserError, match=r"no Ray cluster answers at http://127\.0\.0\.1:1: .*refused.*ray start --head"
    ):
        connect("http://127.0.0.1:1")


def test_somebody_else_there(dashboard: Dashboard) -> None:
    dashboard.status = 404
    with pytest.raises(UserError, match=r"is not the dashboard of a Ray cluster"):
        connect(dashboard.url)


def test_versions_of_ray(dashboard: Dashboard) -> None:
    dashboard.ray = "2.44.1"
    with pytest.raises(UserError, match=r"runs Ray 2\.44\.1, and vlmprof needs 2\.60 or newer"):
        connect(dashboard.url)
    dashboard.ray = "2.99.0"
    assert connect(dashboard.url).warnings == (f"the cluster runs Ray 2.99.0, this machine has Ray {version('ray')}",)


@pytest.mark.parametrize("address", ["ray://head:10001", "ftp://x", "http://", "http://me:pass@host:8265"])
def test_an_address_of_another_kind(address: str) -> None:
    with pytest.raises(UserError, match=r"expected the URL of a Ray dashboard|an address must not contain a password"):
        connect(address)
