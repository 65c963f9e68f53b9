"""Which blocks of the language model run.

A list names the blocks to keep. ``{keep: n, policy: prefix}`` keeps the first n, ``{drop: [i, ...], policy: drop}``
all but these, ``nested_random`` (with a ``seed``) n at random such that fewer are a part of more, ``importance``
(with a ``table`` inside the results folder) the n of the highest score, ``legacy_random`` what the predecessor kept.

The kept blocks are put into a stack of their own, renumbered from 0, and the per-layer lists of the configuration are
cut to match: leaving skipped blocks in place as no-ops looks right and is silently wrong, because the length of the KV
cache is read from slot 0. What runs here equals a model that was built with only these blocks, with its cache, also in
padded batches. Where vision features are added again after the first blocks by position (Qwen3-VL), a shorter stack
would move them to other blocks; there skipped blocks stay in place and pass their input on, and the kept ones are
renumbered for the cache. That equals a model whose skipped blocks write nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs._block_choice import check_choice, kept_blocks
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, DecoderStack


@final
class ActiveBlocks(AbstractKnob):
    """The decoder blocks that run, in their order."""

    needs = DecoderStack

    def check(self, value: Any, anatomy: Anatomy) -> None:
        check_choice(value, anatomy.decoder_blocks)
        kept = kept_blocks(value, anatomy.decoder_blocks)
        if anatomy.attention_blocks and not set(kept) & set(anatomy.attention_blocks):
            raise KnobValueError(
                f"active_blocks: expected at least one of the blocks with attention"
                f" ({', '.join(map(str, anatomy.attention_blocks))}), which count the tokens so far; got {kept}"
            )

    @contextmanager
    def applied(self, model: DecoderStack, value: Any) -> Iterator[None]:
        decoder = model.decoder
        whole = decoder.layers
        kept = kept_blocks(value, len(whole))
        with ExitStack() as undo:
            undo.callback(setattr, decoder, "layers", whole)
            for new, old in enumerate(kept):
                _renumber(whole[old], new, undo)
            if _adds_by_position(decoder):
                skipped = _pass_on(type(whole))
                decoder.layers = type(whole)([block if i in kept else skipped for i, block in enumerate(whole)])
            else:
                for owner in (decoder, decoder.config):
                    _cut_per_layer_lists(owner, len(whole), kept, undo)
                _set_blocks(decoder.config, len(kept), undo)
                decoder.layers = type(whole)([whole[i] for i in kept])
            yield

    def effect(self, value: Any, anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.blocks_executed != kept_blocks(value, anatomy.decoder_blocks):
            return "mismatch"
        return "no-op" if len(seen.blocks_executed) == anatomy.decoder_blocks else "effective"


def _adds_by_position(decoder: Any) -> bool:
    return "deepstack_visual_embeds" in inspect.signature(decoder.forward).parameters


def _pass_on(stack: Any) -> Any:
    """A block that returns its input. Made from the stack's own class, since knobs do without torch."""
    body = {"forward": lambda self, hidden_states, *args, **kwargs: hidden_states}
    return type("SkippedBlock", (stack,), body)()


def _set_blocks(config: Any, blocks: int, undo: ExitStack) -> None:
    name = getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
    _set(config, name, blocks, undo)


def _set(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    # Through __dict__: the library's configurations validate the lengths of their lists against each other on every
    # assignment, and would refuse the first of the changes that only fit together.
    undo.callback(owner.__dict__.__setitem__, name, owner.__dict__[name])
    owner.__dict__[name] = value


def _renumber(block: Any, index: int, undo: ExitStack) -> None:
    for module in block.modules():
        if isinstance(module.__dict__.get("layer_idx"), int):
            _set(module, "layer_idx", index, undo)


def _cut_per_layer_lists(owner: Any, blocks: int, kept: tuple[int, ...], undo: ExitStack) -> None:
    for name, entry in list(owner.__dict__.items()):
        if isinstance(entry, list | tuple) and len(entry) == blocks and not name.startswith("_"):
            _set(owner, name, type(entry)(entry[i] for i in kept), undo)


KNOB = ActiveBlocks()
