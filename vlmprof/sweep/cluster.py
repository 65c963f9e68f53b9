"""The cluster a sweep runs on: a private one on this machine's loopback, or one that is named. Never a guess.

A bare ``ray.init()`` joins whatever cluster it finds; here the address is always said.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from vlmprof.errors import UserError
from vlmprof.job.labels import Pairs
from vlmprof.job.spec import ResourceSpec
from vlmprof.job.storage import STORAGE
from vlmprof.sweep import nodes

NAMESPACE = "vlmprof"
LOCAL = "local"
REACH_S = 10.0
ON_CPUS = (
    "no node of the cluster has a GPU, so trials run on CPUs; where nodes with GPUs are started on demand, say"
    " resources: {gpus: 1, concurrent: N}"
)
NO_GPU_YET = (
    "no node has a GPU yet, and the job says resources: {concurrent: ...}, so nodes may still come; say gpus: 1 to wait"
    " for one that has a GPU, or gpus: 0 to run on CPUs"
)
OBJECT_STORE_BYTES = 200 * 2**20
"""Plans and rows are small; images never travel through Ray."""

AUTH_MODE = "RAY_AUTH_MODE"
# Read by Ray when it is imported, hence set before. Tune's own records and reports are noise here: the ledger is the
# truth, and the terminal has a display of its own.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    AUTH_MODE: "token",
}
PRIVATE = {
    # Ray's switch for machines that must not open ports to the network: every server listens on 127.0.0.1 only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray lowers its workers' priority by 15 otherwise: anything else on the host would be timed with the model.
    "RAY_worker_niceness": "0",
}
"""For a cluster of our own; on another's these are its owner's to set."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResources:
    """What one trial owns, and how many can run at once."""

    gpus: int
    cpus: int
    concurrent: int
    accelerator: str
    labels: Pairs = ()
    """Of the nodes that may run it."""
    shards: int | Literal["auto"] = 1
    """Workers that answer the samples of one trial."""

    @property
    def placement(self) -> dict[str, Any]:
        """Arguments of Tune's ``PlacementGroupFactory``: one bundle, and on which nodes."""
        selector = {"bundle_label_selector": [dict(self.labels)]} if self.labels else {}
        return {"bundles": [self.bundle], **selector}

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray counts it."""
        resources: dict[str, float] = {"CPU": self.cpus}
        if self.gpus:
            resources["GPU"] = self.gpus
        if self.accelerator:
            resources[f"accelerator_type:{self.accelerator}"] = 0.001
        return resources


def set_ray_environment(address: str, *, verbose: bool) -> None:
    """Set what Ray reads from the environment when it is imported; call this before anything imports it.

    Raises:
        UserError: Ray has been imported without the settings that keep a cluster of our own to this machine: it would
            open its ports to the network, and ask for no token.
    """
    kept = {**PRIVATE, AUTH_MODE: ENVIRONMENT[AUTH_MODE]} if address == LOCAL else {}
    missing = [f"{name}={value}" for name, value in kept.items() if name not in os.environ]
    if missing and "ray" in sys.modules:
        raise UserError(
            "Ray was imported before a sweep was run on it, with settings that open its ports to the network; run the"
            f" sweep in a new process before importing Ray, or set {' '.join(missing)} before Python starts"
        )
    _set_defaults(address, verbose=verbose)


def _set_defaults(address: str, *, verbose: bool) -> None:
    quiet = {} if verbose else {"TUNE_PRINT_ALL_TRIAL_ERRORS": "0"}
    for name, value in {**ENVIRONMENT, **quiet, **(PRIVATE if address == LOCAL else {})}.items():
        os.environ.setdefault(name, value)


@contextmanager
def connected(address: str, *, verbose: bool) -> Iterator[str]:
    """A connection to a cluster for the length of a ``with`` block; gives the dashboard's address, or ''.

    Raises:
        UserError: there is no cluster at the address.
    """
    _set_defaults(address, verbose=verbose)
    _require_reachable(address)
    asked = signal.getsignal(signal.SIGTERM)
    import ray
    from ray import tune  # noqa: F401 (its loggers exist once it is imported)

    if not verbose:
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it has to say of a trial is in the ledger

    options: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": True}
    if address != LOCAL:  # its workers inherit their node's environment, not ours
        options = {"runtime_env": {"env_vars": {STORAGE: os.environ[STORAGE]}}} if STORAGE in os.environ else {}
    try:
        context = ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=verbose,
            logging_level="info" if verbose else "error",
            configure_logging=verbose,
            **options,
        )
    except (ConnectionError, ValueError) as error:
        raise _no_cluster(address, str(error).splitlines()[0]) from None
    if asked is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, asked)  # Ray has put its own in its place, which ends the process without a word
    try:
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ray itself would try for minutes to reach an address where nobody listens."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # 'local', 'auto', or something for Ray to judge
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster at '{address}': {reason}; start one with 'ray start --head', or leave --address out to run on"
        " this machine"
    )


def trial_resources(resources: ResourceSpec, tell: Callable[[str], None]) -> TrialResources:
    """What one trial gets of the connected cluster.

    Args:
        resources: As the job asks.
        tell: Given a line that a person should read once: GPUs of several kinds, nodes that are waited for.

    Raises:
        UserError: no node can hold one trial, and the job does not say that it waits for nodes to come.
    """
    import ray

    known = nodes.read_nodes(ray.nodes())
    gpus = resources.gpus if resources.gpus != "auto" else int(any(node.kind for node in known))
    concurrent = 0 if resources.concurrent == "auto" else resources.concurrent
    if resources.gpus == "auto" and concurrent and not gpus:
        raise UserError(NO_GPU_YET)
    share = TrialResources(
        gpus=gpus,
        cpus=resources.cpus,
        concurrent=concurrent,
        accelerator=resources.accelerator,
        labels=resources.labels,
        shards=resources.shards,
    )
    room = sum(node.holds(share.bundle) for node in known if node.fits(share.labels))
    if not room:
        refusal = nodes.refusal(known, share.bundle, share.accelerator, share.labels)
        if not concurrent:
            raise UserError(refusal)
        tell(f"{refusal}. Waiting for a node, because the job says resources: {{concurrent: {concurrent}}}")
    if warning := nodes.unlike(known, share.bundle, share.labels):
        tell(warning)
    return replace(share, concurrent=concurrent or room)
