"""The figure of the speed-up by stage: its bars and bounds, and what it leaves out."""

import pytest

from tests.builders import trial_row
from tests.plots.drawing import drawn, one_group
from vlmprof.errors import UserError
from vlmprof.plots.speedup import PLOT


def compared(**by_stage):
    """Columns: stage=(speed-up, bound), or a speed-up alone."""
    columns = {}
    for stage, given in by_stage.items():
        value, bound = given if isinstance(given, tuple) else (given, None)
        ends = {"": value, "_low": value * 0.95, "_high": value * 1.05, "_bound": bound}
        columns |= {f"speedup_{stage}{end}": number for end, number in ends.items() if number is not None}
    return columns


def sweep(**columns):
    return [
        trial_row(
            {"max_crops": crops, "moe_top_k": k},
            **compared(vision=(9 / crops, 10 / crops), prefill=(4 / k, 5 / k), decode=(1.2 if k == 1 else 1.0, 1.6)),
            **columns,
        )
        for crops in (1, 4, 9)
        for k in (1, 4)
    ]


def test_data_of_a_sweep(tmp_path):
    data = PLOT.data(one_group(tmp_path, sweep()))
    assert [[(panel.stage, panel.knob) for panel in row] for row in data.rows] == [
        [(stage, knob) for knob in ("max_crops", "moe_top_k")] for stage in ("vision", "prefill", "decode")
    ]
    vision = data.rows[0][0]
    assert [(value.x, value.y, value.bound) for value in vision.values] == [(1, 9, 10), (4, 2.25, 2.5), (9, 1, 10 / 9)]
    assert [value.low for value in vision.values] == pytest.approx([8.55, 2.1375, 0.95])
    assert data.held and "against the model without knobs" in data.subtitle and "cut" not in data.subtitle


def test_figure_has_a_panel_for_each_stage_and_knob(tmp_path):
    figure = drawn(PLOT, PLOT.data(one_group(tmp_path, sweep())))
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [
        f"{stage}, times faster" for stage in ("vision", "prefill", "decode")
    ]
    assert figure.axes[-1].get_xlabel() == "moe_top_k" and figure.axes[0].get_xlabel() == ""
    low, high = figure.axes[0].get_ylim()
    assert low < 1 and high > 10


def test_no_trial_of_the_full_model_is_needed(tmp_path):
    rows = [trial_row({"max_crops": crops}, **compared(prefill=(3 / crops, 4 / crops))) for crops in (1, 2)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert [value.y for value in data.panels[0].values] == [3, 1.5]
    assert not data.held
    drawn(PLOT, data)


def test_a_bound_that_is_not_known_is_left_out(tmp_path):
    rows = [trial_row({"max_crops": crops}, **compared(decode=1.0 + crops / 10)) for crops in (1, 2)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert [value.bound for value in data.panels[0].values] == [None, None]
    drawn(PLOT, data)


def test_an_interval_that_would_hide_the_values_is_cut_and_it_is_said(tmp_path):
    rows = sweep()
    rows[0] |= {"speedup_decode_low": 0.01, "speedup_decode_high": 140.0}
    rows[1] |= {"speedup_decode_low": 0.01, "speedup_decode_high": 140.0}
    data = PLOT.data(one_group(tmp_path, rows))
    assert "intervals cut at the edge of a panel are wider" in data.subtitle
    assert drawn(PLOT, data).axes[4].get_ylim()[1] < 3


def test_a_knob_of_loading_has_no_panel_and_the_figure_says_why(tmp_path):
    rows = [
        trial_row(
            {"max_crops": crops, "dtype": bits},
            requested_dtype=name,
            speedup_loaded_with=f"dtype={name}",
            **compared(vision=3 / crops),
        )
        for crops in (1, 2)
        for name, bits in (("float32", 32.0), ("bfloat16", 16.0))
    ]
    data = PLOT.data(one_group(tmp_path, rows))
    assert {panel.knob for panel in data.panels} == {"max_crops"}
    assert "loaded as it is (dtype=bfloat16, dtype=float32)" in data.subtitle


def test_what_was_not_compared_is_not_drawn(tmp_path):
    rows = [trial_row({"max_crops": crops}) for crops in (1, 2)]
    with pytest.raises(UserError, match="these trials measured none of speedup_vision"):
        PLOT.data(one_group(tmp_path, rows))
    rows = [trial_row({"max_crops": 1}, **compared(vision=2.0))]
    with pytest.raises(UserError, match="took two values"):
        PLOT.data(one_group(tmp_path / "one", rows))
