import pytest

from tests.builders import combined_sweep, trial_row
from tests.plots.drawing import drawn, one_group
from vlmprof.errors import UserError
from vlmprof.plots import _style
from vlmprof.plots.knob_curve import PLOT


def test_data_of_a_sweep(tmp_path):
    data = PLOT.data(one_group(tmp_path, combined_sweep()))
    assert [[panel.knob for panel in row] for row in data.rows] == [["active_blocks", "max_crops", "moe_top_k"]] * 3
    assert [row[0].y_label for row in data.rows] == ["accuracy (%)", "median latency (ms)", "peak memory (GiB)"]
    crops = data.rows[0][1]
    assert crops.ticks == ((1, "1"), (2, "2"), (4, "4"), (9, "9"))
    assert [value.saturated for value in crops.alone] == [False, False, False, True]
    assert crops.held == "active_blocks=prefix 16, moe_top_k=4"
    assert all(spread.low <= spread.median <= spread.high for spread in crops.spread)
    assert all(40 < value.low < value.y < value.high < 100 for value in crops.alone)


def test_figure_has_a_panel_for_each(tmp_path):
    figure = drawn(PLOT, PLOT.data(one_group(tmp_path, combined_sweep())))
    assert len(figure.axes) == 9
    assert figure.axes[6].get_xlabel() == "active_blocks"
    assert figure.axes[0].get_xlabel() == ""


def test_one_knob_alone_has_no_spread(tmp_path):
    rows = [trial_row({"max_crops": crops}, accuracy=crops / 10) for crops in (1, 2, 4)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert [panel.spread for panel in data.panels] == [()] * 3
    drawn(PLOT, data)


def test_a_knob_of_one_value_has_no_panel(tmp_path):
    rows = [trial_row({"max_crops": crops, "moe_top_k": 4}) for crops in (1, 2)]
    assert {panel.knob for panel in PLOT.data(one_group(tmp_path, rows)).panels} == {"max_crops"}
    with pytest.raises(UserError, match="two values"):
        PLOT.data(one_group(tmp_path / "one", [trial_row({"max_crops": 1})]))


def test_what_was_not_measured_is_not_drawn(tmp_path):
    rows = [trial_row({"max_crops": crops}, accuracy=None, peak_bytes=None) for crops in (1, 2)]
    assert [row[0].y_label for row in PLOT.data(one_group(tmp_path, rows)).rows] == ["median latency (ms)"]
    rows = [trial_row({"max_crops": 1}, accuracy=None, peak_bytes=None, latency_ms_p50=None)]
    with pytest.raises(UserError, match="measured none"):
        PLOT.data(one_group(tmp_path / "none", rows))


def test_a_panel_that_lacks_its_objective_stays_empty(tmp_path):
    rows = [trial_row({"max_crops": crops}) for crops in (1, 2)]
    rows += [trial_row({"moe_top_k": k}, peak_bytes=None) for k in (1, 2)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert [panel is None for panel in data.rows[2]] == [False, True]
    assert not drawn(PLOT, data).axes[-1].axison


def test_lists_of_equal_length_are_not_joined(tmp_path):
    labels = {"1,2,3": 0.4, "0,2,3": 0.5, "0,1,2": 0.6}
    rows = [trial_row({"active_blocks": 3}, requested_active_blocks=label, accuracy=a) for label, a in labels.items()]
    panel = PLOT.data(one_group(tmp_path, rows)).panels[0]
    assert not panel.ordered
    assert [label for _, label in panel.ticks] == ["0-2", "0,2-3", "1-3"]
    assert {value.x: value.y for value in panel.alone} == {0: 60, 1: 50, 2: 40}


def test_kernels_are_words_and_not_joined(tmp_path):
    words = {"eager": 2, "flash_attention_2": 1, "sdpa": 3}
    rows = [trial_row({"attention": at}, requested_attention=word, accuracy=0.5) for word, at in words.items()]
    panel = PLOT.data(one_group(tmp_path, rows)).panels[0]
    assert not panel.ordered
    assert {label for _, label in panel.ticks} == set(words)


def test_a_wide_knob_is_drawn_on_a_logarithmic_axis(tmp_path):
    rows = [trial_row({"output_tokens": length}, timing_output_tokens=length) for length in (1, 4, 16, 64)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert data.panels[0].logarithmic
    assert "output tokens as swept" in data.subtitle
    assert drawn(PLOT, data).axes[0].get_xscale() == "log"


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("6", "6"),
        ("prefix 8", "8"),
        ("0,1", "0,1"),
        ("0,1,2,3", "0-3"),
        ("0,2,3,4,7", "0,2-4,7"),
        ("true", "true"),
        (None, "none"),
    ],
)
def test_short_labels(label, short):
    assert _style.short(label) == short
