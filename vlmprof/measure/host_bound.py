"""Whether decoding is bound by the host: then what a knob saves on the device does not show in the latency.

Two independent signs on a GPU. **Busy share**: the time that kernels run, from torch's profiler, divided by the time
that the same generation takes without it; a profiler slows the host and not the kernels. **Launch-ahead gain**: the
device sleeps after the prefill, so that the host can launch steps ahead of it; if steps are then shorter by their own
events, the device had been waiting for launches. Limits: the second needs a loop that does not wait for the device, and
is None otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from vlmprof.decoding import Clock
from vlmprof.measure.clock import clock_for
from vlmprof.records import Stage, StageTimes

BUSY_SHARE, GAIN = 0.85, 0.10
CYCLES_PER_MS = 2_000_000
"""Cycles of ``torch.cuda._sleep`` at the fastest clock of today's GPUs: on a slower one it sleeps longer."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HostBound:
    """The two signs, each None if it could not be measured."""

    busy_share: float | None
    launch_ahead_gain: float | None

    @property
    def verdict(self) -> bool | None:
        """Whether either sign says that decoding is host-bound; None if neither was measured."""
        signs = [
            None if self.busy_share is None else self.busy_share < BUSY_SHARE,
            None if self.launch_ahead_gain is None else self.launch_ahead_gain > GAIN,
        ]
        measured = [sign for sign in signs if sign is not None]
        return any(measured) if measured else None


@final
class HostAheadClock:
    """A clock that puts the device to sleep between prefill and decoding; only the times of its steps are of use."""

    def __init__(self, clock: Clock, sleep: Callable[[], None]) -> None:
        """Nothing runs yet.

        Args:
            clock: An event clock of the device.
            sleep: Queues a sleep on the device, and returns at once.
        """
        self._clock, self._sleep = clock, sleep
        self._began = 0.0
        self.launch_ms = 0.0
        """How long the host took to launch all steps."""

    def start(self) -> None:
        """Start timing a generation."""
        self._clock.start()

    def mark(self, stage: Stage) -> None:
        """Mark the inner clock; after the prefill, queue the sleep, whose time belongs to no step."""
        self._clock.mark(stage)
        if stage == "prefill":
            self._sleep()
            self._clock.mark("transfer")
            self._began = time.perf_counter()

    def stop(self) -> StageTimes | None:
        """End the generation and return the inner clock's times."""
        self.launch_ms = (time.perf_counter() - self._began) * 1e3
        return self._clock.stop()


def measure_host_bound(
    device: str, generate: Callable[[Clock], StageTimes | None], step_ms: float, latency_ms: float
) -> HostBound | None:
    """Measure both signs; None on a CPU.

    Args:
        device: The model's device.
        generate: Runs one generation of several tokens with the clock it is given.
        step_ms: Median time of a decode step.
        latency_ms: Median time of the generation without preprocessing.
    """
    if not device.startswith("cuda"):
        return None
    kernel_ms = _kernel_ms(lambda: generate(clock_for(device)))
    return HostBound(
        busy_share=kernel_ms / latency_ms if kernel_ms else None,  # a driver may refuse to trace kernels
        launch_ahead_gain=_launch_ahead_gain(device, generate, step_ms),
    )


def _kernel_ms(work: Callable[[], object]) -> float:
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    events = [event for event in profile.events() or () if event.device_type.name == "CUDA"]
    events = [event for event in events if not getattr(event, "is_user_annotation", False)]
    return union_ms([(event.time_range.start / 1e3, event.time_range.end / 1e3) for event in events])


def union_ms(spans: Sequence[tuple[float, float]]) -> float:
    """Total length of time spans in ms, overlapping parts counted once."""
    total, covered_until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return total


def _launch_ahead_gain(device: str, generate: Callable[[Clock], StageTimes | None], step_ms: float) -> float | None:
    normal = generate(clock_for(device))
    if normal is None or not normal.step_ms:
        return None
    sleep_ms = 2 * normal.decode_ms + 20
    clock = HostAheadClock(clock_for(device), lambda: torch.cuda._sleep(int(sleep_ms * CYCLES_PER_MS)))  # type: ignore[no-untyped-call]
    ahead = generate(clock)
    if ahead is None or clock.launch_ms >= sleep_ms:  # the host waited for the device, so it did not get ahead
        return None
    return 1 - sorted(ahead.step_ms)[len(ahead.step_ms) // 2] / step_ms
