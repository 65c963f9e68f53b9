"""The score pass: every sample answered once, at whatever batch is safe, then audited at batch 1.

``score_and_audit`` gives all answers of a trial and their audit: computed now, or cut from those of an earlier trial of
this process that allowed longer answers and is otherwise the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from vlmprof.engine.vision_cache import PreparedBatch
from vlmprof.errors import OutOfMemory
from vlmprof.tasks._data.prefetch import PicturePrefetcher
from vlmprof.trial.audit import audit, audited_answers
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import PastAnswers, Sample, ScoredSample, ScoreResult
from vlmprof.trial.partial_results import PartialResults
from vlmprof.trial.prefetch import BatchPrefetcher
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import ResolvedTrial, planned_counts
from vlmprof.trial.samples import judge_answer
from vlmprof.trial.worst_case_probe import Sizer, WorstCaseProbe


def score(  # noqa: PLR0913 (what to score and with what, and by name what is known of it)
    resolved: ResolvedTrial,
    asked: Sequence[Sample],
    loaded: LoadedModel,
    max_new_tokens: int,
    sizer: Sizer,
    report: Callable[[int], None],
    *,
    chunks: PartialResults | None = None,
) -> Iterator[ScoredSample]:
    """Answer and score all samples, the longest prompts first: what fits them fits all that follow.

    What ``chunks`` knows already is not scored again.

    Raises:
        OutOfMemory: not even one sample fits.
        Uncollected: the collector refuses an answer.
    """
    chunks = chunks or PartialResults.discarding()
    everything = _longest_first(resolved, asked)
    known = chunks.known(resolved, everything, loaded)
    yield from known.values()
    left, done = [one for one in everything if one.example.id not in known], len(known)
    report(done)
    if not left:
        return
    sizing = WorstCaseProbe(
        resolved, everything, loaded, max_new_tokens, sizer
    )  # of all: a resumed trial asks as it did before
    with (
        chunks,
        PicturePrefetcher(
            [one.prompt.picture for one in left], reader_processes(resolved, loaded.model.device)
        ) as ahead,
        BatchPrefetcher(loaded, ahead.wait) as following,
    ):
        for answered in _batches(resolved, left, following, max_new_tokens, sizing, chunks):
            chunks.add(answered)
            yield from answered
            done += len(answered)
            report(done)


def reader_processes(resolved: ResolvedTrial, device: str) -> int:
    """Processes that decode ahead: as the job says, else two beside a GPU and none where they would share its cores."""
    said = resolved.plan.readers
    return said if said is not None else 2 * (device == "cuda")


def _batches(
    resolved: ResolvedTrial,
    left: Sequence[Sample],
    following: BatchPrefetcher,
    max_new_tokens: int,
    sizing: WorstCaseProbe,
    chunks: PartialResults,
) -> Iterator[Sequence[ScoredSample]]:
    """Batch by batch; what a process may have died of comes last, one at a time."""
    together = [one for one in left if not chunks.alone(one)]
    while together:
        size = sizing.size(len(together))
        batch, then = together[:size], together[size:]
        chunks.announce([*batch, *then[: following.most * size]])
        opened, prepared = following.take(batch, then)
        yield opened.broken
        yield from _survive(resolved, opened.readable, following.loaded, prepared, max_new_tokens, sizing)
        together = then
    for one in filter(chunks.alone, left):
        chunks.flush()
        chunks.announce([one])
        opened, prepared = following.take([one], [])
        yield opened.broken
        yield from _survive(resolved, opened.readable, following.loaded, prepared, max_new_tokens, sizing)


def _survive(
    resolved: ResolvedTrial,
    asked: Sequence[Sample],
    loaded: LoadedModel,
    prepared: Callable[[], PreparedBatch],
    max_new_tokens: int,
    sizing: WorstCaseProbe,
) -> Iterator[Sequence[ScoredSample]]:
    """Answer a batch whatever the memory says: once more at the same size, then in halves; a pinned one as it is.

    Raises:
        OutOfMemory: one sample alone, or the batch that the job pins, does not fit.
    """
    pieces, retried, most = [(asked, prepared)], False, len(asked)
    while pieces:
        piece, ready = pieces.pop(0)
        failure = None
        if len(piece) <= most:
            try:
                yield _answer(resolved, piece, loaded, ready, max_new_tokens)
                continue
            except OutOfMemory as error:
                failure = error
        again = partial(loaded.prepare, piece)
        if failure is not None and not retried:
            # The allocator can fail while a block that fits is free (pytorch issue 189504): one failure proves nothing.
            retried = True
            pieces.insert(0, (piece, again))
            continue
        if failure is not None:
            sizing.failed(len(piece), failure)
            most = len(piece) - 1
        half = (len(piece) + 1) // 2
        pieces[:0] = [(part, partial(loaded.prepare, part)) for part in (piece[:half], piece[half:]) if part]


def _answer(
    resolved: ResolvedTrial,
    asked: Sequence[Sample],
    loaded: LoadedModel,
    prepared: Callable[[], PreparedBatch],
    max_new_tokens: int,
) -> list[ScoredSample]:
    if not asked:
        return []
    pairs = zip(asked, loaded.answer(prepared, asked, max_new_tokens), strict=True)
    return [judge_answer(resolved, one.example, generation, len(asked)) for one, generation in pairs]


def samples_of_shard(resolved: ResolvedTrial, asked: Sequence[Sample], part: slice) -> list[Sample]:
    """The samples of one shard: every so many blocks of the order in which samples are scored.

    A block is as long as a batch can be, so the batches of all shards are those of a score pass that is not split
    (where the sizer chooses a divisor of ``batch.max``, or the job pins a size); shorter where there are few samples.
    """
    ordered = _longest_first(resolved, asked)
    most = resolved.plan.batch_size or resolved.plan.batch_max
    block = max(1, min(most, len(ordered) // part.step))
    return [one for start in range(0, len(ordered), block)[part] for one in ordered[start : start + block]]


def _longest_first(resolved: ResolvedTrial, asked: Sequence[Sample]) -> list[Sample]:
    def length(one: Sample) -> int:
        picture = one.prompt.picture
        return planned_counts(resolved, picture.height, picture.width).vision_tokens + len(one.prompt.text)

    return sorted(asked, key=length, reverse=True)


def score_and_audit(  # noqa: PLR0913 (as of the score pass)
    resolved: ResolvedTrial,
    asked: Sequence[Sample],
    loaded: LoadedModel,
    cap: int,
    sizer: Sizer,
    report: Callable[[Progress], None],
    *,
    chunks: PartialResults | None = None,
) -> ScoreResult:
    """Answer and score all samples, and audit the answers.

    Raises:
        OutOfMemory: not even one sample fits.
        Uncollected: the collector refuses an answer.
    """
    chunks = chunks or PartialResults.discarding()
    plan = resolved.plan
    known = loaded.recall(plan, cap)
    if known is not None:
        scored = tuple(_rescored(resolved, one) for one in known.scored)
        checked = audit(resolved, asked, scored, known.audited)
        return ScoreResult(scored=scored, audit=checked, scored_by=known.trial)

    def done(count: int) -> None:
        report(Progress(phase="score", done=count, total=len(asked)))

    began = time.perf_counter()
    found = {one.example.id: one for one in score(resolved, asked, loaded, cap, sizer, done, chunks=chunks)}
    seconds = time.perf_counter() - began
    scored = tuple(found[one.example.id] for one in asked)  # in an order that no batch and no interruption decides
    report(Progress(phase="audit", done=0, total=plan.audit_samples))
    audited = audited_answers(resolved, asked, scored, loaded, cap)
    loaded.remember(plan, PastAnswers(trial=plan.id, cap=cap, scored=scored, audited=audited))
    checked = audit(resolved, asked, scored, audited)
    return ScoreResult(scored=scored, audit=checked, merged=chunks.merged(), seconds=seconds)


def _rescored(resolved: ResolvedTrial, one: ScoredSample) -> ScoredSample:
    assert one.generation is not None, "only complete answers are kept"
    return judge_answer(resolved, one.example, one.generation, one.batch_size)
