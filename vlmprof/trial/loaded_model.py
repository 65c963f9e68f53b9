"""``LoadedModel``: what a loaded model keeps from trial to trial, so that a sweep does no work twice.

Its engine with the steps it has recorded; what its vision side made of images; and the answers it gave lately. All of
it serves answers that are scored. A timed generation shares the engine alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, final

from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import PreparedBatch, VisionFeatureCache, features_from_cache
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Generation
from vlmprof.trial.load_key import key_without_length
from vlmprof.trial.outcome import PastAnswers, Sample

REMEMBERED = 8
"""Configurations whose answers are kept: a sweep's plan puts those that differ in ``output_tokens`` side by side."""


@final
class LoadedModel:
    """One loaded model with what it keeps."""

    def __init__(
        self, model: AbstractModel, *, engine: AbstractEngine = EAGER, vision_cache: VisionFeatureCache | None = None
    ) -> None:
        """Without ``vision_cache`` nothing is kept of images."""
        self.model, self.engine = model, engine
        self.vision_cache = VisionFeatureCache(0) if vision_cache is None else vision_cache
        self._said: OrderedDict[Hashable, PastAnswers] = OrderedDict()

    def answer(
        self, prepared: Callable[[], PreparedBatch], asked: Sequence[Sample], cap: int
    ) -> tuple[Generation, ...]:
        """Answer one batch of samples whose pictures are open."""
        prompts = [one.prompt for one in asked]
        features = features_from_cache(self.vision_cache, prepared)
        run = generate(self.model, prompts, max_new_tokens=cap, engine=self.engine, feature_source=features)
        return run.generations

    def prepare(self, asked: Sequence[Sample]) -> PreparedBatch:
        """Encode a batch of samples whose pictures are open, as far as that is needed."""
        return self.vision_cache.prepare(self.model, [one.prompt for one in asked])

    def answer_alone(self, asked: Sample, cap: int) -> Generation:
        """Answer one sample at batch 1, its picture looked at anew: what is kept was seen in a batch."""
        return generate(self.model, [asked.prompt], max_new_tokens=cap, engine=self.engine).generations[0]

    def remember(self, plan: TrialPlan, said: PastAnswers) -> None:
        """Keep the answers of a trial, unless some sample has none."""
        if any(one.generation is None for one in said.scored):
            return
        self._said[key_without_length(plan)] = said
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)

    def recall(self, plan: TrialPlan, cap: int) -> PastAnswers | None:
        """Answers that were given at the same setting with no smaller cap, cut to this one; None where there are none.

        Exact, because a greedy answer at a cap is the beginning of the answer at a larger one.
        """
        said = self._said.get(key_without_length(plan))
        if said is None or said.cap < cap:
            return None
        scored = tuple(replace(one, generation=self._cut(one.generation, cap)) for one in said.scored)
        audited = tuple(self._cut(generation, cap) for generation in said.audited)
        return PastAnswers(trial=said.trial, cap=cap, scored=scored, audited=audited)

    def _cut(self, generation: Any, cap: int) -> Any:
        if generation.tokens <= cap:
            return generation
        ids = generation.ids[:cap]
        return replace(generation, ids=ids, tokens=cap, text=self.model.text(ids), end="cap")
