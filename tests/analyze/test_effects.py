import math

import pytest

from tests.builders import combined_sweep, read_rows, trial_row
from vlmprof.analyze.effects import ALONE, MARGINAL, marginal, one_at_a_time
from vlmprof.analyze.objectives import Objective

ACCURACY = Objective(column="accuracy", better="higher", unit="fraction")
LATENCY = Objective(column="latency_ms_p50", better="lower", unit="ms")
MEMORY = Objective(column="peak_bytes", better="lower", unit="bytes")


def small_grid():
    values = {(1, 8): 0.1, (1, 16): 0.3, (4, 8): 0.2, (4, 16): 0.6}
    return [
        trial_row({"max_crops": crops, "active_blocks": blocks}, accuracy=value)
        for (crops, blocks), value in values.items()
    ]


def test_marginal_by_hand(tmp_path):
    table = marginal(read_rows(tmp_path, small_grid()), ACCURACY)
    assert tuple(table.columns) == MARGINAL
    seen = {(row.knob, row.axis): (row.trials, row.mean, row.median, row.low, row.high) for row in table.itertuples()}
    assert seen == {
        ("active_blocks", 8.0): (2, pytest.approx(0.15), pytest.approx(0.15), 0.1, 0.2),
        ("active_blocks", 16.0): (2, pytest.approx(0.45), pytest.approx(0.45), 0.3, 0.6),
        ("max_crops", 1.0): (2, pytest.approx(0.2), pytest.approx(0.2), 0.1, 0.3),
        ("max_crops", 4.0): (2, pytest.approx(0.4), pytest.approx(0.4), 0.2, 0.6),
    }


def test_an_unfinished_sweep_compares_only_what_every_value_was_run_with(tmp_path):
    # moe_top_k has no effect; its value 1 was run with few blocks and many, its value 4 so far with many alone.
    values = {(1, 8): 0.4, (1, 16): 0.8, (4, 16): 0.8}
    rows = [trial_row({"moe_top_k": k, "active_blocks": b}, accuracy=value) for (k, b), value in values.items()]
    table = marginal(read_rows(tmp_path, rows), ACCURACY)
    experts = table[table["knob"] == "moe_top_k"]
    assert experts["mean"].tolist() == [0.8, 0.8]  # and not 0.6 against 0.8
    assert experts["trials"].tolist() == [1, 1] and experts["left_out"].tolist() == [1, 0]
    blocks = table[table["knob"] == "active_blocks"]
    assert blocks["mean"].tolist() == [0.4, 0.8] and blocks["left_out"].tolist() == [0, 1]


def test_without_a_common_setting_there_is_no_mean(tmp_path):
    rows = [trial_row({"moe_top_k": k, "active_blocks": b}) for k, b in ((1, 8), (4, 16))]
    table = marginal(read_rows(tmp_path, rows), ACCURACY)
    assert table["mean"].isna().all()
    assert table["trials"].tolist() == [0] * 4 and table["left_out"].tolist() == [1] * 4


def test_one_at_a_time_holds_the_others_at_their_fullest(tmp_path):
    table = one_at_a_time(read_rows(tmp_path, small_grid()), ACCURACY)
    assert tuple(table.columns) == ALONE
    crops = table[table["knob"] == "max_crops"]
    assert crops["axis"].tolist() == [1, 4]
    assert crops["value"].tolist() == [0.3, 0.6]
    assert set(crops["held"]) == {"active_blocks=16"}
    assert crops["low"].tolist() == [pytest.approx(0.25), pytest.approx(0.55)]


def test_an_objective_without_interval_has_none(tmp_path):
    table = one_at_a_time(read_rows(tmp_path, small_grid()), MEMORY)
    assert len(table) == 4
    assert all(math.isnan(low) for low in table["low"])


def test_a_real_sweep(tmp_path):
    trials = read_rows(tmp_path, combined_sweep())
    crops = marginal(trials, LATENCY).query("knob == 'max_crops'")
    assert crops["axis"].tolist() == [1, 2, 4, 9]
    assert crops["effect"].tolist() == ["effective", "effective", "effective", "saturated"]
    assert (crops["trials"] == 4).all()
    alone = one_at_a_time(trials, LATENCY).query("knob == 'active_blocks'")
    assert set(alone["held"]) == {"max_crops=9, moe_top_k=4"}
    assert alone["label"].tolist() == ["prefix 8", "prefix 16"]


def test_lists_of_equal_length_are_values_of_their_own(tmp_path):
    rows = [
        trial_row({"active_blocks": 15}, requested_active_blocks=label, accuracy=accuracy)
        for label, accuracy in [("0,2", 0.4), ("0,1", 0.5)]
    ]
    table = marginal(read_rows(tmp_path, rows), ACCURACY)
    assert table["label"].tolist() == ["0,1", "0,2"]
    assert table["axis"].tolist() == [15, 15]


def test_machines_and_knob_sets_stay_apart(tmp_path):
    rows = [
        trial_row({"max_crops": 1}),
        trial_row({"max_crops": 1}, device="other"),
        trial_row({"max_crops": 1, "moe_top_k": 2}),
    ]
    table = marginal(read_rows(tmp_path, rows), ACCURACY).query("knob == 'max_crops'")
    assert table["trials"].tolist() == [1, 1, 1]
    assert sorted(table["swept"]) == ["max_crops", "max_crops", "max_crops, moe_top_k"]


def test_effects_that_differ_are_both_said(tmp_path):
    rows = [
        trial_row({"max_crops": 4, "moe_top_k": 1}, effect_max_crops="saturated"),
        trial_row({"max_crops": 4, "moe_top_k": 2}),
    ]
    table = marginal(read_rows(tmp_path, rows), ACCURACY).query("knob == 'max_crops'")
    assert table["effect"].tolist() == ["effective or saturated"]


def test_trials_without_the_objective_are_left_out(tmp_path):
    rows = [trial_row({"max_crops": 1}), trial_row({"max_crops": 2}, accuracy=None)]
    assert marginal(read_rows(tmp_path, rows), ACCURACY)["axis"].tolist() == [1]


def test_nothing_gives_empty_tables(tmp_path):
    trials = read_rows(tmp_path, [trial_row({"max_crops": 1}, state="oom", accuracy=None)])
    assert tuple(marginal(trials, ACCURACY).columns) == MARGINAL
    assert one_at_a_time(trials, ACCURACY).empty


def test_a_trial_without_knobs_has_no_curve(tmp_path):
    assert marginal(read_rows(tmp_path, [trial_row()]), ACCURACY).empty
