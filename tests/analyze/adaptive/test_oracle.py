"""The oracle and the rules from tables, the router, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.builders import trial_row, write_results
from vlmprof import load
from vlmprof.analyze.adaptive.oracle import oracle
from vlmprof.analyze.adaptive.router import routing
from vlmprof.analyze.adaptive.sample_choices import sweep_choices
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.store import schema, tables

KNOBS = ("max_crops", "moe_top_k", "active_blocks")
QUESTIONS = 240
KINDS = ("count", "colour")


def sweep(folder, *, knobs=KNOBS, predicted=True, pictures=None, drop=0, **columns):
    """Two values of each knob. Questions of the kind ``count`` need two crops, all else is luck of 10 %.

    Latency is 10 for the least and 5, 10 and 20 more for each knob; large pictures cost twice as much with two crops.
    """
    rng = np.random.default_rng(0)
    kind, wide = rng.integers(0, 2, QUESTIONS), rng.integers(100, 1000, QUESTIONS)
    rows = []
    for places in itertools.product((0, 1), repeat=len(knobs)):
        trial = "t" + "".join(map(str, places))
        crops = places[0]
        right = np.where((kind == 0) & (crops == 0), 0.1, 0.9)
        scores = (rng.random(QUESTIONS) < right).astype(float)
        cost = 10.0 + float(np.dot((5, 10, 20)[: len(knobs)], places))
        of_samples = cost * np.where((wide > 550) & (crops == 1), 2.0, 1.0)
        point = {knob: (1, 8)[place] for knob, place in zip(knobs, places, strict=True)}
        measured = {"accuracy": float(scores.mean()), "latency_ms_p50": cost, "samples": QUESTIONS, "work_key": trial}
        rows.append(trial_row(point, trial=trial, **{**measured, **columns}))
        answers = [
            {"trial": trial, "sample": f"q{k}", "cluster": f"picture {k // 2}", "score": scores[k]}
            | {"question_type": KINDS[kind[k]], "effective_key": f"{trial}", "vision_tokens": 10 + crops}
            | ({"latency_ms_predicted": of_samples[k]} if predicted else {})
            | ({"picture_width": int(wide[k]), "picture_height": 100} if pictures else {})
            for k in range(QUESTIONS - drop * places[0])
        ]
        tables.write(folder, "samples", trial, answers, schema.SAMPLES)
    return write_results(folder, rows)


def test_costs_are_those_of_each_sample(tmp_path):
    (one,) = sweep_choices(sweep(tmp_path))
    assert one.per_sample and one.table.costs[:, one.full].max() == 90 and one.rows["trial"][one.full] == "t111"
    assert one.by_role() == {"tokens": ["max_crops"], "depth": ["active_blocks"], "width": ["moe_top_k"]}
    assert one.rows["trial"][one.turning(["moe_top_k"])].tolist() == ["t101", "t111"]
    assert [one.rows["trial"][to] for to in one.steps_down()[one.full]] == ["t110", "t011", "t101"]


def test_without_predictions_those_of_the_configuration(tmp_path):
    (one,) = sweep_choices(sweep(tmp_path, predicted=False))
    assert not one.per_sample and "240 of 240 samples have no prediction" in one.captions[0]
    (other,) = sweep_choices(tmp_path, cost="peak_bytes")
    assert other.unit == "bytes" and np.unique(other.table.costs).tolist() == [16 * 1024**3]


def test_the_oracle_and_its_bounds(tmp_path):
    found = oracle(sweep(tmp_path, predicted=False), [1.0])
    (head,) = found.headroom.to_dict("records")
    assert head["configurations"] == 8 and head["static"].startswith("active_blocks=")
    assert head["oracle_score"] > 0.97 and 0.85 < head["static_score"] < 0.95
    assert head["headroom_low"] < head["headroom"] < head["headroom_high"]
    # All samples agree that two crops are best: there is nothing to choose, and luck explains it.
    assert head["luck"] == pytest.approx(head["headroom"], abs=0.04)
    assert head["repeatable_low"] <= 0


def test_rules_keep_what_they_promise(tmp_path):
    found = oracle(sweep(tmp_path), [0.4, 1.0])
    rules = found.frame.set_index(["budget", "policy"])
    assert {"static", "tokens only", "depth only", "width only", "greedy", "oracle"} <= set(found.frame["policy"])
    assert (found.frame["regret"] >= 0).all() and (rules.loc[(slice(None), "oracle"), "regret"] == 0).all()
    assert rules.loc[(0.4, "depth only"), "cost"] < rules.loc[(1.0, "depth only"), "cost"]
    for name in ("score", "violations", "reward", "regret"):
        assert (found.frame[f"{name}_low"] <= found.frame[name] + 1e-9).all()
        assert (found.frame[name] <= found.frame[f"{name}_high"] + 1e-9).all()
    # One knob alone cannot go below the others: turning width from the full one leaves 35 of 65 ms.
    assert rules.loc[(0.4, "width only"), "violations"] == 1


def test_a_penalty_is_of_the_share_beyond(tmp_path):
    rules = [oracle(sweep(tmp_path / str(p), predicted=False), [0.5], penalty=p).frame for p in (0.0, 2.0)]
    free, dear = (one.set_index("policy") for one in rules)
    width = dear.loc["width only"]
    assert free.loc["width only", "reward"] == pytest.approx(free.loc["width only", "score"])
    assert width["reward"] == pytest.approx(width["score"] - 2 * (width["cost"] - 0.5))


def test_a_missing_role_is_said(tmp_path):
    found = oracle(sweep(tmp_path, knobs=KNOBS[:2]), [0.7])
    assert any("no knob of depth differs" in said for said in found.caveats)
    assert "depth only" not in set(found.frame["policy"])


def test_a_budget_below_everything(tmp_path):
    (head,) = oracle(sweep(tmp_path), [0.01]).headroom.to_dict("records")
    assert head["configurations"] == 0 and head["static"] is None and head["headroom"] is None


def test_samples_that_not_all_answered_are_counted(tmp_path):
    found = oracle(sweep(tmp_path, drop=40), [0.7])
    assert any("40 of 240 samples are not scored in all 8" in said for said in found.caveats)


def test_without_the_full_configuration_the_most_expensive_stands_for_it(tmp_path):
    sweep(tmp_path)
    rows = [
        trial_row({"max_crops": a, "moe_top_k": b, "active_blocks": 8}, trial=f"t{x}")
        for a, b, x in ((1, 8, "011"), (8, 1, "101"))
    ]
    found = oracle(write_results(tmp_path / "part", _copied(tmp_path, tmp_path / "part", rows)), [1.0])
    assert any("the most expensive stands for it" in said for said in found.caveats)


def _copied(source, folder, rows):
    for row in rows:
        answers = tables.read(source, "samples")
        kept = answers[answers["trial"] == row["trial"]][["trial", "sample", "cluster", "score"]].to_dict("records")
        tables.write(folder, "samples", row["trial"], kept, schema.SAMPLES)
    return rows


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budgets": []}, "budgets above 0"),
        ({"budgets": [0.5, -1]}, "budgets above 0"),
        ({"penalty": float("nan")}, "penalty of 0 or more"),
        ({"violations": 1.0}, "from 0 to below 1"),
        ({"cost": "accuracy"}, "better higher, so it is no cost"),
        ({"cost": "latency"}, "latency"),
        ({"by": "nowhere"}, "no group of trials has 'nowhere'"),
    ],
)
def test_bad_options(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        oracle(sweep(tmp_path), **options)


def test_bad_folders(tmp_path):
    with pytest.raises(StoreError):
        oracle(tmp_path / "none")
    with pytest.raises(UserError, match="two configurations or more"):
        oracle(write_results(tmp_path / "one", [trial_row({"max_crops": 1})]))
    with pytest.raises(UserError, match="no scored sample"):
        oracle(write_results(tmp_path / "blank", [trial_row({"max_crops": i}) for i in (1, 2)]))
    corpus = [trial_row({"max_crops": i}, accuracy=None, score=0.5) for i in (1, 2)]
    with pytest.raises(UserError, match="accuracy and latency_ms_p50, got 0"):
        oracle(write_results(tmp_path / "corpus", corpus))


def test_a_router_by_question_type(tmp_path):
    found = routing(sweep(tmp_path, pictures=True))
    areas = found.frame.set_index("predictor")
    assert areas.loc["question type", "auc_low"] > 0.6
    assert areas.loc["size of picture", "auc_low"] < 0.5 < areas.loc["size of picture", "auc_high"]
    floor = found.floor[found.floor["predictor"] == "question type"].set_index("budget")
    assert floor.loc[0.5, "gain_low"] > 0
    assert (floor["share"].diff().dropna() > 0).all() and floor.loc[0.5, "score"] > floor.loc[0.5, "random"]


def test_a_router_without_sizes_takes_tokens_or_says_so(tmp_path):
    found = routing(sweep(tmp_path))
    assert set(found.frame["predictor"]) == {"question type"}
    assert any("sizes of pictures are not known, or all alike" in said for said in found.caveats)


def test_no_router_where_nobody_needs_the_full_one(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", latency_ms_p50=10.0 * i) for i in (1, 2)]
    for row in rows:
        answers = [{"trial": row["trial"], "sample": f"q{k}", "cluster": f"p{k}", "score": 1.0} for k in range(20)]
        tables.write(tmp_path, "samples", row["trial"], answers, schema.SAMPLES)
    with pytest.raises(UserError, match="0 of 20 samples need the full one"):
        routing(write_results(tmp_path, rows))


def test_from_python_and_the_command_line(tmp_path):
    folder = sweep(tmp_path, pictures=True)
    assert set(load(folder).oracle(0.7).frame["budget"]) == {0.7}
    assert not load(folder).routing(0.7).floor.empty
    done = CliRunner().invoke(app, ["oracle", str(folder), "--budget", "0.7,1", "--router"])
    assert done.exit_code == 0, done.output
    for words in ("best score of each sample", "luck alone", "static", "which samples need", "report its accuracy"):
        assert words in done.output
    refused = CliRunner().invoke(app, ["oracle", str(folder), "--budget", "much"])
    assert isinstance(refused.exception, UserError)
