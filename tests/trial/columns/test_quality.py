"""The columns that a metric fills: means, corpus metrics, and what could not be read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import read_rows, trial_row
from tests.jobs import small_job
from vlmprof.analyze.objectives import quality_column
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.metrics.cider import METRIC as CIDER
from vlmprof.metrics.metric import Metric, Verdict
from vlmprof.models.family import AbstractModel
from vlmprof.report.pareto_table import read_front
from vlmprof.store.collector import TrialResult
from vlmprof.trial.columns.row import finished
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.resolve import resolve
from vlmprof.trial.run import run_trial


@pytest.fixture(scope="module")
def result_by(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    sections: dict[str, Any] = {"knobs": {"output_tokens": [2]}, "measure": ["accuracy"], "batch": {"audit_samples": 4}}
    resolved = resolve(small_job(tmp_path_factory.mktemp("quality"), tiny_checkpoint, **sections).plans[0])
    model: AbstractModel = resolved.family.load(resolved.checkpoint, "cpu")

    def run(metric: Metric) -> TrialResult:
        under = replace(resolved, task=replace(resolved.task, metric=metric))
        return finished(run_trial(under, LoadedModel(model), BatchSizer(), lambda progress: None), model, {})

    return run


def test_a_corpus_metric_is_a_score_and_no_accuracy(result_by: Any) -> None:
    result = result_by(CIDER)
    row = result.row
    assert (row["metric"], row["metric_kind"]) == ("cider", "corpus")
    assert "accuracy" not in row and row["score_low"] is None  # 12 samples are too few for a bootstrap
    own = [sample["score"] for sample in result.samples]
    assert row["score"] == pytest.approx(sum(own) / len(own))
    assert row["flip_p"] is None and row["flips"] is not None


def test_what_cannot_be_read_is_counted_and_scores_0(result_by: Any) -> None:
    silent = Metric(name="silent", judge=lambda text, example: Verdict(score=0.0, parsed=False))
    row = result_by(silent).row
    assert row["samples_unparsable"] == row["samples"] == 12
    assert row["unparsable_rate"] == 1
    assert row["cut_rate"] == row["samples_cut"] / 12  # type: ignore[operator]
    assert row["accuracy"] == row["score"] == 0
    assert row["accuracy_high"] > 0  # type: ignore[operator]


def test_a_front_takes_score_only_where_there_is_no_accuracy(tmp_path: Path) -> None:
    means = [trial_row({"max_crops": 1}), trial_row({"max_crops": 2})]
    nothing = {"accuracy": None, "accuracy_low": None, "accuracy_high": None}
    captions = trial_row({"max_crops": 4}, task="coco_caption", metric="cider", score=0.9, **nothing)
    assert quality_column(read_rows(tmp_path / "means", means)) == "accuracy"
    both = [*(row | {"score": row["accuracy"]} for row in means), captions]
    assert quality_column(read_rows(tmp_path / "both", both)) == "score"
    front = read_front(tmp_path / "both")
    of = {group.split(", ")[1]: [one.column for one in its] for group, its in front.attrs["objectives_of"].items()}
    assert of == {"vqa_v2": ["accuracy", "latency_ms_p50"], "coco_caption": ["score", "latency_ms_p50"]}
    assert front.groupby("group")["metric"].nunique().eq(1).all(), "two metrics are never compared"
