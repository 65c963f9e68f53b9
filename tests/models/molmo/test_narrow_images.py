"""Images so narrow that nothing of them is left: refused when they are counted exactly where scaling them fails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprof.models.molmo.anatomy import _token_counter
from vlmprof.models.molmo.image_processing import MolmoImageProcessor
from vlmprof.models.molmo.tiling import Geometry

SMALL = Geometry(crop_px=56, patch_px=14, margin_left=0, margin_right=0, pool=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.sampled_from([-1, 0, 1, 30]), st.booleans())
def test_a_size_is_refused_exactly_where_it_cannot_be_scaled(short: int, more: int, upright: bool) -> None:
    processor = MolmoImageProcessor(4, crop_size=56, patch_size=14, overlap_margins=(0, 0), pool_size=2)
    long = max(short, short * 56 + more)
    height, width = (long, short) if upright else (short, long)
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    try:
        made = processor(picture, return_tensors="np")
    except ValueError:
        with pytest.raises(ValueError, match="nothing is left of its shorter side"):
            _token_counter(SMALL)(height, width, 4)
        return
    assert _token_counter(SMALL)(height, width, 4).crops == made["image_num_crops"][0]
