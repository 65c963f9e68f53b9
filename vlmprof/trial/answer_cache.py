"""``AnswerCache``: answers of one loaded model by the work that they took, for configurations that do the same work.

A cap on crops that does not bind, a knob at the value that the model has anyway, the same blocks by another policy, a
shorter answer: such configurations compute what another one has computed, sample by sample. A greedy answer at a cap is
the beginning of the answer at a larger one. Times are never taken from here.

The key holds everything that decides an answer and can differ between trials of one loaded model: the sample with its
prompt, the tiling of its picture, the blocks that run and their routing, the batch size if the job pins one, and every
knob that is not known to act through these alone. Weights, kernels, engine and software are those of the process.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from vlmprof.engine.static_step import settings_of
from vlmprof.engine.vision_cache import RowwiseVision
from vlmprof.errors import Mismatch
from vlmprof.plan.point import canonical
from vlmprof.records import Generation
from vlmprof.surfaces import (
    DecoderStack,
    ExpertRouting,
    FreeTiling,
    OutputBudget,
    PixelBudget,
    TokenBudget,
    VisionBudget,
)

if TYPE_CHECKING:
    from vlmprof.trial.outcome import Sample
    from vlmprof.trial.resolve import ResolvedTrial

MOST = 200_000
"""Answers that are kept; the least recently used one is dropped first."""
RECHECKED = 16
"""One of so many shared answers is computed again and compared."""
VISION_SURFACES = (VisionBudget, TokenBudget, PixelBudget, FreeTiling)
"""Surfaces of the knobs that change how many vision tokens an image becomes."""
_SEEN_IN_THE_MODEL = (ExpertRouting, DecoderStack, OutputBudget)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """An answer that was computed, and where."""

    generation: Generation
    batch_size: int
    trial: str
    settings: Hashable
    """Of that trial, as ``load_key.key_without_length`` gives them: with equal ones the work is surely the same."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rechecked:
    """Answers that another trial had computed, computed again."""

    samples: int
    different: int
    """How many have another text than before; in half precision another batch can change an answer."""


@final
class AnswerCache:
    """The answers of one loaded model."""

    def __init__(self, most: int = MOST) -> None:
        """Start empty; ``most`` 0 keeps nothing."""
        self._answers: OrderedDict[Hashable, KnownAnswer] = OrderedDict()
        self._most = most

    def add(self, work: Hashable, answer: KnownAnswer) -> None:
        """Keep an answer, unless a longer one of the same work is kept."""
        known = self._answers.get(work)
        if known is not None and (known.generation.end == "eos" or known.generation.tokens >= answer.generation.tokens):
            return
        self._answers[work] = answer
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def get(self, work: Hashable, cap: int, text: Callable[[Any], str]) -> KnownAnswer | None:
        """The answer that the work gives within ``cap`` tokens; None if it is not known.

        Args:
            work: As ``work_of`` gives it.
            cap: The longest answer, an end-of-sequence token included.
            text: Tokens -> the text of an answer that is cut.
        """
        known = self._answers.get(work)
        if known is None or (known.generation.end == "cap" and known.generation.tokens < cap):
            return None
        self._answers.move_to_end(work)
        generation = known.generation
        if generation.tokens <= cap:
            return known
        ids = generation.ids[:cap]
        return replace(known, generation=replace(generation, ids=ids, tokens=cap, text=text(ids), end="cap"))


@final
class Recheck:
    """Compares answers that another trial had computed with new ones."""

    def __init__(self) -> None:
        """Nothing is compared yet."""
        self._expected: dict[str, KnownAnswer] = {}
        self._compared: list[tuple[str, str, str]] = []
        """(sample, the known text, the new text)"""

    def expect(self, sample: str, known: KnownAnswer) -> None:
        """Compare the answer to this sample when it comes."""
        self._expected[sample] = known

    def compare(self, sample: str, generation: Generation) -> None:
        """Take a new answer; ignored unless it is expected."""
        known = self._expected.pop(sample, None)
        if known is not None:
            self._compared.append((sample, known.generation.text, generation.text))

    def result(self, *, exact: bool) -> Rechecked | None:
        """What was found; None where nothing was compared.

        Args:
            exact: Whether not one answer may differ, as in float32; else, as another batch may round differently, half
                of them may.

        Raises:
            Mismatch: too many differ: what was called the same work is not.
        """
        if not self._compared:
            return None
        different = [one for one in self._compared if one[1] != one[2]]
        if len(different) > (0 if exact else max(1, len(self._compared) // 2)):
            sample, before, now = different[0]
            raise Mismatch(
                f"{len(different)} of {len(self._compared)} answers that another configuration had given by the same"
                f" work are other answers here; the first, to sample {sample}: {before[:80]!r} before, {now[:80]!r} now"
            )
        return Rechecked(samples=len(self._compared), different=len(different))


def work_of(resolved: ResolvedTrial, model: Any, sample: Sample) -> Hashable:
    """Equal for two trials of one loaded model exactly if they compute the same for the sample, but for the length.

    Args:
        resolved: The trial.
        model: Loaded, with the trial's knobs applied.
        sample: One of its samples.
    """
    plan, rowwise = resolved.plan, isinstance(model, RowwiseVision)
    seen = (*_SEEN_IN_THE_MODEL, *(VISION_SURFACES if rowwise else ()))
    # A knob from elsewhere may do more than its surface says.
    unseen = tuple(
        (s.name, canonical(s.value))
        for s in resolved.settings
        if s.knob.needs not in seen or not type(s.knob).__module__.startswith("vlmprof.knobs.")
    )
    of_picture = model.feature_key(sample.prompt) if rowwise else None
    asked = sample.example.id, sample.prompt.text, sample.prompt.picture.key
    return plan.task, plan.task_revision, plan.batch_size, asked, of_picture, settings_of(model), unseen


def is_rechecked(sample: str) -> bool:
    """Whether a shared answer to this sample is computed again: always the same samples, evenly over all."""
    return int(hashlib.sha256(sample.encode()).hexdigest()[:8], 16) % RECHECKED == 0
