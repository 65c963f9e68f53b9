from itertools import product

from hypothesis import given

from tests.plan.strategies.spaces import SPACES
from vlmprof.plan.strategies.grid import STRATEGY


@given(SPACES)
def test_a_grid_is_every_combination_once_in_the_order_of_the_job(space: dict[str, list[int]]) -> None:
    grid, points = STRATEGY(space), []
    while (point := grid.ask()) is not None:
        points.append(tuple(dict(point)[name] for name in space))
    assert points == list(product(*space.values()))
    assert grid.ask() is None
