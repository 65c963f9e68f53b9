"""``HostReads``: what the host reads while work runs, noted once and given back while the work is recorded.

Code of transformers reads values on the host: the grid of an image, whether a mask hides anything, where image tokens
stand. A CUDA graph allows no such read. Most of these values follow from integer inputs alone, which the key of a
recording holds. So the reads of a run before the recording are noted in order and answered from the notes while the
work is captured; everything between them is captured as it runs. Code that asks transformers whether a graph is being
captured is told no, because it would take another way than the run whose reads were noted.

A value that follows from anything else, such as pixels, must not be frozen: tensors computed from inputs that are not
in the key are followed through the run, and a read of one is an error. Limit: whatever synchronises without one of the
operations below still fails, when it is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers.utils import import_utils

READS = frozenset({"item", "_local_scalar_dense", "is_nonzero", "equal", "allclose", "bincount", "masked_select"})
READS |= {"nonzero", "nonzero_numpy", "argwhere"}
READS |= {"_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"}
"""Operations whose result, or the shape of it, the host has to know."""
INDEXING = frozenset({"index", "index_put", "index_put_"})
MOVES = frozenset({"to", "_to_copy", "cpu", "cuda"})
MADE_FROM_LISTS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
"""Functions that copy values of the host to the device."""


@final
class HostRead(RuntimeError):
    """A read of the host that a recording cannot hold."""


@final
class HostReads:
    """The reads of one piece of work, for one key of its recording."""

    def __init__(self, varying: Sequence[Tensor], *, unchecked: bool = False) -> None:
        """Nothing has been noted yet.

        Args:
            varying: Inputs whose values the key does not hold.
            unchecked: The key decides what is read of these as well.
        """
        self._varying, self._unchecked = varying, unchecked
        self._notes: list[tuple[str, Any]] = []
        self._next: int | None = None
        """The note that answers the next read; None while reads are noted."""
        self._followed: dict[int, StorageWeakRef] = {}
        """The storages that hold something computed from varying inputs, by address, which a weak reference keeps."""
        self._inside = False
        self._modes = (_Functions(self), _Operations(self))
        self._entered = False

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note all reads inside of a ``with`` block, instead of those noted before."""
        self._notes.clear()
        self._next = None
        self._followed = {}
        self._follow(self._varying)
        try:
            with self._watching():
                yield
        finally:
            self._followed = {}

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Answer all reads inside of a ``with`` block from the notes.

        Raises:
            HostRead: these are not the reads that were noted.
        """
        self._next = 0
        with self._watching(), _told_that_nothing_is_captured():
            yield
        if self._next != len(self._notes):
            raise HostRead(f"the host read {len(self._notes)} values in one run and {self._next} in another")

    @contextmanager
    def paused_in(self, modules: Sequence[Any]) -> Iterator[None]:
        """Leave the forwards of modules alone, as the compiler needs; what they read then fails in a recording."""

        def leave(*_: Any) -> None:
            self._leave()

        def enter(_: Any, __: Any, output: Any) -> None:
            self._follow(tree_leaves(output))
            self._enter()

        with ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(leave).remove)
                hooks.callback(module.register_forward_hook(enter).remove)
            yield

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        if not self._entered:
            for mode in self._modes:
                mode.__enter__()  # type: ignore[no-untyped-call]  # untyped in torch
            self._entered = True

    def _leave(self) -> None:
        if self._entered:
            for mode in reversed(self._modes):
                mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # untyped in torch
            self._entered = False

    def function(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of torch, or answer it."""
        made = any(function is maker for maker in MADE_FROM_LISTS)
        if made and isinstance(args[1] if function is Tensor.new_tensor else args[0], Tensor):
            made = False
        if not (made or function is Tensor.tolist) or self._inside:
            return function(*args, **kwargs)
        read_of = tree_leaves(args) if not made or function is not Tensor.new_tensor else tree_leaves(args[1:])
        return self._read(function.__name__, lambda: function(*args, **kwargs), read_of)

    def operation(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation of torch, or answer it."""
        if self._inside:
            return function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if name in INDEXING:
            args = [args[0], self._positions(args[1], args[0]), *args[2:]]
        if name == "copy_" and args[0].device.type != args[1].device.type:
            args = [args[0], self._moved(args[1], args[0]), *args[2:]]
        if name in READS or _depends_on_values(name, function, args, kwargs):
            return self._read(name, lambda: function(*args, **kwargs), tree_leaves((args, kwargs)))
        result = function(*args, **kwargs)
        if self._next is None and self._varies(tree_leaves((args, kwargs))):
            self._follow(tree_leaves(result))
        return result

    def _positions(self, indices: Sequence[Any], indexed: Tensor) -> list[Any]:
        """Indices without masks, whose positions the host has to count, and on the device of what they index."""
        found: list[Any] = []
        for index in indices:
            if not isinstance(index, Tensor):
                found.append(index)
            elif index.dtype in (torch.bool, torch.uint8):
                positions = self._read("positions of a mask", index.nonzero, [index])
                found.extend(self._moved(part, indexed) for part in positions.unbind(1))
            else:
                found.append(self._moved(index, indexed))
        return found

    def _moved(self, tensor: Tensor, like: Tensor) -> Tensor:
        if tensor.device.type == like.device.type:
            return tensor
        moved: Tensor = self._read("a copy to the device", lambda: tensor.to(like.device), [tensor])
        return moved

    def _read(self, what: str, work: Callable[[], Any], read_of: Sequence[Any]) -> Any:
        if self._next is not None:
            return self._answer(what)
        if not self._unchecked and self._varies(read_of):
            raise HostRead(f"the host reads a value computed from pixels or features ({what})")
        self._inside = True
        try:
            value = work()
            self._notes.append((what, _copy(value)))
        finally:
            self._inside = False
        return value

    def _answer(self, what: str) -> Any:
        assert self._next is not None
        noted, value = self._notes[self._next] if self._next < len(self._notes) else ("nothing", None)
        if noted != what:
            raise HostRead(f"the host reads other values from run to run: {noted} in one, {what} in another")
        self._next += 1
        self._inside = True
        try:
            return _copy(value)  # the work may change it in place
        finally:
            self._inside = False

    def _follow(self, values: Sequence[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._followed.setdefault(storage._cdata, StorageWeakRef(storage))  # type: ignore[no-untyped-call]

    def _varies(self, values: Sequence[Any]) -> bool:
        return any(isinstance(value, Tensor) and value.untyped_storage()._cdata in self._followed for value in values)


@final
class _Functions(TorchFunctionMode):
    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._reads.function(func, args, kwargs or {})


@final
class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    def __init__(self, reads: HostReads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self._reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._reads.operation(func, args, kwargs or {})


def _depends_on_values(name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name == "where":
        return len(args) == 1
    if name == "repeat_interleave":
        return function._overloadname in ("Tensor", "self_Tensor") and kwargs.get("output_size") is None
    if name in MOVES and isinstance(args[0], Tensor):
        wanted = {"cpu": "cpu", "cuda": "cuda"}.get(name) or _device_named(args[1:], kwargs)
        return wanted is not None and wanted != args[0].device.type
    return False


def _device_named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The type of the device that a tensor is moved to; None where it stays."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor | torch.device):
            return value.type if isinstance(value, torch.device) else value.device.type
    return None


def _copy(value: Any) -> Any:
    return tree_map_only(Tensor, Tensor.clone, value)


@contextmanager
def _told_that_nothing_is_captured() -> Iterator[None]:
    before = import_utils.is_cuda_stream_capturing
    import_utils.is_cuda_stream_capturing = lambda: False
    try:
        yield
    finally:
        import_utils.is_cuda_stream_capturing = before
