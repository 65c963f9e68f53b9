"""Estimates how much work a trial is, from its plan and the sizes of a few images. No weights, no GPU: just enough to
run the longest trials first.

The unit is one token through one decoder block. A sample costs its prompt once and its answer step by step; a step also
reads the weights, which costs about as much as ``WEIGHT_READ_TOKENS`` tokens and is shared by the batch. What the
estimate leaves out, such as how short answers really are or when a timing pass is precise enough, changes the order
little: docs/scheduling.md says how well it ranks.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, final

from vlmprof import registry
from vlmprof.job.spec import ModelSpec, TaskSpec
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.plan.point import TrialPlan
from vlmprof.surfaces import Anatomy, DecoderStack, ExpertRouting, OutputBudget
from vlmprof.tasks.task import Task
from vlmprof.trial.load_key import key_without_length, load_key
from vlmprof.trial.resolve import KnobSetting, ResolvedTrial, family_of, planned_counts, subset_of, task_of, why_illegal

WEIGHT_READ_TOKENS = 64
"""Tokens that cost as much as reading the weights once, in a decode step; at batch 1 the read dominates the step."""
TEXT_TOKENS = 32
"""Tokens of a question and its prompt template."""
SIZED_IMAGES = 32
"""Images whose sizes represent those of the subset."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledTrial:
    """One trial, or one shard of it, with what the scheduler needs to order it."""

    id: str
    """The id of the trial, or the name of the shard."""
    load: int
    """Equal for trials that the same loaded model can run."""
    chain: int
    """Equal for trials that differ only in output length: only the longest has to be scored."""
    score_cost: float
    """Of the score pass, if the answers are not cut from longer ones."""
    timing_cost: float
    """Of the timing pass."""
    samples: int = 0
    """Samples in the score pass."""
    after: frozenset[str] = frozenset()
    """Ids of what must have ended before."""

    @property
    def cost(self) -> float:
        """Of the whole trial, if nothing is cut from another's answers."""
        return self.score_cost + self.timing_cost


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _SubsetSize:
    """Size of a task's subset under one vision setting."""

    samples: int
    vision_tokens: float
    """Mean per sample."""


@final
class CostEstimator:
    """Estimates many plans; what they share is read once."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._models: dict[ModelSpec, Anatomy] = {}
        self._tasks: dict[TaskSpec, Task] = {}
        self._subsets: dict[Hashable, _SubsetSize] = {}
        self._numbers: dict[Hashable, int] = {}

    def estimate(self, plan: TrialPlan) -> ScheduledTrial:
        """The plan with its cost; 0 if it cannot be estimated, for example without the data on this machine."""
        score, timing, samples = 0.0, 0.0, 0
        try:
            resolved = self._resolved(plan)
            subset = self._subset_size(resolved)
            score = _score_cost(resolved, subset) if "accuracy" in plan.measure else 0.0
            timing = _timing_cost(resolved, subset) if "latency" in plan.measure else 0.0
            samples = subset.samples if "accuracy" in plan.measure else 0
        except Exception:  # a failed estimate must not end a sweep: the trial meets the same error, and records it
            score, timing, samples = 0.0, 0.0, 0
        load, chain = self._number(load_key(plan)), self._number(key_without_length(plan))
        return ScheduledTrial(id=plan.id, load=load, chain=chain, score_cost=score, timing_cost=timing, samples=samples)

    def _number(self, key: Hashable) -> int:
        """A number for a long key, the same for equal keys."""
        return self._numbers.setdefault(key, len(self._numbers))

    def _resolved(self, plan: TrialPlan) -> ResolvedTrial:
        family, checkpoint = family_of(plan.model)
        if plan.model not in self._models:
            self._models[plan.model] = family.describe(checkpoint)
        if plan.task not in self._tasks:
            self._tasks[plan.task] = task_of(plan.task)
        return ResolvedTrial(
            plan=plan,
            family=family,
            checkpoint=checkpoint,
            anatomy=self._models[plan.model],
            task=self._tasks[plan.task],
            settings=tuple(KnobSetting(name=n, knob=registry.load("knobs", n), value=v) for n, v in plan.point),
        )

    def _subset_size(self, resolved: ResolvedTrial) -> _SubsetSize:
        plan = resolved.plan
        vision = [setting for setting in resolved.settings if type(setting.knob).counts is not AbstractKnob.counts]
        key = plan.model, plan.task, tuple((setting.name, str(setting.value)) for setting in vision)
        if key not in self._subsets:
            examples = subset_of(resolved)
            sizes = [(one.picture.height, one.picture.width) for one in examples[:SIZED_IMAGES]]
            legal = [size for size in sizes if not why_illegal(resolved, *size)]
            counts = [planned_counts(resolved, *size).vision_tokens for size in legal]
            tokens = statistics.fmean(counts) if counts else 0.0
            self._subsets[key] = _SubsetSize(samples=len(examples), vision_tokens=tokens)
        return self._subsets[key]


def _score_cost(resolved: ResolvedTrial, subset: _SubsetSize) -> float:
    plan = resolved.plan
    batch = min(plan.batch_size or plan.batch_max, subset.samples)
    cap = _setting_of(resolved, OutputBudget) or resolved.task.max_new_tokens
    return subset.samples * (_prompt_cost(resolved, subset) + cap * _depth(resolved) * (1 + WEIGHT_READ_TOKENS / batch))


def _timing_cost(resolved: ResolvedTrial, subset: _SubsetSize) -> float:
    """Of all batch sizes and lengths: each is a pass of its own."""
    timing = resolved.plan.timing
    requests = (
        rows * _prompt_cost(resolved, subset)
        + (_setting_of(resolved, OutputBudget) or length) * _depth(resolved) * (rows + WEIGHT_READ_TOKENS)
        for rows, length in timing.settings
    )
    return timing.processes * (timing.warmup + timing.repeats) * timing.requests * sum(requests)


def _prompt_cost(resolved: ResolvedTrial, subset: _SubsetSize) -> float:
    """The vision encoder costs about as much as all decoder blocks; then come the blocks that run."""
    vision = subset.vision_tokens * resolved.anatomy.decoder_blocks
    return vision + (subset.vision_tokens + TEXT_TOKENS) * _depth(resolved)


def _depth(resolved: ResolvedTrial) -> float:
    """Blocks that run, each weighted by its share of experts: attention is about half of a block."""
    anatomy = resolved.anatomy
    blocks = _setting_of(resolved, DecoderStack) or anatomy.decoder_blocks
    experts = _setting_of(resolved, ExpertRouting)
    share = experts / anatomy.experts_per_token if experts and anatomy.experts_per_token else 1.0
    return blocks * (1 + share) / 2


def _setting_of(resolved: ResolvedTrial, surface: Any) -> float | None:
    """The number that the point sets for a surface; None if no knob of it is swept, or its value is not a number.

    ``active_blocks`` may name the blocks to drop: its axis value is then their count.
    """
    for setting in resolved.settings:
        if setting.knob.needs is not surface:
            continue
        number = setting.knob.axis(setting.value)
        dropped = isinstance(setting.value, dict) and "drop" in setting.value
        return resolved.anatomy.decoder_blocks - number if dropped and number is not None else number
    return None
