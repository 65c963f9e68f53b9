"""Fronts with their doubt from tables: where each objective's draws come from, what is written and what is said."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.builders import trial_row, write_answers, write_results, write_times
from vlmprof import load
from vlmprof.analyze.front_doubt import MEANINGS, MOST_TOGETHER, with_doubt
from vlmprof.analyze.pareto import DOUBT, fronts
from vlmprof.analyze.timing_blocks import read_times, sessions_of
from vlmprof.cli.results import app
from vlmprof.errors import UserError
from vlmprof.report.pareto_table import front_report, read_front, write_front
from vlmprof.store import tables

QUESTIONS = 400


def sweep(folder, accuracies, latencies, *, processes=1, answered=QUESTIONS, seed=0):
    """Configurations with these true accuracies, on the same questions, and latencies with 0.5 % a time."""
    rng = np.random.default_rng(seed)
    hard = rng.random(QUESTIONS)
    rows = []
    for i, (accuracy, latency) in enumerate(zip(accuracies, latencies, strict=True)):
        scores = (hard + 0.05 * rng.standard_normal(QUESTIONS) < accuracy).astype(float)
        times = latency * np.exp(rng.normal(0, 0.005, (processes, 16)))
        trial = f"t{i}"
        rows.append(
            trial_row(
                {"max_crops": i + 1},
                trial=trial,
                accuracy=float(scores.mean()),
                latency_ms_p50=float(np.median(times)),
                ttft_ms_p50=float(np.median(times)) - 3,
                samples=QUESTIONS,
                timing_processes=processes,
                work_key=trial,
            )
        )
        write_answers(folder, trial, {f"q{k}": score for k, score in enumerate(scores[:answered])})
        write_times(folder, trial, times.tolist())
    return write_results(folder, rows)


def doubt_of(folder, objectives=(), **options):
    (front,) = with_doubt(fronts(tables.read(folder, "trials"), objectives), folder, **options).fronts
    return front, front.rows.set_index("trial")


def test_clear_and_near_cases(tmp_path):
    # t0 and t1 are clear; t2 is t1 but for noise; t3 is beaten by far.
    folder = sweep(tmp_path, [0.3, 0.6, 0.6, 0.4], [50, 100, 100.2, 120])
    front, rows = doubt_of(folder)
    assert rows.loc["t0", "front_membership"] == "surely" and rows.loc["t0", "front_probability"] == 1
    assert rows.loc["t3", "front_membership"] == "no" and rows.loc["t3", "front_probability"] == 0
    assert rows.loc[["t1", "t2"], "front_membership"].isin(["possibly", "surely"]).all()
    assert rows.loc["t1", "tie_group"] == rows.loc["t2", "tie_group"] == 1
    assert rows.loc[["t0", "t3"], "tie_group"].isna().all()
    assert rows.loc[["t1", "t2"], "epsilon_front"].all() and not rows.loc["t3", "epsilon_front"]
    assert rows.loc["t3", "front_rank"] == 3 > rows.loc["t0", "front_rank"] == 1
    assert front.doubt is not None and front.doubt.hypervolume is not None
    assert front.doubt.caveats == ()
    assert "assumed" in " ".join(front.doubt.captions)


def test_the_band_is_around_the_value(tmp_path):
    _, rows = doubt_of(sweep(tmp_path, [0.3, 0.6], [50, 100]))
    for name in ("accuracy", "latency_ms_p50"):
        assert (rows[f"{name}_band_low"] < rows[name]).all() and (rows[name] < rows[f"{name}_band_high"]).all()


def test_two_processes_measure_their_effect(tmp_path):
    front, _ = doubt_of(sweep(tmp_path, [0.3, 0.6], [50, 100], processes=3))
    assert front.doubt is not None
    assert any("process" in said and said.endswith("measured") for said in front.doubt.captions)


def test_half_the_answers_leave_a_caveat_with_numbers(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6], [50, 100])
    write_answers(folder, "t1", {f"q{k}": 1.0 for k in range(150)})
    front, rows = doubt_of(folder)
    assert front.doubt is not None
    assert front.doubt.caveats == (
        "250 of 400 samples are not scored in all 2 configurations: what is said of differences rests on the other 150",
    )
    assert rows["front_membership"].notna().all()


def test_no_answers_no_doubt_but_a_front(tmp_path):
    folder = write_results(tmp_path, [trial_row({"max_crops": i}) for i in (1, 2)])
    front, rows = doubt_of(folder)
    assert front.doubt is not None and front.doubt.hypervolume is None
    assert "no doubt is given for this front: 2 of 2 trials have no scored sample" in front.doubt.caveats[0]
    assert "front_membership" not in rows


def test_too_many_configurations_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmprof.analyze.front_doubt.MOST_TOGETHER", 1)
    front, _ = doubt_of(sweep(tmp_path, [0.3, 0.6], [50, 100]))
    assert MOST_TOGETHER == 1000 and front.doubt is not None
    assert front.doubt.caveats == ("no doubt is given for 2 configurations in one front, only up to 1",)


def test_what_has_no_interval_is_exact_and_said(tmp_path):
    front, rows = doubt_of(sweep(tmp_path, [0.3, 0.6], [50, 100]), ["accuracy", "peak_bytes"])
    assert front.doubt is not None and "peak_bytes taken as exact: it has no interval" in front.doubt.captions
    assert rows["front_membership"].to_dict() == {"t0": "no", "t1": "surely"}  # of equal memory


def test_without_timings_the_interval_of_the_row_is_taken(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", latency_ms_p50=100.0 + i) for i in range(2)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 2) for k in range(40)})
    front, found = doubt_of(write_results(tmp_path, rows))
    assert front.doubt is not None
    assert "latency_ms_p50: differences are told apart by the intervals of the two, not in pairs" in front.doubt.caveats
    assert found["tie_group"].tolist() == [1, 1]  # intervals of 99 to 101 and 100 to 102


def test_three_objectives(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.6, 0.4], [50, 100, 90, 120])
    front, rows = doubt_of(folder, ["accuracy", "latency_ms_p50", "ttft_ms_p50"])
    assert front.doubt is not None and front.doubt.hypervolume is not None
    assert 0 < front.doubt.hypervolume.low < front.doubt.hypervolume.mean < front.doubt.hypervolume.high
    assert rows["front_membership"].to_dict() == {"t0": "surely", "t1": "possibly", "t2": "surely", "t3": "no"}
    assert "ttft_ms_p50_band_high" in rows


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [
        ({"accuracy": -0.1}, "expected 0 or more"),
        ({"accurcy": 0.1}, "no objective here"),
        ({"accuracy": math.nan}, "0 or"),
    ],
)
def test_a_bad_epsilon_is_refused(tmp_path, epsilon, said):
    with pytest.raises(UserError, match=said):
        doubt_of(sweep(tmp_path, [0.3, 0.6], [50, 100]), epsilon=epsilon)


def test_epsilon_is_what_the_user_says(tmp_path):
    folder = sweep(tmp_path, [0.6, 0.6], [100, 110])
    assert not doubt_of(folder)[1].loc["t1", "epsilon_front"]
    assert doubt_of(folder, epsilon={"accuracy": 0.05, "latency_ms_p50": 0.2})[1].loc["t1", "epsilon_front"]


def test_the_file_and_the_terminal_have_it(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.6, 0.4], [50, 100, 100.2, 120])
    frame = read_front(folder, doubt=True)
    written = pq.read_table(write_front(frame, folder))
    names = [one.name for one in DOUBT]
    assert written.column_names[:2] == ["group", "on_front"] and written.column_names[2:10] == names
    assert written.schema.field("latency_ms_p50_band_low").metadata[b"unit"] == b"ms"
    said = "\n".join(str(getattr(part, "title", part)) for part in front_report(frame))
    assert "surely" in said and "more possibly" in said and "hypervolume" in said and "tie:" in said


def test_a_front_without_doubt_is_written_as_ever(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6], [50, 100])
    frame = read_front(folder)
    assert not {one.name for one in DOUBT} & set(pq.read_table(write_front(frame, folder)).column_names)


def test_from_python(tmp_path):
    results = load(sweep(tmp_path, [0.3, 0.6, 0.6, 0.4], [50, 100, 100.2, 120]))
    plain, front = results.front(), results.front(doubt=True)
    assert set(MEANINGS) == {one.name for one in DOUBT} and not set(MEANINGS) & set(plain)
    assert set(plain["trial"]) <= set(front["trial"]) == {"t0", "t1", "t2"}
    assert set(front.attrs["descriptions"]) >= set(MEANINGS)
    assert any("hypervolume" in said for said in front.attrs["doubt"]) and "doubt" not in plain.attrs
    assert len(results.front(doubt=True, dominated=True)) == 4
    loose = results.front(doubt=True, dominated=True, epsilon={"accuracy": 0.5, "latency_ms_p50": 3.0})
    assert loose["epsilon_front"].all()
    write_answers(tmp_path, "t1", {"other": 1.0})
    assert any("no common samples" in said for said in results.front(doubt=True).attrs["beware"])


def test_from_the_terminal(tmp_path):
    folder = str(sweep(tmp_path, [0.3, 0.6, 0.6, 0.4], [50, 100, 100.2, 120]))
    run = CliRunner().invoke
    shown = run(app, ["pareto", folder, "--epsilon", "accuracy=0.02, latency_ms_p50=5%"], env={"COLUMNS": "150"})
    assert shown.exit_code == 0 and "surely" in shown.stdout and "more possibly" in shown.stdout
    assert "surely" not in run(app, ["pareto", folder, "--no-doubt"]).stdout
    for wrong in ("accuracy=x", "accuracy", "accurcy=1"):
        assert isinstance(run(app, ["pareto", folder, "--epsilon", wrong]).exception, UserError)


# --- times ------------------------------------------------------------------------------------------------------------


def test_sessions_by_hand(tmp_path):
    write_times(tmp_path, "a", [[100.0, 102.0], [110.0]])
    rows = read_times(write_results(tmp_path, [trial_row({"max_crops": 1}, trial="a")]))
    # Two times of one request: 100 and 102 about 101, spread wider by sqrt(2 / 1).
    wider = math.sqrt(2)
    found = sessions_of(rows, "latency_ms_p50", ["a"])
    assert found == [[[pytest.approx(101 - wider), pytest.approx(101 + wider)], [pytest.approx(110.0)]]]
    assert sessions_of(rows, "tpot_ms_p50", ["a"]) == [[[1.0, 1.0], [1.0]]]
    assert sessions_of(rows, "ttft_ms_p50", ["a"])[0][1] == [pytest.approx(107.0)]
    assert sessions_of(rows, "e2e_ms_p50", ["a"])[0][1] == [pytest.approx(109.0)]
    assert sessions_of(rows, "latency_ms_p50", ["a", "gone"]) is None
    assert sessions_of(rows, "vision_ms_p50", ["a"]) is None  # 0 ms: no share of it means anything


def test_disturbed_blocks_and_other_settings_are_left_out(tmp_path):
    write_times(tmp_path, "a", [[100.0, 100.0]])
    folder = write_results(tmp_path, [trial_row({"max_crops": 1}, trial="a")])
    rows = read_times(folder)
    loud = rows.assign(end_to_end_ms=900.0, disturbed="stolen")
    assert sessions_of(pd.concat([rows, loud]), "latency_ms_p50", ["a"]) == [[[100.0, 100.0]]]
    assert sessions_of(loud, "latency_ms_p50", ["a"]) == [[[900.0, 900.0]]]
    write_times(tmp_path, "a", [[50.0]], setting=1)
    assert read_times(folder).empty
