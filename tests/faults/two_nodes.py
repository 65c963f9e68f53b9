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

START_S = 120
"""A bound for a node that hangs, not an expectation: it takes 3 to 8 s."""
OBJECT_STORE = 100 * 2**20
NOTICED_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node whose raylet is gone is declared dead after 3 to 5 s instead of 15 or more."""


class Node:
    """One raylet, started by ``ray start --block`` in a session of its own."""

    def __init__(self, module: str, options: str, environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-m", module, "start", "--block", *options.split()]
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

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
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            **NOTICED_SOON,
            **(environment or {}),
            MARK: mark,
        }
        self._share = f"--num-cpus={cpus} --num-gpus=0 --object-store-memory={OBJECT_STORE} --disable-usage-stats"
        head = f"--head --port=0 --include-dashboard=false --temp-dir={self.home / 'ray'} {self._share}"
        self.head = Node("ray.scripts.scripts", head, self.environment)
        self.address = ""
        self.second: Node

    def __enter__(self) -> Self:
        self.head.start()
        self.address = self._address()
        joining = f"--address={self.address} {self._share}"
        self.second = Node("tests.faults.second_node", joining, self.environment)
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
            time.sleep(0.1)
        raise AssertionError(f"the Ray head did not come up in {START_S} s")
