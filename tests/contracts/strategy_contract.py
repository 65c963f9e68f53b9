"""What every search strategy owes, as a suite to inherit: the fixture ``make`` is what its leaf exports."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprof.plan.point import Point, canonical
from vlmprof.plan.strategy import AbstractStrategy, Space

Make = Callable[[Space], AbstractStrategy]
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(1, 9),
    st.sampled_from(["sdpa", "eager"]),
    st.lists(st.integers(0, 7), min_size=1, max_size=3),
    st.fixed_dictionaries({"keep": st.integers(1, 8), "policy": st.sampled_from(["prefix", "drop"])}),
)
"""Numbers, words, lists and mappings: all that a job may list for a knob."""
SPACES: st.SearchStrategy[Space] = st.dictionaries(
    st.sampled_from(["max_crops", "moe_top_k", "active_blocks"]),
    st.lists(VALUES, min_size=1, max_size=4, unique_by=canonical),
    min_size=1,
)
FEW = settings(max_examples=40, deadline=None)

TOLD: Sequence[Mapping[str, float]] = (
    {"accuracy": 0.5, "latency_ms_p50": 12.0},
    {},
    {"accuracy": math.nan, "latency_ms_p50": math.inf},
    {"accuracy": 0.0},
)
"""What a trial may give: its objectives; nothing, because it failed; numbers that are not finite; a part of them."""

ELSEWHERE = """
import json, sys
from vlmprof import registry
search = registry.load("strategies", sys.argv[1])(json.loads(sys.argv[2]))
points = iter(search.ask, None)
print(json.dumps([point.items for point in points]))
"""


def asked(search: AbstractStrategy, space: Space, told: Sequence[Mapping[str, float]] = ()) -> list[Point]:
    """All points of a search, each told as soon as it was asked where there is something to tell."""
    points: list[Point] = []
    while (point := search.ask()) is not None:
        points.append(point)
        assert len(points) <= most(space), "it asks for more points than the space has"
        if told:
            search.tell(point, told[len(points) % len(told)])
    return points


def most(space: Space) -> int:
    """Points there can be: each knob at one of its values, or left as the model was trained."""
    return math.prod(len(values) + 1 for values in space.values())


class StrategyContract:
    """Inherit, and give the fixtures ``name`` (its key) and ``make``."""

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @final
    def test_it_is_a_strategy(self, make: Make) -> None:
        assert isinstance(make({"max_crops": [1]}), AbstractStrategy)

    @final
    def test_every_point_lies_in_the_space_and_none_comes_twice(self, make: Make) -> None:
        @FEW
        @given(SPACES)
        def holds(space: Space) -> None:
            points = asked(make(space), space)
            assert points
            assert len(set(points)) == len(points)
            legal = {name: {canonical(value) for value in values} for name, values in space.items()}
            assert all(text in legal[name] for point in points for name, text in point.items)

        holds()

    @final
    def test_it_ends_and_stays_ended(self, make: Make) -> None:
        @FEW
        @given(SPACES)
        def holds(space: Space) -> None:
            search = make(space)
            points = asked(search, space)
            search.tell(points[-1], TOLD[0])
            assert [search.ask(), search.ask()] == [None, None]

        holds()

    @final
    def test_failed_trials_and_late_answers_do_not_break_it(self, make: Make) -> None:
        """Answers come when trials end: at once, or long after others were asked for, in any order."""

        @FEW
        @given(SPACES, st.randoms(use_true_random=False))
        def holds(space: Space, order: Any) -> None:
            at_once = asked(make(space), space, TOLD)
            assert at_once and len(set(at_once)) == len(at_once)
            search, waiting = make(space), list[Point]()
            seen: set[Point] = set()
            while (point := search.ask()) is not None:
                assert point not in seen
                seen.add(point)
                waiting.append(point)
                if len(waiting) == 3:
                    search.tell(waiting.pop(order.randrange(3)), order.choice(TOLD))
            assert 0 < len(seen) <= most(space)

        holds()

    @final
    def test_equal_searches_propose_equal_points(self, make: Make) -> None:
        """Also when another search of the same kind runs at the same time; and the space is left as it was."""

        @FEW
        @given(SPACES)
        def holds(space: Space) -> None:
            before = deepcopy(space)
            expected = asked(make(space), space, TOLD[:1])
            assert asked(make(space), space, TOLD[:1]) == expected
            first, second = (interleaved(make(space), TOLD[0]) for _ in range(2))
            for point, other in zip(first, second, strict=True):
                assert point == other
            assert space == before

        holds()

    @final
    def test_another_process_proposes_the_same(self, make: Make, name: str) -> None:
        """A sweep that goes on must find its trials again: neither hashes nor the clock may decide."""
        space: Space = {"max_crops": [1, 2, 4], "attention": ["sdpa", "eager"], "active_blocks": [[0, 1], [3]]}
        command = [sys.executable, "-c", ELSEWHERE, name, json.dumps(space)]
        elsewhere = {**os.environ, "PYTHONHASHSEED": "7"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=elsewhere)
        theirs = [tuple(tuple(item) for item in items) for items in json.loads(done.stdout)]
        assert theirs == [point.items for point in asked(make(space), space)]


def interleaved(search: AbstractStrategy, told: Mapping[str, float]) -> Iterator[Point]:
    """The points one by one, so that two searches can take turns."""
    while (point := search.ask()) is not None:
        yield point
        search.tell(point, told)
