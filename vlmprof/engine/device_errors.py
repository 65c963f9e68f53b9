"""Out of memory: what counts as it, and how to leave it with nothing held.

An exception holds its traceback, the traceback its frames, the frames their tensors: freeing inside ``except`` frees
nothing. So the caller notes the failure, leaves the ``except`` block, and only then calls ``release``.
"""

from __future__ import annotations

import gc
from typing import Literal

import torch

Failure = Literal["memory", "size_limit", "lost", "other"]
"""``memory``: the device had no room. ``size_limit``: a kernel cannot index so much, however much room there is.
``lost``: the accelerator's context is broken, and nothing more can run in this process."""

SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")
"""Of CUDA, cuBLAS, cuDNN and Triton, and the CPU allocator; torch's own exception is known by its type."""
SUSPECTS = ("cublas_status_not_initialized", "cudnn_status_internal_error", "cudnn_status_not_supported")
"""What libraries say when they cannot make a workspace, and at other times; memory if there is next to none left."""
LIMITS = ("int_max", "32-bit index")
NEXT_TO_NONE = 0.03


def classify(error: BaseException, free_share: float | None = None) -> Failure:
    """What a failure of the device means.

    Args:
        error: As torch raised it.
        free_share: Of the device's memory; None where it is not known.
    """
    said = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    if not isinstance(error, RuntimeError):
        return "other"
    if any(sign in said for sign in LIMITS):
        return "size_limit"
    if any(sign in said for sign in SIGNS):
        return "memory"
    if any(sign in said for sign in SUSPECTS) and free_share is not None and free_share < NEXT_TO_NONE:
        return "memory"
    return "lost" if isinstance(error, torch.AcceleratorError) else "other"


def free_share() -> float | None:
    """Of the current device's memory; None without one, and where its context is broken."""
    if not torch.cuda.is_available():
        return None
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return None
    return free / total


def release() -> None:
    """Return what nobody holds any more to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
