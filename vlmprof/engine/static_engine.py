"""``StaticEngine``: engines whose decode step runs on memory that never moves, recorded once and replayed.

``graphs`` records the model's step as it is; ``compiled`` fuses each block's kernels first. A step is recorded when it
is first needed, for a batch size, a cache length (rounded up), the blocks that run and their routing, and kept while
there is room; keys and values of all recordings share one memory, and so does what the graphs use inside.

The prompt runs as in ``eager``, only that its keys and values are kept there: the first token never depends on the
engine.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vlmprof.decoding import Mark, StaticDecode, StepInputs, unmarked
from vlmprof.engine.base import AbstractEngine, Decoding, Steps
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.eos_tracker import EosTracker
from vlmprof.engine.kernels import ATTENDED, DecodeKernels
from vlmprof.engine.static_cache import CacheArena, CacheShape, prompt_cache
from vlmprof.engine.static_step import StaticStep, settings_of
from vlmprof.errors import ModelError

RECORDINGS = 24
"""Kept at most; the one that was used longest ago goes first."""
TRIAL_RUNS = 2
"""Before a step is recorded: kernels are compiled and libraries make their workspaces in the first."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """A step and the way to run it."""

    step: StaticStep
    advance: Callable[[], None]
    names: Mapping[str, str]
    """The kernels it runs on."""


@final
class StaticEngine(AbstractEngine):
    """The engines ``graphs`` and ``compiled`` of one loaded model."""

    def __init__(
        self,
        name: str,
        *,
        capture: bool = True,
        compiler: BlockCompiler | None = None,
        kernels: DecodeKernels | None = None,
    ) -> None:
        """Nothing is recorded yet.

        Args:
            name: ``graphs`` or ``compiled``.
            capture: False runs each step from Python: for a CPU, where the same steps are tested.
            compiler: Of the blocks; None leaves them as they are.
            kernels: Of the steps; None takes ours where steps are recorded, else the model's own.
        """
        self._name, self._capture, self._compiler = name, capture, compiler
        self._kernels = kernels or DecodeKernels(attention=capture, experts=capture)
        self._arena, self._moves = CacheArena(), 0
        self._recorded: OrderedDict[tuple[Any, ...], RecordedStep] = OrderedDict()
        self._pool: Any = None
        self.recording_s = 0.0
        """Seconds spent on making recordings."""
        self._last: Mapping[str, str] = {}

    @torch.inference_mode()
    def begin(self, model: Any, batch: Any, features: Any, max_new_tokens: int, *, exact: bool) -> Decoding:
        rows, tokens = len(batch.encodings), max(encoding.prompt_tokens for encoding in batch.encodings)
        shape = self._shape(model, rows, cache_length(tokens + max_new_tokens), exact=exact)
        filled = prompt_cache(self._arena, len(model.decoder.layers), shape)
        state = model.prefill(batch, features, max_new_tokens, filled)
        if self._moves != self._arena.moves:
            self._drop()  # they know the old addresses
            self._moves = self._arena.moves
        if max_new_tokens == 1:
            return _Finished(first=state.next_tokens)
        inputs = model.step_inputs(state)
        recorded = self._step_of(model, inputs, shape, filled)
        recorded.step.load(inputs)
        return _Replaying(recorded=recorded, first=state.next_tokens)

    def describe(self) -> Mapping[str, str]:
        return {"engine": self._name, **self._last}

    def forget(self) -> None:
        """Give all memory back."""
        self._drop()
        self._arena.clear()

    def _drop(self) -> None:
        """Let go of all recordings, and of the memory they share inside: torch takes no new one into a pool that the
        last graph has left.
        """
        self._recorded.clear()
        self._pool = None

    def _shape(self, model: StaticDecode, rows: int, length: int, *, exact: bool) -> CacheShape:
        """Where nothing is timed, a few rows may borrow the recording of up to twice as many."""
        settings = settings_of(model)
        known = [batch for have, batch, room in self._recorded if (have, room) == (settings, length)]
        borrowed = min((batch for batch in known if rows <= batch <= 2 * rows), default=rows)
        return CacheShape(batch=rows if exact else borrowed, length=length)

    def _step_of(self, model: StaticDecode, like: StepInputs, shape: CacheShape, filled: Cache) -> RecordedStep:
        """The recorded step of a shape, made if there is none."""
        key = (settings_of(model), shape.batch, shape.length)
        if key not in self._recorded:
            began = time.perf_counter()
            self._recorded[key] = self._record(model, like, shape, filled)
            self.recording_s += time.perf_counter() - began
        self._recorded.move_to_end(key)
        while len(self._recorded) > RECORDINGS:
            self._recorded.popitem(last=False)
        self._last = self._recorded[key].names
        return self._recorded[key]

    def _record(self, model: StaticDecode, like: StepInputs, shape: CacheShape, filled: Cache) -> RecordedStep:
        step = StaticStep(model, like, shape, filled)
        before = ATTENDED[0]
        with self._prepared(model, step):
            advance = self._captured(step) if self._capture else self._rehearsed(model, step)
        names = self._kernels.names(model, shape.batch, ATTENDED[0] - before)
        return RecordedStep(step=step, advance=advance, names=names)

    def _rehearsed(self, model: StaticDecode, step: StaticStep) -> Callable[[], None]:
        for _ in range(TRIAL_RUNS):
            step.rehearse()

        def advance() -> None:
            with self._prepared(model, step):
                step.run()

        return advance

    @contextmanager
    def _prepared(self, model: StaticDecode, step: StaticStep) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self._kernels.applied(model.decoder))
            if self._compiler is not None:
                stack.enter_context(self._compiler.applied(model.decoder, step.cache))
            yield

    def _captured(self, step: StaticStep) -> Callable[[], None]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch types it not
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(TRIAL_RUNS):
                step.rehearse()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do meanwhile, such as pinning memory for the next batch, is not recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step.run()
        return graph.replay


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    first: Tensor

    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        return []


@final
@dataclass(slots=True, kw_only=True)
class _Replaying:
    recorded: RecordedStep
    first: Tensor

    @torch.inference_mode()
    def rest(self, steps: int, stop: frozenset[int], mark: Mark = unmarked) -> Steps:
        rows, step = len(self.first), self.recorded.step
        lookout = EosTracker(self.first, stop)
        for made in range(steps):
            if lookout.over():
                break
            self.recorded.advance()
            if stop:  # looked at as they come; else all are fetched at the end
                lookout.take(step.said[made, :rows])
            mark("decode")
        if stop:
            return lookout.taken[1:]
        return list(step.said[:steps, :rows].to("cpu", non_blocking=True).unbind(0))


def cache_length(tokens: int) -> int:
    """Room for so many tokens, rounded up so that few lengths are recorded: by less than 64, or than a seventh."""
    grain = max(64, 1 << max(0, tokens.bit_length() - 4))
    return -(-tokens // grain) * grain


def engine_of(name: str, device: str, *, only_eager: str = "", pinned: frozenset[str] = frozenset()) -> AbstractEngine:
    """The engine of a job for a loaded model.

    Args:
        name: ``eager``, ``graphs`` or ``compiled``.
        device: ``cpu`` or ``cuda``.
        only_eager: Why the model cannot be recorded; empty where it can.
        pinned: ``attention`` and ``experts_kernel`` where decode steps must run on the model's own.

    Raises:
        ModelError: it is neither eager nor possible.
    """
    from vlmprof.engine.base import EAGER

    if name == "eager":
        return EAGER
    if not device.startswith("cuda"):
        raise ModelError(f"engine {name}: records CUDA graphs, and this trial runs on a CPU; use engine: eager")
    if only_eager:
        raise ModelError(f"engine {name}: {only_eager}; use engine: eager")
    kernels = DecodeKernels(attention="attention" not in pinned, experts="experts_kernel" not in pinned)
    return StaticEngine(name, compiler=BlockCompiler() if name == "compiled" else None, kernels=kernels)
