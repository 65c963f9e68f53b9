"""Look-up tables of budgets: golden rows, the violation rate by hand, the files, and bad input."""

from __future__ import annotations

import json
import math

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.analyze.test_front_doubt import sweep
from tests.builders import trial_row, write_answers, write_results
from vlmprof import load
from vlmprof.analyze.choosing.budgets import MEANINGS, MOST_STEPS, BudgetsWanted, budgets, write_budgets
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.store import schema, tables


def swept(folder):
    """Three configurations; the samples of the second are predicted at 90, 95, ..., 135 ms, and prefill at a tenth."""
    sweep(folder, [0.3, 0.6, 0.9], [50, 100, 150])
    rows = [
        {"trial": "t1", "sample": f"q{k}", "cluster": f"picture {k}", "score": float(k % 5 > 1)}
        | {"latency_ms_predicted": 90.0 + 5 * (k % 10), "prefill_ms_predicted": 9.0 + 0.5 * (k % 10)}
        for k in range(400)
    ]
    tables.write(folder, "samples", "t1", rows, schema.SAMPLES)
    return folder


def rows_of(folder, **options):
    return budgets(folder, BudgetsWanted(**options)).frame.set_index("budget")


def test_each_budget_has_the_best_that_keeps_it(tmp_path):
    rows = rows_of(swept(tmp_path), low=40, high=160, step=40)
    assert rows.index.tolist() == [40, 80, 120, 160]
    assert rows["trial"].isna().tolist() == [True, False, False, False]
    assert rows["trial"].tolist()[1:] == ["t0", "t1", "t2"]
    assert rows.loc[120, "cost"] == pytest.approx(100, rel=0.01)
    assert rows.loc[120, "quality_corrected"] <= rows.loc[120, "quality"]
    assert rows.loc[120, "probability_feasible"] == 1 and math.isnan(rows.loc[40, "quality"])


def test_the_violation_rate_counts_samples_above_budget_and_tolerance(tmp_path):
    folder = swept(tmp_path)
    # Of 90, 95, ..., 135 two lie above 120 * 1.05 = 126, and three above 120.
    assert rows_of(folder, low=120, high=120).loc[120, "violation_rate"] == pytest.approx(0.2)
    assert rows_of(folder, low=120, high=120, tolerance=0.0).loc[120, "violation_rate"] == pytest.approx(0.3)
    assert rows_of(folder, low=120, high=120).loc[120, "samples_predicted"] == 400


def test_prefill_alone(tmp_path):
    folder = swept(tmp_path)
    rows = [trial_row({"max_crops": i + 1}, trial=f"t{i}", prefill_ms_p50=10.0 * (i + 1) / 2) for i in range(3)]
    found = budgets(write_results(folder, rows), BudgetsWanted(stage="prefill", low=12, high=12))
    row = found.frame.iloc[0]
    assert found.tables[0].cost.column == "prefill_ms_p50" and row["cost"] <= 12


def test_by_default_from_the_least_to_the_largest_cost(tmp_path):
    rows = rows_of(swept(tmp_path), steps=3)
    costs = [load(tmp_path).trials["latency_ms_p50"].agg(end) for end in ("min", "max")]
    assert rows.index.tolist() == pytest.approx([costs[0], sum(costs) / 2, costs[1]])
    assert rows["trial"].notna().all()


def test_another_column_has_no_violation_rate_and_says_so(tmp_path):
    found = budgets(swept(tmp_path), BudgetsWanted(objective="peak_bytes"))
    assert len(found.frame) == 1 and found.frame["violation_rate"].isna().all()  # all have the same memory
    assert "no violation rate: peak_bytes is not predicted for each sample" in found.tables[0].caveats


def test_configurations_without_predictions_are_counted(tmp_path):
    found = budgets(swept(tmp_path), BudgetsWanted(low=80, high=160, step=40))
    said = "no violation rate for 2 of 3 configurations: their samples have no prediction"
    assert said in found.tables[0].caveats


def test_files(tmp_path):
    folder = swept(tmp_path)
    found = budgets(folder, BudgetsWanted(low=40, high=160, step=40))
    parquet, text = write_budgets(found, folder)
    table = pq.read_table(parquet)
    assert table.column_names == list(MEANINGS) and table.schema.field("budget").metadata[b"unit"] == b"ms"
    assert table.schema.field("quality").metadata[b"unit"] == b"fraction"
    read = json.loads((folder / "budgets.json").read_text())
    assert str(text).endswith("budgets.json") and read["budgets"] == table.to_pylist()
    assert read["budgets"][0]["trial"] is None and read["tolerance"] == 0.05 and read["units"]["cost"] == "ms"


def test_a_file_that_cannot_be_written_is_a_user_error(tmp_path):
    folder = swept(tmp_path)
    (folder / "budgets.parquet").mkdir()
    with pytest.raises(StoreError, match=r"budgets\.parquet cannot be written"):
        write_budgets(budgets(folder), folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stage": "decode"}, "expected prefill or whole, got 'decode'"),
        ({"objective": "peak_bytes", "stage": "prefill"}, "leave out 'peak_bytes'"),
        ({"objective": "accuracy"}, "'accuracy' is no cost: of it higher is better"),
        ({"objective": "latncy_ms_p50"}, "did you mean 'latency_ms_p50'"),
        ({"low": 100, "high": 50}, "the last to be at least the first"),
        ({"low": -1.0}, "low: expected a number above 0"),
        ({"step": 0.001}, f"at most {MOST_STEPS} budgets"),
        ({"steps": 1}, "steps: expected 2 to"),
        ({"tolerance": -0.1}, "tolerance: expected 0 or more"),
        ({"objective": "energy_j_per_token"}, "no finished trial measured quality and energy_j_per_token"),
    ],
)
def test_bad_input_is_refused(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        budgets(swept(tmp_path), BudgetsWanted(**options))


def test_no_common_samples_leaves_no_probabilities(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", accuracy=0.5 + i / 10) for i in (1, 2)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"{row['trial']} {k}": float(k % 2) for k in range(30)})
    found = budgets(write_results(tmp_path, rows))
    assert found.frame["trial"].tolist() == ["t2"] and found.frame["quality_corrected"].isna().all()
    assert found.tables[0].caveats[0].startswith("no probabilities are given: the 2 trials have no common samples")


def test_terminal_and_python(tmp_path):
    folder = swept(tmp_path)
    arguments = ["budgets", str(folder), "--from", "40", "--to", "160", "--step", "40", "--tolerance", "10%"]
    arguments += ["--figure", str(tmp_path / "figures" / "budgets.png")]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for said in ("none is within it", "+ 10 %", "is optimistic, as it was chosen for it", "budgets.json"):
        assert said in text
    assert (tmp_path / "figures" / "budgets.png").read_bytes().startswith(b"\x89PNG")
    found = load(folder).budgets(low=40, high=160, step=40, tolerance=0.1)
    assert found.frame["violation_rate"].tolist()[2] == pytest.approx(0.1)  # 135 alone is above 132
    assert found.frame.attrs["descriptions"] == dict(MEANINGS)


def test_the_figure_has_an_ending_that_can_be_drawn(tmp_path):
    shown = CliRunner().invoke(app, ["budgets", str(swept(tmp_path)), "--figure", "x.gif"])
    assert isinstance(shown.exception, UserError) and "ends in .png, .svg, .pdf" in str(shown.exception)
