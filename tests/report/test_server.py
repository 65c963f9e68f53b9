"""The page: what it serves, to whom, and that nothing of a sweep can become markup in it."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.builders import combined_sweep, trial_row, write_results
from vlmprof.analyze.watch_state import Watcher
from vlmprof.errors import StoreError, UserError
from vlmprof.report import server as page
from vlmprof.store.heartbeat import Heartbeat, write_heartbeat
from vlmprof.store.ledger import LEDGER, Ledger


@pytest.fixture
def served(tmp_path):
    write_results(tmp_path, combined_sweep())
    write_heartbeat(tmp_path, Heartbeat(time=time.time(), beat=1))
    made = page.make_server(tmp_path, 0)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def asked(served, path="/", method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    if host != "none":
        connection.putheader("Host", host or f"127.0.0.1:{served.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_it_listens_on_the_loopback_alone(served):
    assert served.server_address[0] == "127.0.0.1"


def test_the_page_and_what_it_needs_and_nothing_else(served):
    for path in ("/", "/watch.css", "/watch.js", "/view.json", "/view.json?x=1"):
        status, headers, body = asked(served, path)
        assert status == 200 and body, path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in ("/ledger.jsonl", "/../pyproject.toml", "/watch.html", "//etc/passwd", "/%2e%2e/server.py"):
        assert asked(served, path)[0] == 404, path


def test_what_it_tells_is_what_the_terminal_shows(served):
    told = json.loads(asked(served, "/view.json")[2])
    assert told["status"]["finished"] == 16 and told["status"]["sign"] == "alive"
    assert len(told["fronts"][0]["spots"]) == 16


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_it_is_read_only(served, method):
    assert asked(served, "/", method)[0] == 501


ELSEWHERE = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1:1", "none"]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_name_that_points_here_is_refused(served, host):
    status, _, body = asked(served, "/view.json", host=host.format(port=served.server_port))
    assert status == 421 and b"status" not in body


def test_the_names_of_this_machine_are_answered(served):
    for name in ("localhost", "LOCALHOST", "[::1]"):
        assert asked(served, host=f"{name}:{served.server_port}")[0] == 200


def test_a_folder_that_goes_away_is_said_and_the_page_stays(served, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "FRESH_S", 0.0)
    (tmp_path / LEDGER).rename(tmp_path / "elsewhere")
    status, _, body = asked(served, "/view.json")
    assert status == 503 and "holds no sweep" in json.loads(body)["error"]
    (tmp_path / "elsewhere").rename(tmp_path / LEDGER)
    until = time.monotonic() + 30  # an answer is kept for some times as long as it took
    while (again := asked(served, "/view.json")[0]) != 200 and time.monotonic() < until:
        time.sleep(0.02)
    assert again == 200


def test_ten_pages_read_the_folder_once_a_second(tmp_path):
    write_results(tmp_path, [trial_row()])
    looks, now = [], [0.0]

    class Counting:
        def look(self):
            looks.append(now[0])
            return Watcher(tmp_path).look()

    views = page.ViewCache(Counting(), clock=lambda: now[0])
    answers = {views.get() for _ in range(10)}
    now[0] = 1.5
    views.get()
    assert looks == [0.0, 1.5] and len(answers) == 1


def test_a_folder_without_a_sweep_and_a_port_that_is_taken(tmp_path, served):
    with pytest.raises(StoreError, match="holds no sweep"):
        page.make_server(tmp_path / "no", 0)
    with pytest.raises(UserError, match="cannot be used"):
        page.make_server(tmp_path, served.server_port)


def test_two_hundred_requests_at_once_are_all_answered(served):
    def ask(number):
        return asked(served, "/view.json" if number % 2 else "/")[0]

    gate = threading.Barrier(200)
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda number: (gate.wait(60), ask(number))[1], range(200)))
    assert answers == [200] * 200


@contextmanager
def silent(served, count, said):
    """Connections that have said so much and no more."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", served.server_port), timeout=30)))
            found[-1].sendall(said)
        yield found


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "], ids=["nothing", "half a request"])
def test_clients_that_do_not_finish_their_request_keep_nobody_waiting(served, said, monkeypatch):
    monkeypatch.setattr(page, "MOST_CONNECTIONS", 60)
    before = threading.active_count()
    with silent(served, 150, said):
        began = time.monotonic()
        assert [asked(served)[0] for _ in range(20)] == [200] * 20
        assert time.monotonic() - began < 5
        while threading.active_count() - before > 70 and time.monotonic() - began < 20:
            time.sleep(0.05)  # those that were let go
        assert threading.active_count() - before <= 70


def test_a_client_that_sends_byte_by_byte_is_let_go(served, monkeypatch):
    monkeypatch.setattr(page, "PATIENCE_S", 0.5)
    with silent(served, 1, b"GET / HTTP/1.1\r\n") as (slow,):
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 20:
                slow.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < 10
    assert asked(served)[0] == 200


SOURCES = {name: (Path(page.__file__).parent / name).read_text() for name in ("watch.html", "watch.js", "watch.css")}


def test_it_works_offline():
    allowed = {"http://www.w3.org/2000/svg"}  # a name of a vocabulary; nobody fetches it
    for name, text in SOURCES.items():
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= allowed, name
        assert "@import" not in text and "url(" not in text


def test_words_of_a_sweep_reach_the_page_as_text_only():
    ways_in = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc|DOMParser"
    assert not re.search(ways_in, SOURCES["watch.js"])
    assert "onload=" not in SOURCES["watch.html"] and "<style" not in SOURCES["watch.html"]


def test_the_script_finds_the_elements_it_asks_for():
    there = set(re.findall(r'id="([\w-]+)"', SOURCES["watch.html"]))
    asked_for = set(re.findall(r'find\("([\w-]+)"\)', SOURCES["watch.js"]))
    filled = set(re.findall(r'fill\("([\w-]+)"', SOURCES["watch.js"]))
    assert asked_for | filled | {f"{name}-part" for name in filled} <= there


BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


@pytest.mark.exhaustive
@pytest.mark.skipif(BROWSER is None, reason="no browser here")
def test_a_real_browser_draws_the_front_and_runs_nothing_that_a_sweep_says(served, tmp_path):
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    ledger = Ledger(tmp_path)
    ledger.append("sweep", name=hostile, trials=["f"], time="2026-08-01T12:00:00+00:00")
    ledger.append("failed", trial="f", error=hostile)
    ledger.close()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    page_of = f"http://127.0.0.1:{served.server_port}/"
    command = [BROWSER, *options, "--virtual-time-budget=5000", "--dump-dom", page_of]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert dom.count("<circle") == 16, "a point for every finished trial"
    assert "16 of 17" in dom and dom.count("&lt;img src=x") >= 2
    assert "<img" not in dom and "document.title=2</script>" not in dom
