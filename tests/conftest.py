"""Fixtures for the whole suite: no network, one thread, a tiny random checkpoint, one Ray cluster for all of it.

By default pytest-xdist runs the tests in two processes, file by file. Files whose tests carry the mark ``ray`` or
``serial`` all go to the same process, one after the other, so that one Ray cluster serves them and no two of them
measure time or kill processes at once. ``-n 0`` runs everything in this process, for a debugger.
"""

from __future__ import annotations

import gc
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.skips import pytest_collectreport, pytest_runtest_logreport, pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_collectreport", "pytest_runtest_logreport", "pytest_sessionfinish", "pytest_terminal_summary"]

PLUGIN = str(Path(__file__).parent / "plugin")
SCRATCH = Path(tempfile.mkdtemp(prefix="vlmprof-tests-"))
TOKEN, STORAGE = SCRATCH / "token", SCRATCH / "storage"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


DASHBOARD_PORT = _free_port()
SECRET = "hf_" + secrets.token_hex(20)
"""In the environment of the cluster's processes, where a user's would be; it must reach no table and no log."""
SECRETS = {
    "HF_TOKEN": SECRET,
    "HTTPS_PROXY": f"http://me:{SECRET}@127.0.0.1:9",
    "WANDB_BASE_URL": f"https://me:{SECRET}@127.0.0.1:9",
    **{
        name: f"{name}-{SECRET}"
        for name in (
            *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
            *("AZURE_CLIENT_SECRET", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS_TOKEN"),
            *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_API_KEY", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN"),
            *("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "OPENAI_API_KEY", "GITHUB_TOKEN"),
            *("DATABASE_PASSWORD", "REDIS_PASSWORD", "RAY_REDIS_PASSWORD", "NETRC", "MY_PRIVATE_THING"),
        )
    },
}
"""One of every kind; the value of each contains ``SECRET``."""
RAY_HOMES: list[Path] = []
"""The folders of the cluster's files."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has whatever it starts in the background ignore interrupts, and so would all that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before ray, torch or transformers are imported anywhere: all of them read these once.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(TOKEN),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "PYTHONPATH": os.pathsep.join(filter(None, [PLUGIN, os.environ.get("PYTHONPATH")])),
}
sys.path.insert(0, PLUGIN)


ONE_AFTER_THE_OTHER = re.compile(r"\bpytest\.mark\.(ray|serial)\b")
ROOT = Path(__file__).parents[1]


@cache
def is_serial(file: Path) -> bool:
    """Whether a test in this file starts processes that others must not meet, or measures time."""
    return ONE_AFTER_THE_OTHER.search(file.read_text()) is not None


class ByFile(LoadScopeScheduling):
    """Tests of one file run in one process, where they share fixtures; all ``ray`` and ``serial`` files in the same."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "one after the other" if is_serial(ROOT / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Serial files first, as they take longest; and nobody uses the cluster without saying so in his own file."""
    items.sort(key=lambda item: not is_serial(item.path))
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()) and item.get_closest_marker("ray") is None:
            raise pytest.UsageError(f"{item.nodeid} uses the cluster and lacks the mark 'ray'")


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def little_for_the_garbage_collector_to_visit() -> None:
    """Every trial collects garbage before it measures memory: a quarter of a second with all of torch to look through.

    What exists when a file begins, modules above all, is left out of later collections.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two cores are shared with Ray; and one thread makes fp32 sums come out the same in every process.

    For each file anew: a trial that runs in this process sets the number that its job asks for.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's architecture and random weights: every mechanism, no training, one second."""
    from tests.checkpoints import tiny_checkpoint as written

    return written(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def dense_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense Molmo of the same size: no experts, so no ``moe_top_k``."""
    from tests.checkpoints import tiny_dense_checkpoint as written

    return written(tmp_path_factory.mktemp("tiny-dense"))


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    """The tiny checkpoint on the CPU, loaded once for each file that does not say which other model it wants."""
    from tests.contracts.knob_contract import demo_checkpoint
    from vlmprof import registry

    return registry.load("models", "demo").load(demo_checkpoint(tiny_checkpoint), "cpu")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The results folder of the small job in a plain loop: the reference for sweeps on Ray."""
    from tests.jobs import small_job
    from tests.sweep.sweeps import inline

    return inline(small_job(tmp_path_factory.mktemp("inline"), tiny_checkpoint))


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of one Ray cluster for all tests: two CPUs, loopback only, gone when the session ends."""
    TOKEN.write_text(secrets.token_hex(32))
    TOKEN.chmod(0o600)
    home = Path(tempfile.mkdtemp(prefix="vp-ray-"))  # sockets in it have paths of at most 107 bytes
    RAY_HOMES.append(home)
    options = "--head --block --port=0 --num-cpus=2 --num-gpus=0 --include-dashboard=true --disable-usage-stats"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options.split()]
    command += [f"--temp-dir={home}", f"--object-store-memory={200 * 2**20}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={DASHBOARD_PORT}", "--dashboard-agent-listen-port=0"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # a job's entrypoint says 'python'
    of_its_own = {"PATH": path, "VLMPROF_STORAGE": str(STORAGE), **SECRETS}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    head = subprocess.Popen(command, env={**os.environ, **of_its_own}, start_new_session=True, **quiet)
    try:
        yield _address(home, head)
    finally:
        head.terminate()
        head.wait(timeout=60)
        _end_group(head.pid)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def dashboard(cluster: str) -> str:
    """The URL of the same cluster's dashboard, where jobs are submitted."""
    url = f"http://127.0.0.1:{DASHBOARD_PORT}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/api/version", timeout=5).close()
        except urllib.error.HTTPError as refused:
            assert refused.code == 401, "the tests' cluster must ask for a token"
            return url
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the dashboard did not come up in 60 s")


@pytest.fixture(scope="session")
def storage(cluster: str) -> Path:
    """The cluster's storage root."""
    return STORAGE


def _address(home: Path, head: subprocess.Popen[bytes]) -> str:
    known = home / "ray_current_cluster"
    for _ in range(600):
        if known.is_file() and (address := known.read_text().strip()):
            return address
        assert head.poll() is None, "the Ray head ended at its start"
        time.sleep(0.1)
    raise AssertionError("the Ray head did not come up in 60 s")


def _end_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
