"""Trials of unlike GPUs: each kind has a front, a figure and a table of its own, and none is lost."""

from __future__ import annotations

from pathlib import Path

from tests.builders import GPU, read_rows, trial_row, write_results
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.objectives import parse_objectives
from vlmprof.analyze.pareto import pareto
from vlmprof.plots.plot import render
from vlmprof.report.pareto_table import front_report, read_front
from vlmprof.store import tables
from vlmprof.store.tables import schema_of

OTHER = "NVIDIA L4"


def folder_of(tmp_path: Path) -> Path:
    rows = [
        trial_row({"max_crops": 1}, accuracy=0.4, latency_ms_p50=40.0),
        trial_row({"max_crops": 9}, accuracy=0.6, latency_ms_p50=90.0),
        # Worse than both in every way, on a slower GPU: in a mixed front it would not be seen.
        trial_row({"max_crops": 4}, accuracy=0.3, latency_ms_p50=300.0, device=OTHER),
        trial_row({"max_crops": 6}, accuracy=0.35, latency_ms_p50=350.0, device=OTHER),
    ]
    write_results(tmp_path, rows)
    return tmp_path


def test_each_kind_has_a_front_of_its_own(tmp_path: Path) -> None:
    trials = tables.read(folder_of(tmp_path), "trials")
    parts = dict(groups(comparable(trials)))
    assert len(parts) == 2 and all(part["device"].nunique() == 1 for part in parts.values())
    front = pareto(trials, parse_objectives(["accuracy", "latency_ms_p50"], schema_of(trials)))
    assert len(front) == 4 and front["on_front"].all()


def test_reports_and_figures_keep_them_apart(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    front = read_front(folder, [], [])
    titles = [str(getattr(part, "title", "")) for part in front_report(front, 160)]
    assert sum(GPU in title for title in titles) == sum(OTHER in title for title in titles) == 1
    assert not any(GPU in title and OTHER in title for title in titles)
    names = [path.name for path in render(folder, tmp_path / "plots") if "front" in path.name]
    assert len({name for name in names if "h200" in name.lower()}) == len({n for n in names if "l4" in n.lower()}) > 0


def test_whoever_asks_gets_one_front_and_is_told_what_is_in_it(tmp_path: Path) -> None:
    front = read_front(folder_of(tmp_path), [], [], across_devices=True)
    assert front["group"].nunique() == 1
    assert set(front[front["on_front"]]["device"]) == {GPU}
    said = " ".join(str(part) for part in front_report(front, 160))
    assert f"2 different values of device: {GPU}, {OTHER}" in said
    apart = " ".join(str(part) for part in front_report(read_front(tmp_path), 160))
    assert "different values of device" not in apart


def test_a_commit_beside_an_installed_copy_is_said(tmp_path):
    rows = [trial_row({"max_crops": 1}, vlmprof_commit="abc"), trial_row({"max_crops": 4}, vlmprof_commit=None)]
    (sentence,) = comparable(read_rows(tmp_path, rows)).attrs["mixed"]
    assert "2 different values of vlmprof_commit: abc, none (an installed copy)" in sentence
    other = [trial_row({"max_crops": i}, vlmprof=f"1.{i}") for i in (1, 2)]
    (sentence,) = comparable(read_rows(tmp_path / "other", other)).attrs["mixed"]
    assert "2 different values of vlmprof: 1.1, 1.2" in sentence
