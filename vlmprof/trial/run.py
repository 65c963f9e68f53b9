"""``run_trial``: one knob configuration of one model on one task. No ray, no file: values in, values out.

Three passes over one loaded model with the knobs applied: hooks count what a few requests really compute, all samples
are scored at whatever batch size is safe, and fixed requests are timed at the batch size that the job names. The model
is left as it came, also after an error.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import final

from vlmprof.decoding import Clock
from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.errors import OutOfMemory, UserError
from vlmprof.measure.attempt import attempted, attempted_within
from vlmprof.measure.count_check import require_counts_match
from vlmprof.measure.flops import count_flops_by_stage
from vlmprof.measure.memory import read_peak, reset_peak
from vlmprof.measure.model_counts import ModelCounts, ModelParts, counted
from vlmprof.measure.timing_lock import working_outside_timing
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import Timing, TrialPlan
from vlmprof.records import Prompt, Stage
from vlmprof.store.schema import setting_name, setting_words
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import (
    UNTIMED,
    Flops,
    Sample,
    ScoredSample,
    ScoreResult,
    TimedSetting,
    TrialOutcome,
)
from vlmprof.trial.partial_results import PartialResults
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import ResolvedTrial
from vlmprof.trial.samples import first_usable, legal_samples, samples_of
from vlmprof.trial.score_pass import ScorePass, longest_first, samples_of_shard
from vlmprof.trial.timing_pass import TimingPass, TimingRequests
from vlmprof.trial.worst_case_probe import Sizer

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
        UserError: no picture of the subset can be read.
    """
    plan, model, partial_results = resolved.plan, loaded.model, partial_results or PartialResults.discarding()
    samples = samples_of(resolved)
    usable, refused = legal_samples(partial_results.not_quarantined(samples))
    parts, missing = ModelParts.of(model), _untimed([] if "accuracy" in plan.measure else refused)
    with _outside_timing(resolved, model, report, missing), knobs_applied(resolved, model):
        output_tokens, to_count = model.output_tokens, _samples_to_count(loaded, samples, usable)
        counts, flops = _count(parts, to_count, model, report, resolved.anatomy.crops_known, missing)
        began, result = time.perf_counter(), ScoreResult()
        attempted("memory", missing, partial(_reset_peak, model.device))
        if "accuracy" in plan.measure:
            scoring = replace(_score_pass(resolved, loaded, samples, sizer, report, partial_results), missing=missing)
            result = _answered(scoring.run())
        seconds, peak = time.perf_counter() - began, attempted("memory", missing, partial(read_peak, model.device))
    planned = timed_settings(plan, output_tokens)
    settings = _timed(resolved, loaded, _without_failed(usable, result.scored), planned, seconds, report)
    missing.update(settings[0].missing if settings else {})
    return TrialOutcome(
        resolved=resolved,
        counts=counts,
        flops=flops,
        audit=result.audit,
        scored=result.scored,
        scored_by=result.scored_by,
        rechecked=result.rechecked,
        merged=result.merged,
        engine=settings[0].engine if settings and settings[0].sessions else loaded.engine.describe(),
        score_seconds=result.seconds,
        batch_size=max((answered.batch_size for answered in result.scored), default=None),
        settings=settings,
        timing_output_tokens=output_tokens or plan.timing.output_tokens,
        peak=None if "memory" in missing else peak,
        missing=missing,
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
    with _outside_timing(resolved, loaded.model, report, {}), knobs_applied(resolved, loaded.model):
        _reset_peak(loaded.model.device)
        samples = [sample for sample in shard if not partial_results.is_suspect(sample)]
        for _ in _score_pass(resolved, loaded, samples, sizer, report, partial_results).scored():
            pass
        partial_results.flush()


def time_again(outcome: TrialOutcome, loaded: LoadedModel, report: Callable[[Progress], None]) -> TrialOutcome:
    """The outcome with one more timing session of every setting, on a model that was loaded anew.

    Raises:
        OutOfMemory: no setting fits any more.
        Mismatch: the stages do not add up.
    """
    usable = legal_samples(_without_failed(samples_of(outcome.resolved), outcome.scored))[0]
    again = _timed(outcome.resolved, loaded, usable, outcome.settings, 0.0, report)
    return replace(outcome, settings=again)


def timed_settings(plan: TrialPlan, output_tokens: int | None) -> tuple[TimedSetting, ...]:
    """The batch sizes and lengths to time, in the job's order; none where latency is not measured.

    Args:
        plan: Of the trial.
        output_tokens: The length that a knob has set; it replaces the job's.
    """
    return tuple(
        TimedSetting(
            name=setting_name(batch_size, None if output_tokens else length),
            batch_size=batch_size,
            output_tokens=output_tokens or length,
        )
        for batch_size, length in (plan.timing.settings if "latency" in plan.measure else ())
    )


def _timed(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    samples: Sequence[Sample],
    settings: Sequence[TimedSetting],
    load_seconds: float,
    report: Callable[[Progress], None],
) -> tuple[TimedSetting, ...]:
    """The settings with one more session each. One that cannot be timed says why and has no session; others go on.

    Raises:
        OutOfMemory: there is one setting, or none that can be timed; that of the first one.
        UserError: likewise, because no sample can be timed.
        Mismatch: the stages do not add up.
    """
    timed: list[TimedSetting] = []
    first_error: UserError | OutOfMemory | None = None
    for index, setting in enumerate(settings):
        error: UserError | OutOfMemory | None = None
        try:
            once_more = (
                setting
                if setting.error
                else _timed_once_more(
                    resolved, loaded, samples, setting, load_seconds, _told_of(report, setting, index, len(settings))
                )
            )
        except (OutOfMemory, UserError) as failure:
            error = failure.with_traceback(None)  # which would keep the failed frames and their tensors alive
        if error is not None:
            release()
            first_error = first_error or error
            once_more = replace(setting, sessions=(), error=f"{type(error).__name__}: {error}")
        timed.append(once_more)
        load_seconds = once_more.sessions[-1].seconds if once_more.sessions else 0.0
    if first_error and not any(setting.sessions for setting in timed):
        raise first_error
    return tuple(timed)


def _timed_once_more(
    resolved: ResolvedTrial,
    loaded: LoadedModel,
    samples: Sequence[Sample],
    setting: TimedSetting,
    load_seconds: float,
    report: Callable[[Progress], None],
) -> TimedSetting:
    timing = replace(
        resolved.plan.timing, batch_size=setting.batch_size, output_tokens=setting.output_tokens, further=()
    )
    missing = dict(setting.missing)
    requests = _timing_requests(resolved, samples, loaded, timing, missing)
    loaded.engine.begin_timing()
    session = TimingPass(timing, loaded.model, requests, len(setting.sessions)).run(load_seconds, report)
    return replace(
        setting,
        sessions=(*setting.sessions, session),
        engine=setting.engine or loaded.engine.describe(),
        missing=missing,
    )


def _told_of(
    report: Callable[[Progress], None], setting: TimedSetting, index: int, count: int
) -> Callable[[Progress], None]:
    """Reports with the setting that is timed, and ``done`` as far as all settings are."""
    if count == 1:
        return report

    def tell(progress: Progress) -> None:
        done, total = index * progress.total + progress.done, count * progress.total
        note = "; ".join(filter(None, [setting_words(setting.name), progress.note]))
        report(replace(progress, done=done, total=total, note=note))

    return tell


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
    resolved: ResolvedTrial, model: AbstractModel, report: Callable[[Progress], None], missing: MutableMapping[str, str]
) -> AbstractContextManager[None]:
    """While another trial of this host is timed on the same processors, this one does not compute.

    Where the lock cannot be taken, for instance without a temporary folder that can be written to, it does compute, and
    ``missing`` says so.
    """
    on_cpu = bool(resolved.plan.timing.exclusive) and not model.device.startswith("cuda")

    def waiting(seconds: float) -> None:
        note = f"another trial is timed, waited {seconds:.0f} s"
        report(Progress(phase="load", done=0, total=1, note=note))

    return attempted_within("timing_lock", missing, working_outside_timing(on_cpu, waiting))


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


