"""The score pass: every sample answered once, at whatever batch is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from vlmprof.engine.sights import Prepared
from vlmprof.errors import OutOfMemory
from vlmprof.measure.memory import read_peak
from vlmprof.plan.point import canonical
from vlmprof.records import Example, Generation
from vlmprof.tasks.ahead import Ahead
from vlmprof.trial.bench import Bench, NextBatch
from vlmprof.trial.resolve import Resolved, planned_counts
from vlmprof.trial.samples import Asked, Scored


class Sizer(Protocol):
    """What a trial needs of the batch sizer; see ``trial.batching.BatchSizer``."""

    def ask(self, key: str, most: int, total_bytes: int | None) -> int: ...
    def tell_fit(self, key: str, size: int, peak_bytes: int | None) -> None: ...
    def tell_out_of_memory(self, key: str, size: int) -> None: ...


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
    report(0)
    with (
        Ahead([one.prompt.picture for one in left], readers(resolved, bench.model.device)) as ahead,
        NextBatch(bench, ahead.wait) as following,
    ):
        for answered in _batches(resolved, left, following, max_new_tokens, sizer):
            yield from answered
            done += len(answered)
            report(done)


def readers(resolved: Resolved, device: str) -> int:
    """Processes that decode ahead: as the job says, else two beside a GPU and none where they would share its cores."""
    said = resolved.plan.readers
    return said if said is not None else 2 * (device == "cuda")


def _batches(
    resolved: Resolved, left: list[Asked], following: NextBatch, max_new_tokens: int, sizer: Sizer
) -> Iterator[Sequence[Scored]]:
    bench = following.bench
    key = sizing_key(resolved, bench.model.device)
    while left:
        size = _next_size(resolved, sizer, key, bench.model.device)
        opened, prepared = following.take(left[:size], left[size : 2 * size])
        yield opened.broken
        try:
            yield _answer(resolved, opened.readable, bench, prepared, max_new_tokens)
        except OutOfMemory:
            sizer.tell_out_of_memory(key, len(opened.readable))
            if resolved.plan.batch_size is not None:
                raise
            left = [one for one in left if one.example.id not in {b.example.id for b in opened.broken}]
            continue
        peak = read_peak(bench.model.device)
        sizer.tell_fit(key, len(opened.readable), peak.peak_bytes if peak else None)
        left = left[size:]


def sizing_key(resolved: Resolved, device: str) -> str:
    """Everything that decides how much memory a sample of this configuration takes."""
    plan = resolved.plan
    return canonical([device, plan.model_fingerprint, plan.model.dtype, plan.task.name, plan.point.items])


def _next_size(resolved: Resolved, sizer: Sizer, key: str, device: str) -> int:
    if resolved.plan.batch_size is not None:
        return resolved.plan.batch_size
    peak = read_peak(device)
    size = sizer.ask(key, resolved.plan.batch_max, peak.total_bytes if peak else None)
    if size == 0:
        raise OutOfMemory(1, "not even one sample fits")
    return size


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
