"""Checks a clock against work of known duration before its times are used.

Stages that add up can still be wrong: a clock that does not wait for the device assigns all the time to whichever stage
synchronizes in the end. So work of some milliseconds, first timed by itself, is run in two stages with two empty stages
between them, and the clock must report each stage accordingly.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vlmprof.decoding import Clock
from vlmprof.errors import Mismatch

FULL, EMPTY = (0.5, 1.5), 0.25
"""Allowed times, as shares of the known duration: the range for a stage with the work, the most for an empty one."""
SIZE, ROUNDS = 4096, 16


def require_accurate_clock(clock: Clock, work: Callable[[], object], wait: Callable[[], None]) -> None:
    """Let the clock time work of known duration, and compare.

    Args:
        clock: The clock to check.
        work: Queues some milliseconds of work on the device.
        wait: Returns when the device has done all queued work.

    Raises:
        Mismatch: the clock reports the work in another stage than it ran in, or with another duration.
    """
    work()  # the first run compiles and allocates
    wait()
    began = time.perf_counter_ns()
    work()
    wait()
    expected_ms = (time.perf_counter_ns() - began) / 1e6
    clock.start()
    clock.mark("preprocess")
    clock.mark("transfer")
    work()
    clock.mark("vision")
    clock.mark("connector")
    clock.mark("prefill")
    work()
    clock.mark("decode")
    stages = clock.stop()
    if stages is None:
        return
    full = {"vision": stages.vision_ms / expected_ms, "decode": stages.decode_ms / expected_ms}
    empty = {"connector": (stages.connector_ms or 0.0) / expected_ms, "prefill": stages.prefill_ms / expected_ms}
    wrong = {stage: share for stage, share in full.items() if not FULL[0] <= share <= FULL[1]}
    wrong |= {stage: share for stage, share in empty.items() if share > EMPTY}
    if wrong:
        reported = ", ".join(f"{stage} {share * expected_ms:.2f} ms" for stage, share in wrong.items())
        raise Mismatch(
            f"the clock is wrong: for {expected_ms:.2f} ms of work in vision, as much in decode, and nothing between,"
            f" it reported {reported}; either another process used the device, or the clock does not wait for it"
        )


def matmul_work(device: str) -> Callable[[], object]:
    """A function that queues some milliseconds of matrix products on a GPU."""
    matrix = torch.ones(SIZE, SIZE, device=device, dtype=torch.bfloat16)

    def work() -> None:
        for _ in range(ROUNDS):
            torch.mm(matrix, matrix)

    return work
