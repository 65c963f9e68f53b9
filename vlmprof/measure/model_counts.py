"""What a model really does, counted by hooks in an untimed pass.

Counted are crops and patches through the vision encoder, image tokens in what the language model is given, forwards of
the language model, the decoder blocks that run, and how many experts each router sends a token to. The hooks sit on the
whole, untouched model, so that a knob which removes blocks, or one which does nothing, is seen by what ran and not by
what was set or fed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, final


class CountableModel(Protocol):
    """A loaded model, as far as counting needs it."""

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
    """All parts of a model as it was loaded. Take it before any knob, count inside them."""

    blocks: tuple[Any, ...]
    routers: tuple[Any, ...]
    vision_block: Any
    """The first block of the vision encoder; None for a model that does not show its own."""
    network: Any
    """The module that is called with the ids of a prompt; None likewise."""
    image_token_id: int | None

    @classmethod
    def of(cls, model: CountableModel) -> ModelParts:
        """The parts of a model that no knob has touched yet."""
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
    """What has been counted so far, over all generations."""

    blocks: set[int] = field(default_factory=set)
    experts: dict[int, list[int]] = field(default_factory=dict)
    """Router -> experts a token, for each of its calls."""
    normalised: dict[int, bool | None] = field(default_factory=dict)
    """Router -> whether it was set to scale the chosen experts' weights to sum to one; None where it has no switch."""
    prompts: int = 0
    """Prompts that the language model was given."""
    crops: int = 0
    """Images or pieces of images through the vision encoder."""
    patches: int = 0
    """Vectors through its first block, a class token included."""
    image_tokens: int = 0
    """Places of image tokens in the ids that the language model was given."""
    forwards: int = 0
    """Of the language model: one for each token that a batch generated."""

    @property
    def blocks_executed(self) -> tuple[int, ...]:
        """Indices of the blocks that ran at least once, as numbered in the checkpoint."""
        return tuple(sorted(self.blocks))

    @property
    def routing(self) -> dict[int, tuple[float, bool | None]]:
        """Router, as numbered in the checkpoint -> experts a token, mean over its calls, and whether normalised."""
        return {
            router: (sum(calls) / len(calls), self.normalised[router]) for router, calls in sorted(self.experts.items())
        }

    @property
    def experts_per_token(self) -> float | None:
        """Mean over all calls of all routers; None when none was called."""
        calls = [count for counts in self.experts.values() for count in counts]
        return sum(calls) / len(calls) if calls else None


@contextmanager
def counted(whole: ModelParts) -> Iterator[ModelCounts]:
    """Count while the block lasts, and leave no hook behind: a hook costs time, so nothing is timed meanwhile."""
    counts = ModelCounts()
    with ExitStack() as hooks:
        for index, block in enumerate(whole.blocks):
            hooks.callback(block.register_forward_hook(_counting_block(counts, index)).remove)
        for index, router in enumerate(whole.routers):
            hooks.callback(router.register_forward_hook(_counting_experts(counts, index)).remove)
        if whole.vision_block is not None:
            seeing = whole.vision_block.register_forward_pre_hook(_counting_patches(counts), with_kwargs=True)
            hooks.callback(seeing.remove)
        if whole.network is not None:
            reading = whole.network.register_forward_pre_hook(_counting_tokens(counts, whole), with_kwargs=True)
            hooks.callback(reading.remove)
        yield counts


def _first_block(encoder: Any) -> Any:
    """The first member of the first list of modules in a vision encoder; the encoder itself where it has none."""
    if encoder is None:
        return None
    lists = (module for module in encoder.modules() if type(module).__name__ == "ModuleList" and len(module))
    found = next(lists, None)
    return encoder if found is None else found[0]


def _counting_block(counts: ModelCounts, index: int) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        counts.blocks.add(index)

    return hook


def _counting_experts(counts: ModelCounts, index: int) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        chosen = [part for part in output if not part.is_floating_point()]
        counts.experts.setdefault(index, []).append(int(chosen[-1].shape[-1]))  # (tokens, experts chosen)
        counts.normalised[index] = getattr(module, "norm_topk_prob", None)

    return hook


def _counting_patches(counts: ModelCounts) -> Any:
    def hook(module: Any, inputs: Any, named: Any) -> None:
        hidden = inputs[0] if inputs else named["hidden_states"]
        # (crops, patches, width), or (patches, width) where the patches of an image are not cut into crops.
        counts.crops += hidden.shape[0] if hidden.dim() > 2 else 1
        counts.patches += hidden.numel() // hidden.shape[-1]

    return hook


def _counting_tokens(counts: ModelCounts, whole: ModelParts) -> Any:
    def hook(module: Any, inputs: Any, named: Any) -> None:
        ids = named.get("input_ids", inputs[0] if inputs else None)
        counts.forwards += 1
        # A prompt has more than one id; a step feeds back what was generated, whatever it is.
        if ids is not None and ids.shape[-1] > 1:
            counts.prompts += ids.shape[0]
            counts.image_tokens += int((ids == whole.image_token_id).sum())

    return hook
