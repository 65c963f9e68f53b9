"""Two runs in pairs: what changed, what is not compared and why, drift, provenance; bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.analyze.comparing.compared_runs import QUESTIONS, write_run, write_samples
from tests.builders import trial_row, write_results
from vlmprof import load
from vlmprof.analyze.comparing.comparison import Settings, compare
from vlmprof.errors import StoreError, UserError


@pytest.fixture
def runs(tmp_path):
    def make(*options, **of_second):
        first = write_run(tmp_path / "a", [0.5, 0.7], [50, 100], seed=1)
        second = {"accuracies": [0.5, 0.7], "latencies": [50, 100], "seed": 2} | of_second
        return first, write_run(tmp_path / "b", second.pop("accuracies"), second.pop("latencies"), **second)

    return make


def test_nothing_changed(runs):
    found = compare(*runs())
    frame = found.frame
    assert frame["point_a"].tolist() == ["max_crops=1", "max_crops=2"] and found.provenance.empty
    assert (frame["accuracy_change"] == 0).all() and (frame["accuracy_p_holm"] == 1).all()
    assert (frame["accuracy_change_high"] > 1 / QUESTIONS).all(), "that no sample differs is not certainty"
    assert (frame["latency_ms_p50_change"].abs() < 0.02).all() and (frame["latency_ms_p50_p_holm"] > 0.05).all()
    assert found.alarm is None and not found.is_alarming
    assert any("assumed" in caption or "canary shows" in caption for caption in found.captions)


def test_what_changed_is_found(runs):
    frame = compare(*runs(accuracies=[0.5, 0.6], latencies=[50, 150])).frame.set_index("trial_a")
    assert frame.loc["t1", "accuracy_change"] == pytest.approx(-0.1)
    assert frame.loc["t1", "accuracy_p_holm"] < 0.05 < frame.loc["t0", "accuracy_p_holm"]
    assert (frame.loc["t1", "accuracy_rose"], frame.loc["t1", "accuracy_fell"]) == (0, 20)
    assert frame.loc["t1", "accuracy_mcnemar_p"] == pytest.approx(2 * 0.5 * 0.5**20)
    assert frame.loc["t1", "latency_ms_p50_change"] == pytest.approx(0.5, abs=0.02)
    assert frame.loc["t1", "latency_ms_p50_p_holm"] < 0.05 < frame.loc["t0", "latency_ms_p50_p_holm"]
    assert (frame["peak_bytes_change"] == 0).all() and frame["peak_bytes_p"].tolist() == [1, 1]


def test_drift_of_the_machine_is_no_change(runs):
    found = compare(*runs(drift=1.2))
    frame = found.frame
    assert (frame["latency_ms_p50_change"] > 0.15).all() and (frame["latency_ms_p50_relative"].abs() < 0.02).all()
    assert (frame["latency_ms_p50_p_holm"] > 0.05).all()
    assert (frame["latency_ms_p50_change_low"] < 0).all() and (frame["latency_ms_p50_change_high"] > 0.2).all()
    assert any("the canary took +20" in caption for caption in found.captions)


def test_how_the_canary_is_used(runs):
    first, second = runs(drift=1.2)
    ignored = compare(first, second, Settings(canary="ignore")).frame
    divided = compare(first, second, Settings(canary="divide")).frame
    assert (ignored["latency_ms_p50_p_holm"] < 0.05).all() and (ignored["latency_ms_p50_change_low"] > 0.1).all()
    assert (divided["latency_ms_p50_change"].abs() < 0.02).all() and (divided["latency_ms_p50_p_holm"] > 0.05).all()


def test_without_canaries_drift_is_said_not_to_be_corrected(runs):
    found = compare(*runs(canaries=False))
    assert any("drift of the machine is not corrected" in caveat for caveat in found.caveats)
    assert found.frame["latency_ms_p50_relative"].isna().all()
    assert found.frame["latency_ms_p50_change_low"].notna().all()


def test_several_processes_measure_their_effect(tmp_path):
    found = compare(*(write_run(tmp_path / n, [0.5], [50], processes=3, seed=i) for i, n in enumerate("ab")))
    assert any("measured" in caption for caption in found.captions)


def test_unlike_devices_are_not_compared_unless_asked(runs):
    first, second = runs(device="NVIDIA H100")
    found = compare(first, second)
    assert found.frame["latency_ms_p50_change"].isna().all() and found.frame["accuracy_change"].notna().all()
    said = "latency_ms_p50 is not compared in 2 of 2 pairs: unlike devices, NVIDIA H200 and NVIDIA H100"
    assert said in found.caveats
    asked = compare(first, second, Settings(across_devices=True))
    assert asked.frame["latency_ms_p50_change"].notna().all()
    assert asked.provenance.set_index("column").loc["device"].tolist() == ["NVIDIA H200", "NVIDIA H100"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"metric": "anls"}, "accuracy is not compared in 2 of 2 pairs: metric vqa and anls"),
        ({"task_revision": "2"}, "accuracy is not compared in 2 of 2 pairs: task_revision 1 and 2"),
        (
            {"timing_requests": 8},
            "latency_ms_p50 is not compared in 2 of 2 pairs: unlike timing, timing_requests 4 and 8",
        ),
    ],
)
def test_unlike_data_is_not_compared(runs, columns, said):
    assert said in compare(*runs(**columns)).caveats


def test_what_differs_besides(runs):
    found = compare(*runs(torch="2.11", vlmprof_commit="beef"))
    assert found.provenance["column"].tolist() == ["torch", "vlmprof_commit"]
    assert found.provenance["first"].tolist() == ["not known"] * 2
    assert any("software differs (torch, vlmprof_commit)" in caveat for caveat in found.caveats)


def test_what_has_no_partner_is_counted(runs):
    found = compare(*runs(accuracies=[0.5, 0.7, 0.8], latencies=[50, 100, 150]))
    (said,) = [caveat for caveat in found.caveats if "no partner" in caveat]
    assert said.startswith("1 of 3 trials of ") and "t2 (max_crops=3)" in said


def test_failed_trials_are_counted(tmp_path):
    first = write_run(tmp_path / "a", [0.5], [50])
    rows = [trial_row({"max_crops": 1}, trial="t0", accuracy=0.5), trial_row({"max_crops": 2}, state="failed")]
    found = compare(first, write_results(tmp_path / "b", rows))
    assert f"left out of {tmp_path / 'b'}: 1 failed" in found.caveats
    assert any("accuracy is not compared in 1 of 1 pairs: a trial of" in caveat for caveat in found.caveats)
    assert any("without times in" in caveat for caveat in found.caveats)


def test_samples_on_one_side_only_are_counted(tmp_path, runs):
    first, second = runs()
    write_samples(second, "t0", [1.0] * 50 + [math.nan] * 10)
    found = compare(first, second)
    assert "in 1 pairs samples are scored on one side only, up to 150: they are left out" in found.caveats
    assert found.frame["accuracy_samples"].tolist() == [50, QUESTIONS]


def test_other_questions_or_one_picture(runs):
    first, second = runs()
    write_samples(second, "t0", [math.nan] * 10)
    write_samples(second, "t1", [1.0, 0.0])
    caveats = " ".join(compare(first, second).caveats)
    assert "have no scored sample" in caveats and "common samples are of one picture" in caveats


def test_scores_that_are_not_right_or_wrong_have_no_mcnemar(tmp_path):
    found = compare(*(write_run(tmp_path / n, [0.5], [50], binary=False) for n in "ab"))
    assert found.frame["accuracy_mcnemar_p"].isna().all() and found.frame["accuracy_p"].notna().all()


def test_two_models_are_matched_by_their_settings(runs):
    found = compare(*runs(model="other", model_fingerprint="beef"))
    assert len(found.frame) == 2 and any("two models are compared" in caveat for caveat in found.caveats)
    assert any("no canary of the same work" in caveat for caveat in found.caveats)


def test_no_model_in_common(tmp_path):
    first = write_results(tmp_path / "a", [trial_row(model=name) for name in ("x", "y")])
    second = write_results(tmp_path / "b", [trial_row(model="z")])
    with pytest.raises(UserError, match="no model is in both"):
        compare(first, second)


def test_precision_is_matched_where_both_have_several(tmp_path):
    rows = [trial_row({"max_crops": 1}, dtype=dtype) for dtype in ("float32", "bfloat16")]
    found = compare(write_results(tmp_path / "a", rows), write_results(tmp_path / "b", rows))
    assert len(found.frame) == 2 and "dtype" in found.pairs.key


def test_the_same_settings_twice_are_left_out_and_named(tmp_path):
    rows = [trial_row({"max_crops": 1}, trial=name) for name in ("t0", "t1")] + [
        trial_row({"max_crops": 2}, trial="t2")
    ]
    found = compare(write_results(tmp_path / "a", rows), write_results(tmp_path / "b", rows[1:]))
    assert found.frame["trial_a"].tolist() == ["t2"] and any("2 of 3 trials" in caveat for caveat in found.caveats)


def test_nothing_in_common(tmp_path):
    first = write_results(tmp_path / "a", [trial_row({"max_crops": 1})])
    with pytest.raises(UserError, match="no configuration in common"):
        compare(first, write_results(tmp_path / "b", [trial_row({"max_crops": 2})]))
    with pytest.raises(UserError, match="compared with itself"):
        compare(first, first)
    with pytest.raises(UserError, match="expected a second folder, or two configurations"):
        compare(first)
    with pytest.raises(StoreError):
        compare(first, tmp_path / "nowhere")
    with pytest.raises(UserError, match="no trial has finished"):
        compare(first, write_results(tmp_path / "c", [trial_row(state="failed")]))


def test_scores_of_a_whole_corpus_have_the_error_of_both_intervals(tmp_path):
    columns = {"metric": "cider", "accuracy": None, "score_low": 0.7, "score_high": 0.9}
    first, second = (
        write_results(tmp_path / name, [trial_row({"max_crops": 1}, **columns, score=score)])
        for name, score in (("a", 0.8), ("b", 0.9))
    )
    frame = compare(first, second).frame
    assert "accuracy_change" not in frame and frame["score_change"][0] == pytest.approx(0.1)
    assert frame["score_change_low"][0] == pytest.approx(0.1 - math.sqrt(2) * 0.1, abs=1e-4)


def test_energy_without_an_interval_has_no_error(runs):
    found = compare(*runs(energy_j_per_sample=3.0))
    assert "energy_j_per_sample_change" not in found.frame, "the first run has none"
    both = [
        write_run(found.reader.first.folder.parent / n, [0.5], [50], energy_j_per_sample=e)
        for n, e in (("c", 2.0), ("d", 3.0))
    ]
    frame = compare(*both).frame
    assert frame["energy_j_per_sample_change"][0] == pytest.approx(0.5)
    assert frame[["energy_j_per_sample_change_low", "energy_j_per_sample_p"]].isna().all(axis=None)


def test_the_bootstrap_agrees_with_the_linearised_interval(tmp_path):
    rng = np.random.default_rng(3)
    folders = [write_run(tmp_path / n, [0.5], [50]) for n in "ab"]
    for folder in folders:
        write_samples(folder, "t0", (rng.random(QUESTIONS) < 0.6).astype(float))
    row = compare(*folders).frame.iloc[0]
    assert row["accuracy_drawn_low"] == pytest.approx(row["accuracy_change_low"], abs=0.02)
    assert row["accuracy_drawn_high"] == pytest.approx(row["accuracy_change_high"], abs=0.02)


def test_from_python(runs):
    first, second = runs(accuracies=[0.5, 0.3])
    found = load(first).compare(load(second), fail_if="accuracy < -0.1")
    assert found.is_alarming and found.frame["alarm"].tolist() == ["surely not", "surely"]
    assert load(first).compare(second).frame.equals(load(first).compare(load(second)).frame)
    assert len(load(first).compare(configurations=("max_crops=1", "max_crops=2")).frame) == 1


def test_memory_of_unlike_devices_is_not_compared(runs):
    found = compare(*runs(device="NVIDIA H100"))
    assert found.frame["peak_bytes_change"].isna().all()
    assert "peak_bytes is not compared in 2 of 2 pairs: unlike devices, NVIDIA H200 and NVIDIA H100" in found.caveats


def test_throughput_says_that_drift_is_not_corrected(tmp_path):
    rates = {"timing_tokens_per_s_low": 9.9, "timing_tokens_per_s_high": 10.1}
    first, second = (
        write_run(tmp_path / name, [0.5], [50], timing_tokens_per_s=rate, **rates)
        for name, rate in (("a", 10.0), ("b", 5.0))
    )
    found = compare(first, second, Settings(fail_if="timing_tokens_per_s < -10%"))
    assert found.is_alarming and any("drift of the machine is not corrected" in caption for caption in found.captions)


def test_a_score_that_is_the_accuracy_is_compared_by_sample(tmp_path):
    first, second = (write_run(tmp_path / name, [of], [50], score=of) for name, of in (("a", 0.5), ("b", 0.6)))
    assert "score_change" not in compare(first, second).frame
    found = compare(first, second, Settings(fail_if="score > 0.05"))
    assert found.frame[["score_change", "score_rose"]].iloc[0].tolist() == pytest.approx([0.1, 20])


def test_latencies_are_compared_where_a_knob_sets_the_length(tmp_path):
    first = write_run(tmp_path / "a", [0.5], [50], timing_output_tokens=8, knob_output_tokens=8.0)
    second = write_run(tmp_path / "b", [0.5], [70], timing_output_tokens=16, knob_output_tokens=16.0)
    assert compare(first, second).frame["latency_ms_p50_change"][0] == pytest.approx(0.4, abs=0.02)
