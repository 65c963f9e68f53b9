"""The bounds that docs/decisions/best.md gives for winners, in short always, and at length with the exhaustive."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.choosing import chances_hold, winner

FIRST = 5000
"""Neither the seeds of the tables in the docs nor those on which the correction was chosen."""


def bounds_of_winners(rows: list[dict[str, Any]], room: float) -> None:
    """Aims: intervals hold the truth in at least 93 %; a third of the bias of the measured value is left at most."""
    assert rows
    for row in rows:
        assert row["covered_corrected"] >= 0.93 - room, row
        assert row["covered_confirmed"] >= 0.93 - room, row
        assert row["bias_measured"] > 0.003, row
        left = abs(row["bias_corrected"])
        assert left <= row["bias_measured"] / 3 + room / 10, row
        assert row["rmse_corrected"] < row["rmse_confirmed"], row


def bounds_of_chances(rows: list[dict[str, Any]], room: float) -> None:
    for row in rows:
        assert row["safe_feasible"] >= 0.95 - room, row
        assert row["covered_runner_up"] >= 0.93 - room and row["covered_price"] >= 0.93 - room, row
        # Of the answer itself it is too high by about a tenth where latencies are noisy: the docs say so.
        assert -room <= row["answer_probability"] - row["answer_feasible"] <= 0.10 + room, row
        by_share = row["feasible_by_share"]
        assert by_share["0.0"][0] <= 0.02 and by_share["0.9"][0] >= 0.98, "P feasible is calibrated over all"
        assert abs(row["answer_is_best"] - row["answer_probability_best"]) <= 0.08 + 2 * room, row


def test_winners_in_short() -> None:
    bounds_of_winners(winner(12, FIRST, 200, 300), room=0.07)


def test_chances_in_short() -> None:
    bounds_of_chances(chances_hold(12, FIRST, 200, 300), room=0.07)


@pytest.mark.exhaustive
def test_winners_and_chances_at_length() -> None:
    bounds_of_winners(winner(40, FIRST, 400, 300), room=0.03)
    bounds_of_chances(chances_hold(40, FIRST, 400, 300), room=0.03)
