"""Running a benchmark in parts that cannot hang, lose each other's results or hide a failure."""

from __future__ import annotations

import faulthandler
import json
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vlmprof.measure.environment import environment


class Report:
    """What has been measured so far, on disk after every section."""

    def __init__(self, path: Path, device: str, deadline_s: float) -> None:
        self.path, self.device, self.began, self.deadline_s = path, device, time.monotonic(), deadline_s
        self.data: dict[str, Any] = {"command": sys.argv, "environment": dict(environment(device)), "sections": {}}
        self.failed: list[str] = []
        # The last resort: whatever hangs, in Python or not, the process ends and says where it was.
        faulthandler.dump_traceback_later(deadline_s + 60, exit=True)
        self.write()

    @property
    def left_s(self) -> float:
        return self.deadline_s - (time.monotonic() - self.began)

    def write(self) -> None:
        self.data["seconds"] = round(time.monotonic() - self.began, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1, default=str))

    def section(self, name: str, limit_s: float, work: Callable[[], Any]) -> Any:
        """Run ``work`` for at most ``limit_s``; its result or its failure goes to disk under ``name``."""
        limit_s = min(limit_s, self.left_s)
        if limit_s < 2:
            self.data["sections"][name] = {"skipped": "no time left"}
            print(f"[{self.left_s:6.0f} s left] {name}: skipped, no time left", flush=True)
            return None
        print(f"[{self.left_s:6.0f} s left] {name}", flush=True)
        began = time.monotonic()
        result = None
        try:
            with time_limit(limit_s):
                result = work()
            self.data["sections"][name] = result
        except Exception as error:  # a section that fails is a result, and no other section's business
            self.failed.append(name)
            self.data["sections"][name] = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
            print(traceback.format_exc(limit=-6), flush=True)
        finally:
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            print(f"    {time.monotonic() - began:.1f} s: {json.dumps(result, default=str)[:600]}", flush=True)
            self.write()
        return result


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the block when it takes longer; a call into a library is left to end first."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sync(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def median_ms(device: str, work: Callable[[], Any], repeats: int, warmup: int = 1) -> float:
    """Median milliseconds of ``work`` on the host's clock, the device waited for before and after."""
    times = []
    for repeat in range(-warmup, repeats):
        sync(device)
        began = time.perf_counter()
        work()
        sync(device)
        if repeat >= 0:
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def copy_bandwidth(device: str) -> float:
    """Bytes a second of a large copy on the device, read and written counted."""
    size = 2**32 if device.startswith("cuda") else 2**26
    source = torch.empty(size, dtype=torch.uint8, device=device)
    source.random_(0, 255)
    target = torch.empty_like(source)
    return 2 * size / (median_ms(device, lambda: target.copy_(source), 10, warmup=3) / 1e3)


def gpu_state() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return platform.processor()
