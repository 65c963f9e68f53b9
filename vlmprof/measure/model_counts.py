"""What a model really does, counted by hooks in an untimed pass.

Counted are crops and patches through the vision encoder, image tokens in the input of the language model, forwards of
the language model, the decoder blocks that run, and how many experts each router sends a token to. The hooks are
registered on all parts of the model as it was loaded, so that a knob which removes blocks, or one which does nothing,
is detected by what ran and not by what was configured or passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, final

from vlmprof.measure.attempt import reason


class CountableModel(Protocol):
    """The parts of a loaded model that counting needs."""

    @property
    def decoder(self) -> Any: ...
    @property
    def routers(self) -> Sequence[Any]: ...
    @property
    def vision_encoder(self) -> Any: ...
    @property
    def network(self) -> Any: ...
    @property
    def image_token_id(self) -> int | None: ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The countable parts of a model as it was loaded. Create it before knobs are applied, count while they are."""

    blocks: tuple[Any, ...]
    routers: tuple[Any, ...]
    vision_block: Any
    """The first block of the vision encoder; None if the family does not expose its encoder."""
    network: Any
    """The module that is called with the ids of a prompt; None if the family does not expose it."""
    image_token_id: int | None

    @classmethod
    def of(cls, model: CountableModel) -> ModelParts:
        """The parts of a model to which no knob is applied."""
        return cls(
            blocks=tuple(model.decoder.layers),
            routers=tuple(model.routers),
            vision_block=_first_block(model.vision_encoder),
            network=model.network,
            image_token_id=model.image_token_id,
        )


@final
@dataclass(slots=True)
class ModelCounts:
    """Counts so far, over all generations."""

    blocks: set[int] = field(default_factory=set)
    experts: dict[int, list[int]] = field(default_factory=dict)
    """Router -> experts per token in each of its calls."""
    normalised: dict[int, bool | None] = field(default_factory=dict)
    """Router -> whether it was set to scale the chosen experts' weights to sum to one; None if it has no setting."""
    prompts: int = 0
    """Prompts that the language model was given."""
    crops: int = 0
    """Images or pieces of images through the vision encoder."""
    patches: int = 0
    """Vectors through its first block, a class token included."""
    image_tokens: int = 0
    """Image-token positions in the ids that the language model was given."""
    forwards: int = 0
    """Forwards of the language model: one for each token that a batch generated."""
    failures: dict[str, str] = field(default_factory=dict)
    """Hook -> why it could not count: ``experts``, ``vision`` or ``network``. What it counts is then unknown."""

    @property
    def blocks_executed(self) -> tuple[int, ...]:
        """Indices of the blocks that ran at least once, as numbered in the checkpoint."""
        return tuple(sorted(self.blocks))

    @property
    def routing(self) -> dict[int, tuple[float, bool | None]]:
        """Router, as numbered in the checkpoint -> experts per token, mean over its calls, and whether normalised."""
        if "experts" in self.failures:
            return {}
        return {
            router: (sum(calls) / len(calls), self.normalised[router]) for router, calls in sorted(self.experts.items())
        }

    @property
    def experts_per_token(self) -> float | None:
        """Mean over all calls of all routers; None if no router was called, or they could not be counted."""
        if "experts" in self.failures:
            return None
        calls = [count for counts in self.experts.values() for count in counts]
        return sum(calls) / len(calls) if calls else None

    def restore(self, saved: ModelCounts) -> None:
        """Go back to counts that were copied with ``copy.deepcopy``."""
        for name in (one.name for one in fields(self)):
            setattr(self, name, getattr(saved, name))


@contextmanager
def counted(parts: ModelParts) -> Iterator[ModelCounts]:
    """Count inside a ``with`` block and remove all hooks after it. Hooks cost time, so nothing may be timed inside."""
    counts = ModelCounts()
    with ExitStack() as hooks:
        for index, block in enumerate(parts.blocks):
            hooks.callback(block.register_forward_hook(_block_hook(counts, index)).remove)
        for index, router in enumerate(parts.routers):
            hooks.callback(router.register_forward_hook(_router_hook(counts, index)).remove)
        if parts.vision_block is not None:
            vision_handle = parts.vision_block.register_forward_pre_hook(_vision_hook(counts), with_kwargs=True)
            hooks.callback(vision_handle.remove)
        if parts.network is not None:
            network_handle = parts.network.register_forward_pre_hook(_network_hook(counts, parts), with_kwargs=True)
            hooks.callback(network_handle.remove)
        yield counts


def _first_block(encoder: Any) -> Any:
    """The first module of the first ``ModuleList`` in a vision encoder; the encoder itself if it has none."""
    if encoder is None:
        return None
    lists = (module for module in encoder.modules() if type(module).__name__ == "ModuleList" and len(module))
    blocks = next(lists, None)
    return encoder if blocks is None else blocks[0]


def _guarded(counts: ModelCounts, name: str, hook: Any) -> Any:
    """A hook that cannot fail the forward it counts: what it raises is noted, once."""

    def guarded(*args: Any) -> None:
        try:
            hook(*args)
        except Exception as error:  # a module of another version may have other inputs and outputs
            counts.failures.setdefault(name, reason(error))

    return guarded


def _block_hook(counts: ModelCounts, index: int) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        counts.blocks.add(index)

    return hook


def _router_hook(counts: ModelCounts, index: int) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        expert_indices = [part for part in output if not part.is_floating_point()]
        counts.experts.setdefault(index, []).append(int(expert_indices[-1].shape[-1]))  # (tokens, experts chosen)
        counts.normalised[index] = getattr(module, "norm_topk_prob", None)

    return _guarded(counts, "experts", hook)


def _vision_hook(counts: ModelCounts) -> Any:
    def hook(module: Any, inputs: Any, kwargs: Any) -> None:
        hidden = inputs[0] if inputs else kwargs["hidden_states"]
        # (crops, patches, width), or (patches, width) for a model that does not cut images into crops.
        counts.crops += hidden.shape[0] if hidden.dim() > 2 else 1
        counts.patches += hidden.numel() // hidden.shape[-1]

    return _guarded(counts, "vision", hook)


def _network_hook(counts: ModelCounts, parts: ModelParts) -> Any:
    def hook(module: Any, inputs: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", inputs[0] if inputs else None)
        counts.forwards += 1
        # A prompt has more than one id. A decode step has one: a generated token, not counted even if an image token.
        if ids is not None and ids.shape[-1] > 1:
            counts.prompts += ids.shape[0]
            counts.image_tokens += int((ids == parts.image_token_id).sum())

    return _guarded(counts, "network", hook)
