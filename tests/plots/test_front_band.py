"""The front with its doubt in the figure: membership as shade, the band, and what it rests on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analyze.test_front_doubt import sweep
from tests.plots.drawing import drawn
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.plots.pareto_front import PLOT, _staircase
from vlmprof.plots.plot import _with_doubt, render
from vlmprof.store import tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sweep(tmp_path / "results", [0.3, 0.6, 0.6, 0.4], [50, 100, 100.2, 120])


def data_of(folder, names=()):
    ((_, part),) = groups(_with_doubt(comparable(tables.read(folder, "trials")), folder, names))
    return (PLOT.of_objectives(names) if names else PLOT).data(part)


def test_shades_and_band(folder):
    data = data_of(folder)
    assert {mark.trial: mark.shade for mark in data.marks} == {
        "t0": "surely",
        "t1": "surely",
        "t2": "possibly",
        "t3": "no",
    }
    assert data.band is not None
    better, worse = data.band
    assert better[0][0] < data.steps[0][0] < worse[0][0], "the band begins before the front and after it"
    assert better[-1][1] > data.steps[-1][1] > worse[-1][1]
    assert max(y for _, y in better) <= 100
    assert "surely" in data.subtitle and "assumed" in data.subtitle


def test_without_doubt_it_is_drawn_as_before(folder):
    ((_, part),) = groups(comparable(tables.read(folder, "trials")))
    data = PLOT.data(part)
    assert data.band is None and {mark.shade for mark in data.marks} == {"surely", "no"}


def test_axes_on_which_larger_is_better(folder):
    data = data_of(folder, ["latency_ms_p50", "accuracy"])
    assert data.band is not None
    better, worse = data.band
    assert better[0][0] >= data.steps[0][0] >= worse[0][0], "from the highest accuracy on"
    assert better[-1][1] < data.steps[-1][1] < worse[-1][1]


def test_a_staircase_by_hand():
    assert _staircase([(2.0, 5.0), (1.0, 3.0)], (True, False)) == ((1.0, 3.0), (2.0, 3.0), (2.0, 5.0))
    assert _staircase([(2.0, 5.0), (1.0, 3.0)], (False, True)) == ((2.0, 5.0), (1.0, 5.0), (1.0, 3.0))


def test_it_is_drawn(folder, tmp_path):
    written = render(folder, tmp_path / "plots", ["pareto_front"])
    assert all(path.stat().st_size > 10_000 for path in written) and len(written) == 2
    figure = drawn(PLOT, data_of(folder))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:4] == ["surely on the front", "possibly", "the front as measured", "its 95 % band"]
