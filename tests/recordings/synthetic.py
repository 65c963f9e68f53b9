"""Recordings of sweeps as they go on GPUs, made up: uneven costs, chains of answer lengths, one timing pass at a time.

Who runs what is decided by the product's own schedule, and costs are told as its driver tells them. What seconds a
step takes is not proportional to its cost: batches make long answers cheaper, a timing pass has fixed parts and stops
at a time limit, and every step is off by chance.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from typing import Any

from vlmprof.sweep.cost import ScheduledTrial
from vlmprof.sweep.expected_work import expected_work
from vlmprof.sweep.schedule import Schedule, chunks

BATCHES = 20
"""Reports of a score pass."""


def made_up(seed: int, *, lanes: int, lengths: int = 1, timed: bool = True, settings: int = 16) -> dict[str, Any]:
    """A recording of a sweep over ``settings`` configurations with ``lengths`` answer lengths each."""
    chance = random.Random(seed)
    works = list(_works(chance, settings, lengths, timed=timed))
    in_order = [work for part in chunks(works, 1000) for work in part]
    told = expected_work(in_order, lanes)
    return {
        "works": {trial: [work.load, work.score, work.timing] for trial, work in told.items()},
        "events": [list(event) for event in _run(works, lanes, chance)],
    }


def _works(chance: random.Random, settings: int, lengths: int, *, timed: bool) -> Iterator[ScheduledTrial]:
    for setting in range(settings):
        prompt = 10 ** chance.uniform(0, 1)
        for length in range(lengths):
            tokens = 2.0 ** (lengths - length)
            yield ScheduledTrial(
                id=f"s{setting}n{length}",
                load=setting % 2,
                chain=setting,
                score_cost=1000 * (prompt + 0.2 * tokens),
                timing_cost=200 * (0.3 * prompt + tokens) if timed else 0.0,
                samples=1000,
            )


def _run(works: list[ScheduledTrial], lanes: int, chance: random.Random) -> list[tuple[Any, ...]]:
    """Events by time."""
    schedule, events = Schedule(works), []
    free: list[tuple[float, int, ScheduledTrial | None]] = [(0.0, lane, None) for lane in range(lanes)]
    loaded: dict[int, int] = {}
    answered: set[tuple[int, int]] = set()
    lock = 0.0
    while free:
        now, lane, last = heapq.heappop(free)
        if last is not None:
            schedule.ended(last, worker_alive=True)
        work = schedule.next(last)
        if work is None:
            continue
        began = now
        events.append((now, "began", work.id))
        if loaded.get(lane) != work.load:
            loaded[lane] = work.load
            answered = {one for one in answered if one[0] != lane}
            events.append((now, "progress", work.id, "load", 0, 1))
            now += 40 * _off(chance)
        events.append((now, "progress", work.id, "count", 0, 2))
        now += 3 * _off(chance)
        if (lane, work.chain) not in answered:
            answered.add((lane, work.chain))
            each = 0.3 * work.score_cost**0.85 * _off(chance) / BATCHES
            for batch in range(BATCHES + 1):
                events.append((now, "progress", work.id, "score", 50 * batch, 1000))
                now += each * (1.2 - 0.4 * batch / BATCHES) if batch < BATCHES else 0.0
            events.append((now, "progress", work.id, "audit", 0, 64))
            now += 0.02 * work.score_cost**0.85 * _off(chance)
        if work.timing_cost:
            events.append((now, "progress", work.id, "wait", 0, 240))
            now = max(now, lock)
            events.append((now, "progress", work.id, "warm up", 0, 240))
            now += 13 + min(60.0, 0.02 * work.timing_cost * _off(chance))
            lock = now
        events.append((now, "ended", work.id, "done", now - began))
        heapq.heappush(free, (now, lane, work))
    return sorted(events, key=lambda event: event[0])


def _off(chance: random.Random) -> float:
    """A factor of chance, 10 % to either side as a rule."""
    return math.exp(chance.gauss(0, 0.1))
