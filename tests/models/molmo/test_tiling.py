from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprof.models.molmo.tiling import Geometry, natural_tiling, select_tiling, tiling_counts, token_counts

TABLE = Path(__file__).parents[2] / "parity" / "data" / "preprocess_reference.npz"
REAL = Geometry()
TINY = Geometry(crop_px=64, patch_px=8, margin_left=2, margin_right=2)
sides = st.integers(1, 4000)
caps = st.integers(1, 40)
geometries = st.sampled_from([REAL, TINY, Geometry(crop_px=96, patch_px=8, margin_left=2, margin_right=0)])


def test_every_row_of_the_original_s_table():
    rows = np.load(TABLE)["tiling_table"].tolist()
    wrong = [row for row in rows if select_tiling(*row[:3], REAL) != tuple(row[3:])]
    assert len(rows) == 9363
    assert not wrong


@given(sides, sides, caps, geometries)
@settings(max_examples=300, deadline=None)
def test_never_above_the_cap_and_never_above_what_the_image_fills(height, width, cap, geometry):
    rows, cols = select_tiling(height, width, cap, geometry)
    natural = natural_tiling(height, width, geometry)
    assert rows >= 1 and cols >= 1 and rows * cols <= cap
    assert rows <= natural[0] and cols <= natural[1]


@given(sides, sides, caps, geometries)
@settings(max_examples=300, deadline=None)
def test_a_larger_cap_never_shrinks_anything(height, width, cap, geometry):
    less, more = (token_counts(height, width, c, geometry) for c in (cap, cap + 1))
    assert more.tiling[0] >= less.tiling[0] and more.tiling[1] >= less.tiling[1]
    assert more.vision_tokens >= less.vision_tokens and more.crops >= less.crops


@given(sides, sides, geometries)
@settings(max_examples=200, deadline=None)
def test_an_uncapped_image_gets_its_natural_tiling(height, width, geometry):
    natural = natural_tiling(height, width, geometry)
    assert select_tiling(height, width, natural[0] * natural[1], geometry) == natural
    canvas = geometry.canvas_px(natural)
    if min(height, width) >= geometry.margin_px:
        assert canvas[0] >= height and canvas[1] >= width


@given(sides, sides, caps)
@settings(max_examples=200, deadline=None)
def test_turning_the_image_turns_the_tiling_unless_tied(height, width, cap):
    tall, wide = select_tiling(height, width, cap, REAL), select_tiling(width, height, cap, REAL)
    assert tall == wide[::-1] or tall[0] * tall[1] == wide[0] * wide[1]


@pytest.mark.parametrize(
    ("tiling", "crops", "vision", "sequence"),
    [((1, 1), 2, 288, 316), ((2, 3), 7, 704, 740), ((3, 4), 13, 1152, 1196), ((12, 1), 13, 1344, 1460)],
)
def test_counts_of_the_released_models(tiling, crops, vision, sequence):
    counts = tiling_counts(tiling, REAL)
    assert (counts.crops, counts.vision_tokens, counts.image_sequence_tokens) == (crops, vision, sequence)


def test_counts_of_a_tiny_model():
    assert TINY.pooled_grid((2, 3)) == (6, 8)
    assert tiling_counts((2, 3), TINY).vision_tokens == 16 + 48


def test_sides_at_and_below_the_margins():
    assert select_tiling(50, 900, 12, REAL) == (1, 1)
    assert select_tiling(112, 400, 12, REAL) == (1, 2)
    assert select_tiling(112, 4000, 3, REAL) == (1, 3)
    assert select_tiling(4000, 112, 3, REAL) == (3, 1)


@pytest.mark.parametrize("call", [(0, 5, 1), (5, 0, 1), (5, 5, 0)])
def test_refused_sizes(call):
    with pytest.raises(ValueError, match="at least 1"):
        select_tiling(*call, REAL)


def test_refused_tiling():
    with pytest.raises(ValueError, match="at least one row"):
        tiling_counts((0, 2), REAL)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"crop_px": 330}, "whole number"),
        ({"margin_left": 12, "margin_right": 12}, "leave no patches"),
        ({"margin_left": 3}, "multiples of the pooling size"),
        ({"pool": 5}, "multiples of the pooling size"),
        ({"pool": 0}, "must be positive"),
    ],
)
def test_refused_geometries(sizes, match):
    with pytest.raises(ValueError, match=match):
        Geometry(**sizes)


def test_a_planner_needs_no_torch():
    code = "import sys, vlmprof.models.molmo.tiling; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
