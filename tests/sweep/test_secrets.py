"""A secret of every kind in the environment of a sweep on a private cluster: no file holds it afterwards.

Of a submitted sweep: tests/submit/test_jobs_api.py.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SECRET, SECRETS
from tests.jobs import job_file
from tests.sweep.secret_files import files_with
from tests.sweep.sweeps import command_line

pytestmark = pytest.mark.ray


@pytest.fixture
def ray_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="vp-sec-"))  # short, for Ray's sockets
    yield home
    shutil.rmtree(home, ignore_errors=True)


def test_no_file_of_a_sweep_and_of_ray_holds_a_secret_of_the_environment(
    tmp_path: Path, tiny_checkpoint: Path, ray_home: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    places = {"HOME": tmp_path / "home", "VLMPROF_CACHE": tmp_path / "cache", "RAY_TMPDIR": ray_home}
    environment = {**os.environ, **SECRETS, "RAY_AUTH_TOKEN_PATH": str(token), **{k: str(v) for k, v in places.items()}}
    places["HOME"].mkdir()
    job_file(tmp_path, tiny_checkpoint, knobs={"max_crops": [2]}, measure=["accuracy"])
    done = subprocess.run(
        command_line("run", "job.yaml"), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    logs = [path for path in ray_home.rglob("runtime_env_agent.log") if path.is_file()]
    assert logs and any(stat.S_IMODE(log.stat().st_mode) & stat.S_IROTH for log in logs), "the log in question"
    assert not files_with(SECRET, ray_home, tmp_path)
