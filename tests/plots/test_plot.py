import hashlib
import subprocess
import sys

import matplotlib as mpl
import pytest
from PIL import Image

from tests.builders import combined_sweep, trial_row, write_results
from vlmprof import registry
from vlmprof.errors import StoreError, UnknownNameError, UserError
from vlmprof.plots.plot import AbstractPlot, render
from vlmprof.store.ledger import Ledger


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path / "results", combined_sweep())


def test_every_plot_is_drawn_in_both_formats(results, tmp_path):
    written = render(results, tmp_path / "plots")
    names = registry.names("plots")
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for path in written:
        assert path.stat().st_size > 10_000
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.size[0] == 1400


@pytest.mark.parametrize("name", registry.names("plots"))
def test_every_leaf_is_a_plot(name):
    assert isinstance(registry.load("plots", name), AbstractPlot)


def test_equal_tables_give_equal_files(results, tmp_path):
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in render(results, tmp_path / folder, ["knob_curve"])]
        for folder in ("one", "two")
    ]
    assert digests[0] == digests[1]


def test_a_figure_for_each_group(tmp_path):
    rows = [*combined_sweep(), *combined_sweep(device="NVIDIA A100")]
    written = render(write_results(tmp_path, rows), tmp_path / "plots", ["pareto_front"])
    assert [path.name for path in written] == [
        "pareto_front-nvidia-a100.png",
        "pareto_front-nvidia-a100.svg",
        "pareto_front-nvidia-h200.png",
        "pareto_front-nvidia-h200.svg",
    ]


def test_without_names_only_what_can_be_drawn(tmp_path):
    rows = [trial_row({"max_crops": crops}, accuracy=None) for crops in (1, 2)]
    folder = write_results(tmp_path, rows)
    assert {path.stem for path in render(folder, tmp_path / "plots")} == {"knob_curve"}
    with pytest.raises(UserError, match="pareto_front: no trial measured both accuracy and latency"):
        render(folder, tmp_path / "plots", ["pareto_front"])


def test_nothing_to_draw_is_said(tmp_path):
    rows = [trial_row({"max_crops": 1}, accuracy=None, latency_ms_p50=None, peak_bytes=None)]
    with pytest.raises(UserError, match="measured none"):
        render(write_results(tmp_path / "a", rows), tmp_path / "plots")
    Ledger(tmp_path / "b").close()
    with pytest.raises(UserError, match="no finished trial"):
        render(tmp_path / "b", tmp_path / "plots")
    with pytest.raises(StoreError, match="holds no sweep"):
        render(tmp_path / "c", tmp_path / "plots")


def test_an_unknown_plot_names_the_nearest(results, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'pareto_front'"):
        render(results, tmp_path, ["paretto_front"])


def test_nothing_global_is_left_changed(results, tmp_path):
    before = dict(mpl.rcParams)
    render(results, tmp_path / "plots", ["knob_curve"])
    assert dict(mpl.rcParams) == before


def test_no_torch_no_ray_no_pyplot(results, tmp_path):
    code = (
        "import sys; from pathlib import Path; from vlmprof.plots.plot import render;"
        f"render(Path({str(results)!r}), Path({str(tmp_path / 'plots')!r}), ['pareto_front']);"
        "assert not {'torch', 'ray', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_objectives_are_shown_by_the_plots_that_have_a_choice(tmp_path):
    rows = [trial_row({"max_crops": crops}, latency_ms_p50_at_b8_o16=100.0 + crops) for crops in (1, 2, 4)]
    folder, notes = write_results(tmp_path / "results", rows), []
    names = ["accuracy", "latency_ms_p50_at_b8_o16"]
    written = render(folder, tmp_path / "plots", objectives=names, note=notes.append)
    stems = ["knob_curve-accuracy-latency_ms_p50_at_b8_o16", "pareto_front-accuracy-latency_ms_p50_at_b8_o16"]
    assert sorted({path.stem for path in written}) == stems and not notes
    written = render(folder, tmp_path / "one", objectives=["accuracy"], note=notes.append)
    assert {path.stem for path in written} == {"knob_curve-accuracy"}
    assert notes == ["pareto_front is not drawn: a front has two axes, and 1 objectives are named"]
    with pytest.raises(UserError, match=r"no objective named 'latency_ms_p50_at_b9_o16'; did you mean"):
        render(folder, tmp_path / "none", objectives=["latency_ms_p50_at_b9_o16"])
