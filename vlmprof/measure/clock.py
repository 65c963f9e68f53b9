"""The two clocks that time a generation stage by stage, from ONE run: the host's clock, and CUDA events.

A mark assigns all the work since the last mark to one stage, so the stages cover the generation without gap or
overlap. The end-to-end time is a separate pair of readings of the host's clock, so that the sum of the stages can be
checked against it. ``HostClock`` synchronizes with the device at every mark. ``EventClock`` never waits between start
and stop: it records an event on the device at each mark, and reads the events at the end. Decode steps are then as
fast as without it. Limits: work on another stream than the current one is in no stage; it is in the end-to-end time,
so the check of the sum detects it.
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
    """A timestamp on the device, as ``torch.cuda.Event(enable_timing=True)``."""

    def record(self) -> None:
        """Queue the event: the device takes its time when all work queued before is done."""
        ...

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from this event to a later one; both must have happened."""
        ...


def clock_for(device: str) -> Clock:
    """The clock for a device: CUDA events on a GPU, else the host's clock."""
    if device.startswith("cuda"):
        return EventClock(_cuda_event, lambda: torch.cuda.synchronize(device))
    return HostClock()


def _cuda_event() -> Event:
    event: Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # untyped in torch
    return event


def _no_synchronization() -> None:
    """Work on a CPU is done when its call returns."""


@final
class HostClock:
    """Synchronizes with the device and reads the host's clock at every mark."""

    def __init__(self, wait: Callable[[], None] = _no_synchronization) -> None:
        """Nothing runs yet.

        Args:
            wait: Returns when the device has done all queued work.
        """
        self._wait = wait
        self._begin = self._first = 0
        self._marks: list[tuple[Stage, int]] = []

    def start(self) -> None:
        """Start timing a generation."""
        self._wait()
        self._marks = []
        self._begin = time.perf_counter_ns()
        self._first = time.perf_counter_ns()

    def mark(self, stage: Stage) -> None:
        """Synchronize with the device, and assign the time since the last mark to ``stage``."""
        self._wait()
        self._marks.append((stage, time.perf_counter_ns()))

    def stop(self) -> StageTimes:
        """End the generation and return its times.

        Raises:
            Mismatch: a stage that every generation has was never marked.
        """
        self._wait()
        end_to_end = (time.perf_counter_ns() - self._begin) / 1e6
        starts = [self._first, *(end for _, end in self._marks)]
        gaps = [(stage, (end - start) / 1e6) for (stage, end), start in zip(self._marks, starts, strict=False)]
        return stage_times(gaps, end_to_end)


@final
class EventClock:
    """Records an event on the device at the end of each stage, and synchronizes once, at the end."""

    def __init__(self, make_event: Callable[[], Event], wait: Callable[[], None]) -> None:
        """Nothing runs yet.

        Args:
            make_event: Returns a new event of the device.
            wait: Returns when the device has done all queued work.
        """
        self._make, self._wait = make_event, wait
        self._events: list[Event] = []  # created once, reused in every generation
        self._stages: list[Stage] = []
        self._begin = 0

    def start(self) -> None:
        """Start timing a generation; the device is idle, so the first event happens now."""
        self._wait()
        self._stages = []
        self._begin = time.perf_counter_ns()
        self._record(0)

    def mark(self, stage: Stage) -> None:
        """Assign the device's time since the last mark to ``stage``; does not wait."""
        self._stages.append(stage)
        self._record(len(self._stages))

    def stop(self) -> StageTimes:
        """Synchronize with the device, end the generation and return its times.

        Raises:
            Mismatch: a stage that every generation has was never marked.
        """
        self._wait()
        end_to_end = (time.perf_counter_ns() - self._begin) / 1e6
        gaps = [(stage, self._events[i].elapsed_time(self._events[i + 1])) for i, stage in enumerate(self._stages)]
        return stage_times(gaps, end_to_end)

    def _record(self, index: int) -> None:
        if index == len(self._events):
            self._events.append(self._make())
        self._events[index].record()


def stage_times(gaps: Sequence[tuple[Stage, float]], end_to_end_ms: float) -> StageTimes:
    """Turn the gaps between marks into stage times: gaps of one stage are added up, each decode step keeps its own.

    Args:
        gaps: Stage and milliseconds between consecutive marks, in order.
        end_to_end_ms: The separately measured time of the whole generation.

    Raises:
        Mismatch: a stage that every generation has was never marked.
    """
    total: dict[Stage, float] = {}
    for stage, gap in gaps:
        total[stage] = total.get(stage, 0.0) + gap
    if "vision" not in total and "connector" in total:  # the model does not mark the end of its encoder
        total["vision"] = total.pop("connector")
    missing = [stage for stage in ("preprocess", "transfer", "vision", "prefill") if stage not in total]
    if missing:
        raise Mismatch(f"the generation marked no {', '.join(missing)}; it marked {', '.join(total) or 'nothing'}")
    return StageTimes(
        preprocess_ms=total["preprocess"],
        transfer_ms=total["transfer"],
        vision_ms=total["vision"],
        connector_ms=total.get("connector"),
        prefill_ms=total["prefill"],
        step_ms=tuple(gap for stage, gap in gaps if stage == "decode"),
        end_to_end_ms=end_to_end_ms,
    )
