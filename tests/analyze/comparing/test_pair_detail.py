"""One pair in detail: question types, samples that moved, loyalty; folders of earlier versions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.analyze.comparing.compared_runs import QUESTIONS, write_run, write_samples
from tests.builders import write_answers
from vlmprof.analyze.comparing.comparison import Settings, compare
from vlmprof.analyze.comparing.pair_detail import MOVED, moved_samples, pair_detail
from vlmprof.errors import UserError

PAIR = Settings(configurations=("max_crops=2", "max_crops=1"))


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "a", [0.5, 0.6], [50, 100])


def test_question_types_by_hand(folder):
    # max_crops=1 is wrong on 20 more questions, ten of each type.
    found = pair_detail(compare(folder, None, PAIR)).by_type.set_index("question_type")
    assert found["change"].tolist() == [-0.1, -0.1] and found["samples"].tolist() == [100, 100]
    assert (found["p_holm"] < 0.05).all() and (found["high"] < 0).all()


def test_moved_samples_are_named_with_question_references_and_both_answers(folder):
    detail = pair_detail(compare(folder, None, PAIR))
    assert len(detail.fell) == 20 and detail.rose.empty
    row = detail.fell.iloc[0]
    assert row["question"] == f"What is {int(row['sample'][1:])}?" and list(row["references"]) == ["yes", "yes", "aye"]
    assert (row["prediction_a"], row["prediction_b"], row["score_a"], row["score_b"]) == ("yes", "no", 1, 0)
    assert detail.fell["question_type"].tolist()[:4] == ["colour", "count", "colour", "count"], "types take turns"


def test_few_samples_of_a_type_have_intervals_of_fractions(folder):
    for trial, right in (("t0", 2), ("t1", 4)):
        write_samples(folder, trial, [1.0] * right + [0.0] * (4 - right))
    found = pair_detail(compare(folder, None, PAIR)).by_type
    assert (found["low"] == -1).all() and (found["high"] == 1).all()


def test_larger_moves_come_first(folder):
    scores = np.zeros(QUESTIONS)
    scores[:120] = 1
    scores[[7, 9]] = [0.0, 2 / 3]
    write_samples(folder, "t0", scores)
    assert pair_detail(compare(folder, None, PAIR)).fell["sample"].tolist() == ["q007", "q009"]


def test_loyalty_is_that_to_the_full_model(folder):
    answers = ["maybe"] * 30 + ["yes "] * 170
    write_samples(folder, "t0", [1.0] * QUESTIONS, answers)
    write_samples(folder, "t1", [1.0] * QUESTIONS)
    detail = pair_detail(compare(folder, None, PAIR))
    (loyal,) = detail.loyalties  # the other is the full model
    assert loyal.full == "t1" and loyal.same.mean == pytest.approx(0.85) and loyal.samples == QUESTIONS
    assert loyal.same.low < 0.85 < loyal.same.high and "no trial runs the model without changes" in loyal.remark
    assert detail.same_answers.mean == pytest.approx(0.85) and detail.moved.empty


def test_without_the_full_model_there_is_a_caveat(tmp_path):
    folders = [write_run(tmp_path / name, [0.5, 0.6], [50, 100]) for name in "ab"]
    found = compare(*folders, Settings(configurations=("max_crops=1", "max_crops=1")))
    found.reader.second.trials["knob_max_crops"] = math.nan
    assert any("has no trial of the full model" in caveat for caveat in pair_detail(found).caveats)


def test_all_moved_samples_of_all_pairs(tmp_path):
    folders = [write_run(tmp_path / n, of, [50, 100]) for n, of in (("a", [0.5, 0.6]), ("b", [0.4, 0.7]))]
    moved = moved_samples(compare(*folders))
    assert list(moved.columns) == list(MOVED) and len(moved) == 40
    assert moved.groupby("trial_a")["change"].sum().to_dict() == {"t0": -20, "t1": 20}


def test_several_pairs_have_no_detail(tmp_path):
    folders = [write_run(tmp_path / name, [0.5, 0.6], [50, 100]) for name in "ab"]
    with pytest.raises(UserError, match="these are 2; name one"):
        pair_detail(compare(*folders))


def test_answers_of_an_earlier_version(folder):
    for trial, right in (("t0", 30), ("t1", 40)):  # without types, questions and answers
        write_answers(folder, trial, {f"q{k}": float(k < right) for k in range(60)})
    detail = pair_detail(compare(folder, None, PAIR))
    assert detail.by_type["question_type"].tolist() == ["no type"] and len(detail.fell) == 10
    assert detail.fell[["question", "references", "prediction_a"]].isna().all(axis=None)
    assert any("no answered sample in common" in caveat for caveat in detail.caveats)
