"""How often a trial may die, and a sweep whose Tuner falls."""

from pathlib import Path

import pytest
import torch

from tests.jobs import small_job
from tests.sweep.sweeps import Silent, run
from vlmprof.errors import UserError
from vlmprof.store.attempts import LOST_DEVICE, TIMED_OUT, Death
from vlmprof.sweep.driver import SweepRun, _is_out_of_memory
from vlmprof.sweep.retries import (
    MAX_CRASHES,
    MAX_DEVICE_CRASHES,
    MAX_MEMORY_CRASHES,
    SHORT_OF_MEMORY,
    RetryBudget,
    TunerBackoff,
)
from vlmprof.sweep.trainable import _cause


def deaths_until_given_up(reason: str, learnt: list[int]) -> tuple[int, str]:
    retry_budget = RetryBudget()
    for count, known in enumerate(learnt, start=1):
        if why := retry_budget.spend("abc", Death(reason=reason, progress=known)):
            return count, why
    raise AssertionError("it went on dying")


def test_deaths_that_teach_nothing_are_counted() -> None:
    count, why = deaths_until_given_up("", [0] * 9)
    assert (count, why) == (MAX_CRASHES, "ended its process 3 times; the last time: see the logs of the cluster")
    count, why = deaths_until_given_up(f"{TIMED_OUT}: no progress for 5 s while 'time'", [7] * 9)
    assert count == MAX_CRASHES and "the last time: timed out: no progress for 5 s" in why


def test_a_broken_accelerator_is_tried_again_once() -> None:
    count, why = deaths_until_given_up(f"{LOST_DEVICE}: CUDA error: an illegal memory access", [0] * 9)
    assert count == MAX_DEVICE_CRASHES == 2 and "illegal memory access" in why


def test_a_host_that_is_short_of_memory_is_given_more_time() -> None:
    count, why = deaths_until_given_up(SHORT_OF_MEMORY, [0] * 9)
    assert count == MAX_MEMORY_CRASHES > MAX_CRASHES and "short of memory" in why


def test_a_shortage_of_memory_leaves_a_trial_its_other_lives() -> None:
    retry_budget = RetryBudget()
    reasons = [SHORT_OF_MEMORY] * (MAX_MEMORY_CRASHES - 1) + [""] * MAX_CRASHES
    told = [retry_budget.spend("abc", Death(reason=reason, progress=0)) for reason in reasons]
    assert not any(told[:-1]) and told[-1].startswith(f"ended its process {MAX_CRASHES} times")


def test_a_shortage_that_becomes_something_else_is_given_up_too() -> None:
    backoff = TunerBackoff()
    for _ in range(MAX_CRASHES + 1):
        backoff.pause(progressed=False, crashed=False, low_memory=True)
    with pytest.raises(UserError, match="ran nothing"):
        backoff.pause(progressed=False, crashed=False, low_memory=False)


def test_tuners_that_end_in_vain_are_followed_by_longer_and_longer_pauses() -> None:
    backoff = TunerBackoff()
    pauses = [backoff.pause(progressed=False, crashed=True, low_memory=True) for _ in range(MAX_MEMORY_CRASHES - 1)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    with pytest.raises(UserError, match="the host needs more free memory"):
        backoff.pause(progressed=False, crashed=False, low_memory=True)


def test_what_was_gained_begins_a_new_count() -> None:
    backoff = TunerBackoff()
    for _ in range(2 * MAX_MEMORY_CRASHES):
        assert backoff.pause(progressed=False, crashed=False, low_memory=True) == 1.0
        assert backoff.pause(progressed=True, crashed=True, low_memory=True) == 1.0


def test_a_trial_s_own_death_is_no_reason_to_wait() -> None:
    backoff = TunerBackoff()
    assert [backoff.pause(progressed=False, crashed=True, low_memory=False) for _ in range(9)] == [0.0] * 9


def test_a_tuner_that_runs_nothing_is_told_before_long() -> None:
    backoff = TunerBackoff()
    assert [backoff.pause(progressed=False, crashed=False, low_memory=False) for _ in range(MAX_CRASHES - 1)] == [
        1.0,
        2.0,
    ]
    with pytest.raises(UserError, match="ended 3 times and ran nothing"):
        backoff.pause(progressed=False, crashed=False, low_memory=False)


def test_a_trial_teaches_when_more_is_known_than_at_its_last_death() -> None:
    retry_budget, taught = RetryBudget(), []
    for learnt in (0, 3, 3, 5):
        death = Death(reason="", progress=learnt)
        taught.append(retry_budget.made_progress("abc", death))
        retry_budget.spend("abc", death)
    assert taught == [False, True, False, True]


def test_the_memory_monitor_is_found_beneath_what_tune_makes_of_it() -> None:
    from ray.exceptions import OutOfMemoryError

    wrapped = RuntimeError("Caught unexpected exception")
    wrapped.__cause__ = OutOfMemoryError("1 worker was killed")
    outer = RuntimeError("Tune failed")
    outer.__context__ = wrapped
    assert _is_out_of_memory(outer) and _is_out_of_memory(wrapped)
    assert not _is_out_of_memory(RuntimeError("Caught unexpected exception"))


def test_a_process_that_lost_its_accelerator_says_so() -> None:
    assert _cause(torch.AcceleratorError("CUDA error: no\nmore")) == f"{LOST_DEVICE}: CUDA error: no"
    assert _cause(ImportError("no module named torch")) == "ImportError: no module named torch"
    assert _cause(ValueError()) == "ValueError"


def test_a_death_after_progress_begins_a_new_count() -> None:
    assert deaths_until_given_up("", [0, 4, 8, 8, 9, 9, 9])[0] == 7


def test_trials_do_not_spend_each_other_s_lives() -> None:
    retry_budget = RetryBudget()
    assert not any(
        retry_budget.spend(trial, Death(reason="", progress=0)) for trial in "abc" for _ in range(MAX_CRASHES - 1)
    )


@pytest.mark.ray
def test_a_tuner_that_falls_costs_nobody_a_life_and_one_that_never_runs_is_the_user_s_to_see(
    tmp_path: Path, tiny_checkpoint: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Ray's host-memory monitor ends a worker: ``fit`` raises, and most trials never began."""
    from ray import tune

    fit, falls = tune.Tuner.fit, [0]

    def falling(self: tune.Tuner) -> tune.ResultGrid:
        falls[0] += 1
        if falls[0] == 1:
            raise RuntimeError("Caught unexpected exception")
        if falls[0] == 2:
            raise AssertionError  # without a word
        return fit(self)

    monkeypatch.setattr(tune.Tuner, "fit", falling)
    job, display = small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [1]}, measure=["accuracy"]), Silent()
    assert set(run(job, cluster, display).values()) == {"done"}
    assert sum("Ray Tune ended early: " in note for note in display.notes) == 2
    monkeypatch.setattr(SweepRun, "_fit", lambda *told: None)
    job = small_job(tmp_path, tiny_checkpoint, knobs={"max_crops": [2]}, measure=["accuracy"])
    with pytest.raises(UserError, match="ended 3 times and ran nothing"):
        run(job, cluster)
