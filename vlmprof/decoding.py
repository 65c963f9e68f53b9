"""What an engine drives: the steps of one generation, the clock around them, and a decode step on fixed memory.

``TokenMaker`` turns prompts into tokens step by step; every model family provides it. ``StaticDecode`` is for models
whose decode step is a function of a few tensors and of nothing that the host decides from token to token: engines can
then run it over and over on the same memory, as a CUDA graph needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from vlmprof.records import Encoding, Prompt, Stage, StageTimes

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """All that the next decode step of a batch depends on, taken out of a ``DecodeState``."""

    ids: Tensor
    """(batch, 1) the tokens that are fed next."""
    positions: Tensor
    """(..., batch, 1) their positions, with the leading axes of the model's rotary embedding; each step adds one."""
    mask: Tensor
    """(batch, tokens in the cache), 0 at padding."""
    constants: Mapping[str, Any]
    """Whatever else the forward takes at every step: plain values, or tensors whose first axis is the batch."""


@runtime_checkable
class StaticDecode(Protocol):
    """A token maker whose decode step can run over and over on the same memory: what a CUDA graph needs."""

    @property
    def decoder(self) -> Any:
        """The module that owns ``layers`` and the text ``config``."""
        ...

    @property
    def routers(self) -> Sequence[Any]:
        """The routers that decide how many experts a token is sent to."""
        ...

    @property
    def device(self) -> str:
        """Where the model is."""
        ...

    def prefill(self, batch: Any, features: Any, max_new_tokens: int, cache: Any = None) -> DecodeState:
        """See ``TokenMaker``; into ``cache``, an empty cache of the library, where one is given."""
        ...

    def step_inputs(self, state: Any) -> StepInputs:
        """What the step after ``state`` depends on."""
        ...

    def next_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, constants: Mapping[str, Any]
    ) -> Tensor:
        """One forward over one token a row, (batch, vocabulary); ``mask`` is (batch, 1, 1, cache length), bool."""
        ...


class Batch(Protocol):
    """Encoded prompts, padded together. The tensors are the model's own business."""

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """One for each prompt, in order."""
        ...


class DecodeState(Protocol):
    """Where a batch stands between two decode steps."""

    @property
    def next_tokens(self) -> torch.Tensor:
        """(batch,) greedy choice of the last forward, on the model's device."""
        ...


Mark = Callable[[Stage], None]
"""Says that all the work since the last mark was of this stage."""


def unmarked(stage: Stage) -> None:
    """The ``Mark`` of a generation that nobody times."""


class Clock(Protocol):
    """Times one generation after another. The engine drives it and knows nothing else of it; see ``measure.clock``."""

    def start(self) -> None:
        """A generation begins now."""
        ...

    def mark(self, stage: Stage) -> None:
        """All that was asked of the device since the last mark was of this stage; several marks of one stage add up."""
        ...

    def stop(self) -> StageTimes | None:
        """The generation is over once the device has done all that was asked of it: where its time went.

        None from a clock that counts something else.
        """
        ...


class TokenMaker(Protocol):
    """The steps of one generation, in the order the engine takes them; every stage is timed apart."""

    eos_ids: frozenset[int]

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """Decode, resize, tile, tokenise and pad, on the host."""
        ...

    def transfer(self, batch: Batch) -> Batch:
        """The same batch with its tensors on the model's device."""
        ...

    def see(self, batch: Batch, mark: Mark = unmarked) -> Sized:
        """A transferred batch through vision encoder and connector -> a feature for each of its vision tokens.

        Calls ``mark("vision")`` where the encoder ends and the connector begins. A model that cannot tell leaves it
        out; then the whole counts as vision.
        """
        ...

    def prefill(self, batch: Batch, features: Any, max_new_tokens: int) -> DecodeState:
        """First forward of the language model over the whole prompt of a transferred batch."""
        ...

    def step(self, state: DecodeState) -> DecodeState:
        """One more token for every row; feeds ``state.next_tokens`` back."""
        ...

    def text(self, token_ids: Sequence[int]) -> str:
        """Tokens -> answer, without special tokens."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked; nothing to do on a CPU."""
        ...
