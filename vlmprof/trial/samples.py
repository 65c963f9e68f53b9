"""The samples of a trial: asked, their pictures judged and opened, their answers judged.

Every part of a trial takes its pictures from here, so that a faulty one is the same failed sample for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from vlmprof.engine.vision_cache import PreparedBatch
from vlmprof.errors import VlmprofError
from vlmprof.measure.attempt import reason
from vlmprof.models.family import AbstractModel
from vlmprof.records import Example, Generation
from vlmprof.tasks._data.decode import described
from vlmprof.trial.outcome import OpenedSamples, Sample, ScoredSample
from vlmprof.trial.resolve import ResolvedTrial, judged_picture, subset_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmprof.trial.loaded_model import LoadedModel


def samples_of(resolved: ResolvedTrial) -> list[Sample]:
    """The trial's subset, each example with the prompt that its model family is given and with its picture judged."""
    family = resolved.plan.model.family
    asked = ((example, resolved.task.ask(example, family)) for example in subset_of(resolved))
    return [
        Sample(example=example, prompt=replace(prompt, picture=judged_picture(resolved, prompt.picture)))
        for example, prompt in asked
    ]


def open_pictures(samples: Sequence[Sample], unneeded: Callable[[Sample], bool] = lambda _: False) -> OpenedSamples:
    """Decode every picture once, before anything is batched or timed; those that are ``unneeded`` stay as they are.

    A picture that cannot be read fails its own sample, which is counted and named, and no other.
    """
    readable, broken = [], []
    for sample in samples:
        if sample.prompt.picture.fault:
            broken.append(failed_sample(sample.example, sample.prompt.picture.fault))
            continue
        if unneeded(sample):
            readable.append(sample)
            continue
        try:
            image = sample.prompt.picture.load()
        except Exception as error:  # whatever a decoder raises: the sample is failed, not the trial
            broken.append(failed_sample(sample.example, described(error)))
            continue
        picture = replace(sample.prompt.picture, load=partial(_already_open, image))
        readable.append(replace(sample, prompt=replace(sample.prompt, picture=picture)))
    return OpenedSamples(readable=tuple(readable), broken=tuple(broken))


def legal_samples(samples: Sequence[Sample]) -> tuple[list[Sample], list[ScoredSample]]:
    """The samples whose picture is sound and has a size that the model takes; the others, failed. Opens no picture."""
    faults = [sample.prompt.picture.fault for sample in samples]
    legal = [sample for sample, fault in zip(samples, faults, strict=True) if not fault]
    return legal, [failed_sample(sample.example, fault) for sample, fault in zip(samples, faults, strict=True) if fault]


def encode_samples(
    loaded: LoadedModel, opened: OpenedSamples, max_new_tokens: int
) -> tuple[OpenedSamples, PreparedBatch | None]:
    """Encode a batch. A sample that cannot be encoded fails alone, and so does one that is too long for the model.

    Args:
        loaded: Encodes the samples.
        opened: The batch, its pictures in memory.
        max_new_tokens: The longest answer.

    Returns:
        The samples that are in the batch and those that failed, and the batch; None if none is left.
    """
    if not opened.readable:
        return opened, None
    try:
        batch = loaded.prepare(opened.readable)
        failed: dict[str, ScoredSample] = {}
    except Exception as error:
        _pass_on(error)
        batch, failed = None, _refused_alone(loaded, opened.readable)
        if not failed:
            raise  # it fails only in company: no sample is to blame
    if batch is not None:
        lengths = zip(opened.readable, batch.batch.encodings, strict=True)
        reasons = [(sample, too_long(loaded.model, one.prompt_tokens, max_new_tokens)) for sample, one in lengths]
        failed = {sample.example.id: failed_sample(sample.example, why) for sample, why in reasons if why}
        if not failed:
            return opened, batch
    left = tuple(sample for sample in opened.readable if sample.example.id not in failed)
    rest = OpenedSamples(readable=left, broken=(*opened.broken, *failed.values()))
    return encode_samples(loaded, rest, max_new_tokens)


def too_long(model: AbstractModel, prompt_tokens: int, max_new_tokens: int) -> str:
    """Why a prompt and its answer do not fit the model's positions; empty where they do."""
    needed = prompt_tokens + max_new_tokens - 1  # the last token of an answer is not fed back
    if model.positions is None or needed <= model.positions:
        return ""
    return (
        f"a prompt of {prompt_tokens} tokens and {max_new_tokens} new ones need {needed} positions, the model has"
        f" {model.positions}; use fewer vision tokens or a shorter answer"
    )


def first_usable(loaded: LoadedModel, samples: Sequence[Sample], count: int, max_new_tokens: int) -> OpenedSamples:
    """The first samples, at most ``count``, that can be opened and encoded, and those before them that cannot."""
    readable: list[Sample] = []
    broken: list[ScoredSample] = []
    for sample in samples:
        if len(readable) == count:
            break
        opened, _ = encode_samples(loaded, open_pictures([sample]), max_new_tokens)
        readable += opened.readable
        broken += opened.broken
    return OpenedSamples(readable=tuple(readable), broken=tuple(broken))


def _refused_alone(loaded: LoadedModel, samples: Sequence[Sample]) -> dict[str, ScoredSample]:
    failed = {}
    for sample in samples:
        try:
            loaded.prepare([sample])
        except Exception as error:  # whatever a processor raises: the sample is failed, not the trial
            _pass_on(error)
            failed[sample.example.id] = failed_sample(sample.example, f"cannot be encoded: {reason(error)}")
    return failed


def _pass_on(error: Exception) -> None:
    """Raise again what says something about the trial and not about one sample."""
    if isinstance(error, VlmprofError | MemoryError | torch.AcceleratorError):
        raise error


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
