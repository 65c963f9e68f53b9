"""``StaticEngine``: engines whose decode step uses tensors at fixed addresses, is recorded once and then replayed.

``graphs`` records the model's step as a CUDA graph; ``compiled`` fuses each block's kernels first. A step is recorded
when it is first needed, for a batch size, a cache length (rounded up), the blocks that run and their routing, and the
``MAX_RECORDINGS`` used last are kept. All recordings share one key-value memory, and one pool for the intermediate
tensors of the graphs.

Prompts that are timed are recorded too (``static_prompt``), where the model's vision side and prefill are functions of
tensors. All other prefills run as in ``eager``, except that they write their keys and values to that memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vlmprof.decoding import Mark, StaticDecode, StaticPrompt, StepInputs, unmarked
from vlmprof.engine.base import EAGER, AbstractEngine, Decoding, Steps
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.device_errors import classify, free_share, release
from vlmprof.engine.eos_tracker import EosTracker
from vlmprof.engine.kernels import ATTEND_CALLS, DecodeKernels
from vlmprof.engine.recording import GraphRecorder, NotRecordable, recording
from vlmprof.engine.static_cache import CacheArena, CacheShape, prompt_cache
from vlmprof.engine.static_prompt import PromptRecorder
from vlmprof.engine.static_step import StaticStep, settings_of
from vlmprof.errors import ModelError

NO_MEMORY = "the device has no memory left for recordings"
LEAST_LENGTH = 256
"""The shortest cache of a batch that is not timed, in tokens."""
MAX_RECORDINGS = 24
"""Recordings kept; the least recently used one is dropped first."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """A decode step and the function that runs it."""

    step: StaticStep
    advance: Callable[[], None]
    names: Mapping[str, str]
    """The columns that name its kernels."""


@final
class StaticEngine(AbstractEngine):
    """The engines ``graphs`` and ``compiled`` of one loaded model."""

    def __init__(
        self,
        name: str,
        *,
        capture: bool = True,
        compiler: BlockCompiler | None = None,
        prompt_compiler: BlockCompiler | None = None,
        kernels: DecodeKernels | None = None,
    ) -> None:
        """Nothing is recorded yet.

        Args:
            name: ``graphs`` or ``compiled``.
            capture: False runs each step from Python instead: on a CPU, where the same steps are tested.
            compiler: Compiles the blocks for decode steps; None leaves them as they are.
            prompt_compiler: Compiles those of the vision encoder, and the decoder's for prompts.
            kernels: Kernels of the steps; None takes ours where steps are captured, else the model's own.
        """
        self._name, self._compiler, self._steps = name, compiler, GraphRecorder(capture=capture)
        self._kernels = kernels or DecodeKernels(attention=capture, experts=capture)
        self._arena, self._reallocations = CacheArena(), 0
        self._recorded: OrderedDict[tuple[Any, ...], RecordedStep] = OrderedDict()
        self._prompts = PromptRecorder(self._arena, capture=capture, compiler=prompt_compiler)
        self._eager_prompts: dict[str, str] = {}
        """Part of a timed prompt -> why it runs eager, where it could not be recorded."""
        self.recording_s = 0.0
        """Seconds spent on recording steps."""
        self._last_names: Mapping[str, str] = {}
        self._fallback = ""
        """Why all steps of this load run eager; empty while they are recorded."""

    @torch.inference_mode()
    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        if not self._fallback:
            try:
                return self._begin_static(model, batch, features, max_new_tokens, exact=exact)
            except NotRecordable as error:
                self._fallback = str(error)
            # After the except block, which keeps the failed frames and their tensors alive.
            self.forget()
        return EAGER.begin(model, batch, features, max_new_tokens, exact=exact)

    def _begin_static(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        rows, tokens = len(batch.encodings), max(encoding.prompt_tokens for encoding in batch.encodings)
        shape = self._shape(model, rows, cache_length(tokens + max_new_tokens, exact=exact), exact=exact)
        state, filled = self._prefill(model, batch, features, max_new_tokens, shape, exact=exact)
        if self._reallocations != self._arena.reallocations:
            self._drop_recordings()  # they hold the old addresses
            self._reallocations = self._arena.reallocations
        if max_new_tokens == 1:
            return _Finished(first=state.next_tokens, finite=state.finite, logits=state.logits)
        with recording():
            inputs = model.step_inputs(state)
            recorded = self._recorded_step(model, inputs, shape, filled)
        recorded.step.load(inputs)
        return _Replaying(recorded=recorded, first=state.next_tokens, prompt_finite=state.finite, logits=state.logits)

    @torch.inference_mode()
    def see(self, model: Any, batch: Any, mark: Mark, *, exact: bool) -> Any:
        if exact and self._records("vision", model):
            with self._or_eager("vision"):
                return self._prompts.see(model, batch, mark)
        return model.see(batch, mark)

    @torch.inference_mode()
    def recorded_logits(self, model: Any, batch: Any, max_new_tokens: int) -> tuple[Tensor, Tensor | None] | None:
        """The logits after a timed prompt and after its first decode step, (batch, vocabulary) each.

        Args:
            model: The ``TokenMaker``.
            batch: Its encoded prompts, on the device.
            max_new_tokens: The longest answer for which they are recorded.

        Returns:
            None where nothing is recorded; no second logits where answers have one token.
        """
        features = self.see(model, batch, unmarked, exact=True)
        decoding = self.begin(model, batch, features, max_new_tokens, exact=True)
        if isinstance(decoding, _Finished):
            return decoding.logits.clone(), None
        if not isinstance(decoding, _Replaying):
            return None
        first = decoding.logits.clone()
        decoding.recorded.advance()
        return first, decoding.recorded.step.logits.clone()

    def _prefill(
        self, model: Any, batch: Any, features: Any, max_new_tokens: int, shape: CacheShape, *, exact: bool
    ) -> tuple[Any, Cache]:
        """The state after the prefill, and the cache that it filled; recorded where it is timed."""
        if exact and self._records("prefill", model):
            with self._or_eager("prefill"):
                return self._prompts.prefill(model, batch, features, shape)
        filled = prompt_cache(self._arena, len(model.decoder.layers), shape)
        return model.prefill(batch, features, max_new_tokens, filled), filled

    def _records(self, part: str, model: Any) -> bool:
        return not self._fallback and part not in self._eager_prompts and isinstance(model, StaticPrompt)

    @contextmanager
    def _or_eager(self, part: str) -> Iterator[None]:
        """If a part of the prompt cannot be recorded, or not for lack of memory, it runs eager from now on."""
        try:
            with recording():
                yield
            return
        except NotRecordable as error:
            reason = str(error)
        except RuntimeError as error:
            if classify(error, free_share()) != "memory":
                raise
            reason = NO_MEMORY
        self._eager_prompts[part] = reason
        self._prompts.forget()  # after the except block, which keeps the failed frames and their tensors alive
        release()

    def describe(self) -> Mapping[str, str]:
        if self._fallback:
            return {"engine": "eager", "engine_fallback": f"{self._name}: {self._fallback}"}
        parts = [*self._prompts.parts, *(["decode"] if self._recorded else [])]
        why = "; ".join(f"{part}: {reason}" for part, reason in self._eager_prompts.items())
        recorded = {"recorded_stages": ", ".join(parts)} if parts else {}
        return {"engine": self._name, **self._last_names, **recorded, **({"prompt_fallback": why} if why else {})}

    def begin_timing(self) -> None:
        """Requests of another batch size may leave the memory that recordings of the last ones lacked."""
        self._eager_prompts = {part: why for part, why in self._eager_prompts.items() if why != NO_MEMORY}

    def recording_seconds(self) -> float:
        return self.recording_s

    def end_timing(self) -> None:
        self._prompts.end_timing()

    def forget_steps(self) -> None:
        self._drop_recordings()
        self._arena.clear()

    def forget(self) -> None:
        """Drop all recordings and free their memory."""
        self._prompts.forget()
        self.forget_steps()

    def _drop_recordings(self) -> None:
        self._recorded.clear()
        self._steps.forget()

    def _shape(self, model: StaticDecode, rows: int, length: int, *, exact: bool) -> CacheShape:
        """The shape to decode at; unless ``exact``, a recording for up to twice as many rows is reused."""
        settings = settings_of(model)
        keys = [key for key in self._recorded if (key[0], key[2]) == (settings, length)]
        reusable = min((batch for _, batch, _ in keys if rows <= batch <= 2 * rows), default=rows)
        return CacheShape(batch=rows if exact else reusable, length=length)

    def _recorded_step(self, model: StaticDecode, like: StepInputs, shape: CacheShape, filled: Cache) -> RecordedStep:
        """The recorded step of a shape; recorded now if there is none."""
        key = (settings_of(model), shape.batch, shape.length)
        if key not in self._recorded:
            began = time.perf_counter()
            self._recorded[key] = self._record(model, like, shape, filled)
            self.recording_s += time.perf_counter() - began
        self._recorded.move_to_end(key)
        while len(self._recorded) > MAX_RECORDINGS:
            self._recorded.popitem(last=False)
        self._last_names = self._recorded[key].names
        return self._recorded[key]

    def _record(self, model: StaticDecode, like: StepInputs, shape: CacheShape, filled: Cache) -> RecordedStep:
        step = StaticStep(model, like, shape, filled)
        calls_before = ATTEND_CALLS[0]
        advance = self._steps.record(partial(self._run, model, step), partial(self._run, model, step, warm_up=True))
        names = self._kernels.names(model, shape.batch, ATTEND_CALLS[0] - calls_before)
        return RecordedStep(step=step, advance=advance, names=names)

    def _run(self, model: StaticDecode, step: StaticStep, *, warm_up: bool = False) -> None:
        with self._kernels_applied(model, step):
            step.warm_up() if warm_up else step.run()

    @contextmanager
    def _kernels_applied(self, model: StaticDecode, step: StaticStep) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._kernels.applied(model.decoder))
            if self._compiler is not None:
                stack.enter_context(self._compiler.applied(model.decoder, step.cache))
            yield


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    first: Tensor
    finite: Tensor
    logits: Tensor
    """After the prompt."""

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        return []


@final
@dataclass(slots=True, kw_only=True)
class _Replaying:
    recorded: RecordedStep
    first: Tensor
    prompt_finite: Tensor
    logits: Tensor
    """After the prompt."""

    @property
    def finite(self) -> Tensor:
        return self.prompt_finite & self.recorded.step.finite[: len(self.prompt_finite)]

    @torch.inference_mode()
    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        rows, step = len(self.first), self.recorded.step
        tracker = EosTracker(self.first, stop)
        for index in range(steps):
            if tracker.all_ended():
                break
            self.recorded.advance()
            if stop:  # copied to the host step by step; else all tokens are copied at the end
                tracker.append(step.generated[index, :rows])
            mark("decode")
        if stop:
            return tracker.tokens[1:]
        return list(step.generated[:steps, :rows].to("cpu", non_blocking=True).unbind(0))


def cache_length(tokens: int, *, exact: bool = True) -> int:
    """Cache length for so many tokens, rounded up so that few lengths are recorded.

    Args:
        tokens: Of the longest prompt and its answer.
        exact: Because they are timed, by less than 64 or a seventh; else to a power of two. Unlike the longest length
            that was recorded before, this depends on the batch alone: a longer cache is added up in another order.
    """
    if not exact:
        return max(LEAST_LENGTH, 1 << (tokens - 1).bit_length())
    multiple = max(64, 1 << max(0, tokens.bit_length() - 4))
    return -(-tokens // multiple) * multiple


def engine_of(name: str, device: str, *, only_eager: str = "", pinned: frozenset[str] = frozenset()) -> AbstractEngine:
    """The engine that a job names, for a loaded model.

    Args:
        name: ``eager``, ``graphs`` or ``compiled``.
        device: ``cpu`` or ``cuda``.
        only_eager: Why the model's decode step cannot be recorded; empty where it can.
        pinned: May hold ``attention`` and ``experts_kernel``: decode steps must then run on the model's own kernel.

    Raises:
        ModelError: the engine needs recording, and the device or the model does not allow it.
    """
    if name == "eager":
        return EAGER
    if not device.startswith("cuda"):
        raise ModelError(f"engine {name}: needs CUDA graphs, but this trial runs on a CPU; use engine: eager")
    if only_eager:
        raise ModelError(f"engine {name}: {only_eager}; use engine: eager")
    kernels = DecodeKernels(attention="attention" not in pinned, experts="experts_kernel" not in pinned)
    if name == "compiled":
        return StaticEngine(
            name, compiler=BlockCompiler(), prompt_compiler=BlockCompiler(dynamic=True), kernels=kernels
        )
    return StaticEngine(name, kernels=kernels)
