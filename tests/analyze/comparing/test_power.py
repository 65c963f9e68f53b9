"""How many samples the pairs of a sweep need: by hand, of all, of near pairs and with the full model; bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.analyze.comparing.compared_runs import QUESTIONS, write_run, write_samples
from tests.builders import trial_row, write_answers, write_results
from vlmprof import load
from vlmprof.analyze.comparing.power import read_power
from vlmprof.errors import StoreError, UserError


def test_by_hand(tmp_path):
    # Ten pictures differ in both of their questions: the variance of the mean is that of 100 pictures, 10 of them at 1.
    folder = write_run(tmp_path, [0.5, 0.6], [50, 100])
    found = read_power(folder, difference=0.02, power=0.8)
    row = found.frame[found.frame["pairs_of"] == "all"].iloc[0]
    variance = 0.1 * 0.9 / 99
    assert row["error"] == pytest.approx(math.sqrt(variance)) and row["difference"] == pytest.approx(0.1)
    assert row["samples_needed"] == math.ceil(QUESTIONS * 2.801585**2 * variance / 0.02**2)
    assert row["pictures_needed"] == math.ceil(row["samples_needed"] / 2) and row["pictures"] == 100
    assert row["smallest_difference"] == pytest.approx(2.801585 * math.sqrt(variance))
    assert row["design_effect"] == pytest.approx(2, abs=0.02), "both questions of a picture are one"


def test_typical_worst_near_and_full(tmp_path):
    rng = np.random.default_rng(0)
    folder = write_run(tmp_path, [0.5] * 4, [50] * 4)
    for i, share in enumerate((0.5, 0.52, 0.7, 0.9)):
        write_samples(folder, f"t{i}", (rng.random(QUESTIONS) < share).astype(float))
    frame = load(folder).power(0.05).frame
    assert list(zip(frame["pairs_of"], frame["which"], strict=True)) == [
        ("all", "typical"),
        ("all", "worst"),
        ("near", "only"),
        ("full", "typical"),
        ("full", "worst"),
    ]
    assert (frame.loc[frame["pairs_of"] == "full", ["trial_a", "trial_b"]] == "t3").any(axis=1).all()
    every = frame[frame["pairs_of"] == "all"].set_index("which")["samples_needed"]
    assert every["typical"] < every["worst"] == frame["samples_needed"].max()


def test_the_same_work_is_counted_and_other_work_without_a_difference_is_not_certain(tmp_path):
    folder = write_run(tmp_path, [0.5, 0.5, 0.5], [50] * 3, work_key="same")
    with pytest.raises(UserError, match="3 pairs did the same work"):
        read_power(folder)
    found = read_power(write_run(tmp_path / "b", [0.5, 0.5], [50] * 2))
    assert found.frame["error"].tolist() == [1 / QUESTIONS] * len(found.frame) and len(found.frame)
    assert found.frame["design_effect"].isna().all()


@pytest.mark.parametrize(
    ("difference", "power"), [(0, 0.8), (-1, 0.8), (1, 0.8), (math.nan, 0.8), (0.01, 1), (0.01, 0)]
)
def test_numbers_out_of_range(tmp_path, difference, power):
    with pytest.raises(UserError, match=r"--difference|--power"):
        read_power(write_run(tmp_path, [0.5, 0.6], [50, 100]), difference, power)


def test_bad_folders(tmp_path):
    with pytest.raises(StoreError):
        read_power(tmp_path / "none")
    with pytest.raises(UserError, match="1 of 1 configurations have an accuracy"):
        read_power(write_run(tmp_path / "one", [0.5], [50]))
    with pytest.raises(UserError, match="have no scored sample"):
        read_power(write_results(tmp_path / "bare", [trial_row({"max_crops": i}) for i in (1, 2)]))
    with pytest.raises(UserError, match=r"no pair of configurations to judge by: left out: 1 failed"):
        read_power(write_results(tmp_path / "failed", [trial_row(state="failed")]))


def test_what_is_left_out_is_said(tmp_path):
    folder = write_run(tmp_path, [0.5, 0.6], [50, 100])
    write_answers(folder, "t1", {f"q{k:03}": float(k < 50) for k in range(150)}, per_picture=2)
    caveats = " ".join(read_power(folder).caveats)
    assert "50 of 200 samples are not scored in all 2 configurations" in caveats
    assert "no trial runs the model without changes" in caveats


def test_of_very_many_configurations_some_stand_for_all_and_the_full_one_is_there(tmp_path, monkeypatch):
    rows = [trial_row({"max_crops": crops}, accuracy=0.5) for crops in (1, 2, 4, 9)]
    for row in rows:
        row["effect_max_crops"] = "no-op" if row["knob_max_crops"] == 9 else "effective"
        scores = {f"s{i}": float((i + int(row["knob_max_crops"])) % 3 > 0) for i in range(40)}
        write_answers(tmp_path, row["trial"], scores)
    write_results(tmp_path, rows)
    monkeypatch.setattr("vlmprof.analyze.comparing.power.MOST_TOGETHER", 3)
    found = read_power(tmp_path, 0.05, 0.8)
    assert any("by 3 of 4 configurations, evenly chosen" in sentence for sentence in found.caveats)
    assert (found.frame["pairs_of"] == "full").any()
