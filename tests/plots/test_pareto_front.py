import itertools
from collections import Counter

import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text

from tests.builders import combined_sweep, read_rows, trial_row
from tests.plots.drawing import drawn, one_group
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.objectives import Objective
from vlmprof.analyze.pareto import pareto
from vlmprof.errors import UserError
from vlmprof.plots import _style, pareto_front
from vlmprof.plots.pareto_front import PLOT

OBJECTIVES = [
    Objective(column="accuracy", better="higher"),
    Objective(column="latency_ms_p50", better="lower"),
]


def test_data_of_a_sweep(tmp_path):
    part = one_group(tmp_path, combined_sweep())
    data = PLOT.data(part)
    assert data.title == "MolmoE-1B-0924 on vqa_v2 (val), n = 500, NVIDIA H200"
    assert "latency at batch size 1, output tokens 16" in data.subtitle
    assert (data.x_label, data.y_label) == ("median latency (ms)", "accuracy (%)")
    assert data.label_key == "active_blocks · max_crops · moe_top_k"
    assert len(data.marks) == 16
    assert not data.logarithmic
    frame = pareto(part, OBJECTIVES)
    assert {m.trial for m in data.marks if m.on_front} == set(frame.loc[frame["on_front"], "trial"])
    assert sum(m.saturated for m in data.marks) == 4
    assert {m.label for m in data.marks} >= {"8 · 1 · 1", "16 · 9 · 4"}


def test_values_are_in_the_units_of_the_axes(tmp_path):
    interval = {"latency_ms_p50_low": 99.0, "latency_ms_p50_high": 101.5}
    row = trial_row({"max_crops": 1}, accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6, **interval)
    (mark,) = PLOT.data(one_group(tmp_path, [row])).marks
    assert (mark.y.low, mark.y.value, mark.y.high) == (40, 50, 60)
    assert (mark.x.low, mark.x.value, mark.x.high) == (99.0, 100.0, 101.5)


def test_without_an_interval_there_is_no_bar(tmp_path):
    row = trial_row({"max_crops": 1}, latency_ms_p50_low=None, latency_ms_p50_high=None)
    (mark,) = PLOT.data(one_group(tmp_path, [row])).marks
    assert mark.x.low == mark.x.value == mark.x.high


