"""Warnings about single batch sizes and lengths, and what differs between trials at one of them."""

from pathlib import Path
from typing import Any

from tests.builders import read_rows, trial_row
from vlmprof.analyze.caveats import cautions
from vlmprof.analyze.comparability import differing


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
