from hypothesis import given

from tests.plan.strategies.spaces import SPACES
from vlmprof.plan.strategies.one_at_a_time import OneAtATime


@given(SPACES)
def test_one_at_a_time_is_the_trained_model_and_each_value_alone(space: dict[str, list[int]]) -> None:
    cross, points = OneAtATime(space), []
    while (point := cross.ask()) is not None:
        points.append(dict(point))
    assert points == [{}, *({name: value} for name, values in space.items() for value in values)]
    assert cross.ask() is None
