"""A device that works behind the host's back, as a GPU does: asking takes no time, doing does."""

from __future__ import annotations

from typing import Any

import pytest

from vlmprof.measure import clock as clock_module


class FakeDevice:
    """Its time and the host's are numbers, in milliseconds: nothing here depends on how busy the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host_ms = 1000.0
        self.busy_until_ms = 0.0
        monkeypatch.setattr(clock_module.time, "perf_counter_ns", lambda: round(self.host_ms * 1e6))

    def host_works(self, ms: float) -> None:
        self.host_ms += ms

    def ask(self, ms: float, asking_ms: float = 0.01) -> None:
        """Queue work of so many milliseconds."""
        self.host_ms += asking_ms
        self.busy_until_ms = max(self.busy_until_ms, self.host_ms) + ms

    def synchronize(self) -> None:
        self.host_ms = max(self.host_ms, self.busy_until_ms)

    def event(self) -> FakeEvent:
        return FakeEvent(self)


class FakeEvent:
    """Holds the time at which the device gets to it."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.at_ms = float("nan")

    def record(self) -> None:
        self.at_ms = max(self._device.host_ms, self._device.busy_until_ms)

    def elapsed_time(self, end_event: Any) -> float:
        assert self._device.host_ms >= end_event.at_ms, "read before it has happened"
        return float(end_event.at_ms - self.at_ms)
