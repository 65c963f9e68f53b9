"""``GraphRecorder``: captures work on the device as a CUDA graph; ``RecordedCall``: a function of tensors, recorded.

A graph replays the same kernels on the same addresses. So a recorded call owns a buffer for each of its inputs and
copies into it before it replays; its outputs lie in buffers too, which the next replay of the same call overwrites.
Without a GPU nothing is captured and the work runs from Python each time, on the same buffers: that is how tests see a
stale buffer on a CPU.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vlmprof.decoding import Mark, StaticInputs, unmarked
from vlmprof.engine.device_errors import classify, free_share
from vlmprof.engine.host_reads import HostReads
from vlmprof.records import Stage

WARMUP_RUNS = 2
"""Runs before work is recorded: in the first, kernels are compiled and libraries allocate their workspaces; what is
compiled needs another one."""
SCARCE = 0.25
"""Share of the device's memory that must be free for what is cached to be kept: every recording would allocate anew."""
Result = TypeVar("Result")


@final
class GraphRecorder:
    """Captures graphs whose intermediate tensors share one pool of memory, so only one of them may run at a time."""

    def __init__(self, *, capture: bool, warmup_runs: int = WARMUP_RUNS) -> None:
        """Nothing is recorded yet.

        Args:
            capture: False: work runs from Python instead, as on a CPU.
            warmup_runs: Runs before work is recorded.
        """
        self.capture, self._warmup_runs = capture, warmup_runs
        self._pool: Any = None

    def record(self, work: Callable[[], Result], warm_up: Callable[[], object]) -> Callable[[], Result]:
        """A function that does the work again and returns what it returned while it was captured.

        Args:
            work: Work on the device in which the host reads no value. What it returns stays at its address.
            warm_up: Run before, outside of the recording, ``warmup_runs`` times.
        """
        replay = self.record_stages(lambda _: work(), warm_up)
        return lambda: replay(unmarked)

    def record_stages(self, work: Callable[[Mark], Result], warm_up: Callable[[], object]) -> Callable[[Mark], Result]:
        """As ``record``, for work that marks where a stage ends: the function marks the same places when it is called.

        Each stage becomes a graph of its own.
        """
        if not self.capture:
            for _ in range(self._warmup_runs):
                warm_up()
            return _without_graph(work)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):  # as torch requires
            for _ in range(self._warmup_runs):
                warm_up()
        torch.cuda.current_stream().wait_stream(side_stream)
        torch.cuda.synchronize()
        if (free_share() or 0.0) < SCARCE:  # what is cached cannot be given back while a graph is captured
            torch.cuda.empty_cache()
        with torch.cuda.stream(side_stream):
            stages, result = _captured(work, self._pool)

        def replay(mark: Mark) -> Result:
            for graph, ended in stages:
                graph.replay()
                if ended is not None:
                    mark(ended)
            return result

        return replay

    def forget(self) -> None:
        """Take another pool for what is recorded next: torch captures no graph into a pool whose last graph is gone."""
        self._pool = None


def _captured(work: Callable[[Mark], Result], pool: Any) -> tuple[list[tuple[Any, Stage | None]], Result]:
    """The graphs of the work, each with the stage that ends with it, and what the work returned."""
    stages: list[tuple[Any, Stage | None]] = []

    def begin() -> Any:
        graph = torch.cuda.CUDAGraph()
        # thread_local: calls of other threads meanwhile, such as pinning memory for the next batch, are not captured.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        return graph

    graph = begin()

    def end(stage: Stage | None) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*CUDA Graph is empty")  # two marks with nothing in between
            graph.capture_end()
        stages.append((graph, stage))

    def mark(stage: Stage) -> None:
        nonlocal graph
        end(stage)
        graph = begin()

    try:
        result = work(mark)
    except BaseException:
        with suppress(RuntimeError):  # the capture has failed already, for the reason that is being raised
            graph.capture_end()
        raise
    end(None)
    return stages, result


