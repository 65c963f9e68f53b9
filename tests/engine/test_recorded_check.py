"""How far recorded logits may be from the model's own: all of them a little, one in half precision a little more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vlmprof.engine.recorded_check import ALLOWED, _Distances
from vlmprof.errors import Mismatch


def compared(dtype: torch.dtype, *shares: float) -> _Distances:
    """Logits that are so many times the allowed distance away, one row a request."""
    distances = _Distances("the prompt")
    own = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    other = torch.randn(1, 1000, generator=torch.Generator().manual_seed(1))
    spread = (own - own.mean(-1, keepdim=True)).float().norm()
    for number, share in enumerate(shares):
        moved: Tensor = own.float() + other / other.norm() * spread * share * ALLOWED[dtype]
        distances.add(number, moved, own)
    return distances


@pytest.mark.parametrize("dtype", ALLOWED)
def test_rounding_is_allowed(dtype: torch.dtype) -> None:
    assert compared(dtype, 0.0, 0.9, 0.5, 0.1).require_small() == pytest.approx(0.9 * ALLOWED[dtype], rel=0.01)
    assert _Distances("the prompt").require_small() == 0.0


@pytest.mark.parametrize("dtype", ALLOWED)
def test_most_prompts_far_away_are_another_computation(dtype: torch.dtype) -> None:
    with pytest.raises(Mismatch, match=r"of timed request 2 gives logits .* and the median of 4 is"):
        compared(dtype, 0.0, 1.2, 1.5, 1.1).require_small()


def test_one_prompt_alone_may_have_chosen_another_expert_in_half_precision_only() -> None:
    assert compared(torch.bfloat16, 0.1, 1.1, 0.2, 0.1).require_small() > ALLOWED[torch.bfloat16]
    with pytest.raises(Mismatch, match="request 1"):
        compared(torch.float32, 0.1, 1.1, 0.2, 0.1).require_small()
    with pytest.raises(Mismatch, match="request 1"):
        compared(torch.bfloat16, 0.1, 3.1, 0.2, 0.1).require_small()
