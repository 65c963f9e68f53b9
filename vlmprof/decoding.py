"""The interfaces that an engine uses: the steps of one generation, the clock that times them, a static decode step.

``TokenMaker`` generates tokens from prompts step by step; every model family provides it. ``StaticDecode`` is for
models whose decode step is a function of a few tensors, without any decision of the host from token to token: engines
can then run it repeatedly on tensors at the same addresses, as a CUDA graph needs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, final, runtime_checkable

from vlmprof.records import Encoding, Prompt, Stage, StageTimes

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """Everything that the next decode step of a batch depends on, taken from a ``DecodeState``."""

    ids: Tensor
    """(batch, 1) the tokens that are fed next."""
    positions: Tensor
    """(..., batch, 1) their positions, with the leading axes of the model's rotary embedding; each step adds one."""
    mask: Tensor
    """(batch, tokens in the cache), 0 at padding."""
    constants: Mapping[str, Any]
    """Other arguments of the forward, equal at every step: plain values, or tensors whose first axis is the batch."""


@runtime_checkable
class StaticDecode(Protocol):
    """A ``TokenMaker`` whose decode step can run repeatedly on tensors at the same addresses, as a CUDA graph needs."""

    @property
    def decoder(self) -> Any:
        """The module that has ``layers`` and the text ``config``."""
        ...

    @property
    def routers(self) -> Sequence[Any]:
        """The routers of the mixture-of-experts blocks, whose ``top_k`` is the number of experts per token."""
        ...

    @property
    def device(self) -> str:
        """The device of the model, ``cpu`` or ``cuda``."""
        ...

    def prefill(self, batch: Any, features: Any, max_new_tokens: int, cache: Any = None) -> DecodeState:
        """As ``TokenMaker.prefill``; fills ``cache``, an empty cache of transformers, if one is given."""
        ...

    def step_inputs(self, state: Any) -> StepInputs:
        """The inputs of the step after ``state``."""
        ...

    def next_logits(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any, constants: Mapping[str, Any]
    ) -> Tensor:
        """One forward over one token a row.

        Args:
            ids: (batch, 1)
            positions: (..., batch, 1)
            mask: (batch, 1, 1, cache length), bool, True at the tokens that are attended to.
            cache: Keys and values of the tokens before; this step's are written to it.
            constants: As in ``StepInputs``.

        Returns:
            (batch, vocabulary)
        """
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StaticInputs:
    """Everything that a part of a prompt depends on, besides the model."""

    tensors: Mapping[str, Tensor]
    """What is copied in before the part is replayed."""
    key: Hashable = ()
    """What a recording depends on besides names, shapes and types of tensors: one of another key is not replayed."""
    fixed: frozenset[str] = frozenset()
    """The tensors whose values are part of the key."""
    host_reads: Literal["none", "fixed", "any"] = "none"
    """What the work reads on the host: nothing; values that follow from the ``fixed`` tensors; or any, where the key
    decides what is read of the other tensors too."""
    settings: Any = None
    """Other arguments of the part, all of them decided by the key."""


@final
class PromptOutput(NamedTuple):
    """What a prefill computes besides keys and values. A tuple, so that a recording can return it."""

    logits: Tensor
    """(batch, vocabulary), of the last position."""
    next_tokens: Tensor
    """(batch,) the tokens with the largest logits."""
    finite: Tensor
    """(batch,) bool, whether all logits of a row are finite."""

    @classmethod
    def of(cls, logits: Tensor) -> PromptOutput:
        """With tokens and flags from the logits."""
        return cls(logits=logits, next_tokens=logits.argmax(-1), finite=logits.isfinite().all(-1))


