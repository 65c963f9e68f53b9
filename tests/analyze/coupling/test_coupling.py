"""Coupling from tables: known effects come back, bad input is said, and the terminal and the figure show it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.builders import trial_row, write_answers, write_results, write_times
from vlmprof import load
from vlmprof.analyze.coupling.coupling import coupling
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.report.terminal import Terminal

QUESTIONS = 200
KNOBS = ("max_crops", "moe_top_k", "active_blocks")


def sweep(folder, accuracy, latency, *, values=((1, 2), (1, 2), (8, 16)), skip=(), samples=None, **columns):
    """A grid of three knobs; ``accuracy`` and ``latency`` are functions of the places of the values."""
    rng = np.random.default_rng(0)
    hard = rng.permutation((np.arange(QUESTIONS) + 0.5) / QUESTIONS)
    rows = []
    for number, places in enumerate(itertools.product(*(range(len(axis)) for axis in values))):
        point = {knob: values[axis][places[axis]] for axis, knob in enumerate(KNOBS)}
        if places in skip:
            continue
        trial = f"t{number:02d}"
        scores = (hard < accuracy(*places)).astype(float)
        times = latency(*places) * np.exp(rng.normal(0, 0.002, (1, 16)))
        row = {"accuracy": float(scores.mean()), "latency_ms_p50": float(np.median(times)), "samples": QUESTIONS}
        rows.append(trial_row(point, trial=trial, work_key=trial, **{**row, **columns}))
        asked = QUESTIONS if samples is None else samples(*places)
        if asked:
            write_answers(folder, trial, {f"q{k}": score for k, score in enumerate(scores[:asked])}, per_picture=2)
        write_times(folder, trial, times.tolist())
    return write_results(folder, rows)


def coupled(folder):
    """Crops matter by 0.2 with two experts, by 0.1 with one; blocks by 0.1. Crops double the time, blocks add half."""
    return sweep(
        folder,
        lambda crops, experts, blocks: 0.4 + 0.1 * crops + 0.1 * crops * experts + 0.1 * blocks,
        lambda crops, experts, blocks: 50 * 2**crops * 1.5**blocks,
    )


def test_known_effects_come_back(tmp_path):
    found = coupling(coupled(tmp_path))
    effects = found.effects[(found.effects["knob"] == "max_crops") & (found.effects["other"] == "moe_top_k")]
    of = effects.set_index(["objective", "at"])["effect"]
    assert of["accuracy", "1"] == pytest.approx(-0.1) and of["accuracy", "2"] == pytest.approx(-0.2)
    assert of["latency_ms_p50", "1"] == pytest.approx(0.5, rel=0.01)
    assert (effects["low"] < effects["effect"]).all() and (effects["effect"] < effects["high"]).all()
    between = found.interactions.set_index(["objective", "knobs"])["effect"]
    assert between["accuracy", "max_crops x moe_top_k"] == pytest.approx(0.1)
    assert between["accuracy", "active_blocks x max_crops"] == pytest.approx(0)
    assert between["latency_ms_p50", "max_crops x moe_top_k"] == pytest.approx(1, abs=0.02)


def test_variance_and_tests(tmp_path):
    found = coupling(coupled(tmp_path)).frame.set_index(["objective", "knobs"])
    accuracy = found.loc["accuracy"]
    assert accuracy.loc["max_crops x moe_top_k", "p"] < 0.01
    assert accuracy.loc["max_crops x moe_top_k", "p_holm"] < 0.05
    assert (
        accuracy.loc["active_blocks x max_crops", "p"] > 0.05 or accuracy.loc["active_blocks x max_crops", "share"] == 0
    )
    assert np.isnan(accuracy.loc["max_crops", "p"])
    assert accuracy["share"].sum() == pytest.approx(1)
    assert (accuracy["share_low"] <= accuracy["share"]).all() and (accuracy["share"] <= accuracy["share_high"]).all()
    times = found.loc["latency_ms_p50"]
    assert times.loc["max_crops", "share"] > 0.7 and times.loc["max_crops x moe_top_k", "p"] > 0.05


def test_fronts_with_one_knob_held(tmp_path):
    fronts = coupling(coupled(tmp_path)).fronts.set_index(["knob", "value"])
    few = fronts.loc[("max_crops", "1")]
    assert few["of"] == 4 and few["hypervolume_kept"] < 1 and few["accuracy_lost"] > 0
    assert few["hypervolume_kept_low"] <= few["hypervolume_kept"] <= few["hypervolume_kept_high"]
    # Experts cost nothing here: with all of them nothing is lost but noise of the times.
    assert fronts.loc[("moe_top_k", "2"), "hypervolume_kept_high"] == 1


def test_an_unfinished_sweep_uses_the_complete_part(tmp_path):
    folder = sweep(tmp_path, lambda *_: 0.5, lambda *_: 50, values=((1, 2, 3), (1, 2), (16,)), skip=[(2, 1, 0)])
    found = coupling(folder)
    assert any("1 of 5 trials are not in the complete grid of 4" in said for said in found.caveats)


def test_half_the_answers_are_counted(tmp_path):
    found = coupling(sweep(tmp_path, lambda *_: 0.5, lambda *_: 50, samples=lambda a, *_: 100 if a else 200))
    assert any("100 of 200 samples are not scored in all 8" in said for said in found.caveats)


def test_without_answers_times_alone(tmp_path):
    found = coupling(sweep(tmp_path, lambda *_: 0.5, lambda *_: 50, samples=lambda *_: 0))
    assert set(found.frame["objective"]) == {"latency_ms_p50"} and found.fronts.empty
    assert any("accuracy is not looked at: 8 of 8 trials have no scored sample" in said for said in found.caveats)


def test_without_times_accuracy_alone(tmp_path):
    rows = [trial_row({"max_crops": a, "moe_top_k": b}, latency_ms_p50=None) for a in (1, 2) for b in (1, 2)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 2) for k in range(40)})
    found = coupling(write_results(tmp_path, rows))
    assert set(found.frame["objective"]) == {"accuracy"} and found.fronts.empty
    assert any("latency_ms_p50 is not looked at" in said for said in found.caveats)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "nowhere"}, "no group of trials has 'nowhere' in its name; there are: MolmoE"),
        ({"time": "latency_ms_p05"}, "no time that was measured generation by generation.*latency_ms_p50"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        coupling(coupled(tmp_path), **options)


def test_one_trial_and_no_sweep(tmp_path):
    with pytest.raises(UserError, match="found no such grid among 1 finished trials"):
        coupling(write_results(tmp_path / "one", [trial_row({"max_crops": 1})]))
    with pytest.raises(StoreError):
        coupling(tmp_path / "none")
    with pytest.raises(UserError, match=r"no trial has finished \(1 failed\); 'vlmprof status"):
        coupling(write_results(tmp_path / "failed", [trial_row({"max_crops": 1}, state="failed", error="x")]))


def test_nan_scores_and_one_picture(tmp_path):
    rows = [trial_row({"max_crops": a, "moe_top_k": b}) for a in (1, 2) for b in (1, 2)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float("nan") for k in range(40)})
        write_times(tmp_path, row["trial"], [[50.0] * 8])
    found = coupling(write_results(tmp_path, rows))
    assert set(found.frame["objective"]) == {"latency_ms_p50"}
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 2) for k in range(40)}, per_picture=40)
    assert any("of one picture" in said for said in coupling(tmp_path).caveats)


def test_several_groups_are_kept_apart(tmp_path):
    rows = []
    for task in ("vqa_v2", "gqa"):
        for a, b in itertools.product((1, 2), (1, 2)):
            rows.append(trial_row({"max_crops": a, "moe_top_k": b}, trial=f"{task}{a}{b}", task=task))
            write_answers(tmp_path, f"{task}{a}{b}", {f"q{k}": float(k % (1 + a)) for k in range(40)})
            write_times(tmp_path, f"{task}{a}{b}", [[50.0, 50.1] * 8])
    folder = write_results(tmp_path, rows)
    assert coupling(folder).frame["group"].nunique() == 2
    assert coupling(folder, by="gqa").frame["group"].nunique() == 1


def test_from_python_and_the_command_line(tmp_path):
    folder = coupled(tmp_path)
    results = load(folder)
    assert isinstance(results.coupling().frame, pd.DataFrame)
    figure = results.draw(results.coupling(), tmp_path / "figure.svg")
    assert len([axes for axes in figure.axes if axes.get_xlabel()]) == 6
    assert "max_crops" in (tmp_path / "figure.svg").read_text()
    done = CliRunner().invoke(app, ["coupling", str(folder), "--figure", str(tmp_path / "figure.png")])
    assert done.exit_code == 0, done.output
    assert "variance of accuracy" in done.output and "the front with one knob held" in done.output
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    with pytest.raises(UserError, match=r"ends in \.png, \.svg, \.pdf"):
        results.draw(results.coupling(), tmp_path / "figure.gif")


def test_hostile_names_are_shown_as_text(tmp_path):
    from vlmprof.report.coupling_table import coupling_report

    rows = [
        trial_row({"max_crops": a, "moe_top_k": b}, model="[red]\x1b[31mx", trial=f"t{a}{b}")
        for a in (1, 2)
        for b in (1, 2)
    ]
    for row in rows:
        write_times(tmp_path, row["trial"], [[50.0, 51.0] * 8])
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 3 == 0) for k in range(40)})
    console = Terminal(width=160, record=True, force_terminal=False)
    for part in coupling_report(coupling(write_results(tmp_path, rows))):
        console.print(part)
    text = console.export_text()
    assert "\x1b" not in text and "[red]" in text
