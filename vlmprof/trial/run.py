"""``run_trial``: one knob configuration of one model on one task. No ray, no file: values in, values out.

Three passes over one loaded model, inside the knobs' contexts: a few requests are counted (what do the knobs really
do), all samples are scored at whatever batch is safe, fixed requests are timed at the batch the job names. The model
leaves as it came, also on error.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import final

from vlmprof.engine.greedy import generate
from vlmprof.errors import Mismatch
from vlmprof.measure.certificate import require_as_said
from vlmprof.measure.clock import clock_for
from vlmprof.measure.flops import count_flops
from vlmprof.measure.memory import Peak, read_peak, reset_peak
from vlmprof.measure.observe import Counts, Whole, counted
from vlmprof.models.family import AbstractModel
from vlmprof.records import Prompt, Run, StageTimes
from vlmprof.surfaces import Clock
from vlmprof.trial.audit import Audit, audit
from vlmprof.trial.progress import Phase, Progress
from vlmprof.trial.resolve import Resolved, subset_of
from vlmprof.trial.samples import Asked, Scored, open_pictures
from vlmprof.trial.score import Sizer, score

COUNTED_REQUESTS = 2
STAGE_SUM_TOLERANCE = 0.02
"""Rule 3: stages that do not add up to the whole are not stages of it."""
CLOCK_TOLERANCE_MS = 0.05
"""Reading the clock takes time too, which is no share of anything."""
ATTEMPTS = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of one request, mean over the counted ones."""

    first_token: float
    """Vision side and prefill."""
    decode_step: float
    """The second token: the first step with a cache."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One timed generation of the timing pass."""

    repeat: int
    request: int
    run: Run
    stages: StageTimes
    redone: int
    """Generations thrown away because their stages did not add up."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that one trial produced, before it is made into rows."""

    resolved: Resolved
    counts: Counts
    flops: Flops
    scored: tuple[Scored, ...]
    score_seconds: float
    batch_size: int | None
    """The largest batch of the score pass; None when nothing was scored."""
    audit: Audit | None
    """Of answers against batch 1; None when nothing was answered in a batch."""
    timed: tuple[Timed, ...]
    timing_output_tokens: int
    peak: Peak | None
    """Of the timing pass where there was one, else of the score pass."""


def run_trial(
    resolved: Resolved, model: AbstractModel, sizer: Sizer, report: Callable[[Progress], None]
) -> Outcome:
    """Run one configuration.

    Raises:
        OutOfMemory: not even one sample fits.
        Mismatch: what ran is not what was asked for, or the stages do not add up.
    """
    plan = resolved.plan
    asked = [Asked(example=one, prompt=resolved.task.ask(one, plan.model.family)) for one in subset_of(resolved)]
    whole, crops_known = Whole.of(model), resolved.anatomy.crops_known
    with applied(resolved, model):
        output_tokens = model.output_tokens
        counts, flops = _count(whole, asked[:COUNTED_REQUESTS], model, report, crops_known=crops_known)
        began = time.perf_counter()
        scored: tuple[Scored, ...] = ()
        cap = output_tokens or resolved.task.max_new_tokens
        reset_peak(model.device)
        if "accuracy" in plan.measure:
            scored = tuple(score(resolved, asked, model, cap, sizer, _reporter(report, "score", len(asked))))
        seconds = time.perf_counter() - began
        report(Progress(phase="audit", done=0, total=plan.audit_samples))
        audited = audit(resolved, asked, scored, model, cap)
        length = output_tokens or plan.timing.output_tokens
        timed: tuple[Timed, ...] = ()
        if "latency" in plan.measure:
            reset_peak(model.device)
            timed = tuple(_time(resolved, asked, model, length, report))
        peak = read_peak(model.device)
    return Outcome(
        resolved=resolved,
        counts=counts,
        flops=flops,
        audit=audited,
        scored=scored,
        score_seconds=seconds,
        batch_size=max((one.batch_size for one in scored), default=None),
        timed=timed,
        timing_output_tokens=length,
        peak=peak,
    )


