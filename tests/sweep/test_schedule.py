"""Who runs what next: longest first, models side by side, nobody idle, nothing lost. Without ray."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.schedule import Schedule, chunks

LOAD_S = 5.0


def work(name: str, cost: float, *, load: int = 0, chain: int | None = None, timing: float = 0.0) -> ScheduledTrial:
    number = chain if chain is not None else -hash(name)
    return ScheduledTrial(id=name, load=load, chain=number, score_cost=cost, timing_cost=timing)


def played(
    works: Sequence[ScheduledTrial], workers: int
) -> tuple[dict[str, int], list[tuple[int, ScheduledTrial]], float]:
    """The schedule on workers that never fail: loads by worker, what ran where in order of start, when all was done."""
    schedule, started, loads = Schedule(works), [], []
    free: list[tuple[float, int, ScheduledTrial | None]] = [(0.0, worker, None) for worker in range(workers)]
    heapq.heapify(free)
    idle: list[int] = []
    end = 0.0
    while free:
        time, worker, last = heapq.heappop(free)
        if last is not None:
            schedule.ended(last, worker_alive=True)
            end = max(end, time)
        given = schedule.next(last)
        if given is None:
            idle.append(worker)
            continue
        fresh = last is None or last.load != given.load
        loads += [(worker, given.load)] if fresh else []
        started.append((worker, given))
        cut = last is not None and last.chain == given.chain
        heapq.heappush(
            free, (time + fresh * LOAD_S + given.timing_cost + (0 if cut else given.score_cost), worker, given)
        )
    return {str(load): sum(one == load for _, one in loads) for _, load in loads}, started, end


works = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(1, 100), st.floats(0, 50)), min_size=1, max_size=40
)


@given(works, st.integers(1, 5))
def test_everything_runs_once(drawn: list[tuple[int, int, float, float]], workers: int) -> None:
    given_ = [work(str(i), s, load=a, chain=10 * a + b, timing=t) for i, (a, b, s, t) in enumerate(drawn)]
    _, started, _ = played(given_, workers)
    assert sorted(one.id for _, one in started) == sorted(one.id for one in given_)


@given(works, st.lists(st.booleans(), min_size=200, max_size=200))
def test_everything_runs_also_when_workers_die(drawn: list[tuple[int, int, float, float]], dies: list[bool]) -> None:
    schedule = Schedule([work(str(i), s, load=a, chain=10 * a + b, timing=t) for i, (a, b, s, t) in enumerate(drawn)])
    live: list[ScheduledTrial | None] = [None, None]
    ran = []
    for death in itertools.chain(dies, itertools.repeat(False)):
        last = live.pop(0)
        if last is not None:
            schedule.ended(last, worker_alive=not death)
        given_ = schedule.next(None if death else last)
        if given_ is not None:
            ran.append(given_.id)
        elif not any(live):
            break
        live.append(given_)
    assert len(ran) == len(set(ran)) == len(drawn)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=30), st.integers(1, 4))
def test_one_load_is_worked_through_longest_first(costs: list[float], workers: int) -> None:
    _, started, _ = played([work(str(i), cost) for i, cost in enumerate(costs)], workers)
    order = [one.cost for _, one in started]
    assert order == sorted(order, reverse=True)


def test_two_loads_run_side_by_side_and_are_loaded_once_each() -> None:
    given_ = [work(f"{load}-{i}", 10, load=load) for load in (0, 1) for i in range(6)]
    loads, started, end = played(given_, 2)
    assert loads == {"0": 1, "1": 1}
    assert end == 60 + LOAD_S
    assert all(len({one.load for worker, one in started if worker == w}) == 1 for w in (0, 1))


def test_whoever_is_through_helps_with_the_load_that_has_most_left() -> None:
    given_ = [work(f"long {i}", 10, load=0) for i in range(9)] + [work("short", 10, load=1)]
    loads, _, end = played(given_, 2)
    assert loads == {"0": 2, "1": 1}
    assert end <= 65, "one worker did the long load alone"


def test_answers_that_are_cut_stay_with_whoever_gave_the_longest() -> None:
    given_ = [work(f"{c}-{n}", 100 * n, chain=c, timing=1) for c in (0, 1) for n in (3, 2, 1)]
    _, started, end = played(given_, 2)
    assert [one.id for worker, one in started if worker == 0] == ["0-3", "0-2", "0-1"]
    assert end == LOAD_S + 303


def test_lengths_are_shared_out_where_the_timing_is_longer_than_scoring_anew() -> None:
    given_ = [work(str(n), n, chain=0, timing=100) for n in range(1, 9)]
    _, started, end = played(given_, 4)
    assert len({worker for worker, _ in started}) == 4
    assert end < 250


@given(works, st.integers(1, 7))
def test_chunks_are_whole_bounded_and_hold_a_load_together(
    drawn: list[tuple[int, int, float, float]], size: int
) -> None:
    given_ = [work(str(i), s, load=a, chain=10 * a + b, timing=t) for i, (a, b, s, t) in enumerate(drawn)]
    cut = list(chunks(given_, size))
    assert all(len(one) == size for one in cut[:-1]) and 1 <= len(cut[-1]) <= size
    in_order = [one for chunk in cut for one in chunk]
    assert sorted(one.id for one in in_order) == sorted(one.id for one in given_)
    assert len(list(itertools.groupby(in_order, key=lambda one: one.load))) == len({one.load for one in given_})
