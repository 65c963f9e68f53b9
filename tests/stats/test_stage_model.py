"""Latencies predicted from those of a few requests: right where the form holds, doubtful where it does not."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprof.stats.stage_model import FEWEST, PromptSize, StageModel, fit_stage_model


def sizes(count: int, seed: int) -> list[PromptSize]:
    """Prompts as Molmo's tilings make them."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        rows, cols = rng.choice([(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 3), (2, 6)])
        vision = 144 + (8 * rows + 4) * (8 * cols + 4)
        made.append(PromptSize(1 + rows * cols, vision, vision + rng.randint(20, 60)))
    return made


def times(size: PromptSize, noise: random.Random, spread: float = 0.0) -> dict[str, float]:
    """Stage times near those of an H200 at MolmoE-1B's sizes."""
    exact = {
        "preprocess": 1.5 + 0.15 * size.crops,
        "transfer": 0.3 + 0.02 * size.crops,
        "vision": 1.2 + 0.78 * size.crops,
        "connector": 0.05 + 0.0002 * size.vision_tokens,
        "prefill": 3.0 + 0.0095 * size.prompt_tokens + 8e-7 * size.prompt_tokens**2,
        "decode": 40.0 + 0.004 * size.prompt_tokens,
    }
    return {stage: ms * abs(1 + noise.gauss(0, spread)) for stage, ms in exact.items()}


def fitted(seed: int, spread: float, count: int = 16) -> tuple[StageModel, random.Random]:
    noise, timed = random.Random(seed), sizes(count, seed)
    rows = [times(size, noise, spread) for size in timed]
    model = fit_stage_model(timed, {stage: [row[stage] for row in rows] for stage in rows[0]})
    assert model is not None
    return model, noise


def test_prices_are_found_again() -> None:
    model, noise = fitted(1, 0.0)
    for size in sizes(50, 99):
        truth = times(size, noise)
        predicted = model.predict(size)
        assert predicted.ms == pytest.approx(sum(truth.values()), rel=1e-6)
        assert predicted.stages == pytest.approx(truth, rel=1e-4)
    assert model.relative_half_width < 1e-6


@pytest.mark.parametrize("spread", [0.005, 0.02])
def test_held_out_prompts_lie_in_the_interval(spread: float) -> None:
    inside, errors = [], []
    for seed in range(40):
        model, noise = fitted(seed, spread)
        for size in sizes(20, seed + 1000):
            truth = sum(times(size, noise, spread).values())
            predicted = model.predict(size)
            inside.append(predicted.low <= truth <= predicted.high)
            errors.append(abs(truth / predicted.ms - 1))
    assert statistics.fmean(inside) >= 0.9 and statistics.median(errors) <= 0.03


def test_a_form_that_does_not_hold_shows_as_doubt() -> None:
    """A vision encoder that runs crops in batches of eight has steps that no price a crop can follow."""
    timed, noise = sizes(16, 5), random.Random(0)
    rows = [{**times(size, noise), "vision": 20.0 * math.ceil(size.crops / 8)} for size in timed]
    model = fit_stage_model(timed, {stage: [row[stage] for row in rows] for stage in rows[0]})
    assert model is not None and model.relative_half_width > 0.05


@given(st.integers(0, 1000), st.floats(0, 0.3))
def test_more_work_never_costs_less(seed: int, spread: float) -> None:
    model, _ = fitted(seed % 50, spread)
    small, large = PromptSize(2, 288, 330), PromptSize(13, 1200, 1300)
    for stage, ms in model.predict(small).stages.items():
        assert 0 <= ms <= model.predict(large).stages[stage] + 1e-9
    predicted = model.predict(small)
    assert 0 <= predicted.low <= predicted.ms <= predicted.high


def test_few_sizes_give_no_model() -> None:
    few = sizes(3, 1) * 10
    rows = [times(size, random.Random(0)) for size in few]
    assert len(set(few)) < FEWEST
    assert fit_stage_model(few, {stage: [row[stage] for row in rows] for stage in rows[0]}) is None


@pytest.mark.parametrize("odd", [math.nan, math.inf, -1.0])
def test_a_time_that_is_none_is_refused(odd: float) -> None:
    with pytest.raises(ValueError, match="of vision, finite and not negative"):
        fit_stage_model(sizes(8, 1), {"vision": [odd] + [1.0] * 7})
