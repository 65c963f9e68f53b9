"""What the terminal says below a front, and the figures likewise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.builders import trial_row, write_results
from vlmprof.analyze.caveats import cautions
from vlmprof.plots import _style
from vlmprof.report.pareto_table import front_report, read_front
from vlmprof.store import tables

FLIPPING = {"flip_rate": 0.02, "flip_rate_allowed": 0.01}


def printed(folder: Path) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        for part in front_report(read_front(folder)):
            console.print(part)
    return captured.get()


def rows(**columns: Any) -> list[dict[str, Any]]:
    return [trial_row({"max_crops": 1}, **columns), trial_row({"max_crops": 2})]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (FLIPPING, "in 1 of 2 the batch size changed more answers than allowed (see flip_rate)"),
        ({"samples_untimed": 2, "untimed_set": "a1"}, "in 1 of 2 trials samples could not be given to the model"),
        ({"host_bound": True}, "in 1 of 2 decoding waits for the host"),
        ({"canary_drift_session": 0.02}, "in 1 of 2 the machine drifted by more than 1.5 % while timing"),
        (
            {"blocks_disturbed_kept": 3, "disturbed_by": "throttled"},
            "in 1 of 2 timing was disturbed throughout (throttled)",
        ),
        ({"decoding_left_out": "repetition_penalty=1.05"}, "without the checkpoint's own repetition_penalty=1.05"),
    ],
)
def test_every_report_that_uses_a_row_says_what_makes_it_mean_less(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    folder = write_results(tmp_path, rows(**columns))
    trials = tables.read(folder, "trials")
    assert said in " ".join(cautions(trials))
    assert said in printed(folder)
    assert said in _style.heading(trials)[1]


def test_what_is_within_what_the_job_allows_is_no_warning(tmp_path: Path) -> None:
    folder = write_results(tmp_path, rows(flip_rate=0.01, flip_rate_allowed=0.01))
    assert list(cautions(tables.read(folder, "trials"))) == []
    assert "beware" not in printed(folder)


@pytest.mark.parametrize(
    ("others", "said"), [(51.0, ""), (60.0, "took up to 20 % longer in one trial than in another")]
)
def test_a_machine_that_was_faster_for_one_trial_than_for_another_is_told(
    tmp_path: Path, others: float, said: str
) -> None:
    folder = write_results(
        tmp_path, [trial_row({"max_crops": 1}, canary_ms_p50=50.0), trial_row({"max_crops": 2}, canary_ms_p50=others)]
    )
    told = " ".join(cautions(tables.read(folder, "trials")))
    assert said in told and bool(said) == ("canary" in told)


def test_canaries_of_different_kernels_are_not_compared(tmp_path: Path) -> None:
    kernels = [("eager", 1, 50.0), ("sdpa", 2, 80.0)]
    folder = write_results(
        tmp_path, [trial_row({"max_crops": crops}, attention=name, canary_ms_p50=took) for name, crops, took in kernels]
    )
    assert list(cautions(tables.read(folder, "trials"))) == []


def test_settings_that_were_the_same_work_are_named_together(tmp_path: Path) -> None:
    caps = [trial_row({"max_crops": cap}, work_key="same" if cap > 2 else f"own {cap}") for cap in (1, 2, 6, 9)]
    said = printed(write_results(tmp_path, caps))
    assert "same work as another row" in said
    assert "max_crops=6  =  max_crops=9" in said
    assert "max_crops=2  =" not in said
