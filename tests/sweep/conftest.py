"""The sweep that others are compared with."""

from pathlib import Path

import pytest

from tests.jobs import small_job
from tests.sweep.sweeps import Silent
from vlmprof.store.collector import Collector
from vlmprof.sweep.inline import run_inline


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The reference: the small job in a plain loop."""
    job = small_job(tmp_path_factory.mktemp("inline"), tiny_checkpoint)
    collector = Collector(job.spec.folder, job.spec.name, wait_s=1)
    collector.open_run([plan.id for plan in job.plans], {})
    run_inline(job.plans, 0, collector, Silent(), gpus=0)
    collector.close()
    return job.spec.folder
