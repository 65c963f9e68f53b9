"""What a trial produces, as values: samples and answers, timed generations, and ``TrialOutcome``, which holds it all.

Nothing here runs anything; ``trial.columns`` makes rows of these values.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from vlmprof.measure.energy import Energy
from vlmprof.measure.host_bound import HostBound
from vlmprof.measure.memory import Peak
from vlmprof.measure.model_counts import ModelCounts
from vlmprof.records import Example, Generation, Prompt, Stage, StageTimes
from vlmprof.stats.intervals import MeanInterval
from vlmprof.trial.resolve import ResolvedTrial


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAttempts:
    """Whose answers a score pass put together."""

    samples: int = 0
    """That were answered by earlier processes."""
    processes: int = 1
    """That answered any."""
    mixed: str = ""
    """What they differed in: column and values."""
    peak_bytes: int | None = None
    """The most that an earlier one of them reserved; None without one, on a CPU, or where their devices differ."""


NOT_MERGED = MergedAttempts()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the comparison with batch 1 gave."""

    samples: int
    flips: int
    """Answers that differ."""
    flip_rate: MeanInterval
    mcnemar_p: float | None
    """How likely score changes as one-sided as these are by chance; 1 when no score changed. None where an answer has
    no score without the others."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """What the score pass gave."""

    scored: tuple[ScoredSample, ...] = ()
    audit: Audit | None = None
    scored_by: str | None = None
    """The trial whose answers were cut to this one's cap; None where this trial gave its own."""
    merged: MergedAttempts = NOT_MERGED
    seconds: float = 0.0
    """Of the score pass alone, probes of the batch size included; the audit is not."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of one request, mean over the counted ones."""

    first_token: float
    """Vision side and prefill."""
    decode_step: float
    """The second token: the first step with a cache."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """All that one trial produced, before it is made into rows."""

    resolved: ResolvedTrial
    counts: ModelCounts
    flops: Flops
    scored: tuple[ScoredSample, ...]
    scored_by: str | None
    """The trial whose answers were cut to this one's cap; None where this trial gave its own."""
    merged: MergedAttempts
    """Whose answers the score pass put together, where earlier processes had given some."""
    engine: Mapping[str, str]
    """The engine, and the kernels it chose for the decode steps that were timed, or scored where none were."""
    score_seconds: float
    batch_size: int | None
    """The largest batch of the score pass; None when nothing was scored."""
    audit: Audit | None
    """Of answers against batch 1; None when nothing was answered in a batch."""
    sessions: tuple[TimingSession, ...]
    """Of the timing pass, each with the model loaded anew; empty where nothing was timed."""
    timing_output_tokens: int
    peak: Peak | None
    """Of the score pass, as far as this process made it."""

    @property
    def timed(self) -> list[TimedGeneration]:
        """The timed generations that estimates are made of."""
        return [one for session in self.sessions for block in session.kept for one in block.timed]


REDONE_IN_A_ROW = 3
"""After so many disturbed blocks in a row the cause is there to stay: they count, and the row says so."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimedGeneration:
    """One timed generation."""

    session: int
    block: int
    repeat: int
    """Number in the session, from 0; -1 for a canary."""
    request: int
    generations: tuple[Generation, ...]
    stages: StageTimes
    redone: int
    """Generations thrown away because their stages did not add up."""
    disturbed: str = ""
    """By what its block was; empty: by nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimingBlock:
    """Some repeats in a row, and the canary after them."""

    timed: tuple[TimedGeneration, ...]
    canary: TimedGeneration | None
    disturbed: str
    clock_mhz: int | None
    power_limited: bool

    @property
    def repeats_ms(self) -> list[float]:
        """End to end, mean over the requests of each repeat."""
        by_repeat: dict[int, list[float]] = {}
        for one in self.timed:
            by_repeat.setdefault(one.repeat, []).append(one.stages.end_to_end_ms)
        return [statistics.fmean(values) for values in by_repeat.values()]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSession:
    """All that was timed with one loaded model."""

    blocks: tuple[TimingBlock, ...]
    stopped: str
    """``precision``, ``max_repeats`` or ``max_seconds``."""
    warmup_repeats: int
    warm: bool
    """Whether warm-up settled."""
    waited_s: float
    peak: Peak | None
    energy: Energy | None
    energy_missing: str
    operations: dict[Stage, int] | None
    """FLOP by stage of request 0, one decode step; None on a CPU."""
    decode_bytes: int | None
    """Weights that a step reads at least; None on a CPU."""
    host_bound: HostBound | None

    @property
    def kept(self) -> tuple[TimingBlock, ...]:
        """The blocks that the estimates are made of; see ``kept_blocks``."""
        return kept_blocks(self.blocks)


def kept_blocks(blocks: Sequence[TimingBlock]) -> tuple[TimingBlock, ...]:
    """The undisturbed blocks; all of them where the disturbance was there to stay."""
    clean = tuple(block for block in blocks if not block.disturbed)
    standing = any(
        all(block.disturbed for block in blocks[i : i + REDONE_IN_A_ROW])
        for i in range(len(blocks) - REDONE_IN_A_ROW + 1)
    )
    return tuple(blocks) if standing else clean


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An example and what the model is shown for it."""

    example: Example
    prompt: Prompt


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """An example with its answer, or with why there is none."""

    example: Example
    generation: Generation | None
    score: float | None
    """What the answer is worth by itself; None where the metric only judges all answers together."""
    batch_size: int
    parsed: bool = True
    """Whether the metric understood the answer."""
    error: str = ""
    quarantined: bool = False
    """Whether it is failed because processes that scored it died."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSamples:
    """Samples whose picture is in memory, and those whose picture could not be read."""

    readable: tuple[Sample, ...]
    broken: tuple[ScoredSample, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PastAnswers:
    """All answers of one score pass."""

    trial: str
    cap: int
    scored: tuple[ScoredSample, ...]
    audited: tuple[Generation, ...]
    """The answers of the audit, at batch 1."""
