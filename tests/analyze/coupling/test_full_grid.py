"""The largest complete grid: by hand, and against trying every part."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import trial_row
from vlmprof.analyze.coupling import full_grid as module
from vlmprof.analyze.coupling.full_grid import full_grid
from vlmprof.errors import UserError

KNOBS = ("max_crops", "moe_top_k", "active_blocks")


def trials(points, knobs=KNOBS):
    rows = [trial_row(dict(zip(knobs, point, strict=False)), trial=f"t{i:03d}") for i, point in enumerate(points)]
    return pd.DataFrame(rows)


def test_a_whole_grid_in_order():
    points = list(itertools.product((1, 9), (2, 8), (4, 16)))
    grid = full_grid(trials(points[::-1]))
    assert grid.knobs == ("active_blocks", "max_crops", "moe_top_k")
    assert grid.labels == (("4", "16"), ("1", "9"), ("2", "8"))  # by number, not by text
    assert grid.rows["requested_moe_top_k"].tolist() == ["2", "8"] * 4
    assert grid.caveats == () and grid.levels == (2, 2, 2)


def test_what_is_missing_is_left_out_and_said():
    points = [one for one in itertools.product((1, 2, 3), (1, 2, 3)) if one != (3, 3)]
    grid = full_grid(trials(points, KNOBS[:2]))
    assert math.prod(grid.levels) == len(grid.rows) == 6
    (said,) = grid.caveats
    assert "2 of 8 trials are not in the complete grid of 6" in said


def test_a_baseline_beside_the_grid_is_said():
    points = [*itertools.product((1, 2), (1, 2)), ()]
    grid = full_grid(trials(points, KNOBS[:2]))
    assert len(grid.rows) == 4 and "1 of 5 trials" in grid.caveats[0]


def test_a_knob_with_one_value_is_held():
    grid = full_grid(trials(itertools.product((1, 2), (1, 2), (16,))))
    assert grid.knobs == ("max_crops", "moe_top_k") and grid.held == {"active_blocks": "16"}


def test_repeated_settings_count_once():
    grid = full_grid(trials([*itertools.product((1, 2), (1, 2)), (1, 1)], KNOBS[:2]))
    assert grid.rows["trial"].tolist()[0] == "t000" and "1 of 5" in grid.caveats[0]


def test_the_same_work_is_said():
    rows = trials(itertools.product((1, 2), (1, 2)), KNOBS[:2])
    rows["work_key"] = ["a", "a", "b", "c"]
    assert "1 of 4 configurations did the same work" in " ".join(full_grid(rows).caveats)


@pytest.mark.parametrize("points", [[(1, 1), (2, 2)], [(1, 1), (2, 1), (3, 1)], [(1, 1)], [(), ()]])
def test_no_grid_is_an_error_with_numbers(points):
    with pytest.raises(UserError, match=f"among {len(points)} finished trials"):
        full_grid(trials(points, KNOBS[:2]))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(*[st.integers(1, 3)] * 3), min_size=8))
def test_none_is_larger(points):
    values = [[1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3]]
    complete = [
        math.prod(map(len, axes))
        for axes in itertools.product(values, repeat=3)
        if sum(len(axis) > 1 for axis in axes) >= 2 and set(itertools.product(*axes)) <= points
    ]
    if not complete:
        with pytest.raises(UserError, match="no such grid"):
            full_grid(trials(sorted(points)))
        return
    assert len(full_grid(trials(sorted(points))).rows) == max(complete)


def test_a_search_that_is_ended_says_so(monkeypatch):
    points = [one for one in itertools.product(range(4), repeat=3) if sum(one) % 5]
    monkeypatch.setattr(module, "MOST_STEPS", 30)
    grid = full_grid(trials(points))
    assert any("a larger one may exist" in said for said in grid.caveats)
    assert len(grid.rows) == math.prod(grid.levels)
