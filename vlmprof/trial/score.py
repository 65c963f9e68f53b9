"""The score pass: every sample answered once, at whatever batch is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from vlmprof.engine.sights import Prepared
from vlmprof.errors import OutOfMemory
from vlmprof.records import Example, Generation
from vlmprof.tasks.ahead import Ahead
from vlmprof.trial.bench import Bench, NextBatch
from vlmprof.trial.probe import Sizer, Sizing
from vlmprof.trial.resolve import Resolved, planned_counts
from vlmprof.trial.samples import Asked, Scored


def score(
    resolved: Resolved,
    asked: Sequence[Asked],
    bench: Bench,
    max_new_tokens: int,
    sizer: Sizer,
    report: Callable[[int], None],
) -> Iterator[Scored]:
    """Answer and score all samples, the longest prompts first: what fits them fits all that follow.

    Raises:
        OutOfMemory: not even one sample fits.
    """
    left, done = _longest_first(resolved, asked), 0
    sizing = Sizing(resolved, left, bench, max_new_tokens, sizer)
    report(0)
    with (
        Ahead([one.prompt.picture for one in left], readers(resolved, bench.model.device)) as ahead,
        NextBatch(bench, ahead.wait) as following,
    ):
        for answered in _batches(resolved, left, following, max_new_tokens, sizing):
            yield from answered
            done += len(answered)
            report(done)


def readers(resolved: Resolved, device: str) -> int:
    """Processes that decode ahead: as the job says, else two beside a GPU and none where they would share its cores."""
    said = resolved.plan.readers
    return said if said is not None else 2 * (device == "cuda")


def _batches(
    resolved: Resolved, left: list[Asked], following: NextBatch, max_new_tokens: int, sizing: Sizing
) -> Iterator[Sequence[Scored]]:
    while left:
        size = sizing.size(len(left))
        opened, prepared = following.take(left[:size], left[size:])
        yield opened.broken
        yield from _survive(resolved, opened.readable, following.bench, prepared, max_new_tokens, sizing)
        left = left[size:]


def _survive(
    resolved: Resolved,
    asked: Sequence[Asked],
    bench: Bench,
    prepared: Callable[[], Prepared],
    max_new_tokens: int,
    sizing: Sizing,
) -> Iterator[Sequence[Scored]]:
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
                yield _answer(resolved, piece, bench, ready, max_new_tokens)
                continue
            except OutOfMemory as error:
                failure = error
        again = partial(bench.prepare, piece)
        if failure is not None and not retried:
            # The allocator can fail while a block that fits is free (pytorch issue 189504): one failure proves nothing.
            retried = True
            pieces.insert(0, (piece, again))
            continue
        if failure is not None:
            sizing.failed(len(piece), failure)
            most = len(piece) - 1
        half = (len(piece) + 1) // 2
        pieces[:0] = [(part, partial(bench.prepare, part)) for part in (piece[:half], piece[half:]) if part]


def _answer(
    resolved: Resolved, asked: Sequence[Asked], bench: Bench, prepared: Callable[[], Prepared], max_new_tokens: int
) -> list[Scored]:
    if not asked:
        return []
    pairs = zip(asked, bench.answer(prepared, asked, max_new_tokens), strict=True)
    return [judged(resolved, one.example, generation, len(asked)) for one, generation in pairs]


def judged(resolved: Resolved, example: Example, generation: Generation, batch_size: int) -> Scored:
    """An answer with what the task's metric says of it."""
    verdict = resolved.task.metric.judge(generation.text, example)
    return Scored(
        example=example, generation=generation, score=verdict.score, parsed=verdict.parsed, batch_size=batch_size
    )


def _longest_first(resolved: Resolved, asked: Sequence[Asked]) -> list[Asked]:
    def length(one: Asked) -> int:
        picture = one.prompt.picture
        return planned_counts(resolved, picture.height, picture.width).vision_tokens + len(one.prompt.text)

    return sorted(asked, key=length, reverse=True)
