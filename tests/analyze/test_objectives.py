"""Folders with trials of several kinds: a front of each kind, the same for the table, the figures and the page."""

import json
import random

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.builders import combined_sweep, read_rows, trial_row, write_results
from tests.jobs import small_job
from vlmprof.analyze.comparability import comparable, groups
from vlmprof.analyze.objectives import parse_objectives, split_by_objectives
from vlmprof.analyze.pareto import fronts
from vlmprof.analyze.watch_state import Watcher
from vlmprof.cli import app
from vlmprof.errors import UserError
from vlmprof.plots.pareto_front import PLOT
from vlmprof.report.pareto_table import read_front
from vlmprof.store.tables import schema_of

RUNNER = CliRunner()
NO_ACCURACY = {"accuracy": None, "accuracy_low": None, "accuracy_high": None}
NO_LATENCY = {"latency_ms_p50": None, "latency_ms_p50_low": None, "latency_ms_p50_high": None}
KINDS = {
    "both": {},
    "accuracy": NO_LATENCY,
    "latency": NO_ACCURACY,
    "neither": NO_ACCURACY | NO_LATENCY,
    "failed": {"state": "failed"},
    "oom": {"state": "oom", **NO_ACCURACY, **NO_LATENCY},
}


def rows(*kinds, task="vqa_v2"):
    """A trial of each kind named, no two alike."""
    made = []
    for place, kind in enumerate(kinds):
        values = {"accuracy": 0.3 + 0.07 * (place * 5 % 7), "latency_ms_p50": 50.0 + 11 * (place * 3 % 8)}
        made.append(trial_row({"max_crops": place + 1}, **{**values, **KINDS[kind], "task": task}))
    return made


def of_table(folder):
    """Front -> trials on it and off it, as ``vlmprof pareto`` prints and writes them."""
    done = RUNNER.invoke(app, ["pareto", str(folder)])
    assert done.exit_code == 0, done.exception
    frame = pq.read_table(folder / "pareto.parquet").to_pandas()
    return {name: sides(part) for name, part in frame.groupby("group")}, done.output


def sides(part: pd.DataFrame):
    return frozenset(part["trial"][part["on_front"]]), frozenset(part["trial"][~part["on_front"]])


def of_page(folder):
    view = json.loads(json.dumps(Watcher(folder).look().to_json(), allow_nan=False))
    found = {}
    for front in view["fronts"]:
        on, off = (frozenset(s["trial"] for s in front["spots"] if s["on_front"] == side) for side in (True, False))
        found[front["group"]] = on, off
    return found, view["front_note"]


def of_figures(folder):
    """What the figure of each group draws; a figure has two axes, so fronts of one objective are not in it."""
    found = set()
    for _, part in groups(comparable(fronts_table(folder))):
        try:
            marks = PLOT.data(part).marks
        except UserError:
            continue
        on, off = (frozenset(mark.trial for mark in marks if mark.on_front == side) for side in (True, False))
        found.add((on, off))
    return found


def fronts_table(folder):
    from vlmprof.store import tables

    return tables.read(folder, "trials")


MIXED = [
    ("accuracy", "accuracy", "failed"),  # once the page drew what the table refused: the failed one has a latency
    ("both", "both", "both", "accuracy"),
    ("both", "latency", "latency", "accuracy", "oom", "failed", "neither"),
    ("latency", "latency"),
    ("accuracy", "latency", "neither", "neither"),
]


@pytest.mark.parametrize("kinds", MIXED)
def test_the_table_the_page_and_the_figures_agree(tmp_path, kinds):
    folder = write_results(tmp_path, rows(*kinds))
    table, printed = of_table(folder)
    page, note = of_page(folder)
    assert table == page
    with_both = {sides(front.rows) for front in fronts(fronts_table(folder)).fronts if len(front.objectives) == 2}
    assert of_figures(folder) == with_both
    left_out = {"failed": kinds.count("failed"), "oom": kinds.count("oom")}
    left_out["without accuracy and latency_ms_p50"] = kinds.count("neither")
    for why, count in left_out.items():
        said = f"{count} {why}"
        assert (said in " ".join(printed.split())) == (said in note) == bool(count), why
    drawn = {trial for on, off in table.values() for trial in on | off}
    assert len(drawn) == sum(kind in ("both", "accuracy", "latency") for kind in kinds)


def test_the_end_of_a_run_prints_and_writes_the_same(tmp_path, tiny_checkpoint, monkeypatch):
    """All trials of the job are in the folder already, so the run only says what there is."""
    monkeypatch.chdir(tmp_path)
    job = small_job(tmp_path, tiny_checkpoint)
    made = rows("both", "both", "accuracy", "neither")
    folder = write_results(
        tmp_path / "results", [row | {"trial": plan.id} for row, plan in zip(made, job.plans, strict=True)]
    )
    done = RUNNER.invoke(app, ["run", "--inline", str(tmp_path / "job.yaml")])
    assert done.exit_code == 0, done.output
    written = pq.read_table(folder / "pareto.parquet").to_pandas()
    table, printed = of_table(folder)
    assert {name: sides(part) for name, part in written.groupby("group")} == table and len(table) == 2
    assert printed.strip() in done.output
    assert "4 of 4 trials done" in done.output


