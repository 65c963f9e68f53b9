"""The batch sizer of a cluster: one detached named actor that all sweeps of all drivers share.

A batch size that one sweep has measured is available to all others at once; a trial that asks for a size that is being
probed waits, whichever sweep runs it. The actor's name contains the version, the protocol number and the cache folder,
so that sweeps with different ones do not share an actor. The actor belongs to no sweep. Ray restarts it when it is
killed, with the same state, because all of its state is in the cache on disk. It ends when it has had no request for a
while, and the next request starts it again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import vlmprof
from vlmprof.batch_size.cache import FOLDER, default_folder
from vlmprof.batch_size.protocol import PROTOCOL, ProbeResult, SizeReply, SizeRequest
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.sweep.cluster import NAMESPACE

IDLE_S = 900.0
"""The actor ends after so long without a request."""
IDLE_CHECKS = 10
"""How often it checks in that time."""
TRIES = 8
"""Attempts to reach an actor that has just ended: its name becomes free a moment later."""
RETRY_S = 0.5


@final
class SizerActor:
    """One batch sizer for a cluster. Its state is on disk: a restart reads it again."""

    def __init__(self, folder: str, idle_s: float = IDLE_S) -> None:
        """Start with the cache in ``folder``; empty: the default folder of the node it runs on."""
        self._sizer = BatchSizer(Path(folder) if folder else default_folder())
        self._lock, self._last_call = threading.Lock(), time.monotonic()
        handle = ray.get_runtime_context().current_actor
        threading.Thread(target=self._exit_when_idle, args=(handle, idle_s), daemon=True).start()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of ``BatchSizer``."""
        with self._lock:
            self._last_call = time.monotonic()
            return getattr(self._sizer, method)(*arguments)

    def process(self) -> int:
        """The id of its process."""
        return os.getpid()

    def _exit_when_idle(self, handle: Any, idle_s: float) -> None:
        while True:
            time.sleep(idle_s / IDLE_CHECKS)
            with self._lock:  # held until the process ends: a call that comes now fails, and its caller starts another
                if time.monotonic() - self._last_call > idle_s:
                    ray.kill(handle, no_restart=True)
                    time.sleep(idle_s)


@final
class RemoteSizer:
    """A client of the cluster's sizer, which it finds or starts at the first call.

    Where memory cannot be measured there is nothing to share, and a sizer in this process answers.
    """

    def __init__(self, folder: str = "", idle_s: float = IDLE_S) -> None:
        """Nothing is started yet.

        Args:
            folder: The cache folder; empty: the default of the node that the actor runs on.
            idle_s: How long an actor that is started here stays alive without a request, in seconds.
        """
        self._folder, self._idle_s = folder, idle_s
        self._local, self._actor = BatchSizer(), None

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        if request.usable_bytes is None:
            return self._local.ask(request, about)
        reply: SizeReply = self._call("ask", request, about)
        return reply

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        self._call("renew", memory_key, configuration, token)

    def tell(self, result: ProbeResult) -> None:
        if result.usable_bytes is None:
            self._local.tell(result)
        else:
            self._call("tell", result)

    def adopt(self, files: Mapping[str, bytes]) -> float:
        since: float = self._call("adopt", files)
        return since

    def used(self, since: float) -> Mapping[str, bytes]:
        files: Mapping[str, bytes] = self._call("used", since)
        return files

    def actor(self) -> Any:
        """The actor, started if it does not exist."""
        if self._actor is None:
            options = {"name": actor_name(self._folder), "namespace": NAMESPACE, "lifetime": "detached"}
            durable = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
            remote = ray.remote(SizerActor).options(
                **options, **durable, get_if_exists=True, scheduling_strategy=_on_head_node()
            )
            self._actor = remote.remote(self._folder, self._idle_s)
        return self._actor

    def _call(self, method: str, *arguments: Any) -> Any:
        # Repeating a call is safe: a repeated request gets the same reply, a repeated result counts once.
        for retries in reversed(range(TRIES)):
            try:
                return ray.get(self.actor().call.remote(method, *arguments))
            except ray.exceptions.RayActorError:  # it has ended, or its node is gone
                self._actor = None
                if not retries:
                    raise
                time.sleep(RETRY_S)
        return None


def configured_folder() -> str:
    """The cache folder that this process's environment names; empty if it names none."""
    folder = os.environ.get(FOLDER)
    return str(Path(folder).expanduser().absolute()) if folder else ""


def actor_name(folder: str) -> str:
    """The name of the actor in its namespace."""
    return f"batch-sizer-{vlmprof.__version__}-{PROTOCOL}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def _on_head_node() -> Any:
    """Prefer the head node, whose disk keeps the cache as long as the cluster runs; otherwise any node."""
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    return NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
