"""All answers of a trial and their audit: given now, or cut from those of a trial that allowed longer ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.trial.audit import Audit, audit, audited_answers
from vlmprof.trial.bench import Bench, Said
from vlmprof.trial.chunks import NOT_MERGED, Chunks, Merged
from vlmprof.trial.probe import Sizer
from vlmprof.trial.progress import Progress
from vlmprof.trial.resolve import Resolved
from vlmprof.trial.samples import Asked, Scored, judged
from vlmprof.trial.score import score


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the score pass gave."""

    scored: tuple[Scored, ...] = ()
    audit: Audit | None = None
    scored_by: str | None = None
    """The trial whose answers were cut to this one's cap; None where this trial gave its own."""
    merged: Merged = NOT_MERGED
    seconds: float = 0.0
    """Of the score pass alone, probes of the batch size included; the audit is not."""


def answers(  # noqa: PLR0913 (as of the score pass)
    resolved: Resolved,
    asked: Sequence[Asked],
    bench: Bench,
    cap: int,
    sizer: Sizer,
    report: Callable[[Progress], None],
    *,
    chunks: Chunks | None = None,
) -> Answers:
    """Answer and score all samples, and audit the answers.

    Raises:
        OutOfMemory: not even one sample fits.
        Uncollected: the collector refuses an answer.
    """
    chunks = chunks or Chunks.nowhere()
    plan = resolved.plan
    known = bench.recall(plan, cap)
    if known is not None:
        scored = tuple(_rescored(resolved, one) for one in known.scored)
        checked = audit(resolved, asked, scored, known.audited)
        return Answers(scored=scored, audit=checked, scored_by=known.trial)

    def done(count: int) -> None:
        report(Progress(phase="score", done=count, total=len(asked)))

    began = time.perf_counter()
    found = {one.example.id: one for one in score(resolved, asked, bench, cap, sizer, done, chunks=chunks)}
    seconds = time.perf_counter() - began
    scored = tuple(found[one.example.id] for one in asked)  # in an order that no batch and no interruption decides
    report(Progress(phase="audit", done=0, total=plan.audit_samples))
    audited = audited_answers(resolved, asked, scored, bench, cap)
    bench.remember(plan, Said(trial=plan.id, cap=cap, scored=scored, audited=audited))
    checked = audit(resolved, asked, scored, audited)
    return Answers(scored=scored, audit=checked, merged=chunks.merged(), seconds=seconds)


def _rescored(resolved: Resolved, one: Scored) -> Scored:
    assert one.generation is not None, "only complete answers are kept"
    return judged(resolved, one.example, one.generation, one.batch_size)
