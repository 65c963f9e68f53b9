"""``AbstractEngine``: how the tokens after the first are generated, and ``Eager``, which launches every kernel anew.

Engines differ in how work is launched on the device. ``eager`` launches each of a few hundred kernels from Python,
which on a GPU can take longer than running them; ``graphs`` replays captured decode steps and, where they are timed,
captured prompts; ``compiled`` fuses the kernels of each block before they are captured.
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
"""(batch,) tokens of every step; the copies to the host are complete once the device has been synchronized."""


class Decoding(Protocol):
    """A batch after its prefill: the keys and values of its prompts are in the cache."""

    @property
    def first(self) -> Tensor:
        """(batch,) the first token of every answer, on the device."""
        ...

    @property
    def finite(self) -> Tensor:
        """(batch,) bool, whether the logits of each row were finite in all forwards so far, on the device."""
        ...

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        """Generate the tokens after the first, at most ``steps`` of each row.

        Args:
            steps: The largest number of decode steps.
            stop: End-of-sequence tokens. A row that generates one of them is finished and its later tokens are to be
                ignored; when all rows are finished, no more steps run. Empty: every row runs all steps, and the host
                does not wait for the device.
            mark: Called with ``decode`` after every step.
        """
        ...


class AbstractEngine(ABC):
    """A way to generate the tokens after the first."""

    @abstractmethod
    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        """Run the prefill.

        Args:
            model: The ``TokenMaker``.
            batch: Its encoded prompts, on the device.
            features: The vision features of the batch.
            max_new_tokens: The longest answer that will be generated, the first token included.
            exact: Whether steps must run at exactly this batch size, because they are timed.
        """

    def see(self, model: Any, batch: Any, mark: Mark, *, exact: bool) -> Any:
        """The vision features of a batch on the device; marks the end of the vision encoder.

        Args:
            model: The ``TokenMaker``.
            batch: Its encoded prompts, on the device.
            mark: As of ``TokenMaker.see``.
            exact: Whether the batch is timed.
        """
        return model.see(batch, mark)

    def begin_timing(self) -> None:  # noqa: B027 (most engines record nothing)
        """Called before a timing pass: what could not be recorded for lack of memory may be tried again."""

    def recording_seconds(self) -> float:
        """Seconds spent on recording so far."""
        return 0.0

    def end_timing(self) -> None:  # noqa: B027 (most engines keep nothing)
        """Called when a timing pass is over: frees what only its requests need."""

    def forget_steps(self) -> None:  # noqa: B027 (most engines keep nothing)
        """Free the memory of decode steps and their keys and values; what is recorded of prompts stays."""

    @abstractmethod
    def forget(self) -> None:
        """Free the memory that is kept between batches."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """The column ``engine``, the kernels of the decode steps if the engine chooses them itself, and
        ``engine_fallback``, why they run eager, where that was not asked for.
        """


@final
class Eager(AbstractEngine):
    """Every kernel launched from Python; runs everywhere."""

    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        return _EagerDecoding(model=model, state=model.prefill(batch, features, max_new_tokens))

    def forget(self) -> None:
        """Nothing is kept between batches."""

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

    @property
    def finite(self) -> Tensor:
        return self.state.finite

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        tracker = EosTracker(self.first, stop)
        while len(tracker.tokens) <= steps and not tracker.all_ended():
            self.state = self.model.step(self.state)
            tracker.append(self.state.next_tokens)
            mark("decode")
        return tracker.tokens[1:]


EAGER = Eager()
