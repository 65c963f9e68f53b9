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
from dataclasses import replace
from functools import partial

from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.measure.count_check import require_counts_match
from vlmprof.measure.flops import count_flops
from vlmprof.measure.memory import read_peak, reset_peak
from vlmprof.measure.model_counts import ModelCounts, ModelParts, counted
from vlmprof.models.family import AbstractModel
from vlmprof.records import Prompt
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import (
    Flops,
    Sample,
    ScoreResult,
    TimingSession,
    TrialOutcome,
)
from vlmprof.trial.partial_results import PartialResults
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import ResolvedTrial, subset_of
from vlmprof.trial.samples import open_pictures
from vlmprof.trial.score_pass import samples_of_shard, score, score_and_audit
from vlmprof.trial.timing_pass import TimingPass, TimingRequests
from vlmprof.trial.worst_case_probe import Sizer

COUNTED_REQUESTS = 2


def run_trial(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    sizer: Sizer,
    report: Callable[[Progress], None],
    chunks: PartialResults | None = None,
) -> TrialOutcome:
    """Run one configuration on a loaded model; ``chunks`` brings what was answered before and takes what is.

    Raises:
        OutOfMemory: not even one sample fits.
        Mismatch: what ran is not what was asked for, or the stages do not add up.
        Uncollected: the collector refuses an answer.
    """
    plan, model = resolved.plan, loaded.model
    asked, chunks = _asked(resolved), chunks or PartialResults.discarding()
    sound = chunks.sound(asked)
    whole, crops_known = ModelParts.of(model), resolved.anatomy.crops_known
    with knobs_applied(resolved, model):
        output_tokens = model.output_tokens
        counts, flops = _count(whole, sound[:COUNTED_REQUESTS], model, report, crops_known=crops_known)
        began, given = time.perf_counter(), ScoreResult()
        _own_peak(model.device)
        if "accuracy" in plan.measure:
            cap = output_tokens or resolved.task.max_new_tokens
            given = score_and_audit(resolved, asked, loaded, cap, sizer, report, chunks=chunks)
        seconds = time.perf_counter() - began
        peak = read_peak(model.device)
    length = output_tokens or plan.timing.output_tokens
    sessions: tuple[TimingSession, ...] = ()
    if "latency" in plan.measure:
        sessions = (TimingPass(plan.timing, model, _work(resolved, sound, loaded, length)).run(seconds, report),)
    return TrialOutcome(
        resolved=resolved,
        counts=counts,
        flops=flops,
        audit=given.audit,
        scored=given.scored,
        scored_by=given.scored_by,
        merged=given.merged,
        engine=loaded.engine.describe(),
        score_seconds=given.seconds,
        batch_size=max((one.batch_size for one in given.scored), default=None),
        sessions=sessions,
        timing_output_tokens=length,
        peak=peak,
    )


def score_part(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    sizer: Sizer,
    report: Callable[[Progress], None],
    chunks: PartialResults,
    part: slice,
) -> None:
    """Answer some of a configuration's samples, for the trial itself to go on from; all of them are sent.

    Args:
        resolved: The configuration.
        loaded: A loaded model.
        sizer: Answers batch sizes.
        report: Told how far it has come.
        chunks: Bring what was answered before, and take what is.
        part: Which blocks of samples.

    Raises:
        OutOfMemory: not even one sample fits.
        Uncollected: the collector refuses an answer.
    """
    mine = [one for one in samples_of_shard(resolved, _asked(resolved), part) if not chunks.alone(one)]

    def done(count: int) -> None:
        report(Progress(phase="score", done=count, total=len(mine)))

    with knobs_applied(resolved, loaded.model):
        cap = loaded.model.output_tokens or resolved.task.max_new_tokens
        _own_peak(loaded.model.device)
        for _ in score(resolved, mine, loaded, cap, sizer, done, chunks=chunks):
            pass
        chunks.flush()


@contextmanager
def knobs_applied(resolved: ResolvedTrial, model: AbstractModel) -> Iterator[None]:
    """The model with every knob of a plan at its value."""
    with ExitStack() as knobs:
        for setting in resolved.settings:
            knobs.enter_context(setting.knob.applied(model, setting.value))
        yield


def _own_peak(device: str) -> None:
    """From here on the peak is this trial's: what another left in the allocator's cache is no part of it."""
    release()
    reset_peak(device)


def _count(
    whole: ModelParts,
    asked: Sequence[Sample],
    model: AbstractModel,
    report: Callable[[Progress], None],
    *,
    crops_known: bool,
) -> tuple[ModelCounts, Flops]:
    """Let hooks see a prefill and a decode step of a few requests; nothing is scored or timed."""
    report(Progress(phase="count", done=0, total=len(asked)))
    first, second = [], []
    with counted(whole) as counts:

        def certified(prompt: Prompt, length: int) -> None:
            before = replace(counts)
            run = generate(model, [prompt], max_new_tokens=length, stop_at_eos=False)
            require_counts_match(before, counts, whole, run, crops_known=crops_known)

        for one in open_pictures(asked).readable:
            spent = [count_flops(partial(certified, one.prompt, length)) for length in (1, 2)]
            first.append(spent[0])
            second.append(spent[1] - spent[0])  # counts, unlike times, may be subtracted
    return counts, Flops(first_token=statistics.fmean(first), decode_step=statistics.fmean(second))


def time_again(outcome: TrialOutcome, loaded: LoadedModel, report: Callable[[Progress], None]) -> TrialOutcome:
    """The outcome with one timing session more, of a model that was loaded anew.

    Raises:
        OutOfMemory: a request does not fit.
        Mismatch: the stages do not add up.
    """
    plan = outcome.resolved.plan
    left_out = {one.example.id for one in outcome.scored if one.quarantined}
    sound = [one for one in _asked(outcome.resolved) if one.example.id not in left_out]
    work = _work(outcome.resolved, sound, loaded, outcome.timing_output_tokens)
    session = TimingPass(plan.timing, loaded.model, work, len(outcome.sessions)).run(0.0, report)
    return replace(outcome, sessions=(*outcome.sessions, session))


def _asked(resolved: ResolvedTrial) -> list[Sample]:
    family = resolved.plan.model.family
    return [Sample(example=one, prompt=resolved.task.ask(one, family)) for one in subset_of(resolved)]


def _work(resolved: ResolvedTrial, asked: Sequence[Sample], loaded: LoadedModel, length: int) -> TimingRequests:
    size = resolved.plan.timing.batch_size
    readable = open_pictures(asked[: size * resolved.plan.timing.requests]).readable
    prompts = [one.prompt for one in readable]
    requests = [prompts[i : i + size] for i in range(0, len(prompts), size)]
    configured = partial(knobs_applied, resolved, loaded.model)
    return TimingRequests(requests=requests, length=length, configured=configured, engine=loaded.engine)
