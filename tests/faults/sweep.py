"""The sweep that is disturbed: real trials of a tiny model, as fast or as slow as the harness wants them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.jobs import job_file
from vlmprof.store.ledger import ENDED, FINISHED, read

ROOT = Path(__file__).parents[2]
PACE = "VLMPROF_TEST_PACE"
KNOBS = {
    "max_crops": [1, 2, 4],
    "moe_top_k": [1, 2, 4],
    "active_blocks": [{"keep": keep, "policy": "prefix"} for keep in (4, 6, 8)],
    "trouble": ["paced"],
}
"""27 configurations; `trouble` is the tests' own knob, which waits in every forward pass."""
BATCH = 4
"""Samples that are scored at once, and kept at once."""


def environment() -> dict[str, str]:
    """For every process of a run: no network, one thread, the tests' plug-in."""
    paths = [str(ROOT / "tests/plugin"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


class Sweep:
    """One job file, and the pace of its trials."""

    def __init__(self, folder: Path, checkpoint: Path, *, samples: int, configurations: int = 27) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        knobs = dict(KNOBS)
        if configurations != 27:
            knobs = {"moe_top_k": list(range(1, configurations + 1)), "trouble": ["paced"]}
        self.file = job_file(
            folder,
            checkpoint,
            knobs=knobs,
            tasks=[{"name": "shapes_qa", "samples": samples, "seed": 3}],
            batch={"size": BATCH, "audit_samples": 0},
            chunk={"answers": BATCH, "seconds": 5},
        )
        self.results = folder / "results"
        self.configurations, self._samples = configurations, samples
        self._pace = folder / "pace"
        self.pace(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What tells its workers where the pace lies."""
        return {PACE: str(self._pace)}

    def pace(self, seconds: float) -> None:
        """How long each forward pass waits, from now on."""
        swap = self._pace.with_suffix(".new")
        swap.write_text(f"{seconds:.4f}")
        swap.replace(self._pace)

    def finished(self) -> int:
        """Trials that need no further run, from the ledger alone."""
        return len(self._finished())

    def answers(self) -> int:
        """Answers that are kept, from the ledger alone: of finished trials, and of those that run."""
        finished = self._finished()
        chunks = [line for line in read(self.results) if line["event"] == "chunk" and line["trial"] not in finished]
        return len(finished) * self._samples + sum(line["samples"] for line in chunks)

    def _finished(self) -> set[str]:
        states = {line["trial"]: line["event"] for line in read(self.results) if line["event"] in ENDED}
        return {trial for trial, state in states.items() if state in FINISHED}


class Driver:
    """``vlmprof run`` as a user types it, again and again."""

    def __init__(
        self,
        sweep: Sweep,
        environment: Mapping[str, str],
        *options: str,
        module: str = "vlmprof.cli",
        log: str = "driver.log",
    ) -> None:
        self._command = [sys.executable, "-m", module, "run", str(sweep.file), *options]
        self._environment, self._folder = dict(environment), sweep.file.parent
        self._process: subprocess.Popen[bytes] | None = None
        self.log = sweep.file.parent / log

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def process(self) -> psutil.Process | None:
        """It, while it runs."""
        if self._process is None or self._process.poll() is not None:
            return None
        return psutil.Process(self._process.pid)

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout=timeout_s)

    def said(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-3000:]
