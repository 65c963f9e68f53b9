"""What the driver counts about one GPU: energy, throttling, clocks, who else computes on it.

Reads only; nothing of the GPU is set. Every reading that the driver refuses is None, never a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

THROTTLES = {"SW_THERM_SLOWDOWN": 269, "HW_THERM_SLOWDOWN": 270, "HW_POWER_BRAKE_SLOWDOWN": 271}
"""Cumulative nanoseconds by reason: NVML_FI_DEV_CLOCKS_EVENT_REASON_*, of nvml.h."""
POWER_CAP = 74
"""NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP; steady state on a power-limited board, so no disturbance."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One look at the counters."""

    throttled_ns: int | None
    """Thermal slowdowns and power brakes, since the driver was loaded."""
    power_capped_ns: int | None
    sm_clock_mhz: int | None
    processes: frozenset[int] | None
    """Of everything that computes on the GPU, this process included, as the driver numbers them."""


@final
class Gpu:
    """One GPU, as NVML sees it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Nothing is read yet.

        Args:
            nvml: The module ``pynvml``, or what behaves like it.
            handle: Of the device.
        """
        self._nvml, self._handle = nvml, handle

    def read(self) -> GpuReading:
        """The counters now."""
        nvml, handle = self._nvml, self._handle
        fields = self._fields([*THROTTLES.values(), POWER_CAP])
        throttled = [fields[field] for field in THROTTLES.values() if fields.get(field) is not None]
        computing = self._ask(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return GpuReading(
            throttled_ns=sum(throttled) if throttled else None,
            power_capped_ns=fields.get(POWER_CAP),
            sm_clock_mhz=self._ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            processes=None if computing is None else frozenset(int(one.pid) for one in computing),
        )

    def energy_joules(self) -> float | None:
        """Since the driver was loaded; None where the board does not count, or is shared by instances (MIG)."""
        if self.shared:
            return None
        millijoules = self._ask(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if millijoules is None else millijoules / 1000.0

    @property
    def shared(self) -> bool:
        """Whether the board is cut into instances: energy is then the whole board's, and nobody's."""
        mode = self._ask(lambda: self._nvml.nvmlDeviceGetMigMode(self._handle))
        return bool(mode and mode[0])

    def _fields(self, wanted: list[int]) -> dict[int, int]:
        values = self._ask(lambda: self._nvml.nvmlDeviceGetFieldValues(self._handle, wanted)) or []
        return {int(v.fieldId): int(v.value.ullVal) for v in values if v.nvmlReturn == self._nvml.NVML_SUCCESS}

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def open_gpu(device: str) -> tuple[Gpu | None, str]:
    """The first visible GPU, or None and why there is none."""
    if not device.startswith("cuda"):
        return None, "no GPU"
    try:
        import pynvml
    except ImportError:
        return None, "the package nvidia-ml-py is not installed"
    name = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    try:
        pynvml.nvmlInit()
        by_index = name.isdigit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(name)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(name)
    except pynvml.NVMLError as error:
        return None, f"NVML: {error}"
    return Gpu(pynvml, handle), ""
