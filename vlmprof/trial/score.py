"""The score pass: every sample answered once, at whatever batch is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from vlmprof.engine.sights import Prepared
from vlmprof.errors import OutOfMemory
from vlmprof.tasks.ahead import Ahead
from vlmprof.trial.bench import Bench, NextBatch
from vlmprof.trial.chunks import Chunks
from vlmprof.trial.probe import Sizer, Sizing
from vlmprof.trial.resolve import Resolved, planned_counts
from vlmprof.trial.samples import Asked, Scored, judged


def score(  # noqa: PLR0913 (what to score and with what, and by name what is known of it)
    resolved: Resolved,
    asked: Sequence[Asked],
    bench: Bench,
    max_new_tokens: int,
    sizer: Sizer,
    report: Callable[[int], None],
    *,
    chunks: Chunks | None = None,
) -> Iterator[Scored]:
    """Answer and score all samples, the longest prompts first: what fits them fits all that follow.

    What ``chunks`` knows already is not scored again.

    Raises:
        OutOfMemory: not even one sample fits.
        Uncollected: the collector refuses an answer.
    """
    chunks = chunks or Chunks.nowhere()
    everything = _longest_first(resolved, asked)
    known = chunks.known(resolved, everything, bench)
    yield from known.values()
    left, done = [one for one in everything if one.example.id not in known], len(known)
    report(done)
    if not left:
        return
    sizing = Sizing(resolved, everything, bench, max_new_tokens, sizer)  # of all: a resumed trial asks as it did before
    with (
        chunks,
        Ahead([one.prompt.picture for one in left], readers(resolved, bench.model.device)) as ahead,
        NextBatch(bench, ahead.wait) as following,
    ):
        for answered in _batches(resolved, left, following, max_new_tokens, sizing, chunks):
            chunks.add(answered)
            yield from answered
            done += len(answered)
            report(done)


def readers(resolved: Resolved, device: str) -> int:
    """Processes that decode ahead: as the job says, else two beside a GPU and none where they would share its cores."""
    said = resolved.plan.readers
    return said if said is not None else 2 * (device == "cuda")


def _batches(
    resolved: Resolved,
    left: Sequence[Asked],
    following: NextBatch,
    max_new_tokens: int,
    sizing: Sizing,
    chunks: Chunks,
) -> Iterator[Sequence[Scored]]:
    """Batch by batch; what a process may have died of comes last, one at a time."""
    together = [one for one in left if not chunks.alone(one)]
    while together:
        size = sizing.size(len(together))
        batch, then = together[:size], together[size:]
        chunks.about_to([*batch, *then[: following.most * size]])
        opened, prepared = following.take(batch, then)
        yield opened.broken
        yield from _survive(resolved, opened.readable, following.bench, prepared, max_new_tokens, sizing)
        together = then
    for one in filter(chunks.alone, left):
        chunks.flush()
        chunks.about_to([one])
        opened, prepared = following.take([one], [])
        yield opened.broken
        yield from _survive(resolved, opened.readable, following.bench, prepared, max_new_tokens, sizing)


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


def blocks_of(resolved: Resolved, asked: Sequence[Asked], part: slice) -> list[Asked]:
    """The samples of one shard: every so many blocks of the order in which samples are scored.

    A block is as long as a batch can be, so the batches of all shards are those of a score pass that is not split
    (where the sizer chooses a divisor of ``batch.max``, or the job pins a size); shorter where there are few samples.
    """
    ordered = _longest_first(resolved, asked)
    most = resolved.plan.batch_size or resolved.plan.batch_max
    block = max(1, min(most, len(ordered) // part.step))
    return [one for start in range(0, len(ordered), block)[part] for one in ordered[start : start + block]]


def _longest_first(resolved: Resolved, asked: Sequence[Asked]) -> list[Asked]:
    def length(one: Asked) -> int:
        picture = one.prompt.picture
        return planned_counts(resolved, picture.height, picture.width).vision_tokens + len(one.prompt.text)

    return sorted(asked, key=length, reverse=True)