def _answered(result: ScoreResult) -> ScoreResult:
    """The result of a score pass with at least one answer.

    Raises:
        UserError: every sample failed; names the first.
    """
    scored = result.scored
    if scored and all(answered.generation is None for answered in scored):
        first = scored[0]
        raise UserError(
            f"{len(scored)} of {len(scored)} samples failed, the first is {first.example.id}: {first.error}"
        )
    return result


def _samples_to_count(loaded: LoadedModel, samples: Sequence[Sample], usable: Sequence[Sample]) -> tuple[Sample, ...]:
    """The first usable samples, opened.

    Raises:
        UserError: no sample of the trial can be given to the model.
    """
    found = first_usable(loaded, usable, COUNTED_REQUESTS, 2)
    if not found.readable:
        legal = {sample.example.id for sample in usable}
        failed = [(one.example.id, one.error) for one in found.broken]
        refused = [one for one in samples if one.example.id not in legal]
        failed += [(one.example.id, one.prompt.picture.fault or "its picture's size is refused") for one in refused]
        sample, why = failed[0]
        raise UserError(f"none of the {len(samples)} samples can be given to this model; the first, {sample}: {why}")
    return found.readable


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Counting:
    """One prompt after another, counted by hooks and by torch's counter of operations."""

    parts: ModelParts
    counts: ModelCounts
    model: AbstractModel
    crops_known: bool
    missing: MutableMapping[str, str]

    def flops(self, prompt: Prompt) -> Mapping[Stage, int] | None:
        """FLOP of a prompt and one decode step, by stage; None if they cannot be counted: the hooks count all the same.

        Args:
            prompt: Generates two tokens.
        """
        saved, compared = copy.deepcopy(self.counts), list[bool]()

        def work(clock: Clock | None = None) -> None:
            before = replace(self.counts)
            run = generate(self.model, [prompt], max_new_tokens=2, stop_at_eos=False, clock=clock)
            require_counts_match(before, self.counts, self.parts, run, crops_known=self.crops_known)
            compared.append(True)

        flops = attempted("flops", self.missing, partial(count_flops_by_stage, work))
        if not compared:  # the counter failed in the middle of the generation
            self.counts.restore(saved)
            work()
        return flops


