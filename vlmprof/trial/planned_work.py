"""What the trials of a job will see and compute, before any of them has run: vision tokens, and distinct answers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import final

from vlmprof import registry
from vlmprof.job.spec import ModelSpec
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.plan.point import TrialPlan
from vlmprof.surfaces import Anatomy
from vlmprof.trial.load_key import OUTPUT_TOKENS, load_key
from vlmprof.trial.resolve import (
    ResolvedTrial,
    family_of,
    judged_picture,
    planned_counts,
    predicted_vision_tokens,
    resolve,
    subset_of,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAnswers:
    """How many answers a job asks for, and how many of them are work of their own."""

    asked: int
    """Over all trials that measure accuracy, without pictures that cannot be read."""
    distinct: int
    """One process that runs all trials computes so many, and those that it checks again (``trial.answer_cache``)."""


@final
class PlannedWork:
    """Looks at pictures once for all trials of a model and a task that see them alike: of many, few do not."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self._tokens: dict[Hashable, float] = {}
        self._views: dict[Hashable, tuple[Hashable, ...]] = {}
        self._anatomies: dict[ModelSpec, Anatomy] = {}
        self._works: dict[Hashable, Hashable] = {}

    def vision_tokens(self, plan: TrialPlan) -> float:
        """Mean number of vision tokens per sample, as ``resolve.predicted_vision_tokens``.

        Raises:
            UserError: as ``resolve.resolve`` and ``resolve.predicted_vision_tokens``.
        """
        key = _sees(plan)
        if key not in self._tokens:
            self._tokens[key] = predicted_vision_tokens(resolve(plan))
        return self._tokens[key]

    def answers(self, plans: Iterable[TrialPlan]) -> PlannedAnswers:
        """How many answers these trials ask for, and how many are distinct.

        Answers of different lengths to the same work are one: the shorter are beginnings of the longest.

        Raises:
            UserError: as ``resolve.resolve``.
        """
        asked, seen = 0, dict[Hashable, set[Hashable]]()
        for plan in plans:
            if "accuracy" in plan.measure:
                key = _sees(plan)
                if key not in self._views:
                    self._views[key] = _views(resolve(plan))
                asked += len(self._views[key])
                seen.setdefault(self._computes(plan), set()).add(key)
        distinct = sum(len({one for view in of for one in self._views[view]}) for of in seen.values())
        return PlannedAnswers(asked=asked, distinct=distinct)

    def _computes(self, plan: TrialPlan) -> Hashable:
        """Equal for trials that compute the same of equal views of a picture, but for the length."""
        parts = (part for name, text in plan.point.items if (part := self._work(plan, name, text)) is not None)
        return load_key(plan), plan.task, plan.task_revision, plan.batch_size, tuple(parts)

    def _work(self, plan: TrialPlan, name: str, text: str) -> Hashable:
        """What a value of a knob computes, None for what the model does anyway or what is part of another key."""
        key = plan.model, name, text
        if key not in self._works:
            knob = registry.load("knobs", name)
            if name == OUTPUT_TOKENS or _counts_tokens(name) or knob.load_argument:
                work = None
            else:
                work = knob.work(json.loads(text), self._anatomy(plan.model))
            self._works[key] = None if work is None else (name, work)
        return self._works[key]

    def _anatomy(self, model: ModelSpec) -> Anatomy:
        if model not in self._anatomies:
            family, checkpoint = family_of(model)
            self._anatomies[model] = family.describe(checkpoint)
        return self._anatomies[model]


def _sees(plan: TrialPlan) -> Hashable:
    """Equal for trials that see the same pictures in the same way."""
    seen = tuple((name, text) for name, text in plan.point.items if _counts_tokens(name))
    return plan.model, plan.model_fingerprint, plan.task, plan.task_revision, seen


def _counts_tokens(name: str) -> bool:
    return type(registry.load("knobs", name)).counts is not AbstractKnob.counts


def _views(resolved: ResolvedTrial) -> tuple[Hashable, ...]:
    """What the model is given of each sample whose picture can be read: equal where it is surely the same."""
    pictures = ((one.id, judged_picture(resolved, one.picture)) for one in subset_of(resolved))
    sound = [(name, one) for name, one in pictures if not one.fault]
    if not resolved.family.tiling_decides:
        return tuple((name, _sees(resolved.plan)) for name, _ in sound)
    return tuple((name, planned_counts(resolved, one.height, one.width)) for name, one in sound)
