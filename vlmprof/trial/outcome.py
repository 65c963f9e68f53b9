"""What a trial produces, as values: samples and answers, timed generations, and ``TrialOutcome``, which holds it all.

Nothing here runs anything; ``trial.columns`` makes rows of these values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from vlmprof.measure.disturbance import PAUSED
from vlmprof.measure.energy import Energy
from vlmprof.measure.host_bound import HostBound
from vlmprof.measure.memory import Peak
from vlmprof.measure.model_counts import ModelCounts
from vlmprof.records import ComparedWork, Example, Generation, Prompt, Stage, StageTimes
from vlmprof.stats.generation_times import RequestTime
from vlmprof.stats.intervals import MeanInterval
from vlmprof.trial.answer_cache import Rechecked
from vlmprof.trial.resolve import ResolvedTrial

UNTIMED = "timing of sample "
"""What the name of a missing instrument begins with where a sample could not be timed; its id follows."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An example and the prompt that the model is given for it."""

    example: Example
    prompt: Prompt


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """An example with its answer, or with the reason why there is none."""

    example: Example
    generation: Generation | None
    score: float | None
    """Score of this answer; None where the metric only scores all answers together."""
    batch_size: int
    parsed: bool = True
    """Whether the metric understood the answer."""
    error: str = ""
    quarantined: bool = False
    """Whether it failed because processes died while they answered it."""
    answered_by: str | None = None
    """The trial that computed the answer, where that is another one; see ``trial.answer_cache``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSamples:
    """Samples whose picture is in memory, and those whose picture could not be read."""

    readable: tuple[Sample, ...]
    broken: tuple[ScoredSample, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAttempts:
    """Which attempts the answers of a score pass come from."""

    samples: int = 0
    """Answered by earlier processes."""
    processes: int = 1
    """Processes that answered at least one sample."""
    mixed: str = ""
    """What the processes differed in: column and values."""
    peak_bytes: int | None = None
    """Peak of the earlier processes; None without one, on a CPU, or where their devices differ."""


NOT_MERGED = MergedAttempts()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Result of comparing answers given in batches with answers at batch 1."""

    samples: int
    flips: int
    """Answers that differ."""
    flip_rate: MeanInterval
    mcnemar_p: float | None
    """Probability of score changes at least this one-sided by chance; 1 when no score changed. None where the metric
    scores no answer by itself."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """Result of the score pass."""

    scored: tuple[ScoredSample, ...] = ()
    audit: Audit | None = None
    scored_by: str | None = None
    """The trial that computed all answers; None where this trial computed some, or several others did."""
    rechecked: Rechecked | None = None
    """The comparison of shared answers with new ones; None where none was shared and computed again."""
    merged: MergedAttempts = NOT_MERGED
    seconds: float = 0.0
    """Time of the score pass, with probes of the batch size and without the audit."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of a request, mean over the counted requests; None where they could not be counted."""

    first_token: float | None
    """Vision side and prefill."""
    decode_step: float | None
    """The second token: the first step with a cache."""


REDONE_IN_A_ROW = 3
"""After this many consecutive disturbed blocks the disturbance is taken as permanent: they count, and the row says
so."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimedGeneration:
    """One timed generation."""

    session: int
    block: int
    repeat: int
    """How often its request was timed before in the session; -1 for a canary."""
    request: int
    generations: tuple[Generation, ...]
    stages: StageTimes
    redone: int
    """Generations thrown away because their stages did not add up."""
    disturbed: str = ""
    """What disturbed its block; empty: nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimingBlock:
    """Consecutive generations, and the canary after them."""

    timed: tuple[TimedGeneration, ...]
    canary: TimedGeneration | None
    disturbed: str
    clock_mhz: int | None
    power_limited: bool
    energy: Energy | None = None
    """Of the generations without the canary; None where it is not counted."""

    @property
    def times(self) -> list[RequestTime]:
        """End to end."""
        return [RequestTime(timed.request, timed.stages.end_to_end_ms) for timed in self.timed]

    @property
    def times_without_preprocess(self) -> list[RequestTime]:
        """From inputs in the host's memory."""
        return [RequestTime(timed.request, timed.stages.e2e_ms) for timed in self.timed]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSession:
    """Everything that was timed with one loaded model."""

    blocks: tuple[TimingBlock, ...]
    stopped: str
    """``precision``, ``precision_without_preprocess``, ``bimodal``, ``max_repeats`` or ``max_seconds``."""
    warmup_generations: int
    warm: bool
    """Whether warm-up settled."""
    waited_s: float
    seconds: float
    """Of the whole session, without waiting."""
    exclusive: bool
    """Whether it waited for the passes of other GPUs of its host, and they for it."""
    peak: Peak | None
    energy: Energy | None
    energy_missing: str
    operations: dict[Stage, int] | None
    """FLOP by stage of request 0, one decode step; None on a CPU."""
    decode_bytes: int | None
    """Bytes of weights that a decode step must read at least; None on a CPU."""
    host_bound: HostBound | None
    recorded_distance: float | None = None
    """Largest distance of recorded logits from the model's own; see ``engine.recorded_check``. None: not recorded."""
    work: ComparedWork | None = None
    """Of the canary's request; None where it could not be counted, or does not fit without knobs."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Instrument -> why it measured nothing."""

    @property
    def kept(self) -> tuple[TimingBlock, ...]:
        """The blocks that estimates use; see ``kept_blocks``."""
        return kept_blocks(self.blocks)