def _count(
    parts: ModelParts,
    samples: Sequence[Sample],
    model: AbstractModel,
    report: Callable[[Progress], None],
    crops_known: bool,
    missing: MutableMapping[str, str],
) -> tuple[ModelCounts, Flops]:
    """Let hooks count a prefill and a decode step of a few requests; nothing is scored or timed."""
    report(Progress(phase="count", done=0, total=len(samples)))
    with counted(parts) as counts:
        counting = _Counting(parts=parts, counts=counts, model=model, crops_known=crops_known, missing=missing)
        each = [counting.flops(sample.prompt) for sample in samples]
    missing.update({f"counts of {name}": why for name, why in counts.failures.items()})
    known = [flops for flops in each if flops is not None]
    if not known or len(known) < len(each):
        return counts, Flops(first_token=None, decode_step=None)
    steps = [flops.get("decode", 0) for flops in known]
    prompts = [sum(flops.values()) - step for flops, step in zip(known, steps, strict=True)]
    return counts, Flops(first_token=statistics.fmean(prompts), decode_step=statistics.fmean(steps))


def _without_failed(samples: Sequence[Sample], scored: Sequence[ScoredSample]) -> list[Sample]:
    """The samples without those that failed in the score pass, where they are counted and named."""
    failed = {answered.example.id for answered in scored if answered.generation is None}
    return [sample for sample in samples if sample.example.id not in failed]


def _untimed(failed: Sequence[ScoredSample]) -> dict[str, str]:
    """What a row says of samples that are not timed because they failed; a score pass counts and names its own."""
    return {f"{UNTIMED}{sample.example.id}": sample.error for sample in failed}


def drawn_evenly(ordered: Sequence[Sample], count: int) -> list[Sample]:
    """All samples, first those in the middle of ``count`` equal parts of their order, then the others."""
    if count >= len(ordered):
        return list(ordered)
    middles = [(2 * part + 1) * len(ordered) // (2 * count) for part in range(count)]
    chosen = set(middles)
    return [ordered[i] for i in middles] + [sample for i, sample in enumerate(ordered) if i not in chosen]


def _timing_requests(
    resolved: ResolvedTrial,
    samples: Sequence[Sample],
    loaded: LoadedModel,
    timing: Timing,
    missing: MutableMapping[str, str],
) -> TimingRequests:
    """As many requests as the job asks for, each of exactly its batch size; too few samples are used several times.

    The samples are drawn evenly over the lengths of their prompts, each request from all of them, and are the same for
    every configuration of a model. Those that cannot be opened or encoded are named in ``missing``, and others take
    their place.

    Raises:
        UserError: no sample can be timed.
    """
    length = timing.output_tokens
    needed = timing.batch_size * timing.requests
    as_loaded = replace(resolved, settings=())
    with knobs_applied(resolved, loaded.model):
        found = first_usable(loaded, drawn_evenly(longest_first(as_loaded, samples), needed), needed, length)
    missing.update(_untimed(found.broken))
    if not found.readable:
        first = f"; the first, {found.broken[0].example.id}: {found.broken[0].error}" if found.broken else ""
        raise UserError(f"none of the trial's {len(samples)} samples can be timed{first}")
    prompts = [sample.prompt for sample in islice(cycle(longest_first(as_loaded, found.readable)), needed)]
    requests = [prompts[index :: timing.requests] for index in range(timing.requests)]
    configured = partial(knobs_applied, resolved, loaded.model)
    return TimingRequests(
        requests=requests, length=length, configured=configured, engine=loaded.engine, full_work=loaded.full_work
    )
