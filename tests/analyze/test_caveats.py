"""Warnings about single batch sizes and lengths, and what differs between trials at one of them."""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.interval_simulation import flip_rates
from tests.builders import read_rows, trial_row
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import differing
from vlmprof.stats.intervals import mean_interval


def rows(**second: Any) -> list[dict[str, Any]]:
    """Two trials, the other one with these columns."""
    timed = {"latency_ms_p50_at_b8_o16": 90.0, "recorded_stages_at_b8_o16": "vision, prefill, decode"}
    return [trial_row({"max_crops": 1}, **timed), trial_row({"max_crops": 2}, **{**timed, **second})]


def test_a_setting_without_times_is_told_with_its_column(tmp_path: Path) -> None:
    told = list(cautions(read_rows(tmp_path, rows(timing_error_at_b8_o16="OutOfMemory", timing_error="OutOfMemory"))))
    assert "in 1 of 2 nothing could be timed at batch 8, 16 tokens (timing_error_at_b8_o16)" in told
    assert "in 1 of 2 nothing could be timed at the first batch size and length (timing_error)" in told


def test_doubts_about_a_setting_name_it(tmp_path: Path) -> None:
    trials = read_rows(tmp_path, rows(host_bound_at_b8_o16=True, blocks_disturbed_kept_at_b8_o16=3))
    assert list(cautions(trials)) == [
        "in 1 of 2 timing was disturbed throughout at batch 8, 16 tokens",
        "in 1 of 2 decoding waits for the host at batch 8, 16 tokens",
    ]


def test_what_was_recorded_is_compared_at_every_setting_among_those_timed_at_it(tmp_path: Path) -> None:
    name = "recorded_stages_at_b8_o16"
    other = differing(read_rows(tmp_path / "other", rows(**{name: "decode"})))
    assert other == {name: ["decode", "vision, prefill, decode"]}
    untimed = {name: None, "latency_ms_p50_at_b8_o16": None, "timing_error_at_b8_o16": "OutOfMemory"}
    assert name not in differing(read_rows(tmp_path / "untimed", rows(**untimed)))


@pytest.mark.parametrize(
    ("flips", "audited", "said"),
    [
        (0, 64, ""),
        (1, 64, "in 1 of 2 it cannot be told whether the batch size changes more answers than allowed"),
        (3, 64, "in 1 of 2 the batch size changed more answers than allowed"),
        (4, 380, "in 1 of 2 it cannot be told"),
    ],
)
def test_flips_warn_at_the_lower_end_of_their_interval(tmp_path: Path, flips: int, audited: int, said: str) -> None:
    rate = mean_interval([1.0] * flips + [0.0] * (audited - flips), list(range(audited)))
    found = {"flip_rate": rate.mean, "flip_rate_low": rate.low, "flip_rate_high": rate.high, "flip_rate_allowed": 0.01}
    told = list(cautions(read_rows(tmp_path, rows(**found))))
    assert len(told) == bool(said)
    assert not said or told[0].startswith(said)


def test_the_share_of_false_warnings_about_flips() -> None:
    """At a true rate of half of what is allowed: with the rate itself it was 27 %."""
    row = flip_rates(64, 0.005, draws=2000, seed=3)
    assert row["warns"] <= 0.01
    assert flip_rates(380, 0.03, draws=500, seed=3)["warns"] >= 0.8
