"""``AbstractEngine``: how the tokens after the first are made, and ``Eager``, which launches every kernel anew.

All engines share the prefill; they differ in how a decode step gets to the device. ``eager`` launches each of its few
hundred kernels from Python, which on a GPU can take longer than running them; ``graphs`` replays a captured step;
``compiled`` fuses the kernels of each block before it captures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

from torch import Tensor

from vlmprof.decoding import DecodeState, Mark, TokenMaker, unmarked
from vlmprof.engine.eos_tracker import EosTracker

Steps = list[Tensor]
"""(batch,) tokens of every step, on the host once the device has done all that was asked of it."""


class Decoding(Protocol):
    """A batch whose prompt is in the cache."""

    @property
    def first(self) -> Tensor:
        """(batch,) the first token of every answer, on the device."""
        ...

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        """Further tokens, at most ``steps`` of each row.

        Args:
            steps: The most.
            stop: A row that has said one of these is finished, and what it says after it means nothing; when all rows
                are, no more steps are made. Empty: every row goes on to the end, and nothing is waited for.
            mark: Told ``decode`` after every step.
        """
        ...


class AbstractEngine(ABC):
    """A way to make the tokens after the first."""

    @abstractmethod
    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        """Run the prompt.

        Args:
            model: The token maker.
            batch: Its encoded prompts.
            features: What its vision side made of them.
            max_new_tokens: The most that will be asked of the decoding.
            exact: Whether steps must be made at this very batch size, because they are timed.
        """

    @abstractmethod
    def forget(self) -> None:
        """Give back what is held between batches."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """``engine``, and which kernels its decode steps ran on where it chooses them itself."""


@final
class Eager(AbstractEngine):
    """Every kernel launched from Python; runs everywhere."""

    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        return _EagerDecoding(model=model, state=model.prefill(batch, features, max_new_tokens))

    def forget(self) -> None:
        """Nothing is held."""

    def describe(self) -> Mapping[str, str]:
        return {"engine": "eager"}


@final
@dataclass(slots=True, kw_only=True)
class _EagerDecoding:
    model: TokenMaker
    state: DecodeState

    @property
    def first(self) -> Tensor:
        return self.state.next_tokens

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        lookout = EosTracker(self.first, stop)
        while len(lookout.taken) <= steps and not lookout.over():
            self.state = self.model.step(self.state)
            lookout.take(self.state.next_tokens)
            mark("decode")
        return lookout.taken[1:]


EAGER = Eager()
