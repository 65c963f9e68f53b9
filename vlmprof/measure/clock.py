"""The two clocks that time a generation stage by stage, from ONE run: the host's, and the device's own events.

A mark says that all the work since the last one was of one stage, so the stages cover the generation without gap or
overlap; end to end is a second pair of readings of the host's clock, and whoever trusts the stages compares the two.
``HostClock`` waits for the device at every mark. ``EventClock`` never waits between start and stop: it asks the device
to note the time when it gets there, and reads the notes at the end. A step of decoding is then as fast as without it.
Limits: work on another stream than the current one is not in any stage; it is in end to end, so the sum tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

import torch

from vlmprof.decoding import Clock
from vlmprof.errors import Mismatch
from vlmprof.records import Stage, StageTimes


class Event(Protocol):
    """A note of the device's clock, as ``torch.cuda.Event(enable_timing=True)``."""

    def record(self) -> None:
        """Ask the device to note the time once it has done all that was asked before."""
        ...

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from this event to a later one; both must have happened."""
        ...


def clock_for(device: str) -> Clock:
    """The clock of a device: its events where it has any, else the host's."""
    if device.startswith("cuda"):
        return EventClock(_cuda_event, lambda: torch.cuda.synchronize(device))
    return HostClock()


def _cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch types it not
    return event


def _nothing_to_wait_for() -> None:
    """A CPU has done what it was asked by the time it answers."""


@final
class HostClock:
    """Reads the host's clock at every mark, once the device has caught up."""

    def __init__(self, wait: Callable[[], None] = _nothing_to_wait_for) -> None:
        """Nothing runs yet.

        Args:
            wait: Returns when the device has done all that it was asked.
        """
        self._wait = wait
        self._begin = self._first = 0
        self._marks: list[tuple[Stage, int]] = []

    def start(self) -> None:
        """A generation begins now."""
        self._wait()
        self._marks = []
        self._begin = time.perf_counter_ns()
        self._first = time.perf_counter_ns()

    def mark(self, stage: Stage) -> None:
        """Wait for the device, and give the time since the last mark to ``stage``."""
        self._wait()
        self._marks.append((stage, time.perf_counter_ns()))

    def stop(self) -> StageTimes:
        """The generation is over."""
        self._wait()
        end_to_end = (time.perf_counter_ns() - self._begin) / 1e6
        before = [self._first, *(now for _, now in self._marks)]
        gaps = [(stage, (now - then) / 1e6) for (stage, now), then in zip(self._marks, before, strict=False)]
        return stage_times(gaps, end_to_end)


@final
class EventClock:
    """Lets the device note when each stage ends, and waits for it once, at the end."""

    def __init__(self, make_event: Callable[[], Event], wait: Callable[[], None]) -> None:
        """Nothing runs yet.

        Args:
            make_event: A new event of the device.
            wait: Returns when the device has done all that it was asked.
        """
        self._make, self._wait = make_event, wait
        self._events: list[Event] = []  # made once, used again in every generation
        self._stages: list[Stage] = []
        self._begin = 0

    def start(self) -> None:
        """A generation begins now; the device is idle, so the first note is of this moment."""
        self._wait()
        self._stages = []
        self._begin = time.perf_counter_ns()
        self._record(0)

    def mark(self, stage: Stage) -> None:
        """Give the device's time since the last mark to ``stage``; does not wait."""
        self._stages.append(stage)
        self._record(len(self._stages))

    def stop(self) -> StageTimes:
        """The generation is over once the device has caught up."""
        self._wait()
        end_to_end = (time.perf_counter_ns() - self._begin) / 1e6
        gaps = [(stage, self._events[i].elapsed_time(self._events[i + 1])) for i, stage in enumerate(self._stages)]
        return stage_times(gaps, end_to_end)

    def _record(self, index: int) -> None:
        if index == len(self._events):
            self._events.append(self._make())
        self._events[index].record()


def stage_times(gaps: Sequence[tuple[Stage, float]], end_to_end_ms: float) -> StageTimes:
    """The gaps between marks as the stages of a generation; gaps of one stage add up, those of decoding are kept.

    Raises:
        Mismatch: a stage that every generation has was never marked.
    """
    total: dict[Stage, float] = {}
    for stage, gap in gaps:
        total[stage] = total.get(stage, 0.0) + gap
    if "vision" not in total and "connector" in total:  # the model did not tell them apart
        total["vision"] = total.pop("connector")
    missing = [stage for stage in ("preprocess", "transfer", "vision", "prefill") if stage not in total]
    if missing:
        raise Mismatch(f"the clock was told of no {', '.join(missing)}; it saw {', '.join(total) or 'nothing'}")
    return StageTimes(
        preprocess_ms=total["preprocess"],
        transfer_ms=total["transfer"],
        vision_ms=total["vision"],
        connector_ms=total.get("connector"),
        prefill_ms=total["prefill"],
        step_ms=tuple(gap for stage, gap in gaps if stage == "decode"),
        end_to_end_ms=end_to_end_ms,
    )
