"""Energy of repeated work, from the board's own counter over windows that are much longer than its update interval.

The counter is updated every 20 to 100 ms, so over a window of 5 s it is accurate to within 2 %. Several shorter windows
are as good together: what one misses at its start and gains at its end is as likely to be more as to be less. Nothing
is subtracted: the energy of an idle board is part of what the work costs while it runs. Sampling power is no substitute
(arXiv 2312.02741: A100 and H100 average over a quarter of the time).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.measure.nvml import Gpu


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy and duration of a window of back-to-back work."""

    joules: float
    seconds: float
    rounds: int
    """How often the work ran in the window."""


def added_up(windows: Sequence[Energy]) -> Energy | None:
    """Several windows of the same work as one; None without any."""
    if not windows:
        return None
    return Energy(
        joules=sum(window.joules for window in windows),
        seconds=sum(window.seconds for window in windows),
        rounds=sum(window.rounds for window in windows),
    )


def measure_energy(
    gpu: Gpu, work: Callable[[], object], wait: Callable[[], None], seconds: float, multiple: int = 1
) -> Energy | None:
    """Repeat ``work`` for at least ``seconds``, synchronizing with the device by ``wait`` at both ends.

    Args:
        gpu: Has the counter.
        work: One round.
        wait: Returns when the device has done all queued work.
        seconds: The least length of the window.
        multiple: The rounds are a multiple of this number.

    Returns:
        None if the board does not count its energy, or is shared by instances (MIG).
    """
    wait()
    began, before = time.monotonic(), gpu.energy_joules()
    if before is None:
        return None
    rounds = 0
    while time.monotonic() - began < seconds or rounds % multiple:
        work()
        rounds += 1
    wait()
    after = gpu.energy_joules()
    if after is None:
        return None
    return Energy(joules=after - before, seconds=time.monotonic() - began, rounds=rounds)
