"""``run_trial``: one knob configuration of one model on one task. No ray, no file: values in, values out.

Three passes over one loaded model with the knobs applied: hooks count what a few requests really compute, all samples
are scored at whatever batch size is safe, and fixed requests are timed at the batch size that the job names. The model
is left as it came, also after an error.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle, islice

from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.errors import UserError
from vlmprof.measure.count_check import require_counts_match
from vlmprof.measure.flops import count_flops
from vlmprof.measure.memory import read_peak, reset_peak
from vlmprof.measure.model_counts import ModelCounts, ModelParts, counted
from vlmprof.measure.timing_lock import working_outside_timing
from vlmprof.models.family import AbstractModel
from vlmprof.records import Prompt
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import (
    Flops,
    Sample,
    ScoredSample,
    ScoreResult,
    TimingSession,
    TrialOutcome,
)
from vlmprof.trial.partial_results import PartialResults
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import ResolvedTrial
from vlmprof.trial.samples import open_pictures, samples_of
from vlmprof.trial.score_pass import ScorePass, samples_of_shard
from vlmprof.trial.timing_pass import TimingPass, TimingRequests
from vlmprof.trial.worst_case_probe import Sizer

NAMED = 3
"""Samples that a message names; of more it gives the number."""
COUNTED_REQUESTS = 2
"""Requests whose work is counted by hooks before anything is scored or timed."""


def run_trial(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    sizer: Sizer,
    report: Callable[[Progress], None],
    partial_results: PartialResults | None = None,
) -> TrialOutcome:
    """Run one configuration on a loaded model.

    Args:
        resolved: The configuration.
        loaded: The model, without knobs; it is left as it came.
        sizer: Answers requests for batch sizes.
        report: Called with the progress after every batch, and when a phase begins.
        partial_results: Brings the answers of earlier attempts and takes new ones; None keeps none.

    Raises:
        OutOfMemory: not even one sample fits.
        Mismatch: what ran is not what was asked for, or the stages do not add up.
        Uncollected: the collector refuses an answer.
    """
    plan, model, partial_results = resolved.plan, loaded.model, partial_results or PartialResults.discarding()
    samples = samples_of(resolved)
    usable = partial_results.not_quarantined(samples)
    parts = ModelParts.of(model)
    with _outside_timing(resolved, model, report), knobs_applied(resolved, model):
        output_tokens = model.output_tokens
        counts, flops = _count(parts, usable[:COUNTED_REQUESTS], model, report, resolved.anatomy.crops_known)
        began = time.perf_counter()
        _reset_peak(model.device)
        result = ScoreResult()
        if "accuracy" in plan.measure:
            result = _score_pass(resolved, loaded, samples, sizer, report, partial_results).run()
        seconds, peak = time.perf_counter() - began, read_peak(model.device)
    length = output_tokens or plan.timing.output_tokens
    sessions: tuple[TimingSession, ...] = ()
    if "latency" in plan.measure:
        requests = _timing_requests(resolved, _answered(usable, result.scored), loaded, length)
        sessions = (TimingPass(plan.timing, model, requests).run(seconds, report),)
    return TrialOutcome(
        resolved=resolved,
        counts=counts,
        flops=flops,
        audit=result.audit,
        scored=result.scored,
        scored_by=result.scored_by,
        merged=result.merged,
        engine=loaded.engine.describe(),
        score_seconds=result.seconds,
        batch_size=max((answered.batch_size for answered in result.scored), default=None),
        sessions=sessions,
        timing_output_tokens=length,
        peak=peak,
    )


def score_part(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    sizer: Sizer,
    report: Callable[[Progress], None],
    partial_results: PartialResults,
    part: slice,
) -> None:
    """Answer one shard of a configuration's samples and send all answers; the trial itself starts from them.

    Args:
        resolved: The configuration.
        loaded: The model, without knobs.
        sizer: Answers requests for batch sizes.
        report: Called with the progress.
        partial_results: Brings the answers of earlier attempts, and takes new ones.
        part: Which blocks of samples; see ``score_pass.samples_of_shard``.

    Raises:
        OutOfMemory: not even one sample fits.
        Uncollected: the collector refuses an answer.
    """
    shard = samples_of_shard(resolved, samples_of(resolved), part)
    with _outside_timing(resolved, loaded.model, report), knobs_applied(resolved, loaded.model):
        _reset_peak(loaded.model.device)
        samples = [sample for sample in shard if not partial_results.is_suspect(sample)]
        for _ in _score_pass(resolved, loaded, samples, sizer, report, partial_results).scored():
            pass
        partial_results.flush()


def time_again(outcome: TrialOutcome, loaded: LoadedModel, report: Callable[[Progress], None]) -> TrialOutcome:
    """The outcome with one more timing session, on a model that was loaded anew.

    Raises:
        OutOfMemory: a request does not fit.
        Mismatch: the stages do not add up.
    """
    usable = _answered(samples_of(outcome.resolved), outcome.scored)
    requests = _timing_requests(outcome.resolved, usable, loaded, outcome.timing_output_tokens)
    timing_pass = TimingPass(outcome.resolved.plan.timing, loaded.model, requests, len(outcome.sessions))
    return replace(outcome, sessions=(*outcome.sessions, timing_pass.run(0.0, report)))


def _score_pass(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    samples: Sequence[Sample],
    sizer: Sizer,
    report: Callable[[Progress], None],
    partial_results: PartialResults,
) -> ScorePass:
    """Inside ``knobs_applied``, because a knob may set the length of answers."""
    return ScorePass(
        resolved=resolved,
        loaded=loaded,
        samples=samples,
        max_new_tokens=loaded.model.output_tokens or resolved.task.max_new_tokens,
        sizer=sizer,
        report=report,
        partial_results=partial_results,
    )


def _outside_timing(
    resolved: ResolvedTrial, model: AbstractModel, report: Callable[[Progress], None]
) -> AbstractContextManager[None]:
    """While another trial of this host is timed on the same processors, this one does not compute."""
    on_cpu = resolved.plan.timing.exclusive and not model.device.startswith("cuda")

    def waiting(seconds: float) -> None:
        note = f"another trial is timed, waited {seconds:.0f} s"
        report(Progress(phase="load", done=0, total=1, note=note))

    return working_outside_timing(on_cpu, waiting)


@contextmanager
def knobs_applied(resolved: ResolvedTrial, model: AbstractModel) -> Iterator[None]:
    """Inside a ``with`` block the model has every knob of the plan at its value."""
    with ExitStack() as knobs:
        for setting in resolved.settings:
            knobs.enter_context(setting.knob.applied(model, setting.value))
        yield


def _reset_peak(device: str) -> None:
    """Start the peak of this trial: what earlier trials left in the allocator's cache is given back first."""
    release()
    reset_peak(device)