@contextmanager
def applied(resolved: Resolved, model: AbstractModel) -> Iterator[None]:
    """The model with every knob of a plan at its value."""
    with ExitStack() as knobs:
        for setting in resolved.settings:
            knobs.enter_context(setting.knob.applied(model, setting.value))
        yield


def _count(
    whole: Whole,
    asked: Sequence[Asked],
    model: AbstractModel,
    report: Callable[[Progress], None],
    *,
    crops_known: bool,
) -> tuple[Counts, Flops]:
    """Let hooks see a prefill and a decode step of a few requests; nothing is scored or timed."""
    report(Progress(phase="count", done=0, total=len(asked)))
    first, second = [], []
    with counted(whole) as counts:

        def certified(prompt: Prompt, length: int) -> None:
            before = replace(counts)
            run = generate(model, [prompt], max_new_tokens=length, stop_at_eos=False)
            require_as_said(before, counts, whole, run, crops_known=crops_known)

        for one in open_pictures(asked).readable:
            spent = [count_flops(partial(certified, one.prompt, length)) for length in (1, 2)]
            first.append(spent[0])
            second.append(spent[1] - spent[0])  # counts, unlike times, may be subtracted
    return counts, Flops(first_token=statistics.fmean(first), decode_step=statistics.fmean(second))


def _time(
    resolved: Resolved, asked: Sequence[Asked], model: AbstractModel, length: int, report: Callable[[Progress], None]
) -> Iterator[Timed]:
    """Fixed requests, exact length, the job's batch size: warm-up repeats are run and dropped, the rest is kept."""
    timing = resolved.plan.timing
    readable = open_pictures(asked[: timing.batch_size * timing.requests]).readable
    prompts = [one.prompt for one in readable]
    requests = [prompts[i : i + timing.batch_size] for i in range(0, len(prompts), timing.batch_size)]
    clock = clock_for(model.device)
    for repeat in range(-timing.warmup, timing.repeats):
        if repeat in (-timing.warmup, 0):  # never between repeats: a message is work beside the clock
            report(Progress(phase="warm up" if repeat < 0 else "time", done=0, total=timing.repeats))
        for index, request in enumerate(requests):
            run, stages, redone = _sound(model, request, length, clock)
            if repeat >= 0:
                yield Timed(repeat=repeat, request=index, run=run, stages=stages, redone=redone)


def stage_sum_error(stages: StageTimes) -> float:
    """How far the stages are from end-to-end, as a share of it."""
    return abs(stages.stage_sum_ms - stages.end_to_end_ms) / stages.end_to_end_ms


def _sound(
    model: AbstractModel, request: Sequence[Prompt], length: int, clock: Clock
) -> tuple[Run, StageTimes, int]:
    """One generation whose stages add up, and how many were thrown away for it.

    On a busy host a process can be put aside between two readings of the clock. Such a run is told by the identity it
    breaks, not by its length, so running it again biases nothing; a clock that is wrong never comes right.
    """
    broken: list[StageTimes] = []
    while len(broken) < ATTEMPTS:
        run = generate(model, request, max_new_tokens=length, stop_at_eos=False, clock=clock)
        stages = run.stages
        assert stages is not None, "a generation with a clock has stages"
        if stage_sum_error(stages) <= max(STAGE_SUM_TOLERANCE, CLOCK_TOLERANCE_MS / stages.end_to_end_ms):
            return run, stages, len(broken)
        broken.append(stages)
    last = broken[-1]
    raise Mismatch(
        f"the stages add up to {last.stage_sum_ms:.3f} ms of {last.end_to_end_ms:.3f} ms end to end,"
        f" {stage_sum_error(last):.1%} apart where {STAGE_SUM_TOLERANCE:.0%} is allowed, {ATTEMPTS} times in a row"
    )


def _reporter(report: Callable[[Progress], None], phase: Phase, total: int) -> Callable[[int], None]:
    return lambda done: report(Progress(phase=phase, done=done, total=total))
