"""``FixedSteps``: what a model offers to engines that run its decode step over and over on the same memory.

A surface like those of ``surfaces``, of its own because not every model can: its step must be a function of a few
tensors, and of nothing that the host decides from token to token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from vlmprof.surfaces import DecodeState

if TYPE_CHECKING:
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
class FixedSteps(Protocol):
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
