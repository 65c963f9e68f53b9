"""Which blocks of the language model run.

``{keep: n, policy: prefix}`` keeps the first n; a list names the blocks to keep. The kept blocks are put into a stack
of their own, renumbered from 0, and the per-layer lists of the configuration are cut to match: leaving skipped blocks
in place as no-ops looks right and is silently wrong, because the length of the KV cache is read from slot 0. What runs
here equals a model that was built with only these blocks, with its cache, also in padded batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

from vlmprof.errors import KnobValueError, suggestion
from vlmprof.knobs.knob import AbstractKnob, require_whole
from vlmprof.records import Effect, Observation
from vlmprof.surfaces import Anatomy, DecoderStack

POLICIES = ("prefix",)
EXPECTED = "expected {keep: n, policy: prefix} or a list of block indices"


@final
class ActiveBlocks(AbstractKnob):
    """The decoder blocks that run, in their order."""

    needs = DecoderStack

    def check(self, value: Any, anatomy: Anatomy) -> None:
        if isinstance(value, dict):
            _check_policy(value, anatomy.decoder_blocks)
        elif isinstance(value, list | tuple):
            _check_indices(value, anatomy.decoder_blocks)
        else:
            raise KnobValueError(f"active_blocks: {EXPECTED}, got {value!r}")

    @contextmanager
    def applied(self, model: DecoderStack, value: Any) -> Iterator[None]:
        decoder = model.decoder
        whole = decoder.layers
        kept = kept_indices(value)
        with ExitStack() as undo:
            undo.callback(setattr, decoder, "layers", whole)
            for new, old in enumerate(kept):
                _renumber(whole[old], new, undo)
            for owner in (decoder, decoder.config):
                _cut_per_layer_lists(owner, len(whole), kept, undo)
            _set(decoder.config, "num_hidden_layers", len(kept), undo)
            decoder.layers = type(whole)([whole[i] for i in kept])
            yield

    def effect(self, value: Any, anatomy: Anatomy, seen: Observation) -> Effect:
        if seen.blocks_executed != kept_indices(value):
            return "mismatch"
        return "no-op" if len(seen.blocks_executed) == anatomy.decoder_blocks else "effective"


def kept_indices(value: Any) -> tuple[int, ...]:
    """The blocks that a value keeps, as numbered in the checkpoint."""
    return tuple(range(value["keep"])) if isinstance(value, dict) else tuple(value)


def _check_policy(value: dict[str, Any], blocks: int) -> None:
    if set(value) != {"keep", "policy"}:
        raise KnobValueError(f"active_blocks: {EXPECTED}, got {value!r}")
    if value["policy"] not in POLICIES:
        hint = suggestion(str(value["policy"]), POLICIES)
        raise KnobValueError(f"active_blocks: no policy named {value['policy']!r}{hint}")
    require_whole(value["keep"], low=1, high=blocks, of="active_blocks.keep")


def _check_indices(value: list[Any] | tuple[Any, ...], blocks: int) -> None:
    for index in value:
        require_whole(index, low=0, high=blocks - 1, of="active_blocks")
    if not value or list(value) != sorted(set(value)):
        raise KnobValueError(f"active_blocks: expected ascending block indices, each once, got {list(value)!r}")


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
