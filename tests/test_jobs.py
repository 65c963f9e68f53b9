"""The jobs that ship: each says what it asks, is right as it stands, and runs on the demo model by its twin lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vlmprof import registry
from vlmprof.trial.resolve import prepare

JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.yaml"))
TWIN = re.compile(r"^.*\n( *)# demo: (.*)$", re.MULTILINE)
"""A line, and below it its twin for the demo model."""


def on_the_demo(text: str) -> str:
    """A job with every line that has a twin replaced by it."""
    return TWIN.sub(r"\1\2", text)


def test_there_are_jobs_for_each_knob_and_one_for_all() -> None:
    names = {job.stem for job in JOBS}
    assert {"quickstart", "combined", "context_scaling"} <= names
    assert {"moe_top_k", "active_blocks", "output_tokens"} <= names


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_is_right_and_named_like_its_file(job: Path) -> None:
    assert prepare(job).spec.name == job.stem


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_opens_with_its_question_and_says_how_to_read_it_and_how_long_it_takes(job: Path) -> None:
    opening = job.read_text().split("\nname:")[0]
    assert opening.startswith("# ") and opening.splitlines()[0].endswith("?")
    assert "# Reading the answer:" in opening
    assert "# How long:" in opening


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_the_trials_that_a_comment_counts_are_those_there_are(job: Path) -> None:
    (stated,) = re.findall(r"# How long: (\d+) trials", job.read_text())
    assert int(stated) == len(prepare(job).plans)


@pytest.mark.parametrize("job", [job for job in JOBS if "# demo:" in job.read_text()], ids=lambda job: job.stem)
def test_the_twin_lines_make_a_job_for_the_demo(job: Path, tmp_path: Path) -> None:
    twin = tmp_path / job.name
    twin.write_text(on_the_demo(job.read_text()))
    plans = prepare(twin).plans
    assert {plan.model.family for plan in plans} == {"demo"}
    assert len(plans) == len(prepare(job).plans)


def test_the_quickstart_shows_enough_and_disturbs_no_clock() -> None:
    job = prepare(next(path for path in JOBS if path.stem == "quickstart"))
    assert len(job.plans) >= 12
    assert job.spec.resources.cpus == 2
    assert {model.family for model in job.spec.models} == {"demo"}
    task = registry.load("tasks", job.spec.tasks[0].name)
    assert max(job.spec.knobs["output_tokens"]) >= task.max_new_tokens, "a cap that cuts nothing, to be seen as such"
