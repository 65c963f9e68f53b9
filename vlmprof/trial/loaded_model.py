"""``LoadedModel``: what a loaded model keeps from one trial to the next, so that a sweep computes nothing twice.

It keeps the engine with its recorded decode steps, the vision features of images, and recent answers. All of it serves
answers that are scored; a timed generation uses the engine alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import final

from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.greedy import generate
from vlmprof.engine.vision_cache import PreparedBatch, VisionFeatureCache
from vlmprof.models.family import AbstractModel
from vlmprof.records import Generation, StageWork
from vlmprof.trial.answer_cache import AnswerCache
from vlmprof.trial.outcome import Sample

MOST_SEEN_ALONE = 2**30
"""Bytes of features computed at batch 1 that are kept: audits of all configurations ask for the same pictures."""


@final
class LoadedModel:
    """A loaded model, its engine, and its caches."""

    def __init__(
        self, model: AbstractModel, *, engine: AbstractEngine = EAGER, vision_cache: VisionFeatureCache | None = None
    ) -> None:
        """Without ``vision_cache`` no vision features are kept, neither of batches nor of samples that run alone."""
        self.model, self.engine = model, engine
        self._seen_alone = VisionFeatureCache(0 if vision_cache is None else MOST_SEEN_ALONE)
        self.vision_cache = VisionFeatureCache(0) if vision_cache is None else vision_cache
        self.answers, self.answers_alone = AnswerCache(), AnswerCache()
        """Of score passes, and of audits at batch 1."""
        self.full_work: dict[Hashable, StageWork] = {}
        """Of the model without knobs, by request; see ``stage_work.compared_work``."""

    def prepare(self, samples: Sequence[Sample]) -> PreparedBatch:
        """Encode a batch of samples whose pictures are open; images with known features are not encoded again."""
        return self.vision_cache.prepare(self.model, [sample.prompt for sample in samples])

    def has_features(self, sample: Sample) -> bool:
        """Whether the features of a sample's picture are known, so that it need not be opened."""
        return self.vision_cache.knows(self.model, sample.prompt)

    def answer(self, batch: PreparedBatch, cap: int) -> tuple[Generation, ...]:
        """Answer a prepared batch, at most ``cap`` tokens each."""
        run = generate(self.model, batch, max_new_tokens=cap, engine=self.engine, vision_cache=self.vision_cache)
        return run.generations

    def has_features_alone(self, sample: Sample) -> bool:
        """Whether features of a sample's picture that were computed at batch 1 are known."""
        return self._seen_alone.knows(self.model, sample.prompt)

    def answer_alone(self, sample: Sample, cap: int) -> Generation:
        """Answer one sample at batch 1, with features that were computed at batch 1 too."""
        alone = self._seen_alone.prepare(self.model, [sample.prompt])
        run = generate(self.model, alone, max_new_tokens=cap, engine=self.engine, vision_cache=self._seen_alone)
        return run.generations[0]
