"""Provenance of a row: machine, clocks, versions, commit. Every trial row has all of it."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from vlmprof import __version__
from vlmprof.measure.versions import commit, process
from vlmprof.records import Row


def environment(device: str) -> Row:
    """The provenance columns of a trial row that do not depend on the trial."""
    on_gpu = device.startswith("cuda")
    driver, clock_mhz = _gpu_state() if on_gpu else (None, None)
    return {
        "device": device_name(device),
        "gpu_uuid": f"GPU-{torch.cuda.get_device_properties(device).uuid}" if on_gpu else None,
        "gpu_driver": driver,
        "gpu_clock_mhz": clock_mhz,
        "cpu": _cpu_name(),
        "cpu_threads": torch.get_num_threads(),
        "host": platform.node(),
        "process": process(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "vlmprof": __version__,
        "vlmprof_commit": commit(),
        "load_average": os.getloadavg()[0],
    }


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
