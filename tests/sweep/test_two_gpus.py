"""Two logical GPUs of a real Ray: both work though a load takes longer than a trial, and each trial is alone."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TOKEN, _address, _end_group
from vlmprof.sweep.cluster import TrialResources, connected
from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.schedule import Schedule

pytestmark = [pytest.mark.ray, pytest.mark.exhaustive]
LOAD_S, TRIAL_S = 6.0, 1.5
LABEL = ("vlmprof-gpu", "a100-40g")


@pytest.fixture
def two_gpus() -> Iterator[str]:
    """The address of a cluster of one node with two GPUs that are not there."""
    if not TOKEN.is_file():
        TOKEN.write_text("a token of this test's alone, and long enough for Ray")
        TOKEN.chmod(0o600)
    home = Path(tempfile.mkdtemp(prefix="vp-gpu-"))
    options = "--head --block --port=0 --num-cpus=2 --num-gpus=2 --include-dashboard=false --disable-usage-stats"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options.split(), f"--labels={'='.join(LABEL)}"]
    command += [f"--temp-dir={home}", f"--object-store-memory={200 * 2**20}"]
    head = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield _address(home, head)
    finally:
        head.terminate()
        head.wait(timeout=60)
        _end_group(head.pid)
        shutil.rmtree(home, ignore_errors=True)


def trainable(note: Path) -> type:
    """The life of ``VlmTrainable`` with sleep in place of work: the load within the first step that needs it."""
    import ray
    from ray import tune

    class Sleeper(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.trial, self.loaded = config["trial"], ""

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.trial = new_config["trial"]
            return True

        def step(self) -> dict[str, Any]:
            load = self.trial.split("-")[0]
            fresh, self.loaded = load != self.loaded, load
            began = time.time()
            time.sleep(LOAD_S * fresh + TRIAL_S)
            line = {"trial": self.trial, "gpus": ray.get_gpu_ids(), "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
            with note.open("a") as file:
                file.write(json.dumps({**line, "fresh": fresh, "began": began, "ended": time.time()}) + "\n")
            return {"done": True}

    return Sleeper


def swept(address: str, works: list[ScheduledTrial], folder: Path, share: TrialResources) -> list[dict[str, Any]]:
    """Run the works as the driver does; what each trial noted, in the order in which they began."""
    note = folder / "notes.jsonl"
    with connected(address, verbose=False):
        from ray import tune

        from vlmprof.sweep.searcher import ScheduleSearcher

        tune.Tuner(
            tune.with_resources(trainable(note), tune.PlacementGroupFactory(**share.placement)),
            tune_config=tune.TuneConfig(
                search_alg=ScheduleSearcher(Schedule(works)),
                num_samples=len(works),
                reuse_actors=True,
                max_concurrent_trials=share.concurrent,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder / "tune"),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    return sorted((json.loads(line) for line in note.read_text().splitlines()), key=lambda one: one["began"])


def test_both_gpus_work_each_trial_alone_and_models_side_by_side(tmp_path: Path, two_gpus: str) -> None:
    works = [
        ScheduledTrial(id=f"{load}-{cost}", load=number, chain=10 * number + cost, score_cost=cost, timing_cost=0.0)
        for number, load in enumerate(("a", "b"))
        for cost in range(1, 9)
    ]
    share = TrialResources(gpus=1, cpus=1, concurrent=2, accelerator="", labels=(LABEL,))
    ran = swept(two_gpus, works, tmp_path, share)
    assert sorted(one["trial"] for one in ran) == sorted(work.id for work in works)
    by_gpu = {gpu: [one for one in ran if one["gpus"] == [gpu]] for gpu in (0, 1)}
    assert min(len(same) for same in by_gpu.values()) >= 4, {gpu: len(same) for gpu, same in by_gpu.items()}
    assert all(one["visible"] == str(one["gpus"][0]) for one in ran)
    for same in by_gpu.values():
        assert all(first["ended"] <= then["began"] for first, then in itertools.pairwise(same))
    assert any(a["began"] < b["ended"] and b["began"] < a["ended"] for a, b in itertools.product(*by_gpu.values()))
    assert sum(one["fresh"] for one in ran) <= 4, "a model was loaded again and again"
    first = {load: next(one for one in ran if one["trial"].startswith(load)) for load in "ab"}
    assert all(one["trial"].endswith("-8") for one in first.values()), "not the longest first"
