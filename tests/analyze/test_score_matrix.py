"""Scores in pairs: the common samples, by hand, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest

from tests.builders import trial_row, write_answers, write_results
from vlmprof.analyze.score_matrix import read_scores
from vlmprof.errors import UserError

ALL = {"q1": 1.0, "q2": 0.0, "q3": 0.5, "q4": 1.0}


def folder_of(path, answers, per_picture=1):
    rows = [trial_row({"max_crops": i}, trial=name) for i, name in enumerate(answers)]
    for name, scores in answers.items():
        write_answers(path, name, scores, per_picture)
    return write_results(path, rows)


def test_rows_are_samples_and_columns_are_trials_in_their_order(tmp_path):
    folder = folder_of(tmp_path, {"a": ALL, "b": {"q3": 0.0, "q1": 1.0, "q4": 0.0, "q2": 0.25}, "c": ALL})
    found = read_scores(folder, ["b", "a"])
    assert dict(zip(found.samples, found.paired.scores.tolist(), strict=True)) == {
        "q1": [1.0, 1.0],
        "q2": [0.25, 0.0],
        "q3": [0.0, 0.5],
        "q4": [0.0, 1.0],
    }
    assert found.caveats == ()


def test_pictures_are_clusters(tmp_path):
    found = read_scores(folder_of(tmp_path, {"a": ALL}, per_picture=2), ["a"])
    assert len(np.unique(found.paired.clusters)) == 2


def test_what_not_all_answered_is_counted(tmp_path):
    folder = folder_of(tmp_path, {"a": ALL, "b": {**ALL, "q2": None}, "c": {"q1": 1.0, "q2": 1.0, "q4": 0.0}})
    found = read_scores(folder, ["a", "b", "c"])
    assert sorted(found.samples) == ["q1", "q4"]
    assert found.caveats == (
        "2 of 4 samples are not scored in all 3 configurations: what is said of differences rests on the other 2",
    )


@pytest.mark.parametrize(
    ("answers", "per_picture", "said"),
    [
        ({"a": {"q1": 1.0}, "b": {"q2": 1.0}}, 1, "the 2 trials have no common samples; of 2 none is scored in all"),
        ({"a": ALL, "b": dict.fromkeys(ALL)}, 1, "1 of 2 trials have no scored sample: b"),
        ({"a": ALL, "b": ALL}, 9, "all 4 common samples are of one picture"),
        ({"a": {**ALL, "q1": float("nan")}, "b": {"q1": 1.0}}, 1, "no common samples"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_numbers(tmp_path, answers, per_picture, said):
    with pytest.raises(UserError, match=said):
        read_scores(folder_of(tmp_path, answers, per_picture), list(answers))


def test_a_trial_without_rows_is_named(tmp_path):
    folder = folder_of(tmp_path, {"a": ALL})
    with pytest.raises(UserError, match="1 of 2 trials have no scored sample: gone"):
        read_scores(folder, ["a", "gone"])
