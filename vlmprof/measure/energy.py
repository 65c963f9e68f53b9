"""Energy of a stretch of work, from the board's own counter over a window that is long beside its updates.

The counter moves every 20 to 100 ms, so a window of 5 s is read to within 2 %. Nothing is subtracted: the energy of an
idle board is part of what the work costs while it runs. Sampling power is no substitute (arXiv 2312.02741: A100 and
H100 average over a quarter of the time).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from vlmprof.measure.nvml import Gpu


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What a window of back-to-back work took."""

    joules: float
    seconds: float
    rounds: int
    """How often the work was done in it."""


def measure_energy(gpu: Gpu, work: Callable[[], object], wait: Callable[[], None], seconds: float) -> Energy | None:
    """Do ``work`` again and again for at least ``seconds``, the device waited for at both ends.

    Returns:
        None where the board does not count its energy, or is shared.
    """
    wait()
    began, before = time.monotonic(), gpu.energy_joules()
    if before is None:
        return None
    rounds = 0
    while time.monotonic() - began < seconds:
        work()
        rounds += 1
    wait()
    after = gpu.energy_joules()
    if after is None:
        return None
    return Energy(joules=after - before, seconds=time.monotonic() - began, rounds=rounds)
