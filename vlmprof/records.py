"""The values that packages exchange: a dataset's example, a prompt, its encoding, an answer, a measurement.

All are frozen and independent of torch, ray and files. Times are in milliseconds, sizes in bytes, images are RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from PIL.Image import Image

EndReason = Literal["eos", "cap"]
Preprocess = Literal["host", "device"]
"""Where pictures are resized and cut: on the processor, or on the device of the model."""
Stage = Literal["preprocess", "transfer", "vision", "connector", "prefill", "decode"]
"""The stages of a generation, in order; ``decode`` occurs once for every token after the first."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image whose size is known before its pixels are decoded."""

    width: int
    height: int
    load: Callable[[], Image]
    """Returns the RGB image; called at every use, may decode or render it."""
    key: str = ""
    """Identity of the pixels, where it is known without them; empty: only the pixels tell."""
    name: str = ""
    """Where it lies: a file, or a file and the row in it; empty for one that is drawn."""
    frames: int = 1
    """Frames of an animation, or pages, of which the first is the image."""
    fault: str = ""
    """Why there is no image, as far as that is known without its pixels; its sample fails. Empty for a sound one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question of a dataset, which is one sample."""

    id: str
    """The dataset's own id; samples of two configurations are joined on it."""
    question: str
    question_type: str
    answers: tuple[str, ...]
    picture: Picture
    cluster: str
    """Questions about one image share a cluster: statistically they are not independent."""
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question, in order; ``answers`` then holds the letter of the right one."""
    context: str = ""
    """Text that the dataset gives in addition to the question, such as a hint; empty if there is none."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The input of a model: the text of the user's turn, and the picture it is about."""

    text: str
    picture: Picture


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What a model's preprocessing made of one prompt: actual counts, not the requested ones."""

    tiling: tuple[int, int]
    """Rows and columns of the crops of the high-resolution view; (1, n) if the image becomes n tokens without crops."""
    natural_tiling: tuple[int, int]
    """The tiling that this image would get without a cap; with the trained cap if tiling is otherwise unbounded."""
    crops: int
    """Crops through the vision encoder, the global view included."""
    vision_tokens: int
    """Vision features that are inserted into the language model's prompt."""
    prompt_tokens: int
    """Length of the whole prompt in the language model, image tokens and markers included, padding excluded."""

    @property
    def capped(self) -> bool:
        """Whether a cap changed this image's tiling."""
        return self.tiling != self.natural_tiling


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The answer of a model to one prompt."""

    text: str
    tokens: int
    """Tokens generated, an end-of-sequence token included."""
    end: EndReason
    encoding: Encoding
    ids: tuple[int, ...] = ()
    """The generated tokens. The answer under a smaller cap is a prefix of them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """The stage times of ONE generation, in milliseconds; the stages are consecutive and cover all of it.

    The names and formulas are those of MLPerf LoadGen and vLLM: time zero is when the preprocessed inputs are in the
    host's memory, so ``ttft_ms`` and ``e2e_ms`` exclude preprocessing; ``end_to_end_ms`` includes it.
    """

    preprocess_ms: float
    """Resizing, tiling, tokenising and padding, on the host; with ``preprocess: device`` also the time in which the
    device resizes and cuts."""
    transfer_ms: float
    """Copying the inputs to the device; with ``preprocess: device`` the pictures as they were opened."""
    vision_ms: float
    """Vision encoder; includes the connector where the two cannot be separated."""
    connector_ms: float | None
    """From the encoder's output to the features that the language model reads; None if included in ``vision_ms``."""
    prefill_ms: float
    """First forward of the language model up to the first token on the host."""
    step_ms: tuple[float, ...]
    """The time before each token after the first (ITL), detokenisation excluded."""
    end_to_end_ms: float
    """Measured by its own pair of clock readings, not by adding up the stages."""

    @property
    def decode_ms(self) -> float:
        """Time of all decode steps."""
        return sum(self.step_ms)

    @property
    def decode_steps(self) -> int:
        """Number of tokens after the first."""
        return len(self.step_ms)

    @property
    def ttft_ms(self) -> float:
        """Time to first token, from inputs in the host's memory to the first token there."""
        return self.transfer_ms + self.vision_ms + (self.connector_ms or 0.0) + self.prefill_ms

    @property
    def ttft_with_preprocess_ms(self) -> float:
        """Time to first token, from decoded pictures in the host's memory."""
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
class StageWork:
    """What the stages of one request have to do."""

    vision_flop: int
    """Floating-point operations of vision encoder and connector."""
    prefill_flop: int
    decode_bytes: int | None
    """Bytes that the first decode step reads: weights and cache. None: not known, because a batch shares experts."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedWork:
    """The work of one request in a configuration, and in the model without knobs."""

    own: StageWork
    """With the knobs."""
    full: StageWork
    """Without knobs."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch through a model: an answer for each prompt, and the stage times."""

    generations: tuple[Generation, ...]
    stages: StageTimes | None
    """None if no clock ran: only the timing pass uses one."""


Scalar = bool | int | float | str
Row = Mapping[str, Scalar | tuple[float, ...] | None]
"""A row of a table; its schema is in ``store.schema``."""

Effect = Literal["effective", "saturated", "no-op", "mismatch"]
"""What a knob's value did. ``effective``: it changed the work. ``saturated``: it is a limit that was never reached.
``no-op``: it is the model's own setting. ``mismatch``: the model did not do what the value says."""
INAPPLICABLE = "not applicable"
"""In the place of an effect: the job sweeps the knob for other models, and this one has nothing for it to act on."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one trial really did, counted while it ran; each knob derives its ``Effect`` from it."""

    capped_share: float
    """Share of samples whose tiling a cap changed."""
    crops_max: int
    """Most crops of one image through the vision encoder, the global view included."""
    blocks_executed: tuple[int, ...]
    """Indices of the decoder blocks that ran, as numbered in the checkpoint."""
    experts_per_token: float | None
    """Experts each token was sent to, mean over the blocks that ran; None for a dense model."""
    tokens_max: int
    """Longest answer of the score pass, in tokens; 0 when nothing was scored."""
    cut_share: float
    """Share of answers that ended at the cap and not at an end-of-sequence token."""
    vision_tokens_max: int = 0
    """Most vision tokens of one image."""
    tilings: frozenset[tuple[int, int]] = frozenset()
    """Every tiling that occurred."""
    routing: Mapping[int, tuple[float, bool | None]] = field(default_factory=dict)
    """Router that ran -> experts per token, and whether their weights are scaled to sum to one (None: no setting)."""
    loaded: Mapping[str, str] = field(default_factory=dict)
    """``dtype``, ``attention`` and ``experts_kernel``, read from the loaded model."""
