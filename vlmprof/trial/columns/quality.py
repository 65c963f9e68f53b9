"""How good the answers of a trial were: the columns of ``trials`` that its metric fills.

Where a sample failed there is no value at all: a number over whichever samples did not fail is not this
configuration's. A corpus metric is computed once over all samples; its column is ``score``, never ``accuracy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from vlmprof.metrics.metric import Numbers
from vlmprof.records import Row, Scalar
from vlmprof.stats.intervals import bootstrap_interval, mean_interval
from vlmprof.trial.outcome import ScoredSample, TrialOutcome


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusScore:
    """What a corpus metric made of all answers together; empty for a metric that judges each alone."""

    parts: Numbers | None
    """(samples, k) contributions; None also where a sample failed."""
    each: Mapping[str, float]
    """Id -> the sample's own value, where the metric has any."""

    @staticmethod
    def of(outcome: TrialOutcome) -> CorpusScore:
        """The corpus metric over a trial's answers, if it has one and they are complete."""
        corpus = outcome.resolved.task.metric.corpus
        answered = [(one.generation.text, one.example) for one in outcome.scored if one.generation is not None]
        if corpus is None or not answered or len(answered) < len(outcome.scored):
            return CorpusScore(parts=None, each={})
        examples = [example for _, example in answered]
        parts = corpus.parts([text for text, _ in answered], examples)
        values = corpus.per_sample(parts).tolist() if corpus.per_sample else []
        return CorpusScore(
            parts=parts, each={example.id: value for example, value in zip(examples, values, strict=False)}
        )

    def own(self, one: ScoredSample) -> Row:
        """The score of a sample, for its row."""
        return {"score": self.each.get(one.example.id, one.score)}


def quality(outcome: TrialOutcome, together: CorpusScore) -> dict[str, Scalar | None]:
    """Counts, rates, the metric's value and its interval."""
    if not outcome.scored:
        return {"samples": 0}
    metric = outcome.resolved.task.metric
    answers = [one.generation for one in outcome.scored if one.generation is not None]
    counts = {
        "empty": sum(not answer.text.strip() for answer in answers),
        "cut": sum(answer.end == "cap" for answer in answers),
        "unparsable": sum(one.generation is not None and not one.parsed for one in outcome.scored),
    }
    return {
        "samples": len(outcome.scored),
        "samples_failed": len(outcome.scored) - len(answers),
        **{f"samples_{name}": count for name, count in counts.items()},
        **{f"{name}_rate": count / len(answers) if answers else None for name, count in counts.items()},
        "metric": metric.name,
        "metric_kind": metric.kind,
        "batch_size": outcome.batch_size,
        "samples_quarantined": sum(one.quarantined for one in outcome.scored),
        "quarantined": " ".join(one.example.id for one in outcome.scored if one.quarantined) or None,
        "samples_per_s": _throughput(outcome),
        "scored_by": outcome.scored_by,
        "samples_resumed": outcome.merged.samples,
        "score_processes": None if outcome.scored_by else outcome.merged.processes,
        "score_mixed": outcome.merged.mixed or None,
        **(_value(outcome, together) if len(answers) == len(outcome.scored) else {}),
    }


def _throughput(outcome: TrialOutcome) -> float | None:
    """Of the samples that this process scored in its own time; None where it scored none."""
    scored = len(outcome.scored) - outcome.merged.samples - sum(one.quarantined for one in outcome.scored)
    return scored / outcome.score_seconds if scored and not outcome.scored_by else None


def _value(outcome: TrialOutcome, together: CorpusScore) -> dict[str, Scalar | None]:
    clusters = [one.example.cluster for one in outcome.scored]
    corpus = outcome.resolved.task.metric.corpus
    if corpus is None:
        scores = [one.score for one in outcome.scored if one.score is not None]
        mean = mean_interval(scores, clusters)
        ends = {"": mean.mean, "_low": mean.low, "_high": mean.high}
        return {f"{name}{end}": value for name in ("accuracy", "score") for end, value in ends.items()}
    if together.parts is None:
        return {}
    interval = bootstrap_interval(together.parts, corpus.combine, clusters)
    return {
        "score": corpus.value(together.parts),
        "score_low": interval.low if interval else None,
        "score_high": interval.high if interval else None,
    }
