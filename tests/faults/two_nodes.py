"""Two Ray nodes on this machine, each a process group that a test may kill, on loopback, with a token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests.faults.processes import MARK

ROOT = Path(__file__).parents[2]
START_S = 120
"""A bound for a node that hangs, not an expectation: it takes 3 to 8 s."""
OBJECT_STORE = 100 * 2**20
NOTICED_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
"""A node whose raylet is gone is declared dead after some 5 s instead of 15 or more."""
STARTS_MOST = 3
"""On a loaded host Ray itself gives a node up that does not register within 30 s."""


class Node:
    """One raylet, started by ``ray start --block`` in a session of its own."""

    def __init__(self, module: str, options: str, environment: Mapping[str, str], log: Path) -> None:
        self._command = [sys.executable, "-m", module, "start", "--block", *options.split()]
        self._environment, self._log = dict(environment), log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def require_running(self) -> None:
        """Raises:
        AssertionError: it has ended, with what it said.
        """
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"a Ray node ended with {code}: {self._log.read_text(errors='replace')[-2000:]}"

    def raylet(self) -> psutil.Process | None:
        """Its raylet, once it is there."""
        if self._process is None:
            return None
        with suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                if child.name() == "raylet" and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        return None

    def gone(self) -> None:
        """After its raylet was killed: Ray's own processes of this node notice by themselves."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=60)
        self.stop()

    def stop(self) -> None:
        """End what was started here, the whole session of it."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=60)
        self._process = None


class TwoNodes:
    """A head and a second node that can die and come back; a context manager."""

    def __init__(self, mark: str, *, cpus: int = 1, environment: Mapping[str, str] | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="vp-two-"))  # sockets in it have paths of at most 107 bytes
        token = self.home / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            **os.environ,
            **(environment or {}),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            **NOTICED_SOON,
            MARK: mark,
        }
        self._share = f"--num-cpus={cpus} --num-gpus=0 --object-store-memory={OBJECT_STORE} --disable-usage-stats"
        head = f"--head --port=0 --include-dashboard=false --temp-dir={self.home / 'ray'} {self._share}"
        self.head = Node("ray.scripts.scripts", head, self.environment, self.home / "head.log")
        self.address = ""
        self.second: Node

    def __enter__(self) -> Self:
        for attempt in range(1, STARTS_MOST + 1):
            self.head.start()
            try:
                self.address = self._address()
                break
            except AssertionError:
                self.head.stop()
                last = attempt == STARTS_MOST
                shutil.rmtree(self.home if last else self.home / "ray", ignore_errors=True)
                if last:
                    raise
        joining = f"--address={self.address} {self._share}"
        self.second = Node("tests.faults.second_node", joining, self.environment, self.home / "second.log")
        self.second.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.second.stop()
        self.head.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _address(self) -> str:
        known = self.home / "ray" / "ray_current_cluster"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if known.is_file() and (address := known.read_text().strip()):
                return address
            self.head.require_running()
            time.sleep(0.1)
        raise AssertionError(f"the Ray head did not come up in {START_S} s")
