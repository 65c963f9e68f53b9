"""Out of memory: what counts as it, and how to leave it with nothing held.

An exception holds its traceback, the traceback its frames, the frames their tensors: freeing inside ``except`` frees
nothing. So the failure is noted, the ``except`` block left, and only then memory returned and ``OutOfMemory`` raised.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlmprof.errors import OutOfMemory

SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")
"""Of CUDA, cuBLAS and cuDNN, and the CPU allocator; torch's own exception is known by its type."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device had no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def catching_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn a device's refusal into ``OutOfMemory``, after everything of the batch has been freed."""
    detail = None
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        detail = str(error).splitlines()[0]
    if detail is not None:
        release()
        raise OutOfMemory(batch_size, detail)


def release() -> None:
    """Return what nobody holds any more to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
