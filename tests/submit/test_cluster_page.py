"""docs/cluster.md, typed command by command in an empty folder; and the Slurm script, with Slurm played."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.jobs import job_file
from tests.test_docs import DOCS, fenced
from vlmprof.store.ledger import read_states

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]

SMALL = "--num-cpus=2 --num-gpus=0 --object-store-memory=200000000 --disable-usage-stats"
MARK = "VLMPROF_TEST_MARK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a newcomer: an empty home, no token, no Ray; whatever it starts ends with it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VLMPROF_"))}
    mark = f"{tmp_path}"
    own |= {"HOME": str(tmp_path / "home"), "TERM": "dumb", MARK: mark, "RAY_TMPDIR": tempfile.mkdtemp(prefix="vp-")}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    Path(own["HOME"]).mkdir()
    (tmp_path / "desk").mkdir()
    yield own
    for process in marked(mark):
        process.kill()


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_page_works_as_it_stands(tmp_path: Path, fresh: dict[str, str]) -> None:
    blocks = fenced(DOCS / "cluster.md", "bash")
    assert blocks[-1] == "ray stop\n", "the last command ends every Ray of the machine; it alone is not run here"
    port, dashboard = free_port(), free_port()
    fresh["VLMPROF_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    ports = f"--port={port} --dashboard-port={dashboard} --dashboard-agent-listen-port=0 {SMALL}"
    script = "\n".join(blocks[:-1])
    assert script.count("ray start --head\n") == 1
    script = "set -eux -o pipefail\n" + script.replace("ray start --head\n", f"ray start --head {ports}\n")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path / "desk",
        env=fresh,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    token_file = Path(fresh["HOME"]) / ".ray" / "auth_token"
    said = (done.stdout + done.stderr).replace(token_file.read_text(), "THE TOKEN WAS TOLD")
    assert done.returncode == 0, said[-6000:]
    assert "THE TOKEN WAS TOLD" not in said
    assert token_file.stat().st_mode & 0o777 == 0o600
    # Decoding waits for a slow host, batches differ, and a busy host moves the canary: all true here, all said.
    assert "beware" not in re.sub(r"beware: in \d+ of|beware: .*batch|beware: the same canary", "", said)
    assert "has succeeded already" in said and re.search(r"second-\w{10}-r2: succeeded", said)
    assert set(read_states(tmp_path / "desk" / "results" / "first").values()) == {"done"}
    assert nothing_beyond_loopback(fresh[MARK])


def nothing_beyond_loopback(mark: str) -> bool:
    pids = {process.pid for process in marked(mark)}
    listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.pid in pids]
    # Its control store, node manager and dashboard; workers that have nothing to do leave after a while.
    assert len(listening) >= 3, "Ray was not found: nothing was looked at"
    return all(one.laddr.ip.startswith(("127.", "::1", "::ffff:127.")) for one in listening)


SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done
[[ $1 == hostname ]] && echo 127.0.0.1 && exit
exec "$@"
"""


@pytest.fixture
def slurm(tmp_path: Path, fresh: dict[str, str]) -> dict[str, str]:
    """The environment of a Slurm job on one node, with Slurm's own commands played."""
    tools = tmp_path / "slurm"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho node1\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    of_slurm = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NODELIST": "node1", "PATH": f"{tools}:{fresh['PATH']}"}
    return {**fresh, **of_slurm, "VLMPROF_RAY_OPTIONS": SMALL, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def test_the_slurm_script_runs_a_sweep_and_leaves_nothing(
    tmp_path: Path, tiny_checkpoint: Path, slurm: dict[str, str]
) -> None:
    path = job_file(tmp_path, tiny_checkpoint, measure=["accuracy"])
    command = ["bash", str(DOCS / "deploy" / "sweep.sbatch"), str(path)]
    done = subprocess.run(
        command, cwd=tmp_path / "desk", env=slurm, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert set(read_states(tmp_path / "results").values()) == {"done"}
    assert list(Path(slurm["HOME"]).glob(".vlmprof-*")) == [], "the token lies there still"
    for _ in range(300):
        if not marked(slurm[MARK]):
            return
        time.sleep(0.1)
    raise AssertionError([process.cmdline() for process in marked(slurm[MARK])])


def test_a_slurm_job_that_runs_out_of_time_says_how_to_go_on(
    tmp_path: Path, tiny_checkpoint: Path, slurm: dict[str, str]
) -> None:
    tasks = [{"name": "shapes_qa", "samples": 900}]
    path = job_file(tmp_path, tiny_checkpoint, knobs={"trouble": ["slow"], "max_crops": [1]}, tasks=tasks)
    command = ["bash", str(DOCS / "deploy" / "sweep.sbatch"), str(path)]
    told = tmp_path / "told"
    with told.open("w") as file:
        job = subprocess.Popen(command, cwd=tmp_path / "desk", env=slurm, stdout=file, stderr=file)
    while "started" not in read_states(tmp_path / "results").values():
        assert job.poll() is None, told.read_text()
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 143
    assert "interrupted" in told.read_text()
    assert list(Path(slurm["HOME"]).glob(".vlmprof-*")) == []
