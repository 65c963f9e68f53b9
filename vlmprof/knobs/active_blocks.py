"""Which blocks of the language model run.

A list names the blocks to keep. ``{keep: n, policy: prefix}`` keeps the first n, ``{drop: [i, ...], policy: drop}``
all except those listed, ``nested_random`` (with a ``seed``) n random blocks such that smaller sets are subsets of
larger ones, ``importance`` (with a ``table`` inside the results folder) the n blocks with the highest scores, and
``legacy_random`` the random choice of the predecessor of vlmprof.

The kept blocks become a new ``ModuleList`` and are renumbered from 0, and the per-layer lists of the configuration are
shortened to match. Leaving skipped blocks in place as no-ops is silently wrong, because the length of the KV cache is
read from slot 0. The result equals a model that was built with only these blocks, including its cache and padded
batches. Where vision features are added again after the first blocks by position (Qwen3-VL), a shorter list would move
them to other blocks; there, skipped blocks stay in place and return their input, and the kept ones are renumbered for
the cache. That equals a model whose skipped blocks add nothing to the residual stream.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError
from vlmprof.knobs._block_choice import check_choice, kept_blocks
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, DecoderStack


@final
class ActiveBlocks(AbstractKnob):
    """The decoder blocks that run, in the order of the checkpoint."""

    needs = DecoderStack

    def check(self, value: Any, anatomy: Anatomy) -> None:
        check_choice(value, anatomy.decoder_blocks)
        kept = kept_blocks(value, anatomy.decoder_blocks)
        if anatomy.attention_blocks and not set(kept) & set(anatomy.attention_blocks):
            raise KnobValueError(
                f"active_blocks: expected at least one of the blocks with attention"
                f" ({', '.join(map(str, anatomy.attention_blocks))}), whose cache holds the sequence length; got {kept}"
            )

    def work(self, value: Any, anatomy: Anatomy) -> Hashable:
        kept = tuple(kept_blocks(value, anatomy.decoder_blocks))
        return None if len(kept) == anatomy.decoder_blocks else kept

    @contextmanager
    def applied(self, model: DecoderStack, value: Any) -> Iterator[None]:
        decoder = model.decoder
        layers = decoder.layers
        kept = kept_blocks(value, len(layers))
        with ExitStack() as undo:
            undo.callback(setattr, decoder, "layers", layers)
            for new, old in enumerate(kept):
                _set_cache_index(layers[old], new, undo)
            if _has_deepstack(decoder):
                skipped = _identity_block(type(layers))
                decoder.layers = type(layers)([block if i in kept else skipped for i, block in enumerate(layers)])
            else:
                for owner in (decoder, decoder.config):
                    _select_per_layer_lists(owner, len(layers), kept, undo)
                _set_block_count(decoder.config, len(kept), undo)
                decoder.layers = type(layers)([layers[i] for i in kept])
            yield

    def effect(self, value: Any, anatomy: Anatomy, observed: Observation) -> Effect:
        if observed.blocks_executed != kept_blocks(value, anatomy.decoder_blocks):
            return "mismatch"
        return "no-op" if len(observed.blocks_executed) == anatomy.decoder_blocks else "effective"


def _has_deepstack(decoder: Any) -> bool:
    """Whether vision features are added again after the first blocks, by position."""
    return "deepstack_visual_embeds" in inspect.signature(decoder.forward).parameters


def _identity_block(module_list: Any) -> Any:
    """A block that returns its input: an empty subclass of the given ``ModuleList``, as knobs do not import torch."""
    body = {"forward": lambda self, hidden_states, *args, **kwargs: hidden_states}
    return type("SkippedBlock", (module_list,), body)()


def _set_block_count(config: Any, blocks: int, undo: ExitStack) -> None:
    name = getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
    _set(config, name, blocks, undo)


def _set(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    # Through __dict__: configurations of transformers compare the lengths of their lists on every assignment and would
    # refuse the first of several changes that are only consistent together.
    undo.callback(owner.__dict__.__setitem__, name, owner.__dict__[name])
    owner.__dict__[name] = value


def _set_cache_index(block: Any, index: int, undo: ExitStack) -> None:
    for module in block.modules():
        if isinstance(module.__dict__.get("layer_idx"), int):
            _set(module, "layer_idx", index, undo)


def _select_per_layer_lists(owner: Any, blocks: int, kept: tuple[int, ...], undo: ExitStack) -> None:
    for name, entry in list(owner.__dict__.items()):
        if isinstance(entry, list | tuple) and len(entry) == blocks and not name.startswith("_"):
            _set(owner, name, type(entry)(entry[i] for i in kept), undo)


KNOB = ActiveBlocks()