def test_random_folders_agree_too(tmp_path):
    chance = random.Random(7)
    for number in range(12):
        kinds = [chance.choice(list(KINDS)) for _ in range(chance.randint(2, 9))]
        if not {"both", "accuracy", "latency"} & set(kinds):
            continue
        folder = write_results(tmp_path / str(number), [*rows(*kinds), *rows(*kinds[:3], task="textvqa")])
        table, _ = of_table(folder)
        assert table == of_page(folder)[0], kinds
        with_both = {sides(f.rows) for f in fronts(fronts_table(folder)).fronts if len(f.objectives) == 2}
        assert of_figures(folder) == with_both, kinds


def test_each_kind_has_a_front_of_its_own_and_a_name(tmp_path):
    found = fronts(read_rows(tmp_path, rows("both", "both", "accuracy", "accuracy", "latency")))
    group = found.fronts[0].name
    assert [front.name for front in found.fronts] == [group, f"{group}, accuracy only", f"{group}, latency_ms_p50 only"]
    assert [[one.column for one in front.objectives] for front in found.fronts] == [
        ["accuracy", "latency_ms_p50"],
        ["accuracy"],
        ["latency_ms_p50"],
    ]
    assert [len(front.rows) for front in found.fronts] == [2, 2, 1]
    best = found.fronts[1].best
    assert best["accuracy"].tolist() == [found.fronts[1].rows["accuracy"].max()]


def test_a_group_of_one_kind_keeps_its_name(tmp_path):
    trials = read_rows(tmp_path, rows("accuracy", "accuracy"))
    assert [front.name for front in fronts(trials).fronts] == list(comparable(trials)["group"].unique())


def test_objectives_that_were_named_leave_out_what_lacks_one(tmp_path):
    folder = write_results(tmp_path, rows("both", "both", "accuracy", "latency"))
    front = read_front(folder, ["accuracy", "latency_ms_p50"])
    assert len(front) == 2 and front["group"].nunique() == 1
    assert front.attrs["left_out"] == {"without latency_ms_p50": 1, "without accuracy": 1}
    alone = read_front(folder, ["accuracy"])
    assert len(alone) == 3 and alone.attrs["left_out"] == {"without accuracy": 1}


def test_where_no_front_can_be_drawn_it_is_refused_with_the_reasons(tmp_path):
    folder = write_results(tmp_path, rows("neither", "neither", "oom"))
    with pytest.raises(UserError, match="no front can be drawn of 2 finished trials: 1 oom, 2 without accuracy and"):
        read_front(folder)
    with pytest.raises(UserError, match="without tpot_ms_p50"):
        read_front(write_results(tmp_path / "b", rows("both")), ["tpot_ms_p50"])
    with pytest.raises(UserError, match="no objective named 'acuracy'"):
        read_front(folder, ["acuracy"])


def test_no_finished_trial_is_no_error(tmp_path):
    front = read_front(write_results(tmp_path, rows("oom", "failed")))
    assert front.empty and front.attrs["left_out"] == {"failed": 1, "oom": 1}
    assert {"group", "on_front"} <= set(front.columns)


def test_a_value_that_is_not_finite_was_not_measured(tmp_path):
    trials = read_rows(
        tmp_path, [trial_row({"max_crops": 1}), trial_row({"max_crops": 2}, latency_ms_p50=float("inf"))]
    )
    ((_, part),) = groups(comparable(trials))
    kinds, left_out = split_by_objectives(part)
    assert [[one.column for one in kind.objectives] for kind in kinds] == [["accuracy", "latency_ms_p50"], ["accuracy"]]
    assert not left_out


def test_plot_says_what_it_does_not_draw(tmp_path):
    folder = write_results(tmp_path, [*combined_sweep(), *rows("accuracy", "failed", task="textvqa")])
    done = RUNNER.invoke(app, ["plot", str(folder), "--to", str(tmp_path / "figures")])
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and "pareto_front-vqa-v2.png" in said
    assert "textvqa, val, NVIDIA H200, timing_batch_size=1, timing_output_tokens=16 is not drawn" in said
    assert "left out: 1 failed" in said


def test_the_direction_and_unit_of_an_objective_come_from_the_schema(tmp_path):
    trials = read_rows(tmp_path, rows("both"))
    accuracy, latency = parse_objectives(["accuracy", "latency_ms_p50"], schema_of(trials))
    assert (accuracy.better, accuracy.sign, latency.better, latency.unit) == ("higher", -1, "lower", "ms")
