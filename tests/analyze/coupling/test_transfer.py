"""Transfer between tasks, devices and folders: what agrees, what is lost, what is refused and what is said."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.builders import trial_row, write_answers, write_results, write_times
from vlmprof import load
from vlmprof.analyze.coupling.transfer import transfer
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError

QUESTIONS = 300
ACCURACIES, LATENCIES = (0.3, 0.5, 0.7, 0.6), (50.0, 100.0, 200.0, 150.0)


def rows_of(folder, accuracies=ACCURACIES, latencies=LATENCIES, *, seed=0, settings=None, **columns):
    """A configuration for each accuracy and latency; ``columns`` for all of them."""
    rng = np.random.default_rng(seed)
    hard = rng.permutation((np.arange(QUESTIONS) + 0.5) / QUESTIONS)
    name = "-".join([str(columns.get(key, "")) for key in ("task", "device", "model", "dtype")] + [str(seed)])
    rows = []
    for i, (accuracy, latency) in enumerate(zip(accuracies, latencies, strict=True)):
        trial = f"{name}-{i}".replace(" ", "")
        scores, times = (hard < accuracy).astype(float), latency * np.exp(rng.normal(0, 0.002, (1, 16)))
        measured = {"accuracy": float(scores.mean()), "latency_ms_p50": float(np.median(times)), "samples": QUESTIONS}
        at = (settings or range(len(accuracies)))[i]
        rows.append(trial_row({"max_crops": at + 1}, trial=trial, **{"work_key": trial, **measured, **columns}))
        write_answers(folder, trial, {f"q{k}": score for k, score in enumerate(scores)})
        write_times(folder, trial, times.tolist())
    return rows


def one_folder(folder, *sets):
    return write_results(folder, [row for rows in sets for row in rows])


def test_equal_places_agree(tmp_path):
    folder = one_folder(tmp_path, rows_of(tmp_path, task="a"), rows_of(tmp_path, task="b", seed=1))
    found = transfer([folder])
    assert found.frame["differs"].tolist() == ["task", "task"]
    first = found.frame.iloc[0]
    assert first["jaccard"] == first["spearman_quality"] == first["kendall_time"] == first["front_kept"] == 1
    assert first["regret"] == 0 and first["common"] == 4 and first["only_a"] == 0
    assert set(found.membership.iloc[:, 1]) == {"surely"}


def test_another_front_costs_accuracy(tmp_path):
    # At b the second configuration is best and cheapest of the good ones; at a it is dominated.
    folder = one_folder(
        tmp_path,
        rows_of(tmp_path, (0.3, 0.25, 0.7), (50.0, 60.0, 200.0), task="a"),
        rows_of(tmp_path, (0.3, 0.7, 0.7), (50.0, 60.0, 200.0), task="b", seed=1),
    )
    found = transfer([folder]).frame.set_index(["a", "b"])
    (there,) = [row for key, row in found.iterrows() if ", a," in key[0]]
    # From 60 to 200 ms the front of a gives 0.3 where 0.7 is to be had; the limits go from 50 to 200, as logarithms.
    share = np.log(200 / 60) / (np.log(200 / 50) * 1.01)
    assert there["regret"] == pytest.approx(0.4 * share, rel=0.05)
    assert there["regret_low"] < there["regret"] < there["regret_high"]
    assert there["jaccard"] == pytest.approx(1 / 3) and there["spearman_quality"] < 1


def test_membership_names_what_was_not_run(tmp_path):
    folder = one_folder(
        tmp_path, rows_of(tmp_path, task="a"), rows_of(tmp_path, task="b", seed=1, settings=(0, 1, 2, 7))
    )
    found = transfer([folder])
    assert found.frame["common"].tolist() == [3, 3] and found.frame["only_a"].tolist() == [1, 1]
    assert found.membership.set_index("point").loc["max_crops=8"].tolist() == ["not run", "surely"]
    assert any("1 configurations were not run" in said or "2 configurations" in said for said in found.caveats)


def test_averages_over_tasks(tmp_path):
    folder = one_folder(
        tmp_path,
        rows_of(tmp_path, (0.2, 0.4), (50.0, 100.0), task="a"),
        rows_of(tmp_path, (0.4, 0.8), (50.0, 400.0), task="b", seed=1),
    )
    macro = transfer([folder]).macro.set_index("point")
    assert macro["quality"].to_dict() == pytest.approx({"max_crops=1": 0.3, "max_crops=2": 0.6}, abs=0.005)
    assert macro.loc["max_crops=2", "time"] == pytest.approx(200, rel=0.01)  # geometric
    assert macro["on_front"].all() and set(macro["front_membership"]) == {"surely"}


def test_devices_and_folders(tmp_path):
    here = one_folder(tmp_path / "here", rows_of(tmp_path / "here"))
    there = one_folder(tmp_path / "there", rows_of(tmp_path / "there", device="NVIDIA A100", seed=1))
    found = transfer([here, there])
    assert found.frame["differs"].tolist() == ["device, folder"] * 2
    assert found.frame["a"].str.startswith("here: ").tolist() == [True, False]
    assert found.macro.empty


def test_environment_is_said(tmp_path):
    folder = one_folder(tmp_path, rows_of(tmp_path, task="a", torch="2.9"), rows_of(tmp_path, task="b", torch="2.11"))
    assert any("also differ in torch" in said for said in transfer([folder]).caveats)


def test_two_causes_are_said(tmp_path):
    folder = one_folder(tmp_path, rows_of(tmp_path, task="a"), rows_of(tmp_path, task="b", device="NVIDIA A100"))
    assert any("differ in task and device: what causes" in said for said in transfer([folder]).caveats)


def test_anything_else_that_differs_is_refused_unless_named(tmp_path):
    here = one_folder(tmp_path / "here", rows_of(tmp_path / "here", dtype="bfloat16"))
    there = one_folder(tmp_path / "there", rows_of(tmp_path / "there", dtype="float16", seed=1))
    with pytest.raises(UserError, match=r"dtype: bfloat16 and float16.*--despite dtype"):
        transfer([here, there])
    assert len(transfer([here, there], despite=["dtype"]).frame) == 2


def test_a_third_place_that_cannot_be_compared_is_counted(tmp_path):
    folder = one_folder(
        tmp_path,
        rows_of(tmp_path, task="a"),
        rows_of(tmp_path, task="b", seed=1),
        rows_of(tmp_path, task="a", dtype="float16"),
    )
    found = transfer([folder])
    assert len(found.frame) == 2 and sum("not compared" in said for said in found.caveats) == 2


def test_other_samples_of_one_task_are_refused(tmp_path):
    here = one_folder(tmp_path / "here", rows_of(tmp_path / "here"))
    there = one_folder(tmp_path / "there", rows_of(tmp_path / "there", task_revision="2", seed=1))
    with pytest.raises(UserError, match="task_revision"):
        transfer([here, there])


def test_a_copy_is_no_second_place(tmp_path):
    here = one_folder(tmp_path / "here", rows_of(tmp_path / "here"))
    shutil.copytree(here, tmp_path / "there")
    with pytest.raises(UserError, match="one is a copy of the other"):
        transfer([here, tmp_path / "there"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": "latency"}, "no time that was measured"),
        ({"despite": ["sed"]}, "nothing that has to be equal.*seed"),
        ({"by": "nowhere"}, "expected two groups of trials or more.*got: none"),
    ],
)
def test_bad_options(tmp_path, options, said):
    folder = one_folder(tmp_path, rows_of(tmp_path, task="a"), rows_of(tmp_path, task="b", seed=1))
    with pytest.raises(UserError, match=said):
        transfer([folder], **options)


def test_bad_folders(tmp_path):
    single = one_folder(tmp_path / "one", rows_of(tmp_path / "one"))
    with pytest.raises(UserError, match="expected two groups"):
        transfer([single])
    with pytest.raises(StoreError):
        transfer([single, tmp_path / "none"])
    with pytest.raises(UserError, match="named twice"):
        transfer([single, single])
    apart = one_folder(
        tmp_path / "apart",
        rows_of(tmp_path / "apart", task="a"),
        rows_of(tmp_path / "apart", task="b", seed=1, settings=(4, 5, 6, 7)),
    )
    with pytest.raises(UserError, match="0 configurations in common"):
        transfer([apart])


def test_a_place_without_answers_is_left_out_and_said(tmp_path):
    rows = [trial_row({"max_crops": i}, task="c", trial=f"c{i}") for i in (1, 2)]
    folder = one_folder(tmp_path, rows_of(tmp_path, task="a"), rows_of(tmp_path, task="b", seed=1), rows)
    assert any("no scored sample" in said for said in transfer([folder]).caveats)


def test_failed_trials_are_counted(tmp_path):
    failed = [trial_row({"max_crops": 9}, task="a", state="failed", error="x", trial="f")]
    folder = one_folder(tmp_path, rows_of(tmp_path, task="a"), rows_of(tmp_path, task="b", seed=1), failed)
    assert any("left out: 1 failed" in said for said in transfer([folder]).caveats)


def test_from_python_and_the_command_line(tmp_path):
    here = one_folder(tmp_path / "here", rows_of(tmp_path / "here"))
    there = one_folder(tmp_path / "there", rows_of(tmp_path / "there", device="NVIDIA A100", seed=1))
    assert len(load(here).transfer(load(there)).frame) == len(load(here).transfer(str(there)).frame) == 2
    done = CliRunner().invoke(app, ["transfer", str(here), str(there)])
    assert done.exit_code == 0, done.output
    for words in ("A: here: MolmoE", "from the first place to the second", "on the front", "regret:"):
        assert words in done.output


def test_orders_do_not_matter(tmp_path):
    folder = one_folder(tmp_path, *(rows_of(tmp_path, task=task, seed=i) for i, task in enumerate("abc")))
    pairs = transfer([folder]).frame.set_index(["a", "b"])
    for a, b in itertools.combinations(pairs.index.levels[0], 2):
        for name in ("jaccard", "spearman_quality", "kendall_time"):
            assert pairs.loc[(a, b), name] == pytest.approx(pairs.loc[(b, a), name])
