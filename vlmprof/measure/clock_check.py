"""A clock against work of known length, before it is believed.

Stages that add up can still be wrong: a clock that does not wait for the device gives all the time to whichever stage
waits in the end. So work that takes some milliseconds, by a pair of readings around it alone, is put into two stages
with two empty ones between, and each must come out as what it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vlmprof.decoding import Clock
from vlmprof.errors import Mismatch

FULL, EMPTY = (0.5, 1.5), 0.25
"""Shares of the known length: what a stage with the work, and one without, may show."""
SIZE, ROUNDS = 4096, 16


def require_true(clock: Clock, work: Callable[[], object], wait: Callable[[], None]) -> None:
    """Let the clock time known work.

    Args:
        clock: To be believed or not.
        work: Asks the device for some milliseconds of work.
        wait: Returns when the device has done all that was asked.

    Raises:
        Mismatch: work shows in another stage than it was done in, or not as long as it was.
    """
    work()  # the first time compiles and allocates
    wait()
    began = time.perf_counter_ns()
    work()
    wait()
    known = (time.perf_counter_ns() - began) / 1e6
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
    shares = {"vision": stages.vision_ms / known, "decode": stages.decode_ms / known}
    empty = {"connector": (stages.connector_ms or 0.0) / known, "prefill": stages.prefill_ms / known}
    wrong = {stage: share for stage, share in shares.items() if not FULL[0] <= share <= FULL[1]}
    wrong |= {stage: share for stage, share in empty.items() if share > EMPTY}
    if wrong:
        told = ", ".join(f"{stage} {share * known:.2f} ms" for stage, share in wrong.items())
        raise Mismatch(
            f"the clock is wrong: of {known:.2f} ms of work in vision and as much in decode, with nothing between,"
            f" it made {told}; another process on the device does that too, else the clock does not wait for it"
        )


def products(device: str) -> Callable[[], object]:
    """Some milliseconds of matrix products on a GPU."""
    left = torch.ones(SIZE, SIZE, device=device, dtype=torch.bfloat16)

    def work() -> None:
        for _ in range(ROUNDS):
            torch.mm(left, left)

    return work
