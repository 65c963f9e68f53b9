"""Figures of decisions: what each shows, from Python and from the command line, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from typer.testing import CliRunner

from tests.builders import trial_row, write_answers, write_results, write_times
from vlmprof import load
from vlmprof.cli import app
from vlmprof.errors import UserError
from vlmprof.plots._choice import NEAREST


@pytest.fixture
def results(tmp_path):
    rows = []
    for crops, experts in itertools.product((1, 4, 9), (1, 8)):
        right = {f"q{i}": float((7 * i + 3) % 20 < 6 + crops + experts // 2) for i in range(60)}
        accuracy, latency = sum(right.values()) / 60, 20.0 + 4 * crops + experts
        row = trial_row({"max_crops": crops, "moe_top_k": experts}, accuracy=accuracy, latency_ms_p50=latency)
        write_answers(tmp_path / "r", row["trial"], right, per_picture=2)
        write_times(tmp_path / "r", row["trial"], [[latency, latency + 0.1] * 8])
        rows.append(row)
    return load(write_results(tmp_path / "r", rows))


def test_the_answer_stands_on_top_with_the_corrected_value_beside_it(results):
    found = results.best("latency_ms_p50 < 50 ms")
    axes = results.draw(found).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    (choice,) = found.choices
    assert "answer" in names[0] and len(names) == choice.rows["role"].notna().sum() > 2
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert len(diamonds) == 1
    assert diamonds[0].get_xdata()[0] == pytest.approx(100 * choice.corrected.mean) and diamonds[0].get_ydata()[0] == 0


def test_where_nothing_is_feasible_the_nearest_are_drawn(results):
    axes = results.draw(results.best("latency_ms_p50 < 1 ms")).axes[0]
    assert len(axes.get_yticklabels()) == NEAREST


def test_rules_have_a_line_each_and_are_hollow_beyond_the_budget(results):
    found = results.oracle([0.5, 1.0])
    axes = results.draw(found).axes[0]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(found.frame["policy"])
    hollow = sum(len(line.get_xdata()) for line in axes.lines if line.get_markerfacecolor() == "white")
    assert hollow == (found.frame["violations"] > 0.05).sum()


@pytest.mark.parametrize("command", ["best", "budgets", "coupling", "oracle"])
def test_each_command_writes_its_figure_and_refuses_other_endings(results, command, tmp_path):
    done = CliRunner().invoke(app, [command, results.where, "--figure", str(tmp_path / "new" / "figure.svg")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "figure.svg").read_text().startswith("<?xml")
    refused = CliRunner().invoke(app, [command, results.where, "--figure", "figure.gif"])
    assert isinstance(refused.exception, UserError) and ".png, .svg, .pdf" in str(refused.exception)


def test_what_has_no_figure_is_named_with_what_has_one(results):
    with pytest.raises(UserError, match=r"no figure of a DataFrame, only of Best, Budgets, Coupling, Oracle"):
        results.draw(results.trials)
