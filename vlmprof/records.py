"""The values that travel between packages: an example, a prompt, what a model made of it, a measurement.

All are frozen. None knows torch, ray or a file. Times are milliseconds, sizes are bytes, images are RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from PIL.Image import Image

EndReason = Literal["eos", "cap"]
Stage = Literal["preprocess", "transfer", "vision", "connector", "prefill", "decode"]
"""What a generation consists of, in order; ``decode`` comes once for every token after the first."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image whose size is known before its pixels are."""

    width: int
    height: int
    load: Callable[[], Image]
    """Returns the RGB image; called once per use, may decode or render."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question of a dataset. One question is one sample, always."""

    id: str
    """The dataset's own id; samples of two configurations are joined on it."""
    question: str
    question_type: str
    answers: tuple[str, ...]
    picture: Picture
    cluster: str
    """Questions about one image share a cluster: they are not independent evidence."""
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question, in their order; ``answers`` then holds the right one's letter."""
    context: str = ""
    """What the dataset gives to read beside the question, such as a hint; empty where it gives nothing."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is asked: the text of the turn, and the picture it is about."""

    text: str
    picture: Picture


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What a model's preprocessing made of one prompt: counts of what really happened, not of what was asked."""

    tiling: tuple[int, int]
    """Rows and columns of the crops of the high-resolution view; (1, n) where an image is n tokens and not cut."""
    natural_tiling: tuple[int, int]
    """The tiling this image would get without any cap; under the trained one where tiling has no end of its own."""
    crops: int
    """Crops through the vision encoder, the global view included."""
    vision_tokens: int
    """Vision features that reach the language model."""
    prompt_tokens: int
    """Length of the whole prompt in the language model, image tokens and markers included, padding excluded."""

    @property
    def capped(self) -> bool:
        """Whether a cap kept this image from its natural tiling."""
        return self.tiling != self.natural_tiling


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a model answered to one prompt."""

    text: str
    tokens: int
    """Tokens generated, an end-of-sequence token included."""
    end: EndReason
    encoding: Encoding
    ids: tuple[int, ...] = ()
    """The tokens themselves: a shorter cap's answer is a beginning of them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Where the time of ONE generation went, in milliseconds; the stages are consecutive and cover it all.

    The names and formulas are those of MLPerf LoadGen and vLLM: time zero is when the inputs lie in the host's memory,
    so that ``ttft_ms`` and ``e2e_ms`` are without preprocessing; ``end_to_end_ms`` is with it.
    """

    preprocess_ms: float
    """Resizing, tiling, tokenising and padding, on the host."""
    transfer_ms: float
    """Inputs to the device."""
    vision_ms: float
    """Vision encoder; with the connector where the two cannot be told apart."""
    connector_ms: float | None
    """From the encoder's patches to what the language model reads; None where it is within ``vision_ms``."""
    prefill_ms: float
    """First forward of the language model up to the first token on the host."""
    step_ms: tuple[float, ...]
    """The gap before each further token (ITL), detokenisation excluded."""
    end_to_end_ms: float
    """Measured by its own pair of clock readings, not by adding the stages."""

    @property
    def decode_ms(self) -> float:
        """All tokens after the first."""
        return sum(self.step_ms)

    @property
    def decode_steps(self) -> int:
        """Tokens after the first."""
        return len(self.step_ms)

    @property
    def ttft_ms(self) -> float:
        """Time to first token, from inputs in the host's memory to the first token there."""
        return self.transfer_ms + self.vision_ms + (self.connector_ms or 0.0) + self.prefill_ms

    @property
    def ttft_with_preprocess_ms(self) -> float:
        """The same from decoded pictures."""
        return self.preprocess_ms + self.ttft_ms

    @property
    def e2e_ms(self) -> float:
        """From inputs in the host's memory to the last token there."""
        return self.end_to_end_ms - self.preprocess_ms

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (E2E - TTFT) / (tokens - 1); None for a single token."""
        return (self.e2e_ms - self.ttft_ms) / self.decode_steps if self.step_ms else None

    @property
    def stage_sum_ms(self) -> float:
        """The sum of the stages; within 2 % of ``end_to_end_ms`` or the measurement is invalid."""
        return self.preprocess_ms + self.ttft_ms + self.decode_ms


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch through a model: an answer for each prompt, and where the time went."""

    generations: tuple[Generation, ...]
    stages: StageTimes | None
    """None where no clock ran: only the timing pass has one."""


Scalar = bool | int | float | str
Row = Mapping[str, Scalar | tuple[float, ...] | None]
"""A row of a table; its schema is in ``store.schema``."""

Effect = Literal["effective", "saturated", "no-op", "mismatch"]
"""What a knob's value did: changed the work, hit a limit that did not bind, is the model's own setting, or lied."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one trial really did, counted while it ran; the knobs judge themselves by it."""

    capped_share: float
    """Share of samples whose tiling a cap cut down."""
    crops_max: int
    """Most crops of one image through the vision encoder, the global view included."""
    blocks_executed: tuple[int, ...]
    """Indices of the decoder blocks that ran, as numbered in the checkpoint."""
    experts_per_token: float | None
    """Experts each token was sent to, mean over the blocks that ran; None for a dense model."""
    tokens_max: int
    """Longest answer of the score pass, in tokens; 0 when nothing was scored."""
    cut_share: float
    """Share of answers that ended at the cap and not by themselves."""
    vision_tokens_max: int = 0
    """Most vision tokens of one image."""
    tilings: frozenset[tuple[int, int]] = frozenset()
    """Every tiling that occurred."""
    routing: Mapping[int, tuple[float, bool | None]] = field(default_factory=dict)
    """Router that ran -> experts a token, and whether their weights are scaled to sum to one (None: no switch)."""
    loaded: Mapping[str, str] = field(default_factory=dict)
    """``dtype``, ``attention`` and ``experts_kernel``, read off the loaded model."""
