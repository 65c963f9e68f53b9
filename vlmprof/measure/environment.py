"""Provenance of a row: machine, clocks, versions, commit. Every trial row has all of it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, MutableMapping
from functools import cache, partial
from pathlib import Path

import torch

from vlmprof import __version__
from vlmprof.measure.attempt import attempted
from vlmprof.measure.versions import ARITHMETIC, commit, installed, process
from vlmprof.records import Row, Scalar


def environment(device: str, missing: MutableMapping[str, str] | None = None) -> Row:
    """The provenance columns of a trial row that do not depend on the trial; None where one cannot be read.

    Args:
        device: ``cpu`` or ``cuda``.
        missing: Takes, by column, why one could not be read.
    """
    missing = {} if missing is None else missing
    driver, clock_mhz = (
        attempted("gpu_driver", missing, _gpu_state) or (None, None) if _on_gpu(device) else (None, None)
    )
    readings: dict[str, Callable[[], Scalar | None]] = {
        "device": lambda: device_name(device),
        "gpu_uuid": lambda: _gpu_uuid(device),
        "cpu": _cpu_name,
        "cpu_threads": torch.get_num_threads,
        "host": platform.node,
        "process": process,
        "python": platform.python_version,
        "torch": lambda: torch.__version__,
        "cuda": lambda: torch.version.cuda or "none",
        **{name: partial(installed, name) for name in ARITHMETIC if name != "torch"},
        "vlmprof": lambda: __version__,
        "vlmprof_commit": commit,
        "load_average": lambda: os.getloadavg()[0],
    }
    columns = {name: attempted(name, missing, read) for name, read in readings.items()}
    return {**columns, "gpu_driver": driver, "gpu_clock_mhz": clock_mhz}


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _gpu_uuid(device: str) -> str | None:
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if _on_gpu(device) else None


def device_name(device: str) -> str:
    """The manufacturer's name of a device; ``CPU`` for any CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def _gpu_state() -> tuple[str | None, int | None]:
    """Driver version and the current SM clock in MHz; None where the driver does not report them."""
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm", "--format=csv,noheader,nounits", "-i", _gpu_id()]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    driver, clock = (part.strip() for part in output.splitlines()[0].split(","))
    return driver, int(clock) if clock.isdigit() else None


def _gpu_id() -> str:
    """The id of the first visible GPU for nvidia-smi, which ignores CUDA_VISIBLE_DEVICES itself."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"


@cache
def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
