"""The cluster a sweep runs on: a private one on this machine's loopback interface, or one at a given address.

A bare ``ray.init()`` joins any cluster that it finds; here the address is always explicit.
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
from vlmprof.submit.origin import origin
from vlmprof.sweep import nodes
from vlmprof.sweep.room import require_room

NAMESPACE = "vlmprof"
LOCAL = "local"
REACH_S = 10.0
ON_CPUS = (
    "no node of the cluster has a GPU, so trials run on CPUs; where nodes with GPUs are started on demand, set"
    " resources: {gpus: 1, concurrent: N}"
)
NO_GPU_YET = (
    "no node has a GPU yet, and the job sets resources: {concurrent: ...}, so nodes may still be added; set gpus: 1 to"
    " wait for one with a GPU, or gpus: 0 to run on CPUs"
)
OBJECT_STORE_BYTES = 200 * 2**20
"""Small: plans and rows are small, and images are not sent through Ray."""

AUTH_MODE = "RAY_AUTH_MODE"
# Ray reads these when it is imported, so they are set before. Tune's own records and reports are switched off: the
# ledger records the trials, and vlmprof has its own terminal display.
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
    # Despite its name, Ray's switch for listening on 127.0.0.1 only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # By default Ray lowers its workers' priority (nice 15): other processes on the host would disturb the timings.
    "RAY_worker_niceness": "0",
}
"""For a cluster that vlmprof starts itself; on any other cluster these are its owner's to set."""
PROPAGATED = frozenset({"RAY_CHDIR_TO_TRIAL_DIR"})
"""Variables of this process that Tune may send to trials: Ray writes what is sent into logs that everybody can read."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResources:
    """What one trial reserves, and how many trials run at once."""

    gpus: int
    cpus: int
    concurrent: int
    accelerator: str
    labels: Pairs = ()
    """Labels of the nodes that may run it."""
    shards: int | Literal["auto"] = 1
    """Workers that answer the samples of one trial."""

    @property
    def placement(self) -> dict[str, Any]:
        """Arguments of Tune's ``PlacementGroupFactory``: one bundle, and a selector of nodes."""
        selector = {"bundle_label_selector": [dict(self.labels)]} if self.labels else {}
        return {"bundles": [self.bundle], **selector}

    @property
    def bundle(self) -> dict[str, float]:
        """What one trial reserves, as Ray resources."""
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
    """Connect to a cluster for the length of a ``with`` block; yields the dashboard's address, or ''.

    Raises:
        UserError: there is no cluster at the address.
    """
    _set_defaults(address, verbose=verbose)
    _require_reachable(address)
    if address == LOCAL:
        require_room()
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    import ray
    from ray import tune  # noqa: F401 (its loggers exist once it is imported)
    from ray.tune.execution import class_cache

    # By itself Tune sends the keys of AWS too. No trial needs any key: only the collector writes results.
    class_cache.ENV_VARS_TO_PROPAGATE.intersection_update(PROPAGATED)
    if not verbose:
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the ledger records how each trial ends

    options: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": True}
    if address != LOCAL:  # its workers inherit their node's environment, not this process's
        options = {"runtime_env": {"env_vars": {STORAGE: os.environ[STORAGE]}}} if STORAGE in os.environ else {}
    with _refusals_of_ray(address):
        context = ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=verbose,
            logging_level="info" if verbose else "error",
            configure_logging=verbose,
            **options,
        )
    if sigterm_handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm_handler)  # Ray has replaced it by one that ends the process silently
    try:
        yield context.dashboard_url or ""
    finally:
        ray.shutdown()


@contextmanager
def _refusals_of_ray(address: str) -> Iterator[None]:
    """Errors of ``ray.init`` that its caller can mend, in one sentence."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise (_not_started(error) if address == LOCAL else _no_cluster(address, _first_line(error))) from None
        path = str(error).splitlines()[0].rpartition(": ")[2]
        raise UserError(
            f"Ray keeps its sockets in the temporary folder, and {path} has {len(path.encode())} bytes where the kernel"
            f" allows 107; set RAY_TMPDIR to a short one, such as /tmp, or run with --inline"
        ) from None
    except ValueError as error:
        raise _no_cluster(address, _first_line(error)) from None
    except RuntimeError as error:
        if address != LOCAL or "Timed out" not in str(error):
            raise
        raise _not_started(error) from None


def _not_started(error: Exception) -> UserError:
    return UserError(
        f"Ray does not start here: {_first_line(error)}; its logs are in the folder 'ray' of RAY_TMPDIR, else of /tmp;"
        " mend what they say, or run with --inline"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _require_reachable(address: str) -> None:
    """Fail fast: Ray itself would try for minutes to reach an address where no server listens."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # 'local', 'auto', or anything else that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, reason: str) -> UserError:
    if submitted := origin():
        return UserError(f"the cluster that runs this job does not answer: {reason}; once it does, '{submitted.again}'")
    return UserError(
        f"no Ray cluster at '{address}': {reason}; start one with 'ray start --head', or leave --address out to run on"
        " this machine"
    )


def trial_resources(resources: ResourceSpec, notify: Callable[[str], None]) -> TrialResources:
    """What one trial reserves on the connected cluster.

    Args:
        resources: The job's request.
        notify: Called with a line for the user: GPUs of several types, or that the sweep waits for nodes.

    Raises:
        UserError: no node can hold one trial, and the job does not set ``concurrent``, which makes it wait for nodes.
    """
    import ray

    alive = nodes.read_nodes(ray.nodes())
    gpus = resources.gpus if resources.gpus != "auto" else int(any(node.gpu_type for node in alive))
    concurrent = 0 if resources.concurrent == "auto" else resources.concurrent
    if resources.gpus == "auto" and concurrent and not gpus:
        raise UserError(NO_GPU_YET)
    per_trial = TrialResources(
        gpus=gpus,
        cpus=resources.cpus,
        concurrent=concurrent,
        accelerator=resources.accelerator,
        labels=resources.labels,
        shards=resources.shards,
    )
    capacity = sum(node.holds(per_trial.bundle) for node in alive if node.fits(per_trial.labels))
    if not capacity:
        refusal = nodes.refusal(alive, per_trial.bundle, per_trial.accelerator, per_trial.labels)
        if not concurrent:
            raise UserError(refusal)
        notify(f"{refusal}. Waiting for a node, because the job sets resources: {{concurrent: {concurrent}}}")
    if warning := nodes.mixed_gpus(alive, per_trial.bundle, per_trial.labels):
        notify(warning)
    return replace(per_trial, concurrent=concurrent or capacity)
