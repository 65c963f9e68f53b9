"""How much faster each stage is than in the model without knobs, and how much faster it could be: ``speedup_*``.

Both are timed in the same session, block by block: the canary is the model without knobs on the middle request, and a
stage of it is compared with the same stage of the configuration on the same request in the same block. So the numbers
of a row never compare two machines, two engines or two days, and need no other trial. Decode is compared at the first
step, the only one that a canary has.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from vlmprof import registry
from vlmprof.plan.point import TrialPlan, label
from vlmprof.records import ComparedWork, StageTimes
from vlmprof.stats.generation_times import paired_ratio
from vlmprof.store.schema import SPEEDUPS
from vlmprof.trial.outcome import TimingBlock, TimingSession

Cells = dict[str, float | int | str | None]
STAGE_MS: Mapping[str, Callable[[StageTimes], float]] = {
    "vision": lambda stages: stages.vision_ms + (stages.connector_ms or 0.0),
    "prefill": lambda stages: stages.prefill_ms,
    "decode": lambda stages: stages.step_ms[0] if stages.step_ms else 0.0,
}


def speedup_columns(sessions: Sequence[TimingSession]) -> Cells:
    """The speed-up of each stage with its interval, and its bound, from the sessions of one setting.

    Empty without a canary.
    """
    if not any(block.canary for session in sessions for block in session.kept):
        return {}
    work = next((session.work for session in sessions if session.work), None)
    row: Cells = {}
    for stage in SPEEDUPS:
        pairs = [pair for session in sessions for block in session.kept if (pair := _pair(block, stage))]
        ratio = paired_ratio([full for full, _ in pairs], [own for _, own in pairs]) if pairs else None
        if ratio is not None:
            ends = {"": ratio.mean, "_low": ratio.low, "_high": ratio.high}
            row |= {f"speedup_{stage}{end}": value for end, value in ends.items()}
        row[f"speedup_{stage}_bound"] = bound(work, stage) if work and pairs else None
    return row


def bound(work: ComparedWork, stage: str) -> float | None:
    """The ratio of operations, for decode of bytes; None where one of them is not known or there is no such work."""
    name = "decode_bytes" if stage == "decode" else f"{stage}_flop"
    own, full = getattr(work.own, name), getattr(work.full, name)
    return full / own if own and full else None


def _pair(block: TimingBlock, stage: str) -> tuple[float, float] | None:
    """The stage in ms without knobs and with them, on one request; None where the block did not time that request."""
    if block.canary is None:
        return None
    read = STAGE_MS[stage]
    full = read(block.canary.stages)
    own = [read(timed.stages) for timed in block.timed if timed.request == block.canary.request]
    return (full, statistics.fmean(own)) if own and full > 0 and min(own) > 0 else None


def loaded_with(plan: TrialPlan) -> str | None:
    """The settings that act when the model is loaded: the canary has them too. None without any."""
    point = dict(plan.point)
    names = [name for name in point if registry.load("knobs", name).load_argument]
    return ", ".join(f"{name}={label(point[name])}" for name in names) or None
