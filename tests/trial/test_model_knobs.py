"""Several models in one job: a knob applies where it can, and a model may have values of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import vlmprof
from tests.jobs import job_file, small_job
from vlmprof.api import changed_job
from vlmprof.errors import SpecError, UserError
from vlmprof.job.spec import survey
from vlmprof.plan.expand import size, size_words
from vlmprof.plan.point import TrialPlan
from vlmprof.trial.model_knobs import knobs_by_model
from vlmprof.trial.resolve import MANY_TRIALS, Job, family_of, resolve

KNOBS = {"max_crops": [1, 4], "moe_top_k": [1, 4]}


@pytest.fixture
def entries(tiny_checkpoint: Path, dense_checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A mixture and a dense model."""
    mixture = {"family": "demo", "checkpoint": str(tiny_checkpoint)}
    return mixture, {"family": "molmo", "checkpoint": str(dense_checkpoint)}


def faults(folder: Path, **sections: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        small_job(folder, "", **sections)
    return [str(fault) for fault in caught.value.faults]


def points(job: Job, label: str) -> list[str]:
    return [str(plan.point) for plan in job.plans if plan.model.label == label]


def ids(plans: tuple[TrialPlan, ...]) -> set[str]:
    return {plan.id for plan in plans}


# --- knobs of the job -------------------------------------------------------------------------------------------------


def test_a_knob_applies_where_it_can_and_the_trials_are_those_of_jobs_of_one_model(
    tmp_path: Path, entries: Any
) -> None:
    mixture, dense = entries
    job = small_job(tmp_path, "", models=[mixture, dense], knobs=KNOBS)
    assert points(job, Path(dense["checkpoint"]).name) == ["max_crops=1", "max_crops=4"], "each once"
    assert len(job.plans) == 6
    (note,) = job.notes
    label = Path(dense["checkpoint"]).name
    said = f"moe_top_k does not apply to {label} (Molmo (Qwen2) is dense, it routes no experts)"
    assert note == f"{said}: its trials run without it"
    alone = small_job(tmp_path, "", models=[mixture], knobs=KNOBS)
    other = small_job(tmp_path, "", models=[dense], knobs={"max_crops": [1, 4]})
    assert ids(job.plans) == ids(alone.plans) | ids(other.plans), "resumed, whatever job they were run by"
    assert [plan.inapplicable for plan in job.plans] == [()] * 4 + [("moe_top_k",)] * 2
    assert all(resolve(plan) for plan in job.plans)


def test_a_knob_that_no_model_can_use_is_a_fault(tmp_path: Path, entries: Any) -> None:
    _, dense = entries
    other = {**dense, "dtype": "bfloat16"}
    for models in ([dense], [dense, other]):
        (fault,) = faults(tmp_path, models=models, knobs=KNOBS)
        assert fault.startswith("knobs.moe_top_k: moe_top_k: Molmo (Qwen2) is dense, it routes no experts (for model ")


def test_a_model_that_cannot_be_read_might_use_any_knob(tmp_path: Path, entries: Any) -> None:
    (fault,) = faults(tmp_path, models=[entries[1], {"family": "demo", "checkpoint": str(tmp_path)}], knobs=KNOBS)
    assert "config.json cannot be read" in fault


def test_a_model_without_a_knob_left_runs_once_as_it_is(tmp_path: Path, entries: Any) -> None:
    label = Path(entries[1]["checkpoint"]).name
    for strategy in ("grid", "one_at_a_time"):
        job = small_job(tmp_path, "", models=list(entries), knobs={"moe_top_k": [1, 4]}, strategy=strategy)
        assert points(job, label) == ["as trained"]
        assert job.notes[1:] == (f"{label} has no knob left: it runs once a task, as it is",)


def test_a_value_out_of_range_is_a_fault_that_says_how_to_go_on(tmp_path: Path, entries: Any) -> None:
    (fault,) = faults(tmp_path, models=list(entries), knobs={"active_blocks": [{"keep": 6, "policy": "prefix"}]})
    assert fault.startswith("knobs.active_blocks: ") and "from 1 to 4, got 6" in fault
    assert fault.endswith("to go on, give this model values of its own, or null, at models.1.knobs.active_blocks")
    (fault,) = faults(tmp_path, models=[entries[0]], knobs={"moe_top_k": [99]})
    assert "to go on" not in fault, "a job of one model says all in its knobs"


# --- values of one model ----------------------------------------------------------------------------------------------


def test_own_values_replace_add_and_leave_out(tmp_path: Path, entries: Any) -> None:
    mixture, dense = entries
    own = {**mixture, "knobs": {"moe_top_k": [2], "output_tokens": [3, 5], "max_crops": None}}
    job = small_job(tmp_path, "", models=[own, dense], knobs={"max_crops": [1, 4], "moe_top_k": [1, 4]})
    of_mixture = {str(plan.point) for plan in job.plans if plan.model.family == "demo"}
    assert of_mixture == {"moe_top_k=2 output_tokens=3", "moe_top_k=2 output_tokens=5"}
    assert points(job, Path(dense["checkpoint"]).name) == ["max_crops=1", "max_crops=4"]
    assert list(job.spec.all_knobs) == ["max_crops", "moe_top_k", "output_tokens"]
    assert job.spec.all_knobs["moe_top_k"] == (2, 1, 4)
    plain = small_job(tmp_path, "", models=[mixture], knobs={"moe_top_k": [2], "output_tokens": [3, 5]})
    assert ids(plain.plans) < ids(job.plans), "knobs of an entry are no part of what a model is"
    assert all(plan.model.knobs is None for plan in job.plans)


def test_a_job_may_have_knobs_of_single_models_alone(tmp_path: Path, entries: Any) -> None:
    mixture, dense = entries
    models = [{**mixture, "knobs": {"moe_top_k": [1]}}, {**dense, "knobs": {"max_crops": [1, 2]}}]
    assert len(small_job(tmp_path, "", models=models, knobs={}).plans) == 3
    assert faults(tmp_path, models=[mixture], knobs={}) == ["knobs: expected at least one entry, got {}"]


def test_all_faults_of_own_values_are_told_at_once_with_their_place(tmp_path: Path, entries: Any) -> None:
    mixture, dense = entries
    wrong = {"max_crop": [1], "max_crops": [0, 1, 1], "output_tokens": [], "tiling": None, "active_blocks": 3}
    models = [{**mixture, "knobs": wrong}, {**dense, "knobs": {"moe_top_k": [1]}}]
    found = faults(tmp_path, models=models, knobs={"moe_top_k": [1]})
    starts = {fault.split(" (there are")[0].split(" (for model")[0] for fault in found}
    assert starts == {
        "models.0.knobs.max_crop: no knob named 'max_crop'; did you mean 'max_crops'?",
        "models.0.knobs.max_crops: 1 is listed twice",
        "models.0.knobs.max_crops: max_crops: expected a whole number from 1 to 36, got 0",
        "models.0.knobs.output_tokens: expected at least one value; null leaves the knob out for this model",
        "models.0.knobs.active_blocks: expected a list, got 3",
        "models.0.knobs.tiling: null leaves a knob of the job out for this model, and the job has no such knob; remove"
        " the line, or give it values",
        "models.1.knobs.moe_top_k: moe_top_k: Molmo (Qwen2) is dense, it routes no experts",
    }


def test_a_model_is_listed_once_and_a_knob_is_left_out_by_some(tmp_path: Path, entries: Any) -> None:
    mixture, dense = entries
    twice = [{**mixture, "knobs": {"moe_top_k": [1]}}, {**mixture, "knobs": {"moe_top_k": [2]}}]
    label = Path(mixture["checkpoint"]).name
    assert faults(tmp_path, models=twice, knobs=KNOBS) == [
        f"models: {label} is listed twice; one entry holds all values of its knobs"
    ]
    nobody = [{**one, "knobs": {"max_crops": None}} for one in (mixture, dense)]
    (fault,) = faults(tmp_path, models=nobody, knobs=KNOBS)
    assert fault == "knobs.max_crops: every model of the job leaves it out; remove it here and there"


def test_values_of_the_job_that_nobody_uses_are_a_note(tmp_path: Path, entries: Any) -> None:
    models = [{**one, "knobs": {"max_crops": [2]}} for one in entries]
    (note,) = small_job(tmp_path, "", models=models, knobs={"max_crops": [1]}).notes
    assert note == "no model uses the values of knobs.max_crops: each entry of models has its own"


def test_a_load_argument_and_the_engine_are_judged_by_what_a_model_sweeps(tmp_path: Path, entries: Any) -> None:
    mixture, dense = entries
    set_twice = [mixture, {**dense, "dtype": "bfloat16"}]
    knobs = {"dtype": ["float32"], "max_crops": [1]}
    (fault,) = faults(tmp_path, models=set_twice, knobs=knobs)
    assert "'dtype' is set here and swept by the knob dtype" in fault
    left_out = [mixture, {**set_twice[1], "knobs": {"dtype": None}}]
    assert len(small_job(tmp_path, "", models=left_out, knobs=knobs).plans) == 2
    eager = {**mixture, "knobs": {"experts_kernel": ["eager"]}}
    (fault,) = faults(tmp_path, models=[eager, dense], knobs={"max_crops": [1]}, engine="graphs")
    assert fault.startswith("engine: graphs cannot record steps with experts_kernel 'eager'")


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["grid", "one_at_a_time"])
def test_the_number_of_trials_is_known_before_they_are_made(tmp_path: Path, entries: Any, strategy: str) -> None:

    mixture, dense = entries
    owns: list[Any] = [None, {"max_crops": [2]}, {"max_crops": None}, {"output_tokens": [1, 2, 3]}]
    for own, other in set(itertools.product(range(4), repeat=2)) - {(2, 2)}:
        check_size(tmp_path, [{**mixture, "knobs": owns[own]}, {**dense, "knobs": owns[other]}], strategy)


