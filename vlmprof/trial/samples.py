"""The samples of a trial: asked, their pictures judged and opened, their answers judged.

Every part of a trial takes its pictures from here, so that a faulty one is the same failed sample for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from vlmprof.records import Example, Generation
from vlmprof.tasks._data.decode import described
from vlmprof.trial.outcome import OpenedSamples, Sample, ScoredSample
from vlmprof.trial.resolve import ResolvedTrial, judged_picture, subset_of

if TYPE_CHECKING:
    from PIL.Image import Image


def samples_of(resolved: ResolvedTrial) -> list[Sample]:
    """The trial's subset, each example with the prompt that its model family is given and with its picture judged."""
    family = resolved.plan.model.family
    asked = ((example, resolved.task.ask(example, family)) for example in subset_of(resolved))
    return [
        Sample(example=example, prompt=replace(prompt, picture=judged_picture(resolved, prompt.picture)))
        for example, prompt in asked
    ]


def open_pictures(samples: Sequence[Sample]) -> OpenedSamples:
    """Decode every picture once, before anything is batched or timed.

    A picture that cannot be read fails its own sample, which is counted and named, and no other.
    """
    readable, broken = [], []
    for sample in samples:
        if sample.prompt.picture.fault:
            broken.append(failed_sample(sample.example, sample.prompt.picture.fault))
            continue
        try:
            image = sample.prompt.picture.load()
        except Exception as error:  # whatever a decoder raises: the sample is failed, not the trial
            broken.append(failed_sample(sample.example, described(error)))
            continue
        picture = replace(sample.prompt.picture, load=partial(_already_open, image))
        readable.append(replace(sample, prompt=replace(sample.prompt, picture=picture)))
    return OpenedSamples(readable=tuple(readable), broken=tuple(broken))


def judge_answer(resolved: ResolvedTrial, example: Example, generation: Generation, batch_size: int) -> ScoredSample:
    """An answer with the verdict of the task's metric."""
    verdict = resolved.task.metric.judge(generation.text, example)
    return ScoredSample(
        example=example, generation=generation, score=verdict.score, parsed=verdict.parsed, batch_size=batch_size
    )


def failed_sample(example: Example, error: str, *, quarantined: bool = False, batch_size: int = 0) -> ScoredSample:
    """A sample without an answer, and why."""
    return ScoredSample(
        example=example, generation=None, score=None, batch_size=batch_size, error=error, quarantined=quarantined
    )


def _already_open(image: Image) -> Image:
    return image
