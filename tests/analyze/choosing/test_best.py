"""The best configuration under a condition, from tables: the answer, the safe answer, their doubt, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.analyze.test_front_doubt import QUESTIONS, sweep
from tests.builders import trial_row, write_answers, write_results
from vlmprof import load
from vlmprof.analyze.choosing.best import ADDED, MEANINGS, Wanted, best, misses
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.stats.selection import first_half


def only(folder, where="", **options):
    (choice,) = best(folder, Wanted(where=where, **options)).choices
    return choice


def test_the_answer_is_the_best_within_the_condition(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.9, 0.95], [50, 100, 150, 300])
    choice = only(folder, "latency_ms_p50 < 0.2 s")
    assert choice.answer == choice.safe == "t2"
    assert choice.price is not None and choice.price.mean == choice.price.low == choice.price.high == 0
    rows = choice.rows.set_index("trial")
    assert rows["role"].dropna().to_dict() == {"t2": "answer and safe", "t1": "runner-up", "t0": "runner-up"}
    assert rows["feasible"].to_dict() == {"t2": True, "t1": True, "t0": True, "t3": False}
    assert rows.loc["t3", "missed"] == pytest.approx(rows.loc["t3", "latency_ms_p50"] / 200 - 1)
    assert rows.loc["t2", "probability_best"] == rows.loc["t2", "probability_feasible"] == 1
    assert rows.loc["t1", "difference"] == pytest.approx(rows.loc["t1", "accuracy"] - rows.loc["t2", "accuracy"])
    assert rows.loc["t1", "difference_low"] < rows.loc["t1", "difference"] < rows.loc["t1", "difference_high"] < 0
    assert list(choice.rows["trial"]) == ["t2", "t1", "t0", "t3"]


def test_a_limit_that_a_configuration_just_meets(tmp_path):
    """Also where draws work with logarithms: of 40 latencies some do not survive exp(log(x)) to the last digit."""
    rng = np.random.default_rng(0)
    latencies = [float(x) for x in rng.uniform(10, 500, 40)]
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", latency_ms_p50=x) for i, x in enumerate(latencies)]
    assert any(math.exp(math.log(x)) > x for x in latencies)
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 2) for k in range(40)})
    folder = write_results(tmp_path, rows)
    for x in sorted(latencies)[:4]:
        assert only(folder, f"latency_ms_p50 <= {x!r}").rows["feasible"].sum() == sorted(latencies).index(x) + 1
    memory = only(folder, f"peak_bytes <= {16 * 1024**3}").rows
    assert memory["feasible"].all() and (memory["probability_feasible"] == 1).all()


def test_near_the_limit_certainty_has_a_price(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.9], [50, 100, 150])
    limit = only(folder).row("t2")["latency_ms_p50"] * 1.0001
    choice = only(folder, f"latency_ms_p50 < {limit}")
    assert (choice.answer, choice.safe) == ("t2", "t1")
    assert 0.4 < choice.row("t2")["probability_feasible"] < 0.7
    assert choice.price is not None and choice.price.low < choice.price.mean < choice.price.high < 0
    assert choice.price.mean == pytest.approx(choice.row("t1")["accuracy"] - choice.row("t2")["accuracy"])


def test_of_equals_the_winner_is_corrected(tmp_path):
    choice = only(sweep(tmp_path, [0.6] * 6, [100 + i for i in range(6)]))
    measured = choice.row(choice.answer)["accuracy"]
    assert choice.corrected is not None and choice.optimism is not None and choice.optimism > 0
    assert choice.corrected.mean == pytest.approx(measured - choice.optimism)
    assert choice.corrected.low < choice.corrected.mean < measured < choice.corrected.high
    assert choice.rows["probability_best"].sum() == pytest.approx(1)


def test_the_least_latency_is_by_ratio(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.9], [50, 100, 150])
    choice = only(folder, "accuracy > 40 %", objective="latency_ms_p50", better="lower")
    assert choice.answer == "t1" and choice.by_ratio
    ratio = choice.row("t2")["latency_ms_p50"] / choice.row("t1")["latency_ms_p50"] - 1
    assert choice.row("t2")["difference"] == pytest.approx(ratio)
    assert choice.corrected is not None and choice.corrected.mean >= choice.row("t1")["latency_ms_p50"]


def test_nothing_meets_it_names_the_nearest(tmp_path):
    found = best(sweep(tmp_path, [0.3, 0.6], [50, 100]), Wanted(where="latency_ms_p50 < 40 or not accuracy < 0.9"))
    (choice,) = found.choices
    assert choice.answer is None and choice.corrected is None and choice.price is None
    assert choice.rows["trial"].tolist()[0] == "t0" and not choice.rows["feasible"].any()
    assert choice.rows["difference"].isna().all() and choice.rows["role"].isna().all()
    first, second = misses(choice, found.condition)
    assert first.startswith("latency_ms_p50 is ") and first.endswith("wanted < 40") and second.endswith("wanted >= 0.9")


def test_confirmed_on_the_other_half(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.9], [50, 100, 150])
    choice = only(folder, "latency_ms_p50 < 120", confirm=True)
    assert choice.confirmed is not None and choice.confirmed.trial == "t1" == choice.answer
    found = choice.confirmed.found
    samples = load(folder).samples
    scores = samples[samples["trial"] == "t1"].set_index("sample")["score"]
    assert found.chosen_on + found.reported_on == QUESTIONS and found.again == 1
    assert found.score.low < found.score.mean < found.score.high
    assert found.score.mean != pytest.approx(scores.mean(), abs=1e-9)
    assert found.score.mean * found.reported_on == pytest.approx(round(found.score.mean * found.reported_on))


def test_the_half_that_is_reported_took_no_part(tmp_path):
    """Right on the first half and wrong on the other: chosen, and the report says that it is worthless."""
    folder = sweep(tmp_path, [0.5, 0.6], [50, 100])
    names = [f"q{k}" for k in range(QUESTIONS)]
    from vlmprof.analyze.score_matrix import read_scores

    matrix = read_scores(folder, ["t0", "t1"])
    first = dict(zip(matrix.samples, first_half(matrix.paired, 0), strict=True))
    write_answers(folder, "t0", {name: float(first[name]) for name in names})
    choice = only(folder, confirm=True)
    assert choice.confirmed is not None and choice.confirmed.trial == "t0"
    assert choice.confirmed.found.score.mean == 0


def test_groups_have_an_answer_each(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"{model}{i}", model=model) for model in ("a", "b") for i in (1, 2)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 3 > 0) for k in range(60)})
    folder = write_results(tmp_path, rows)
    assert [choice.rows["model"].unique().tolist() for choice in best(folder).choices] == [["a"], ["b"]]
    assert len(best(folder).frame) == 4
    assert len(only(folder, across_models=True).rows) == 4
    assert len(best(folder, Wanted(by=("knob_max_crops",))).choices) == 4


def test_what_is_not_measured_is_counted(tmp_path):
    rows = [
        trial_row({"max_crops": 1}, trial="t0"),
        trial_row({"max_crops": 2}, trial="t1", latency_ms_p50=None),
        trial_row({"max_crops": 3}, trial="t2", accuracy=math.nan),
        trial_row({"max_crops": 4}, trial="t3", state="failed"),
    ]
    found = best(write_results(tmp_path, rows), Wanted(where="latency_ms_p50 < 200"))
    assert found.choices[0].rows["trial"].tolist() == ["t0"]
    assert found.left_out == {"failed": 1, "without accuracy": 1, "without latency_ms_p50": 1}


def test_no_answers_an_answer_without_probabilities(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", accuracy=0.5 + i / 10) for i in (1, 2)]
    choice = only(write_results(tmp_path, rows))
    assert choice.answer == "t2" and choice.safe is None and choice.corrected is None
    assert choice.rows[["probability_feasible", "probability_best", "difference_low"]].isna().all(axis=None)
    assert choice.caveats[0].startswith("no probabilities are given: 2 of 2 trials have no scored sample")


def test_one_trial_only(tmp_path):
    choice = only(sweep(tmp_path, [0.5], [100]))
    assert choice.answer == "t0" and choice.optimism == 0


def test_half_the_answers_leave_a_caveat(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6], [50, 100])
    write_answers(folder, "t1", {f"q{k}": 1.0 for k in range(150)})
    assert only(folder).caveats[0].startswith("250 of 400 samples are not scored in all 2 configurations")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"where": "latncy < 3"}, "--where, character 1: no column named 'latncy'"),
        ({"objective": "latency_ms_p50", "better": "higher"}, "it would choose the worst"),
        ({"objective": "device"}, "'device' has no better direction"),
        ({"where": "energy_j_per_token < 3"}, "without energy_j_per_token"),
        ({"by": ("modl",)}, "no column named 'modl' to group by; did you mean 'model'"),
        ({"objective": "latency_ms_p50", "confirm": True}, "latency_ms_p50 is no mean of their scores"),
        ({"sure": 1.0}, "from 0.5 to below 1, got 1"),
        ({"sure": math.nan}, "from 0.5 to below 1"),
    ],
)
def test_bad_input_is_refused(tmp_path, options, said):
    folder = sweep(tmp_path, [0.3, 0.6], [50, 100])
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        best(folder, Wanted(**options))


def test_few_pictures_cannot_be_split(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}") for i in (1, 2)]
    for row in rows:
        write_answers(tmp_path, row["trial"], {f"q{k}": float(k % 2) for k in range(30)}, per_picture=3)
    with pytest.raises(UserError, match="expected 20 clusters or more for two halves, got 10; leave it out"):
        best(write_results(tmp_path, rows), Wanted(confirm=True))


def test_no_sweep(tmp_path):
    with pytest.raises(StoreError):
        best(tmp_path)


def test_every_added_column_has_its_meaning():
    assert set(MEANINGS) == set(ADDED)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def test_the_terminal_names_the_winner_and_its_optimism(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.9, 0.95], [50, 100, 150, 300])
    shown = run("best", folder, "--where", "latency_ms_p50 < 200 ms", "--confirm")
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for said in ("3 of 4 meet it", "answer and safe", "is optimistic by about", "confirmed: chosen on 200 samples"):
        assert said in text
    assert "whoever chose on some samples should report on others" in text


def test_the_terminal_says_that_nothing_meets_it(tmp_path):
    shown = run("best", sweep(tmp_path, [0.3, 0.6], [50, 100]), "--where", "latency_ms_p50 < 40")
    text = " ".join(shown.output.split())
    assert "0 of 2 meet it" in text and "nothing meets the condition; the nearest, max_crops=1, misses it by" in text
    assert "no configuration meets the condition in 95 % of draws" in text


def test_one_aim_only(tmp_path):
    found = run("best", tmp_path, "--maximise", "accuracy", "--minimise", "latency_ms_p50")
    assert isinstance(found.exception, UserError) and "one of the two" in str(found.exception)


def test_from_python(tmp_path):
    results = load(sweep(tmp_path, [0.3, 0.6, 0.9], [50, 100, 150]))
    found = results.best("latency_ms_p50 < 120 ms", confirm=True)
    assert found.choices[0].answer == "t1" and found.choices[0].confirmed is not None
    assert found.frame.attrs["descriptions"]["role"] and found.frame.attrs["units"]["latency_ms_p50"] == "ms"
    assert set(ADDED) <= set(found.frame) and np.isclose(found.frame["probability_best"].sum(), 1)
    assert results.best(minimise="latency_ms_p50").choices[0].answer == "t0"
    with pytest.raises(UserError, match="one of the two"):
        results.best(minimise="latency_ms_p50", maximise="accuracy")
