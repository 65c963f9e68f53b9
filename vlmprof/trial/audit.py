"""The audit of batch invariance: some samples answered again, one at a time.

Wrong padding or positions, features of a neighbour, and in half precision the batch size itself can change an answer.
The audit answers a slice of the samples at batch 1 and counts how often the answer differs from the one given in a
batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmprof.records import Generation
from vlmprof.stats.intervals import mean_interval
from vlmprof.stats.paired import mcnemar_mid_p
from vlmprof.trial.answer_cache import KnownAnswer, work_of
from vlmprof.trial.load_key import key_without_length
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import Audit, Sample, ScoredSample
from vlmprof.trial.resolve import ResolvedTrial
from vlmprof.trial.samples import open_pictures


def audited_answers(
    resolved: ResolvedTrial,
    samples: Sequence[Sample],
    scored: Sequence[ScoredSample],
    loaded: LoadedModel,
    max_new_tokens: int,
) -> tuple[Generation, ...]:
    """Answer the first ``audit_samples`` of the subset one at a time, of those that were answered in a batch.

    What the same work gave at batch 1 before is not computed again.
    """
    audited = [sample for sample, _ in _slice(resolved, samples, scored)]
    settings = key_without_length(resolved.plan)
    works = {sample.example.id: work_of(resolved, loaded.model, sample) for sample in audited}
    known = {
        name: answer
        for name, work in works.items()
        if (answer := loaded.answers_alone.get(work, max_new_tokens, loaded.model.text))
    }
    unknown = [sample for sample in audited if sample.example.id not in known]
    for sample in open_pictures(unknown, loaded.has_features_alone).readable:
        generation = loaded.answer_alone(sample, max_new_tokens)
        answer = KnownAnswer(generation=generation, batch_size=1, trial=resolved.plan.id, settings=settings)
        known[sample.example.id] = answer
        loaded.answers_alone.add(works[sample.example.id], answer)
    return tuple(known[name].generation for name in works)


def audit(
    resolved: ResolvedTrial, samples: Sequence[Sample], scored: Sequence[ScoredSample], alone: Sequence[Generation]
) -> Audit | None:
    """Compare the answers given in batches with those at batch 1, ``alone``, from ``audited_answers``.

    Returns:
        None when nothing was answered in a batch of more than one, or the job asks for no audit.
    """
    batched = [before for _, before in _slice(resolved, samples, scored)]
    pairs = [(before, generation.text) for before, generation in zip(batched, alone, strict=True)]
    if not pairs:
        return None
    flips = [float(before.generation is not None and before.generation.text != text) for before, text in pairs]
    changes = [_change(resolved, before, text) for before, text in pairs]
    known = [change for change in changes if change is not None]
    return Audit(
        samples=len(pairs),
        flips=round(sum(flips)),
        flip_rate=mean_interval(flips, [before.example.cluster for before, _ in pairs]),
        mcnemar_p=mcnemar_mid_p(sum(c > 0 for c in known), sum(c < 0 for c in known)) if known else None,
    )


def _change(resolved: ResolvedTrial, before: ScoredSample, text: str) -> float | None:
    """Score of the answer at batch 1 minus that of the answer in a batch; None where either has none."""
    alone = resolved.task.metric.judge(text, before.example).score
    return None if alone is None or before.score is None else alone - before.score


def _slice(
    resolved: ResolvedTrial, samples: Sequence[Sample], scored: Sequence[ScoredSample]
) -> list[tuple[Sample, ScoredSample]]:
    batched = {
        answered.example.id: answered
        for answered in scored
        if answered.generation is not None and answered.batch_size > 1
    }
    pairs = [(sample, batched[sample.example.id]) for sample in samples if sample.example.id in batched]
    return pairs[: resolved.plan.audit_samples]
