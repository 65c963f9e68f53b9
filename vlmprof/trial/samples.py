"""The samples of a trial on their way from a question to a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from vlmprof.records import Example, Generation, Prompt
from vlmprof.trial.resolve import Resolved

if TYPE_CHECKING:
    from PIL.Image import Image


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An example and what the model is shown for it."""

    example: Example
    prompt: Prompt


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
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
class Opened:
    """Samples whose picture is in memory, and those whose picture could not be read."""

    readable: tuple[Asked, ...]
    broken: tuple[Scored, ...]


def open_pictures(asked: Sequence[Asked]) -> Opened:
    """Decode every picture once, before anything is batched or timed.

    A picture that cannot be read costs its sample, which is counted and named, and nobody else's.
    """
    readable, broken = [], []
    for one in asked:
        try:
            image = one.prompt.picture.load()
        except Exception as error:  # whatever a decoder raises: the sample is failed, not the trial
            reason = f"{type(error).__name__}: {error}"
            broken.append(Scored(example=one.example, generation=None, score=None, batch_size=0, error=reason))
            continue
        picture = replace(one.prompt.picture, load=partial(_same, image))
        readable.append(replace(one, prompt=replace(one.prompt, picture=picture)))
    return Opened(readable=tuple(readable), broken=tuple(broken))


def judged(resolved: Resolved, example: Example, generation: Generation, batch_size: int) -> Scored:
    """An answer with what the task's metric says of it."""
    verdict = resolved.task.metric.judge(generation.text, example)
    return Scored(
        example=example, generation=generation, score=verdict.score, parsed=verdict.parsed, batch_size=batch_size
    )


def _same(image: Image) -> Image:
    return image
