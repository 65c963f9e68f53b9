"""What a model really does, counted by hooks in an untimed pass: which decoder blocks run, how many experts a token.

The hooks sit on the whole, untouched stack, so that a knob which removes blocks, or one which does nothing, is seen by
what ran and not by what was set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, final


class Observable(Protocol):
    """A loaded model, as far as counting needs it."""

    @property
    def decoder(self) -> Any: ...
    @property
    def routers(self) -> Sequence[Any]: ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """All blocks and routers of a model as it was loaded. Take it before any knob, count inside them."""

    blocks: tuple[Any, ...]
    routers: tuple[Any, ...]

    @classmethod
    def of(cls, model: Observable) -> Whole:
        """The parts of a model that no knob has touched yet."""
        return cls(blocks=tuple(model.decoder.layers), routers=tuple(model.routers))


@final
@dataclass(slots=True)
class Counts:
    """What has been counted so far."""

    blocks: set[int] = field(default_factory=set)
    experts: list[int] = field(default_factory=list)

    @property
    def blocks_executed(self) -> tuple[int, ...]:
        """Indices of the blocks that ran at least once, as numbered in the checkpoint."""
        return tuple(sorted(self.blocks))

    @property
    def experts_per_token(self) -> float | None:
        """Mean over all calls of all routers; None when none was called."""
        return sum(self.experts) / len(self.experts) if self.experts else None


@contextmanager
def counted(whole: Whole) -> Iterator[Counts]:
    """Count while the block lasts, and leave no hook behind: a hook costs time, so nothing is timed meanwhile."""
    counts = Counts()
    with ExitStack() as hooks:
        for index, block in enumerate(whole.blocks):
            hooks.callback(block.register_forward_hook(_counting_block(counts, index)).remove)
        for router in whole.routers:
            hooks.callback(router.register_forward_hook(_counting_experts(counts)).remove)
        yield counts


def _counting_block(counts: Counts, index: int) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        counts.blocks.add(index)

    return hook


def _counting_experts(counts: Counts) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        chosen = [part for part in output if not part.is_floating_point()]
        counts.experts.append(int(chosen[-1].shape[-1]))  # (tokens, experts chosen)

    return hook