def check_size(tmp_path: Path, models: list[dict[str, Any]], strategy: str) -> None:
    path = job_file(tmp_path, "", models=models, knobs=KNOBS, strategy=strategy)
    job, parsed = vlmprof.check(path), survey(path)
    described = {entry.without_knobs: family_of(entry) for entry in parsed.models.values()}
    anatomies = {model: family.describe(checkpoint) for model, (family, checkpoint) in described.items()}
    spaces = [one.space for one in knobs_by_model(parsed, anatomies)]
    assert size(job.spec, spaces) == len(job.plans) == len(ids(job.plans)), models
    assert size_words(job.spec, spaces).startswith(f"{len(job.plans)} trials (")
    for plan in job.plans:
        own = models[0 if plan.model.family == "demo" else 1]["knobs"]
        asked = {**KNOBS, **(own or {})}
        assert {name for name, _ in plan.point} <= set(asked) - set(plan.inapplicable)
        assert all(value in asked[name] for name, value in plan.point)


def test_too_many_are_counted_model_by_model(tmp_path: Path, entries: Any) -> None:
    knobs = {"moe_top_k": list(range(1, 17)), "output_tokens": list(range(1, 126))}
    (fault,) = faults(tmp_path, models=list(entries), knobs=knobs)
    labels = [Path(one["checkpoint"]).name for one in entries]
    said = f"moe_top_k 16 x output_tokens 125 for {labels[0]}; output_tokens 125 for {labels[1]}"
    assert f"this is 2,125 trials ({said}), more than {MANY_TRIALS:,}" in fault


def test_set_reaches_into_an_entry(tmp_path: Path, entries: Any) -> None:
    path = job_file(tmp_path, "", models=list(entries), knobs=KNOBS)
    changed = vlmprof.check(changed_job(path, {"models.1.knobs.max_crops": "[2]"}))
    assert points(changed, Path(entries[1]["checkpoint"]).name) == ["max_crops=2"]
    with pytest.raises(UserError, match=r"--set models.2.knobs.max_crops: models.2.knobs is no mapping"):
        changed_job(path, {"models.2.knobs.max_crops": "[2]"})