def test_steps_by_hand(tmp_path):
    points = [(0.2, 10.0), (0.5, 20.0), (0.4, 25.0), (0.7, 40.0)]
    rows = [trial_row({"max_crops": i}, accuracy=a, latency_ms_p50=m) for i, (a, m) in enumerate(points)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert data.steps == ((10, 20), (20, 20), (20, 50), (40, 50), (40, 70))


def test_the_staircase_never_falls(tmp_path):
    steps = PLOT.data(one_group(tmp_path, combined_sweep())).steps
    assert all(x1 <= x2 and y1 <= y2 for (x1, y1), (x2, y2) in itertools.pairwise(steps))


def test_ties_on_the_front_are_drawn_on_one_spot(tmp_path):
    rows = [trial_row({"max_crops": crops}) for crops in (1, 2)]
    data = PLOT.data(one_group(tmp_path, rows))
    assert all(mark.on_front for mark in data.marks)
    drawn(PLOT, data)


def test_what_differs_in_the_machine_is_said(tmp_path):
    rows = [trial_row({"max_crops": 1}, torch="2.11"), trial_row({"max_crops": 2}, torch="2.12")]
    assert "not all alike: torch" in PLOT.data(one_group(tmp_path, rows)).subtitle


@pytest.mark.parametrize("missing", ["accuracy", "latency_ms_p50"])
def test_trials_without_an_axis_are_refused(tmp_path, missing):
    with pytest.raises(UserError, match="no trial measured both accuracy and latency, only "):
        PLOT.data(one_group(tmp_path, [trial_row({"max_crops": 1}, **{missing: None})]))


def rows_of_many(count):
    return [
        trial_row(
            {"max_crops": i + 1, "moe_top_k": i % 8},
            accuracy=0.3 + 0.4 * i / count,
            accuracy_low=0.28 + 0.4 * i / count,
            accuracy_high=0.32 + 0.4 * i / count,
            latency_ms_p50=50.0 + i,
            latency_ms_p50_low=49.8 + i,
            latency_ms_p50_high=50.3 + i,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("make", [combined_sweep, lambda: rows_of_many(24)])
def test_labels_touch_nothing(tmp_path, make):
    data = PLOT.data(one_group(tmp_path, make()))
    figure = drawn(PLOT, data)
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    dots = axes.transData.transform([(mark.x.value, mark.y.value) for mark in data.marks])
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


def test_labels_that_find_no_room_are_counted(tmp_path):
    names = {i: f"{i} {'long ' * 40}" for i in (1, 2)}
    rows = [
        trial_row({"max_crops": i}, requested_max_crops=names[i], accuracy=i / 10, latency_ms_p50=10.0 * i)
        for i in (1, 2)
    ]
    (axes,) = drawn(PLOT, PLOT.data(one_group(tmp_path, rows))).axes
    assert not [text for text in axes.texts if isinstance(text, Annotation)]
    notes = [text.get_text() for text in axes.texts]
    assert notes[1] == "2 labels left out for lack of space; the table has all of them"


def test_latencies_far_apart_get_a_logarithmic_axis(tmp_path):
    rows = [trial_row({"max_crops": i}, accuracy=i / 10, latency_ms_p50=ms) for i, ms in ((1, 10.0), (2, 200.0))]
    data = PLOT.data(one_group(tmp_path, rows))
    assert data.logarithmic
    (axes,) = drawn(PLOT, data).axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlim()[0] > 0


def test_one_wide_interval_squeezes_nothing(tmp_path):
    rows = combined_sweep()
    rows[3] |= {"latency_ms_p50_high": 5000.0}
    data = PLOT.data(one_group(tmp_path, rows))
    assert "cut at the edge" in data.subtitle
    (axes,) = drawn(PLOT, data).axes
    places = axes.transAxes.inverted().transform(axes.transData.transform([(m.x.value, 0) for m in data.marks]))[:, 0]
    assert max(places) - min(places) > 0.4, "the points take less than half of the width"


def test_intervals_and_the_front_have_colours_of_their_own(tmp_path):
    (axes,) = drawn(PLOT, PLOT.data(one_group(tmp_path, combined_sweep()))).axes
    steps = [line for line in axes.lines if len(line.get_xdata()) > 4 and line.get_linestyle() == "-"]
    bars = {to_hex(colour) for bar in axes.collections for colour in bar.get_edgecolor()}
    assert len(steps) == 1 and to_hex(steps[0].get_color()) not in {to_hex(_style.BLUE)}
    assert to_hex(_style.BLUE) in bars


def test_a_front_of_one_point_is_labelled_and_so_is_the_best_of_many(tmp_path):
    one = PLOT.data(one_group(tmp_path / "one", [trial_row({"max_crops": 4})]))
    (axes,) = drawn(PLOT, one).axes
    assert [text.get_text() for text in axes.texts if isinstance(text, Annotation)] == ["4"]
    many = PLOT.data(one_group(tmp_path / "many", rows_of_many(60)))
    (axes,) = drawn(PLOT, many).axes
    best = max((mark for mark in many.marks if mark.on_front), key=lambda mark: mark.y.value)
    assert best.label in [text.get_text() for text in axes.texts if isinstance(text, Annotation)]


def test_many_cautions_wrap_and_stay_readable(tmp_path):
    rows = combined_sweep(canary_drift_session=0.02, blocks_disturbed_kept=1.0, disturbed_by="a, b, c", host_bound=True)
    figure = drawn(PLOT, PLOT.data(one_group(tmp_path, rows)))
    renderer = figure.canvas.get_renderer()
    assert len(figure.texts) > 3 and min(text.get_fontsize() for text in figure.texts) >= 7
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    (axes,) = figure.axes
    assert all(box.y0 >= axes.get_window_extent().y1 for box in boxes), "written over the data"


def test_a_long_title_fits(tmp_path):
    cpu = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz with a very long name indeed"
    data = PLOT.data(one_group(tmp_path, [trial_row({"max_crops": 1}, device="CPU", cpu=cpu)]))
    figure = drawn(PLOT, data)
    renderer = figure.canvas.get_renderer()
    assert all(text.get_window_extent(renderer).x1 <= figure.bbox.x1 for text in figure.texts)


# --- several models ---------------------------------------------------------------------------------------------------


def of_models(tmp_path, count):
    """As many models as asked, four trials each; the first lacks the knob that the others have."""
    rows = []
    for i in range(count):
        for crops in (1, 2, 4, 9):
            knobs = {"max_crops": crops} if i == 0 else {"max_crops": crops, "moe_top_k": 8}
            named = {"model": f"a-model-with-a-long-name-{i:02d}", "model_fingerprint": f"{i}"}
            values = {"accuracy": 0.2 + crops / 20 + i / 50, "latency_ms_p50": 40.0 + 9 * crops + 5 * i}
            rows.append(trial_row(knobs, **values, **named))
    frame = comparable(read_rows(tmp_path, rows), across_models=True)
    ((_, part),) = groups(frame)
    return part


def test_one_figure_tells_models_apart_and_names_them(tmp_path):
    data = PLOT.data(of_models(tmp_path, 3))
    assert data.title == "3 models on vqa_v2 (val), n = 500, NVIDIA H200"
    assert data.models == tuple(f"a-model-with-a-long-name-{i:02d}" for i in range(3))
    assert {mark.model for mark in data.marks} == set(data.models)
    assert {mark.label for mark in data.marks} >= {"1 · none", "1 · 8"}, "whole numbers stay whole beside a gap"
    assert len([mark for mark in data.marks if mark.on_front]) < len(data.marks) == 12
    figure = drawn(PLOT, data)
    (legend,) = figure.legends
    told = {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    assert {*data.models, "the front", "pale: dominated"} == set(told)
    looks = {(told[name].get_color(), told[name].get_marker()) for name in data.models}
    assert len(looks) == len({look[0] for look in looks}) == len({look[1] for look in looks}) == 3
    (axes,) = figure.axes
    points = {line.get_marker() for line in axes.lines} & {told[name].get_marker() for name in data.models}
    assert len(points) == 3


@pytest.mark.parametrize("count", [2, 8, 14])
def test_a_legend_of_many_models_stays_on_the_page_and_covers_no_data(tmp_path, count):
    figure = drawn(PLOT, PLOT.data(of_models(tmp_path, count)))
    (legend,) = figure.legends
    box, (axes,) = legend.get_window_extent(), figure.axes
    assert box.x1 <= figure.bbox.x1 and box.y0 >= axes.get_window_extent().y1
    assert axes.get_window_extent().height > 0.4 * figure.bbox.height
    assert all(not box.overlaps(text.get_window_extent()) for text in (*figure.texts, *axes.texts))


def test_a_figure_of_one_model_is_what_it_was(tmp_path):
    data = PLOT.data(one_group(tmp_path, combined_sweep()))
    assert data.models == () and {mark.model for mark in data.marks} == {""}


def test_of_two_that_are_better_when_larger_the_staircase_falls(tmp_path):
    name = "timing_samples_per_s_at_b8_o16"
    values = [(0.5, 40.0), (0.6, 30.0), (0.7, 20.0), (0.4, 25.0)]
    rows = [
        trial_row(
            {"max_crops": i + 1}, **{"accuracy": a, name: rate, f"{name}_low": rate - 1, f"{name}_high": rate + 2}
        )
        for i, (a, rate) in enumerate(values)
    ]
    plot = PLOT.of_objectives(["accuracy", name])
    data = plot.data(one_group(tmp_path, rows))
    assert data.x_label == "throughput of timed requests at batch 8, 16 tokens (samples/s)"
    assert [mark.on_front for mark in data.marks] == [True, False, True, True]
    assert (data.marks[0].x.low, data.marks[0].x.high) == (19.0, 22.0)
    assert [(x, round(y)) for x, y in data.steps] == [(40, 50), (30, 50), (30, 60), (20, 60), (20, 70)]
    drawn(plot, data)


def test_very_many_marks_are_dots_and_the_front_stays_as_it_is(tmp_path, monkeypatch):
    part = one_group(tmp_path, combined_sweep())
    monkeypatch.setattr(pareto_front, "MANY", 5)
    data = PLOT.data(part)
    assert "left out where too many" in data.subtitle
    axes = drawn(PLOT, data).axes[0]
    dots = [one for one in axes.collections if one.get_rasterized()]
    of_a_style = Counter((mark.shade, mark.saturated) for mark in data.marks)
    assert sorted(len(one.get_offsets()) for one in dots) == sorted(n for n in of_a_style.values() if n > 5) != []
    assert any(len(line.get_xdata()) == len(data.steps) + 2 for line in axes.lines)  # the staircase
