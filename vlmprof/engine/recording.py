"""``GraphRecorder``: captures work on the device as a CUDA graph; ``RecordedCall``: a function of tensors, recorded.

A graph replays the same kernels on the same addresses. So a recorded call owns a buffer for each of its inputs and
copies into it before it replays; its outputs lie in buffers too, which the next replay of the same call overwrites.
Without a GPU nothing is captured and the work runs from Python each time, on the same buffers: that is how tests see a
stale buffer on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vlmprof.engine.device_errors import classify, free_share

WARMUP_RUNS = 2
"""Runs before work is recorded: in the first, kernels are compiled and libraries allocate their workspaces; what is
compiled needs another one."""
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
        graph = torch.cuda.CUDAGraph()
        # thread_local: calls of other threads meanwhile, such as pinning memory for the next batch, are not captured.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    def forget(self) -> None:
        """Take another pool for what is recorded next: torch captures no graph into a pool whose last graph is gone."""
        self._pool = None


def _without_graph(work: Callable[[], Result]) -> Callable[[], Result]:
    """Runs the work each time and, like a graph, leaves its results where those of the first time were."""
    first: list[Result] = []

    def again() -> Result:
        result = work()
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
        self, recorder: GraphRecorder, function: Callable[[Mapping[str, Tensor]], Any], like: Mapping[str, Tensor]
    ) -> None:
        """Record the function.

        Args:
            recorder: Captures it.
            function: Takes the inputs by name and returns tensors; the host reads none of them.
            like: Inputs of the right shapes and types, on which the function runs while it is recorded.
        """
        self._result: Any = None
        self.inputs = {name: torch.empty_like(tensor) for name, tensor in like.items()}
        self._load(like)
        self._advance = recorder.record(partial(function, self.inputs), partial(function, self.inputs))

    def __call__(self, inputs: Mapping[str, Tensor]) -> Any:
        """The function of these inputs; the result is overwritten by the next call."""
        self._load(inputs)
        self._result = self._advance()
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
        raise NotRecordable(f"{type(first).__name__}: {lines[0]}" if lines else type(first).__name__) from None


def shapes_of(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """What a recording over these tensors depends on: names, shapes and types, for its key."""
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items())
