"""The batch sizer of a cluster: one detached actor, found by name, for all sweeps of all drivers.

What one sweep measures another knows at once, and who asks for what is being probed waits, whichever sweep asks. The
name holds the version, the number of the protocol and the atlas folder: sweeps that would not understand each other
do not meet. The actor belongs to no sweep. It comes back when it is killed, and knows what it knew, because all of it
is in the atlas; it leaves when nobody has asked for a while, and whoever asks then starts it again.
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
"""The actor leaves when nobody has asked for so long."""
LOOKS = 10
"""How often it looks in that time."""
TRIES = 8
"""To reach an actor that has just left: its name is free a moment later."""
RETRY_S = 0.5


@final
class SizerActor:
    """One batch sizer for a cluster. What it knows is on disk: a restart reads it again."""

    def __init__(self, folder: str, idle_s: float = IDLE_S) -> None:
        """Begin to wait for questions; an empty folder is the default of the node it runs on."""
        self._sizer = BatchSizer(Path(folder) if folder else default_folder())
        self._lock, self._asked = threading.Lock(), time.monotonic()
        me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._leave_when_idle, args=(me, idle_s), daemon=True).start()

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of ``BatchSizer``."""
        with self._lock:
            self._asked = time.monotonic()
            return getattr(self._sizer, method)(*arguments)

    def process(self) -> int:
        """The id of its process."""
        return os.getpid()

    def _leave_when_idle(self, me: Any, idle_s: float) -> None:
        while True:
            time.sleep(idle_s / LOOKS)
            with self._lock:  # held to the end: who calls now is told that the actor is gone, and starts another
                if time.monotonic() - self._asked > idle_s:
                    ray.kill(me, no_restart=True)
                    time.sleep(idle_s)


@final
class RemoteSizer:
    """The cluster's sizer, with the face of a sizer: found or started when it is first needed.

    Where memory cannot be measured there is nothing to share, and the answer is found in this process.
    """

    def __init__(self, folder: str = "", idle_s: float = IDLE_S) -> None:
        """Nothing is started yet.

        Args:
            folder: The atlas; empty: the default of the node that the actor runs on.
            idle_s: How long an actor that is started here stays without being asked.
        """
        self._folder, self._idle_s = folder, idle_s
        self._here, self._found = BatchSizer(), None

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        if request.usable_bytes is None:
            return self._here.ask(request, about)
        reply: SizeReply = self._call("ask", request, about)
        return reply

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        self._call("renew", memory_key, configuration, token)

    def tell(self, result: ProbeResult) -> None:
        if result.usable_bytes is None:
            self._here.tell(result)
        else:
            self._call("tell", result)

    def adopt(self, files: Mapping[str, bytes]) -> float:
        since: float = self._call("adopt", files)
        return since

    def used(self, since: float) -> Mapping[str, bytes]:
        files: Mapping[str, bytes] = self._call("used", since)
        return files

    def actor(self) -> Any:
        """The actor, started where it is not there."""
        if self._found is None:
            options = {"name": actor_name(self._folder), "namespace": NAMESPACE, "lifetime": "detached"}
            durable = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
            remote = ray.remote(SizerActor).options(
                **options, **durable, get_if_exists=True, scheduling_strategy=_on_the_head()
            )
            self._found = remote.remote(self._folder, self._idle_s)
        return self._found

    def _call(self, method: str, *arguments: Any) -> Any:
        # Repeating is safe: an asker is answered the same again, and what is told twice counts once.
        for left in reversed(range(TRIES)):
            try:
                return ray.get(self.actor().call.remote(method, *arguments))
            except ray.exceptions.RayActorError:  # it has left, or its node has gone
                self._found = None
                if not left:
                    raise
                time.sleep(RETRY_S)
        return None


def configured_folder() -> str:
    """The atlas that this process's environment names; empty where it names none."""
    said = os.environ.get(FOLDER)
    return str(Path(said).expanduser().absolute()) if said else ""


def actor_name(folder: str) -> str:
    """The name of the actor in its namespace."""
    return f"batch-sizer-{vlmprof.__version__}-{PROTOCOL}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def _on_the_head() -> Any:
    """Where the atlas lies on one disk as long as the cluster lives; elsewhere when there is no way."""
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    return NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else "DEFAULT"
