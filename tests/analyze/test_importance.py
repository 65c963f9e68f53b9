"""From a sweep that leaves out one block at a time to the table that ``active_blocks`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.builders import trial_row, write_results
from tests.jobs import small_job
from vlmprof import registry
from vlmprof.analyze.importance import importance, write_importance
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.errors import UserError
from vlmprof.knobs._block_choice import STORAGE, kept_blocks
from vlmprof.plan.point import canonical
from vlmprof.store import schema, tables
from vlmprof.store.collector import Collector
from vlmprof.trial.executor import Executor

QUESTIONS = ["a", "b", "c", "d"]


def sensitivity(folder: Path, scores: dict[int | None, list[float]], **columns: Any) -> list[dict[str, Any]]:
    """Trials of a model of two blocks, each with these scores of its questions; None: no block was left out."""
    rows = []
    for block, of_questions in scores.items():
        kept = {"keep": 2, "policy": "prefix"} if block is None else {"drop": [block], "policy": "drop"}
        row = trial_row({"active_blocks": 1 if block is not None else 2}, **columns)
        ran = 1 if block is not None else 2
        row |= {"trial": f"t{block}{len(columns)}", "point": f"active_blocks={canonical(kept)}", "blocks_executed": ran}
        row["effect_active_blocks"] = "effective" if block is not None else "no-op"
        pairs = zip(QUESTIONS, of_questions, strict=False)
        samples = [{"trial": row["trial"], "sample": name, "score": score} for name, score in pairs]
        tables.write(folder, "samples", row["trial"], samples, schema.SAMPLES)
        rows.append(row)
    return rows


def test_a_score_is_the_accuracy_lost_on_the_same_questions(tmp_path: Path) -> None:
    scores = {None: [1, 1, 0, 1], 0: [0, 0, 0, 0], 1: [1, 0, 1, 1]}
    found = importance(write_results(tmp_path, sensitivity(tmp_path, scores)))
    assert [(row["block"], row["score"], row["samples"]) for row in found.rows] == [(0, 0.75, 4), (1, 0.0, 4)]


def test_the_interval_by_hand(tmp_path: Path) -> None:
    # Lost without block 0: 1, 1, 0, 1 on four pictures: mean 3/4, variance 4 / 3 * 0.75 / 16 = 1/16, t[3] = 3.1824463.
    scores = {None: [1, 1, 0, 1], 0: [0, 0, 0, 0], 1: [1, 1, 0, 1]}
    first, second = importance(write_results(tmp_path, sensitivity(tmp_path, scores))).rows
    assert (first["low"], first["high"]) == (pytest.approx(0.75 - 3.1824463 / 4), pytest.approx(0.75 + 3.1824463 / 4))
    assert (second["low"], second["high"]) == (0, 0)
    assert (second["rank_low"], first["rank_high"]) == (1, 2)


def test_what_some_trial_did_not_score_is_counted(tmp_path: Path) -> None:
    scores = {None: [1, 1, 0, 1], 0: [0, 0, 0, 0], 1: [1, 0, 1]}  # the last question has no answer without block 1
    found = importance(write_results(tmp_path, sensitivity(tmp_path, scores)))
    assert [(row["samples"], row["samples_left_out"]) for row in found.rows] == [(3, 1), (3, 1)]
    assert found.rows[0]["score"] == pytest.approx(2 / 3), "of the questions that all trials answered"
    assert found.caveats[0].startswith("1 of 4 samples are not scored in all 3 configurations")


def test_no_common_samples_is_an_error(tmp_path: Path) -> None:
    rows = sensitivity(tmp_path, {None: [1, 1], 0: [0, 1], 1: [1, 1]})
    other = [{"trial": rows[1]["trial"], "sample": "z", "score": 1.0}]
    tables.write(tmp_path, "samples", rows[1]["trial"], other, schema.SAMPLES)
    with pytest.raises(UserError, match="the blocks cannot be compared: the 3 trials have no common samples"):
        importance(write_results(tmp_path, rows))


def test_blocks_that_are_not_told_apart_are_named(tmp_path: Path) -> None:
    scores = {None: [1, 1, 0, 1], 0: [1, 1, 0, 0], 1: [1, 0, 0, 1]}  # each costs one of four
    found = importance(write_results(tmp_path, sensitivity(tmp_path, scores)))
    assert found.caveats[-1].startswith("the 1 least important blocks (0) are not told from 1")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({None: [1], 0: [0]}, "no finished trial leaves out block 1 alone"),
        ({0: [1], 1: [0]}, "no finished trial keeps all blocks"),
        ({}, "found 0 such sets"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, scores: dict[int | None, list[float]], said: str) -> None:
    other = trial_row({"max_crops": 1})
    with pytest.raises(UserError, match=said):
        importance(write_results(tmp_path, [*sensitivity(tmp_path, scores), other]))


def test_of_several_models_one_is_named(tmp_path: Path) -> None:
    scores: dict[int | None, list[float]] = {None: [1, 1], 0: [0, 1], 1: [1, 1]}
    rows = [*sensitivity(tmp_path, scores), *sensitivity(tmp_path, scores, model="other")]
    folder = write_results(tmp_path, rows)
    with pytest.raises(UserError, match="found 2 such sets"):
        importance(folder)
    assert importance(folder, "other").rows[0]["score"] == 0.5


def test_a_sweep_writes_the_table_that_the_next_job_reads(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE, str(tmp_path))
    values = [{"keep": 8, "policy": "prefix"}, *({"drop": [block], "policy": "drop"} for block in range(8))]
    tasks = [{"name": "shapes_qa", "samples": 6, "seed": 3}]
    given = {"knobs": {"active_blocks": values}, "measure": ["accuracy"], "batch": {"size": 6, "audit_samples": 0}}
    job = small_job(tmp_path, tiny_checkpoint, tasks=tasks, **given)
    collector = Collector(job.spec.folder, "small", wait_s=5)
    collector.open_run([plan.id for plan in job.plans], {})
    executor = Executor(BatchSizer(), gpus=0, name="test")
    for plan in job.plans:
        collector.begin(plan.id)
        collector.finish(executor.run(plan, lambda progress: None))
    collector.close()
    table, digest = write_importance(importance(job.spec.folder), job.spec.folder)
    scores = {row["block"]: row["score"] for row in pq.read_table(table).to_pylist()}
    assert set(scores) == set(range(8))
    value = {"keep": 3, "policy": "importance", "table": "results/importance.parquet", "sha256": digest}
    (plan,) = small_job(tmp_path, tiny_checkpoint, knobs={"active_blocks": [value]}).plans
    assert dict(plan.point)["active_blocks"] == value
    best = sorted(scores, key=lambda block: (-scores[block], block))[:3]
    assert kept_blocks(value, 8) == tuple(sorted(best))
    assert registry.load("knobs", "active_blocks").axis(value) == 3
