"""Out of memory: what counts as it, and how to leave it with nothing held.

An exception holds its traceback, the traceback its frames, the frames their tensors: freeing inside ``except`` frees
nothing. So the caller notes the failure, leaves the ``except`` block, and only then calls ``release``.
"""

from __future__ import annotations

import gc

import torch

SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")
"""Of CUDA, cuBLAS and cuDNN, and the CPU allocator; torch's own exception is known by its type."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device had no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def release() -> None:
    """Return what nobody holds any more to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
