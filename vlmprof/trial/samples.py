"""The samples of a trial on their way from a question to a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from vlmprof.records import Example, Generation
from vlmprof.trial.outcome import OpenedSamples, Sample, ScoredSample
from vlmprof.trial.resolve import ResolvedTrial

if TYPE_CHECKING:
    from PIL.Image import Image


def open_pictures(asked: Sequence[Sample]) -> OpenedSamples:
    """Decode every picture once, before anything is batched or timed.

    A picture that cannot be read costs its sample, which is counted and named, and nobody else's.
    """
    readable, broken = [], []
    for one in asked:
        try:
            image = one.prompt.picture.load()
        except Exception as error:  # whatever a decoder raises: the sample is failed, not the trial
            reason = f"{type(error).__name__}: {error}"
            broken.append(ScoredSample(example=one.example, generation=None, score=None, batch_size=0, error=reason))
            continue
        picture = replace(one.prompt.picture, load=partial(_same, image))
        readable.append(replace(one, prompt=replace(one.prompt, picture=picture)))
    return OpenedSamples(readable=tuple(readable), broken=tuple(broken))


def judge_answer(resolved: ResolvedTrial, example: Example, generation: Generation, batch_size: int) -> ScoredSample:
    """An answer with what the task's metric says of it."""
    verdict = resolved.task.metric.judge(generation.text, example)
    return ScoredSample(
        example=example, generation=generation, score=verdict.score, parsed=verdict.parsed, batch_size=batch_size
    )


def _same(image: Image) -> Image:
    return image
