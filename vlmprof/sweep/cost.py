"""How much work a trial is, from its plan and the sizes of a few pictures. No weights, no GPU: enough to put the
longest first, and no more.

The unit is one token through one decoder block. A sample costs its prompt once and its answer step by step; a step
also reads the weights, which costs about as much as ``READING`` tokens and is shared by the batch. What the estimate
does not know, such as how short answers really are or when a timing pass is precise enough, does not change the order
much: docs/scheduling.md says how well it ranks.
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
from vlmprof.trial.resolve import KnobSetting, ResolvedTrial, family_of, planned_counts, subset_of, task_of

READING = 64
"""Tokens that cost as much as reading the weights once, for a decode step: the step of one prompt is bound by it."""
TEXT = 32
"""Tokens of a question and its frame."""
LOOKED_AT = 32
"""Pictures whose sizes stand for those of the subset."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledTrial:
    """One trial, as a scheduler sees it."""

    trial: str
    load: int
    """Equal for trials that one loaded model serves."""
    chain: int
    """Equal for trials whose answers differ in length alone: scored once, by whoever begins with the longest."""
    score: float
    """Of the score pass, where answers are not cut from longer ones."""
    timing: float
    samples: int = 0
    """That are scored."""
    after: frozenset[str] = frozenset()
    """What must have ended before, by its ``trial``."""

    @property
    def cost(self) -> float:
        """Of the whole trial by itself."""
        return self.score + self.timing


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What an estimate needs of a subset under one vision setting."""

    samples: int
    vision_tokens: float


@final
class CostEstimator:
    """Estimates many plans; what they share is looked up once."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._models: dict[ModelSpec, Anatomy] = {}
        self._tasks: dict[TaskSpec, Task] = {}
        self._seen: dict[Hashable, _Seen] = {}
        self._numbers: dict[Hashable, int] = {}

    def work(self, plan: TrialPlan) -> ScheduledTrial:
        """The plan with its estimate; of nothing where one cannot be made, for want of the data on this machine say."""
        score, timing, samples = 0.0, 0.0, 0
        try:
            resolved = self._resolved(plan)
            seen = self._look(resolved)
            score = _score(resolved, seen) if "accuracy" in plan.measure else 0.0
            timing = _timing(resolved, seen) if "latency" in plan.measure else 0.0
            samples = seen.samples if "accuracy" in plan.measure else 0
        except Exception:  # an order is no reason to end a sweep: the trial meets the error itself, and keeps it
            score, timing, samples = 0.0, 0.0, 0
        load, chain = self._number(load_key(plan)), self._number(key_without_length(plan))
        return ScheduledTrial(trial=plan.id, load=load, chain=chain, score=score, timing=timing, samples=samples)

    def _number(self, key: Hashable) -> int:
        """A short name for a long key, the same for equal ones."""
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

    def _look(self, resolved: ResolvedTrial) -> _Seen:
        plan = resolved.plan
        vision = [setting for setting in resolved.settings if type(setting.knob).counts is not AbstractKnob.counts]
        key = plan.model, plan.task, tuple((setting.name, str(setting.value)) for setting in vision)
        if key not in self._seen:
            examples = subset_of(resolved)
            pictures = [example.picture for example in examples[:LOOKED_AT]]
            tokens = statistics.fmean(planned_counts(resolved, p.height, p.width).vision_tokens for p in pictures)
            self._seen[key] = _Seen(samples=len(examples), vision_tokens=tokens)
        return self._seen[key]


def _score(resolved: ResolvedTrial, seen: _Seen) -> float:
    plan = resolved.plan
    batch = min(plan.batch_size or plan.batch_max, seen.samples)
    cap = _said(resolved, OutputBudget) or resolved.task.max_new_tokens
    return seen.samples * (_prompt(resolved, seen) + cap * _depth(resolved) * (1 + READING / batch))


def _timing(resolved: ResolvedTrial, seen: _Seen) -> float:
    timing = resolved.plan.timing
    length = _said(resolved, OutputBudget) or timing.output_tokens
    rows = timing.batch_size
    request = rows * _prompt(resolved, seen) + length * _depth(resolved) * (rows + READING)
    return timing.processes * (timing.warmup + timing.repeats) * timing.requests * request


def _prompt(resolved: ResolvedTrial, seen: _Seen) -> float:
    """The vision side is about as deep as the whole language model; then come the blocks that run."""
    vision = seen.vision_tokens * resolved.anatomy.decoder_blocks
    return vision + (seen.vision_tokens + TEXT) * _depth(resolved)


def _depth(resolved: ResolvedTrial) -> float:
    """Blocks that run, each counted by its share of experts: attention is about half of a block."""
    anatomy = resolved.anatomy
    blocks = _said(resolved, DecoderStack) or anatomy.decoder_blocks
    experts = _said(resolved, ExpertRouting)
    share = experts / anatomy.experts_per_token if experts and anatomy.experts_per_token else 1.0
    return blocks * (1 + share) / 2


def _said(resolved: ResolvedTrial, surface: Any) -> float | None:
    """The number that the point sets for a surface; None where no knob of it is swept, or its value is a word.

    ``active_blocks`` may say which blocks to drop: its axis then counts those.
    """
    for setting in resolved.settings:
        if setting.knob.needs is not surface:
            continue
        number = setting.knob.axis(setting.value)
        dropped = isinstance(setting.value, dict) and "drop" in setting.value
        return resolved.anatomy.decoder_blocks - number if dropped and number is not None else number
    return None