def _without_graph(work: Callable[[Mark], Result]) -> Callable[[Mark], Result]:
    """Runs the work each time and, like a graph, leaves its results where those of the first time were."""
    first: list[Result] = []

    def again(mark: Mark) -> Result:
        result = work(mark)
        if not first:
            first.append(result)
        else:
            for kept, new in zip(tree_leaves(first[0]), tree_leaves(result), strict=True):
                if kept is not None:
                    kept.copy_(new)
        return first[0]

    return again


@final
class RecordedCall:
    """A function of tensors, recorded for the shapes of its first inputs."""

    def __init__(
        self,
        recorder: GraphRecorder,
        function: Callable[[StaticInputs, Mark], Any],
        like: StaticInputs,
        compiled: Sequence[Any] = (),
    ) -> None:
        """Record the function.

        Args:
            recorder: Captures it.
            function: Returns tensors, marks where a stage ends, and reads on the host what its inputs say.
            like: Inputs of the right shapes and types, on which the function runs while it is recorded.
            compiled: Modules in it that the compiler takes care of; the host reads nothing in them.
        """
        self._result: Any = None
        self.inputs = {name: torch.empty_like(tensor) for name, tensor in like.tensors.items()}
        self._load(like.tensors)
        inputs = replace(like, tensors=self.inputs)
        if like.host_reads == "none":
            self._advance = recorder.record_stages(partial(function, inputs), lambda: function(inputs, unmarked))
            return
        varying = [buffer for name, buffer in self.inputs.items() if name not in like.fixed]
        reads = HostReads(varying, unchecked=like.host_reads == "any")

        def noted() -> None:
            for _ in range(2):  # what the first run sets up for good is not read again
                with reads.noted(), reads.paused_in(compiled):
                    function(inputs, unmarked)

        def repeated(mark: Mark) -> Any:
            with reads.repeated(), reads.paused_in(compiled):
                return function(inputs, mark)

        self._advance = recorder.record_stages(repeated, noted)

    def __call__(self, inputs: Mapping[str, Tensor], mark: Mark = unmarked) -> Any:
        """The function of these inputs; the result is overwritten by the next call."""
        self._load(inputs)
        self._result = self._advance(mark)
        return self._result

    @property
    def nbytes(self) -> int:
        """Memory of the inputs and, once it has run, of the result."""
        outputs = (leaf for leaf in tree_leaves(self._result) if isinstance(leaf, Tensor))
        return sum(buffer.nbytes for buffer in (*self.inputs.values(), *outputs))

    def _load(self, inputs: Mapping[str, Tensor]) -> None:
        for name, buffer in self.inputs.items():
            buffer.copy_(inputs[name])


@final
class NotRecordable(Exception):
    """Some work of this model cannot be recorded."""


@contextmanager
def recording() -> Iterator[None]:
    """Turn what goes wrong while work is recorded into ``NotRecordable``, unless it says nothing about the work.

    Raises:
        NotRecordable: with the first error: ending a capture that failed raises another one.
    """
    try:
        yield
    except Exception as error:  # whatever the model's code, the compiler or CUDA raises
        first: BaseException = error
        while first.__context__ is not None:
            first = first.__context__
        if "memory" in (classify(error, free_share()), classify(first, free_share())):
            raise
        if isinstance(first, torch.AcceleratorError) and "captur" not in str(first).lower():
            raise
        lines = str(first).strip().splitlines()
        reason = f"{type(first).__name__}: {lines[0]}" if lines else type(first).__name__
        raise NotRecordable(reason + _place_of(first)) from None


def _place_of(error: BaseException) -> str:
    """The innermost line of transformers' model code that was running, in brackets; empty where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "transformers/models" in frame.filename or "transformers/integrations" in frame.filename:
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def key_of(inputs: StaticInputs) -> tuple[Any, ...]:
    """What a recording with these inputs depends on: names, shapes and types of tensors, and what the model says."""
    shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.tensors.items())
    return shapes, inputs.key
