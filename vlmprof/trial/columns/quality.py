"""The quality columns of ``trials``: counts of answers, and the metric's value with its interval.

Where a sample failed there is no value at all: a mean over the samples that did not fail would be of another set than
that of the other configurations. Only where the job allows a share of failed samples, the value is over the answered
ones, and ``samples_answered`` and ``failed_set`` say over which. A corpus metric is computed once over all samples; its
column is ``score``, never ``accuracy``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.metrics.metric import Numbers
from vlmprof.records import Row, Scalar
from vlmprof.stats.intervals import bootstrap_interval, mean_interval
from vlmprof.trial.outcome import ScoredSample, TrialOutcome


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusScore:
    """The value of a corpus metric over all answers; empty for a metric that judges each answer by itself."""

    parts: Numbers | None
    """(samples, k) contributions; None also where more samples failed than the job allows."""
    each: Mapping[str, float]
    """Id -> the sample's own value, where the metric has any."""

    @staticmethod
    def of(outcome: TrialOutcome) -> CorpusScore:
        """The corpus metric over a trial's answers, where the task has one and enough samples are answered."""
        corpus = outcome.resolved.task.metric.corpus
        pairs = [(sample.generation.text, sample.example) for sample in outcome.scored if sample.generation is not None]
        if corpus is None or not pairs or too_many_failed(outcome):
            return CorpusScore(parts=None, each={})
        examples = [example for _, example in pairs]
        parts = corpus.parts([text for text, _ in pairs], examples)
        values = corpus.per_sample(parts).tolist() if corpus.per_sample else []
        return CorpusScore(
            parts=parts, each={example.id: value for example, value in zip(examples, values, strict=False)}
        )

    def own(self, answered: ScoredSample) -> Row:
        """The score of a sample, for its row."""
        return {"score": self.each.get(answered.example.id, answered.score)}


def too_many_failed(outcome: TrialOutcome) -> bool:
    """Whether more samples failed than the job allows; by default none may."""
    failed = sum(answered.generation is None for answered in outcome.scored)
    allowed = outcome.resolved.plan.task.failed_samples_allowed
    return failed > allowed * len(outcome.scored) or (failed > 0 and failed == len(outcome.scored))


def quality(outcome: TrialOutcome, corpus_score: CorpusScore) -> dict[str, Scalar | None]:
    """Counts, rates, the metric's value and its interval."""
    if not outcome.scored:
        return {"samples": 0}
    metric = outcome.resolved.task.metric
    answers = [answered.generation for answered in outcome.scored if answered.generation is not None]
    counts = {
        "empty": sum(not answer.text.strip() for answer in answers),
        "cut": sum(answer.end == "cap" for answer in answers),
        "unparsable": sum(answered.generation is not None and not answered.parsed for answered in outcome.scored),
    }
    return {
        "samples": len(outcome.scored),
        "samples_failed": len(outcome.scored) - len(answers),
        "samples_answered": len(answers),
        "failed_set": _failed_set(outcome),
        **{f"samples_{name}": count for name, count in counts.items()},
        **{f"{name}_rate": count / len(answers) if answers else None for name, count in counts.items()},
        "metric": metric.name,
        "metric_kind": metric.kind,
        "batch_size": outcome.batch_size,
        "samples_quarantined": sum(answered.quarantined for answered in outcome.scored),
        "quarantined": " ".join(answered.example.id for answered in outcome.scored if answered.quarantined) or None,
        "samples_per_s": _throughput(outcome),
        "scored_by": outcome.scored_by,
        "samples_shared": sum(answered.answered_by is not None for answered in outcome.scored),
        "shared_rechecked": outcome.rechecked.samples if outcome.rechecked else None,
        "shared_different": outcome.rechecked.different if outcome.rechecked else None,
        "samples_resumed": outcome.merged.samples,
        "score_processes": None if outcome.scored_by else outcome.merged.processes,
        "score_mixed": outcome.merged.mixed or None,
        **({} if too_many_failed(outcome) else _value(outcome, corpus_score)),
    }


def _failed_set(outcome: TrialOutcome) -> str | None:
    """Equal for trials in which the same samples failed; None where none did."""
    return digest_of_ids([answered.example.id for answered in outcome.scored if answered.generation is None])


def digest_of_ids(samples: Sequence[str]) -> str | None:
    """Equal for the same samples in any order; None for none."""
    return hashlib.sha256("\0".join(sorted(samples)).encode()).hexdigest()[:12] if samples else None


def _throughput(outcome: TrialOutcome) -> float | None:
    """Of the samples that this process scored in its own time; None where it scored none."""
    elsewhere = sum(answered.quarantined or answered.answered_by is not None for answered in outcome.scored)
    scored = len(outcome.scored) - outcome.merged.samples - elsewhere
    return scored / outcome.score_seconds if scored else None


def _value(outcome: TrialOutcome, corpus_score: CorpusScore) -> dict[str, Scalar | None]:
    answered_samples = [answered for answered in outcome.scored if answered.generation is not None]
    clusters = [answered.example.cluster for answered in answered_samples]
    corpus = outcome.resolved.task.metric.corpus
    if corpus is None:
        scores = [answered.score for answered in answered_samples if answered.score is not None]
        mean = mean_interval(scores, clusters)
        ends = {"": mean.mean, "_low": mean.low, "_high": mean.high}
        return {f"{name}{end}": value for name in ("accuracy", "score") for end, value in ends.items()}
    if corpus_score.parts is None:
        return {}
    interval = bootstrap_interval(corpus_score.parts, corpus.combine, clusters)
    return {
        "score": corpus.value(corpus_score.parts),
        "score_low": interval.low if interval else None,
        "score_high": interval.high if interval else None,
    }
