"""The figure of a comparison: a row a pair, both readings of a latency, and what more pairs than fit do."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes

from tests.analyze.comparing.compared_runs import write_run
from tests.builders import trial_row, write_results
from vlmprof.analyze.comparing.comparison import Settings, compare
from vlmprof.errors import UserError
from vlmprof.plots import _comparison
from vlmprof.plots._comparison import draw_comparison


@pytest.fixture
def drawn(monkeypatch):
    """What ``errorbar`` was given: axis label -> values."""
    found = []
    original = Axes.errorbar

    def errorbar(self, x, y, **options):
        found.append((float(x), int(y), options["color"]))
        return original(self, x, y, **options)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    return found


def test_changes_are_drawn_in_percent_and_points(tmp_path, drawn):
    first = write_run(tmp_path / "a", [0.5, 0.7], [50, 100])
    found = compare(first, write_run(tmp_path / "b", [0.5, 0.5], [50, 100], seed=1))
    draw_comparison(found, tmp_path / "figure.png")
    assert [(round(x), y) for x, y, _ in drawn] == [(0, 0), (-20, 1), (0, 0), (0, 1)]
    assert drawn[0][2] != drawn[1][2], "what changed surely has a colour of its own"


def test_two_configurations_name_what_differs(tmp_path):
    found = compare(write_run(tmp_path, [0.5, 0.7], [50, 100]), None, Settings(configurations=("full", "max_crops=1")))
    assert _comparison._name(found, 0) == "max_crops=2 → 1"


def test_more_pairs_than_fit(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(_comparison, "MOST", 1)
    first = write_run(tmp_path / "a", [0.5, 0.7], [50, 100])
    draw_comparison(compare(first, write_run(tmp_path / "b", [0.5, 0.5], [50, 100], seed=1)), tmp_path / "figure.svg")
    assert round(drawn[0][0]) == -20 and len(drawn) == 2


def test_what_cannot_be_drawn(tmp_path):
    rows = [trial_row({"max_crops": 1}, accuracy=None, latency_ms_p50=None)]
    folders = [write_results(tmp_path / name, rows) for name in "ab"]
    with pytest.raises(UserError, match="nothing to draw"):
        draw_comparison(compare(*folders), tmp_path / "figure.png")
    with pytest.raises(UserError, match=r"ends in \.png"):
        draw_comparison(compare(*folders), tmp_path / "figure.gif")