def _count(
    parts: ModelParts,
    samples: Sequence[Sample],
    model: AbstractModel,
    report: Callable[[Progress], None],
    crops_known: bool,
) -> tuple[ModelCounts, Flops]:
    """Let hooks count a prefill and a decode step of a few requests; nothing is scored or timed."""
    report(Progress(phase="count", done=0, total=len(samples)))
    first, second = [], []
    with counted(parts) as counts:

        def generate_and_compare(prompt: Prompt, length: int) -> None:
            before = replace(counts)
            run = generate(model, [prompt], max_new_tokens=length, stop_at_eos=False)
            require_counts_match(before, counts, parts, run, crops_known=crops_known)

        for sample in open_pictures(samples).readable:
            flops = [count_flops(partial(generate_and_compare, sample.prompt, length)) for length in (1, 2)]
            first.append(flops[0])
            second.append(flops[1] - flops[0])  # counts, unlike times, may be subtracted
    return counts, Flops(first_token=statistics.fmean(first), decode_step=statistics.fmean(second))


def _answered(samples: Sequence[Sample], scored: Sequence[ScoredSample]) -> list[Sample]:
    """The samples without those that failed in the score pass, where they are counted and named."""
    failed = {answered.example.id for answered in scored if answered.generation is None}
    return [sample for sample in samples if sample.example.id not in failed]


def _timing_requests(
    resolved: ResolvedTrial, samples: Sequence[Sample], loaded: LoadedModel, length: int
) -> TimingRequests:
    """As many requests as the job asks for, each of exactly its batch size; few samples are used several times.

    Raises:
        UserError: a picture of theirs cannot be read, or there is no sample left.
    """
    timing = resolved.plan.timing
    needed = timing.batch_size * timing.requests
    opened = open_pictures(samples[:needed])
    if opened.broken:
        named = "; ".join(f"{broken.example.id}: {broken.error}" for broken in opened.broken[:NAMED])
        more = f"; and {len(opened.broken) - NAMED} more" if len(opened.broken) > NAMED else ""
        of = f"{len(opened.broken)} of the {len(samples[:needed])} samples"
        raise UserError(f"{of} that would be timed cannot be read: {named}{more}")
    if not opened.readable:
        raise UserError(f"there is no sample to time: none of {resolved.plan.task.name} was answered")
    prompts = [sample.prompt for sample in islice(cycle(opened.readable), needed)]
    requests = [prompts[i : i + timing.batch_size] for i in range(0, needed, timing.batch_size)]
    configured = partial(knobs_applied, resolved, loaded.model)
    return TimingRequests(requests=requests, length=length, configured=configured, engine=loaded.engine)
