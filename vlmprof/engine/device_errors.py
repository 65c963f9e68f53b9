"""Out-of-memory errors: how they are recognised, and how memory is freed after one.

An exception keeps its traceback alive, the traceback its frames, the frames their tensors: freeing inside ``except``
frees nothing. So the caller notes the failure, leaves the ``except`` block, and only then calls ``release``.
"""

from __future__ import annotations

import gc
from typing import Literal

import torch

Failure = Literal["memory", "size_limit", "lost", "other"]
"""``memory``: the device had too little memory. ``size_limit``: a kernel cannot index so many elements, however much
memory there is. ``lost``: the accelerator's context is broken, and nothing more can run in this process."""

OUT_OF_MEMORY_MESSAGES = ("out of memory", "alloc_failed", "can't allocate memory")
"""Of CUDA, cuBLAS, cuDNN, Triton and the CPU allocator; torch's own exception is recognised by its type."""
AMBIGUOUS_MESSAGES = ("cublas_status_not_initialized", "cudnn_status_internal_error", "cudnn_status_not_supported")
"""Raised by libraries that cannot allocate a workspace, but for other reasons too. Taken as out of memory only if less
than ``LOW_MEMORY_SHARE`` of the device's memory is free."""
SIZE_LIMIT_MESSAGES = ("int_max", "32-bit index")
LOW_MEMORY_SHARE = 0.03


def classify(error: BaseException, free_share: float | None = None) -> Failure:
    """Which kind of failure an exception is.

    Args:
        error: As torch raised it.
        free_share: Share of the device's memory that is free, 0 to 1; None if unknown.
    """
    message = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    if not isinstance(error, RuntimeError):
        return "other"
    if any(part in message for part in SIZE_LIMIT_MESSAGES):
        return "size_limit"
    if any(part in message for part in OUT_OF_MEMORY_MESSAGES):
        return "memory"
    low_memory = free_share is not None and free_share < LOW_MEMORY_SHARE
    if low_memory and any(part in message for part in AMBIGUOUS_MESSAGES):
        return "memory"
    return "lost" if isinstance(error, torch.AcceleratorError) else "other"


def free_share() -> float | None:
    """Share of the current device's memory that is free, 0 to 1; None without a GPU or if its context is broken."""
    if not torch.cuda.is_available():
        return None
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return None
    return free / total


def release() -> None:
    """Collect garbage, and return the unused memory of torch's caching allocator to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
