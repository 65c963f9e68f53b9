"""``PromptRecorder``: vision encoder, connector and prefill recorded for the shapes of their inputs, then replayed.

Launched from Python, the kernels of one prompt take the host longer than the device, and the time then says little
about the model: a knob that saves a third of the prefill looked slower. Recorded, the same kernels run back to back.

The vision side is recorded for the number of crops and vision tokens; no knob of the language model is part of it. A
prefill is recorded for the length of the prompt, the batch, the blocks that run and their routing. Prompts are not
padded to common lengths: that would be other work. What is recorded writes keys and values to the engine's memory, as
its decode steps do. With a compiler, blocks are compiled first, for any shape at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from transformers.cache_utils import Cache

from vlmprof.decoding import DecodeState, Mark, PromptOutput, StaticInputs, StaticPrompt
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.recording import WARMUP_RUNS, GraphRecorder, RecordedCall, key_of
from vlmprof.engine.static_cache import CacheArena, CacheShape, prompt_cache, prompt_slots
from vlmprof.engine.static_step import settings_of

MAX_BYTES = 2 * 2**30
"""Inputs and outputs of vision recordings that are kept from one timing pass to the next, which may need the same."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPrefill:
    """The prefill at one shape: returns a ``PromptOutput``."""

    call: RecordedCall
    cache: Cache
    """Over the memory that it fills."""
    constants: Any
    """What the model needs besides tensors."""
    reallocations: int
    """Of that memory when it was recorded: with another number its addresses are no longer valid."""


@final
class PromptRecorder:
    """The recorded prompts of one loaded model."""

    def __init__(self, arena: CacheArena, *, capture: bool, compiler: BlockCompiler | None = None) -> None:
        """Nothing is recorded yet.

        Args:
            arena: The memory of keys and values that prefills fill.
            capture: False runs everything from Python instead, as on a CPU.
            compiler: Compiles the blocks; None leaves them as they are.
        """
        self._arena, self._compiler = arena, compiler
        runs = 1 if compiler is None else WARMUP_RUNS
        self._vision_graphs = GraphRecorder(capture=capture, warmup_runs=runs)
        self._prefill_graphs = GraphRecorder(capture=capture, warmup_runs=runs)
        self._visions: OrderedDict[Hashable, RecordedCall] = OrderedDict()
        self._prefills: dict[Hashable, RecordedPrefill] = {}
        self.parts: dict[str, None] = {}
        """The stages that have been recorded, in order, since all was forgotten."""

    def see(self, model: StaticPrompt, batch: Any, mark: Mark) -> Sized:
        """The vision features of a batch, recorded if they are not yet; overwritten by the next batch of this shape.

        Calls ``mark`` where a stage ends.
        """
        inputs = model.vision_inputs(batch, mark)
        key = key_of(inputs)
        if key not in self._visions:
            self._visions[key] = RecordedCall(self._vision_graphs, partial(self._encode, model), inputs)
            self.parts |= {"vision": None, "connector": None}
        self._visions.move_to_end(key)
        return model.vision_features(batch, self._visions[key](inputs.tensors, mark))

    def prefill(self, model: Any, batch: Any, features: Any, shape: CacheShape) -> tuple[DecodeState, Cache]:
        """The state of a batch after its prefill and the cache that it filled; recorded if it is not yet.

        Args:
            model: A ``StaticDecode`` and ``StaticPrompt``.
            batch: On the device.
            features: The vision features of the batch.
            shape: Batch size and length of the cache.
        """
        inputs = model.prompt_inputs(batch, features)
        key = settings_of(model), shape.batch, shape.length, key_of(inputs)
        if key not in self._prefills or self._prefills[key].reallocations != self._arena.reallocations:
            self._prefills.pop(key, None)
            self._prefills[key] = self._record_prefill(model, batch, features, inputs, shape)
            self.parts |= {"prefill": None}
            self._drop_moved()
        recorded = self._prefills[key]
        output = recorded.call(inputs.tensors)
        return model.after_prompt(batch, output, recorded.cache, recorded.constants), recorded.cache

    def end_timing(self) -> None:
        """Drop what only the requests of one timing pass need: prefills, and vision recordings beyond ``MAX_BYTES``.

        Not earlier: what is dropped within a pass would be recorded again while its time is taken.
        """
        self._prefills.clear()
        self._prefill_graphs.forget()
        while sum(recorded.nbytes for recorded in self._visions.values()) > MAX_BYTES:
            self._visions.popitem(last=False)
        if not self._visions:
            self._vision_graphs.forget()

    def forget(self) -> None:
        """Drop all recordings and free their memory."""
        self._visions.clear()
        self.end_timing()
        self.parts.clear()

    def _encode(self, model: StaticPrompt, inputs: StaticInputs, mark: Mark) -> Any:
        with ExitStack() as stack:
            if self._compiler is not None:
                stack.enter_context(self._compiler.applied_to(model.vision_blocks))
            return model.encode_vision(inputs, mark)

    def _record_prefill(
        self, model: Any, batch: Any, features: Any, inputs: StaticInputs, shape: CacheShape
    ) -> RecordedPrefill:
        filled = prompt_cache(self._arena, len(model.decoder.layers), shape)
        # Takes the memory, which must not be allocated inside a recording.
        constants = model.first_prompt(batch, features, inputs, filled)
        run = partial(self._run_prefill, model, prompt_slots(filled), constants)
        compiled = () if self._compiler is None else model.decoder.layers
        call = RecordedCall(self._prefill_graphs, run, inputs, compiled)
        reallocations = self._arena.reallocations
        return RecordedPrefill(call=call, cache=filled, constants=constants, reallocations=reallocations)

    def _run_prefill(self, model: Any, slots: Cache, constants: Any, inputs: StaticInputs, mark: Mark) -> PromptOutput:
        with ExitStack() as stack:
            if self._compiler is not None:
                stack.enter_context(self._compiler.applied(model.decoder, slots))
            return PromptOutput.of(model.prompt_logits(inputs, slots, constants))

    def _drop_moved(self) -> None:
        """Drop the prefills whose memory is gone; the last one was recorded just now and keeps the pool in use."""
        for key, recorded in list(self._prefills.items()):
            if recorded.reallocations != self._arena.reallocations:
                del self._prefills[key]
