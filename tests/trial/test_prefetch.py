"""Batches ahead: each is encoded once, whatever the sizes become, and nothing is left running."""

import os
import threading
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from vlmprof.records import Example, Picture, Prompt
from vlmprof.trial import prefetch
from vlmprof.trial.outcome import Sample
from vlmprof.trial.prefetch import BatchPrefetcher


class Counting:
    """Stands for a bench: remembers who was encoded, and by which thread."""

    def __init__(self) -> None:
        self.encoded: Counter[str] = Counter()
        self.threads: set[str] = set()

    def prepare(self, readable: Sequence[Sample]) -> Any:
        self.encoded.update(one.example.id for one in readable)
        self.threads.add(threading.current_thread().name)
        return SimpleNamespace(ids=[one.example.id for one in readable])


def asked(count: int) -> list[Sample]:
    made = []
    for index in range(count):
        picture = Picture(width=1, height=1, load=lambda: None)  # type: ignore[arg-type,return-value]
        example = Example(
            id=str(index), question="", question_type="", answers=("1",), picture=picture, cluster=str(index)
        )
        made.append(Sample(example=example, prompt=Prompt(text="", picture=picture)))
    return made


def ids(some: Sequence[Sample]) -> list[str]:
    return [one.example.id for one in some]


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


def test_every_batch_is_encoded_once_and_ahead() -> None:
    loaded, left = Counting(), asked(23)
    everyone = ids(left)
    both = threading.Barrier(2)

    def meet(pictures: Any) -> None:
        """Two workers at once, or the test fails: the first batch is opened by the thread that asks."""
        if threading.current_thread() is not threading.main_thread() and not met:
            both.wait(timeout=30)
            met.append(True)

    met: list[bool] = []
    with BatchPrefetcher(loaded, meet) as following:  # type: ignore[arg-type]
        seen = []
        while left:
            opened, prepared = following.take(left[:4], left[4:])
            seen += (prepared or loaded.prepare(opened.readable)).ids  # type: ignore[attr-defined]
            assert seen[-len(opened.readable) :] == ids(opened.readable)
            left = left[4:]
    assert seen == everyone
    ahead_of_time = {name: count for name, count in loaded.encoded.items() if int(name) >= 4}
    assert set(ahead_of_time.values()) == {1}
    assert len(met) >= 1 and len(loaded.threads - {"MainThread"}) > 1


def test_a_size_that_changes_loses_and_doubles_nothing() -> None:
    loaded, left, sizes = Counting(), asked(40), iter([8, 8, 3, 5, 8, 1, 20])
    everyone, seen = ids(left), []
    with BatchPrefetcher(loaded, lambda pictures: None) as following:  # type: ignore[arg-type]
        while left:
            size = next(sizes)
            opened, prepared = following.take(left[:size], left[size:])
            seen += (prepared or loaded.prepare(opened.readable)).ids  # type: ignore[attr-defined]
            left = left[size:]
    assert seen == everyone


def test_leaving_waits_for_what_runs_and_drops_the_rest() -> None:
    loaded, left = Counting(), asked(64)
    running, most, lock = [0], [0], threading.Lock()

    def wait(pictures: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        list(pictures)
        with lock:
            running[0] -= 1

    with BatchPrefetcher(loaded, wait) as following:  # type: ignore[arg-type]
        following.take(left[:2], left[2:])
    assert running[0] == 0 and sum(loaded.encoded.values()) <= 2 * prefetch.MOST_AHEAD
    count = sum(loaded.encoded.values())
    assert not [thread for thread in threading.enumerate() if thread.name in loaded.threads - {"MainThread"}]
    assert sum(loaded.encoded.values()) == count


@pytest.mark.parametrize(("cores", "threads"), [(64, prefetch.MOST_AHEAD), (8, 2), (2, 1), (None, 1)])
def test_a_quarter_of_the_cores_and_never_none(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, threads: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert prefetch.prefetch_depth() == threads