@runtime_checkable
class StaticPrompt(Protocol):
    """A ``StaticDecode`` whose vision side and prefill are functions of tensors.

    Engines can then record them too, for the shapes of their inputs, and replay them for other inputs of these shapes.
    If the host decides something in them, what it decides must follow from ``StaticInputs.key``.
    """

    @property
    def vision_blocks(self) -> Sequence[Any]:
        """The blocks of the vision encoder, which engines may compile."""
        ...

    def vision_inputs(self, batch: Any, mark: Mark) -> StaticInputs:
        """The inputs of the vision side of a transferred batch.

        Work on the device that makes pixels of pictures belongs here and is marked as ``preprocess``.
        """
        ...

    def encode_vision(self, inputs: StaticInputs, mark: Mark) -> Any:
        """Run vision encoder and connector -> tensors, in any nest of tuples, lists and dicts.

        Calls ``mark("vision")`` where the encoder ends; where both alternate, ``mark("connector")`` where it goes on.
        """
        ...

    def vision_features(self, batch: Any, encoded: Any) -> Sized:
        """What ``see`` returns for a transferred batch, from what ``encode_vision`` returned for it."""
        ...

    def prompt_inputs(self, batch: Any, features: Any) -> StaticInputs:
        """The inputs of the prefill of a transferred batch."""
        ...

    def first_prompt(self, batch: Any, features: Any, inputs: StaticInputs, cache: Any) -> Any:
        """Run the prefill once from Python, which fills ``cache``, an empty cache of transformers.

        Returns:
            What ``prompt_logits`` and ``after_prompt`` need besides tensors, for all batches with this one's key.
        """
        ...

    def prompt_logits(self, inputs: StaticInputs, cache: Any, constants: Any) -> Tensor:
        """First forward over the whole prompt, which fills ``cache`` -> (batch, vocabulary), of the last position."""
        ...

    def after_prompt(self, batch: Any, output: PromptOutput, cache: Any, constants: Any) -> DecodeState:
        """The state of a batch whose prefill gave this output and filled this cache."""
        ...


class Batch(Protocol):
    """Encoded prompts, padded together. Which tensors it holds is up to the model."""

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """One for each prompt, in order."""
        ...


class DecodeState(Protocol):
    """The state of a batch between two decode steps."""

    @property
    def next_tokens(self) -> torch.Tensor:
        """(batch,) the tokens with the largest logits in the last forward, on the model's device."""
        ...

    @property
    def logits(self) -> torch.Tensor:
        """(batch, vocabulary) of the last forward, on the model's device."""
        ...

    @property
    def finite(self) -> torch.Tensor:
        """(batch,) bool, whether all logits of a row were finite in every forward so far, on the model's device."""
        ...


Mark = Callable[[Stage], None]
"""Called at the end of a stage: all the work since the last mark belongs to it."""


def unmarked(stage: Stage) -> None:
    """The ``Mark`` of a generation that is not timed."""


class Clock(Protocol):
    """Times one generation after another; implemented in ``measure.clock``."""

    def start(self) -> None:
        """Start timing a generation."""
        ...

    def mark(self, stage: Stage) -> None:
        """Assign all work queued on the device since the last mark to this stage; marks of one stage add up."""
        ...

    def stop(self) -> StageTimes | None:
        """Wait until the device has done all queued work, and return the times of the generation.

        None from a clock that measures something other than time.
        """
        ...


class TokenMaker(Protocol):
    """The steps of one generation, in the order in which the engine calls them; every stage is timed separately."""

    eos_ids: frozenset[int]

    def encode(self, prompts: Sequence[Prompt]) -> Batch:
        """Decode, resize, tile, tokenise and pad, on the host; some models can leave resizing to ``see``."""
        ...

    def transfer(self, batch: Batch) -> Batch:
        """The same batch with its tensors on the model's device."""
        ...

    def see(self, batch: Batch, mark: Mark = unmarked) -> Sized:
        """Run vision encoder and connector on a transferred batch -> one feature for each of its vision tokens.

        If ``encode`` left pictures uncut, it cuts them first, on the device, and calls ``mark("preprocess")``.
        Calls ``mark("vision")`` where the encoder ends and the connector begins. A model that cannot separate them does
        not call it; then all of it counts as vision.
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
        """Wait until the device has done all queued work; does nothing on a CPU."""
        ...
