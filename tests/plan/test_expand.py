from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.jobs import small_job
from vlmprof.plan.strategies.grid import STRATEGY
from vlmprof.plan.strategies.one_at_a_time import OneAtATime

SPACES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.lists(st.integers(), min_size=1, max_size=4, unique=True), min_size=1
)


@given(SPACES)
def test_a_grid_is_every_combination_once_in_the_order_of_the_job(space: dict[str, list[int]]) -> None:
    grid, points = STRATEGY(space), []
    while (point := grid.ask()) is not None:
        points.append(tuple(dict(point)[name] for name in space))
    assert points == list(product(*space.values()))
    assert grid.ask() is None


@given(SPACES)
def test_one_at_a_time_is_the_trained_model_and_each_value_alone(space: dict[str, list[int]]) -> None:
    cross, points = OneAtATime(space), []
    while (point := cross.ask()) is not None:
        points.append(dict(point))
    assert points == [{}, *({name: value} for name, values in space.items() for value in values)]
    assert cross.ask() is None


def test_every_point_becomes_a_trial_with_an_id_of_its_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    plans = small_job(tmp_path, tiny_checkpoint).plans
    assert len({plan.id for plan in plans}) == len(plans) == 4


def test_adding_a_value_keeps_the_ids_of_the_others(tmp_path: Path, tiny_checkpoint: Path) -> None:
    few = {plan.id for plan in small_job(tmp_path, tiny_checkpoint).plans}
    knobs = {"max_crops": [1, 2, 4], "moe_top_k": [1, 4]}
    more = {plan.id for plan in small_job(tmp_path, tiny_checkpoint, knobs=knobs).plans}
    assert few < more