def kept_blocks(blocks: Sequence[TimingBlock]) -> tuple[TimingBlock, ...]:
    """The undisturbed blocks; all blocks where the disturbance is permanent.

    Even then a block in which the process was stopped is left out, unless that is what never ends: a pause adds to a
    time without bound, and a mean would follow it.
    """
    running = tuple(block for block in blocks if PAUSED not in block.disturbed)
    if _in_a_row(blocks, lambda block: PAUSED in block.disturbed):
        return tuple(blocks)
    if _in_a_row(running, lambda block: bool(block.disturbed)):
        return running
    return tuple(block for block in running if not block.disturbed)


def _in_a_row(blocks: Sequence[TimingBlock], is_disturbed: Callable[[TimingBlock], bool]) -> bool:
    return any(
        all(is_disturbed(block) for block in blocks[i : i + REDONE_IN_A_ROW])
        for i in range(len(blocks) - REDONE_IN_A_ROW + 1)
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimedSetting:
    """One batch size and answer length, with its timing sessions."""

    name: str
    """What its columns end in; see ``store.schema.setting_name``."""
    batch_size: int
    output_tokens: int
    """Exact, of each answer."""
    sessions: tuple[TimingSession, ...] = ()
    """Each with the model loaded anew; empty where it could not be timed."""
    error: str = ""
    """Why it could not be timed, such as for lack of memory."""
    engine: Mapping[str, str] = field(default_factory=dict)
    """As the engine described itself after the first session."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Samples that could not be timed -> why; see ``UNTIMED``."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """Everything that one trial produced, before rows are made of it."""

    resolved: ResolvedTrial
    counts: ModelCounts
    flops: Flops
    scored: tuple[ScoredSample, ...]
    scored_by: str | None
    """As of ``ScoreResult``."""
    rechecked: Rechecked | None
    """As of ``ScoreResult``."""
    merged: MergedAttempts
    """Which attempts the answers come from."""
    engine: Mapping[str, str]
    """The engine, and the kernels it chose for the decode steps that were timed, or scored where none were."""
    score_seconds: float
    batch_size: int | None
    """The largest batch of the score pass; None when nothing was scored."""
    audit: Audit | None
    """Batch answers compared with batch 1; None when nothing was answered in a batch."""
    settings: tuple[TimedSetting, ...]
    """What was timed, in the job's order; empty where latency is not measured."""
    timing_output_tokens: int
    """Of the first setting."""
    peak: Peak | None
    """Of the score pass, as far as it ran in this process."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Instrument -> why it measured nothing, outside of timing sessions."""

    @property
    def untimed(self) -> list[str]:
        """Ids of the samples that could not be given to the model, so no request of the first setting holds them."""
        return sorted(key.removeprefix(UNTIMED) for key in self.missing if key.startswith(UNTIMED))

    @property
    def sessions(self) -> tuple[TimingSession, ...]:
        """Those of the first setting; empty where it was not timed."""
        return self.settings[0].sessions if self.settings else ()

    @property
    def was_timed(self) -> bool:
        """Whether any setting was."""
        return any(setting.sessions for setting in self.settings)

    @property
    def generated(self) -> list[Generation]:
        """The answers of one setting that was timed; empty where none was."""
        setting = next((one for one in self.settings if one.sessions), None)
        blocks = [block for session in setting.sessions for block in session.kept] if setting else []
        return [generation for block in blocks for timed in block.timed for generation in timed.generations]

    @property
    def timed(self) -> list[TimedGeneration]:
        """The timed generations of the first setting that estimates use."""
        return [timed for session in self.sessions for block in session.kept for timed in block.timed]
