"""The driver's counters of one GPU: energy, throttling, clocks, processes that compute on it.

Only reads; no setting of the GPU is changed. A reading that the driver refuses is None, never a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from vlmprof.measure.attempt import reason

THROTTLES = {"SW_THERM_SLOWDOWN": 269, "HW_THERM_SLOWDOWN": 270, "HW_POWER_BRAKE_SLOWDOWN": 271}
"""Cumulative nanoseconds by reason: NVML_FI_DEV_CLOCKS_EVENT_REASON_*, of nvml.h."""
POWER_CAP = 74
"""NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP; the steady state of a power-limited board, so not a disturbance."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One reading of the counters."""

    throttled_ns: int | None
    """Time in thermal slowdowns and power brakes, since the driver was loaded."""
    power_capped_ns: int | None
    sm_clock_mhz: int | None
    processes: frozenset[int] | None
    """Process ids, as the driver reports them, of all that compute on the GPU, this process included."""


@final
class Gpu:
    """One GPU, read through NVML."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        """Nothing is read yet.

        Args:
            nvml: The module ``pynvml``, or an object that behaves like it.
            handle: NVML's handle of the device.
        """
        self._nvml, self._handle = nvml, handle

    def read(self) -> GpuReading:
        """Read the counters now."""
        nvml, handle = self._nvml, self._handle
        fields = self._field_values([*THROTTLES.values(), POWER_CAP])
        throttled = [fields[field] for field in THROTTLES.values() if fields.get(field) is not None]
        processes = self._query(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        return GpuReading(
            throttled_ns=sum(throttled) if throttled else None,
            power_capped_ns=fields.get(POWER_CAP),
            sm_clock_mhz=self._query(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            processes=None if processes is None else frozenset(int(process.pid) for process in processes),
        )

    def energy_joules(self) -> float | None:
        """Energy since the driver was loaded; None if the board does not count it, or is shared by instances (MIG)."""
        if self.shared:
            return None
        millijoules = self._query(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if millijoules is None else millijoules / 1000.0

    @property
    def shared(self) -> bool:
        """Whether the board is split into instances (MIG): its energy is then not that of one of them."""
        mode = self._query(lambda: self._nvml.nvmlDeviceGetMigMode(self._handle))
        return bool(mode and mode[0])

    def _field_values(self, field_ids: list[int]) -> dict[int, int]:
        values = self._query(lambda: self._nvml.nvmlDeviceGetFieldValues(self._handle, field_ids)) or []
        return {int(v.fieldId): int(v.value.ullVal) for v in values if v.nvmlReturn == self._nvml.NVML_SUCCESS}

    def _query(self, call: Callable[[], Any]) -> Any:
        """The result of an NVML call; None if the driver refuses it, or the binding is of another version."""
        try:
            return call()
        except Exception:  # NVMLError from the driver; anything else from a binding that lacks a name
            return None


def open_gpu(device: str) -> tuple[Gpu | None, str]:
    """The first visible GPU and an empty reason, or None and the reason why there is none."""
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
    except Exception as error:  # NVMLError from the driver; anything else from a binding of another version
        return None, f"NVML: {reason(error)}"
    return Gpu(pynvml, handle), ""
