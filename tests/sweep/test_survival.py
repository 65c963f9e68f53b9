"""Real deaths on real Ray: kill -9 in the middle of a score pass, samples that kill, trials that hang."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.jobs import small_job
from tests.sweep.sweeps import Silent, inline, run, samples, what_was_measured
from vlmprof.store import tables
from vlmprof.store.ledger import read
from vlmprof.trial.resolve import Job, resolve, subset_of

pytestmark = pytest.mark.ray
ONE_WORKER = {"cpus": 2}


def events(folder: Path, *kinds: str) -> list[Any]:
    found = list(read(folder)) if (folder / "ledger.jsonl").is_file() else []
    return [entry for entry in found if entry["event"] in kinds]


def kill_in_the_middle(folder: Path, trial: str, killed: list[int]) -> None:
    """``kill -9`` of the process that scores a trial, once it has kept a chunk and before it has kept them all."""
    while not [one for one in events(folder, "chunk") if one["trial"] == trial]:
        time.sleep(0.01)
    process = next(one["process"] for one in events(folder, "started") if one["trial"] == trial)
    killed.append(int(process.rpartition(":")[2]))
    os.kill(killed[0], signal.SIGKILL)


def a_question(job: Job) -> tuple[str, str]:
    """One that a single sample asks, not among those that are counted: its text and the sample's id."""
    resolved = resolve(job.plans[0])
    asked = [(resolved.task.ask(one).text, one.id) for one in subset_of(resolved)]
    often = Counter(text for text, _ in asked)
    return next((text, sample) for text, sample in asked[2:] if often[text] == 1)


def alike(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Equal in all that has a value; a column without any has no type to compare."""
    frames = [frame.dropna(axis="columns", how="all").reset_index(drop=True) for frame in (ours, theirs)]
    pd.testing.assert_frame_equal(*frames, check_dtype=False)


# tests/faults kills processes by default, tests/trial/test_partial_results.py finds samples that kill
@pytest.mark.exhaustive
def test_kill_9_in_the_middle_of_a_score_pass_and_a_sample_that_kills(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str
) -> None:
    sections = {"measure": ["accuracy"], "resources": ONE_WORKER, "batch": {"size": 1}, "chunk": {"seconds": 0}}
    (tmp_path / "calm").mkdir()
    calm = small_job(tmp_path / "calm", tiny_checkpoint, **sections, knobs={"trouble": ["slow"]})
    undisturbed = inline(calm)
    question, poison = a_question(calm)
    job = small_job(tmp_path, tiny_checkpoint, **sections, knobs={"trouble": ["slow", f"die at {question}"]})
    folder, slow, killed = job.spec.folder, calm.plans[0].id, list[int]()
    killer = threading.Thread(target=kill_in_the_middle, args=(folder, slow, killed), daemon=True)
    killer.start()
    states = run(job, cluster)
    killer.join(timeout=10)
    assert killed and states.pop(slow) == "done" and list(states.values()) == ["failed"]
    scored = samples(folder)
    assert len(scored) == 24 and not scored.duplicated(["trial", "sample"]).any()
    alike(scored[scored["trial"] == slow], samples(undisturbed))
    trials = tables.read(folder, "trials").set_index("trial")
    row = trials.loc[slow]
    assert (row["attempts"], row["score_processes"]) == (2, 2) and 1 <= row["samples_resumed"] < 12
    ours = what_was_measured(folder)
    alike(ours[ours["trial"] == slow], what_was_measured(undisturbed))
    lost = trials.drop(index=slow).iloc[0]
    assert (lost["samples_quarantined"], lost["quarantined"], lost["samples_failed"]) == (1, poison, 1)
    # Twice with the sample before it, which was answered while this one was encoded; then alone; then without it.
    assert pd.isna(lost["accuracy"]) and lost["attempts"] == 4
    assert [len(one["under_way"]) for one in events(folder, "died") if one["trial"] == lost.name] == [2, 2, 1]
    assert [one["sample"] for one in events(folder, "quarantined")] == [poison]
    scored_twice = Counter(one["trial"] for one in events(folder, "chunk") for _ in range(one["samples"]))
    assert max(scored_twice.values()) <= 12, "an answer that was kept was given again"


@pytest.mark.exhaustive
def test_a_sample_that_hangs_in_a_batch_is_found_and_a_trial_that_only_hangs_is_timed_out(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str
) -> None:
    sections = {"measure": ["accuracy"], "resources": ONE_WORKER, "batch": {"max": 4}, "chunk": {"seconds": 0}}
    calm = small_job(tmp_path, tiny_checkpoint, **sections, knobs={"max_crops": [1]})
    question, poison = a_question(calm)
    first = resolve(calm.plans[0])
    counted = first.task.ask(subset_of(first)[0]).text
    knobs = {"trouble": [f"hang at {question}", f"hang at {counted}"]}
    job, display = small_job(tmp_path, tiny_checkpoint, **sections, knobs=knobs, timeout_s=20), Silent()
    assert set(run(job, cluster, display).values()) == {"failed"}
    trials = tables.read(job.spec.folder, "trials").set_index("requested_trouble")
    found = trials.loc[f"hang at {question}"]
    assert (found["samples_quarantined"], found["quarantined"]) == (1, poison)
    assert "timed out: no progress for 20 s while 'score'" in found["error"]
    timed_out = trials.loc[f"hang at {counted}", "error"]
    assert timed_out.startswith("ended its process 3 times; the last time: timed out: no progress for 20 s")
    assert "vlmprof_test_plugin.py" in timed_out, "where it hangs"


@pytest.mark.exhaustive
def test_a_broken_accelerator_is_tried_again_once(tmp_path: Path, tiny_checkpoint: Path, cluster: str) -> None:
    knobs = {"trouble": ["lose"]}
    job = small_job(tmp_path, tiny_checkpoint, knobs=knobs, measure=["accuracy"], resources=ONE_WORKER)
    assert list(run(job, cluster).values()) == ["failed"]
    (error,) = tables.read(job.spec.folder, "trials")["error"]
    assert error.startswith("ended its process 2 times; the last time: lost its accelerator: CUDA error")
