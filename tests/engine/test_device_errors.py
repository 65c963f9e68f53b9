"""What failures of a device mean, by the words they come in."""

import pytest
import torch

from vlmprof.engine.device_errors import classify

SAID = {
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB": "memory",
    "CUDA error: out of memory": "memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "memory",
    "Triton Error [CUDA]: out of memory": "memory",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory": "memory",
    "nonzero is not supported for tensors with more than INT_MAX elements": "size_limit",
    "canUse32BitIndexMath: input tensor must fit into 32-bit index math": "size_limit",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)": "other",
}


@pytest.mark.parametrize("said", SAID)
def test_errors_are_known_by_their_words(said: str) -> None:
    assert classify(RuntimeError(said)) == SAID[said]


def test_torch_s_own_exception_is_known_by_its_type() -> None:
    assert classify(torch.OutOfMemoryError("HIP is short of something")) == "memory"
    assert classify(ValueError("out of memory")) == "other"


@pytest.mark.parametrize(("free", "kind"), [(0.01, "memory"), (0.5, "other"), (None, "other")])
def test_a_library_that_cannot_start_is_short_of_memory_only_where_there_is_none(free: float | None, kind: str) -> None:
    assert classify(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"), free) == kind


def test_any_other_accelerator_error_has_poisoned_the_process() -> None:
    assert classify(torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)) == "lost"
    assert classify(torch.AcceleratorError("CUDA error: out of memory", 2)) == "memory"
