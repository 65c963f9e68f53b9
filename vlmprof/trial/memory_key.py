"""Key of the batch-size cache: everything except knobs that affects memory.

It has two halves. The first is the device, the model and how it runs; the second is versions: driver, torch,
transformers, and format numbers that are raised by hand. Measurements under a key with the same first half and another
second half are stale.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch

from vlmprof.batch_size.cache import FORMAT
from vlmprof.measure.environment import environment
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import TrialPlan, canonical

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
FORWARD_FORMAT = 1
"""Raise it with a change in ``engine`` or ``models`` that alters how much memory a forward pass takes: batch sizes that
were measured before are then measured again. A number and not a hash of the sources, since most changes of code leave
memory as it is, and measuring again costs minutes of a GPU."""
VERSIONS = ("gpu_driver", "torch", "transformers")


def memory_key_of(plan: TrialPlan, model: AbstractModel) -> tuple[str, Mapping[str, Any]]:
    """The key under which batch sizes of this model are cached on this device, and what it was made of."""
    device = model.device
    described = environment(device)
    total = torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0
    setup = {
        "device": described["device"],
        "memory_bytes": total,
        "model": plan.model.label,
        "model_fingerprint": plan.model_fingerprint,
        "engine": plan.engine,
        "allocator": {name: os.environ.get(name, "") for name in ALLOCATOR},
        # Absent where the host cuts: keys from before there was a choice stay.
        **({"preprocess": model.preprocess} if model.preprocess == "device" else {}),
        **model.kernels,
    }
    versions = {name: described[name] for name in VERSIONS}
    versions |= {"cuda": torch.version.cuda, "forward_format": FORWARD_FORMAT, "format": FORMAT}
    return f"{_hash(setup)}-{_hash(versions)}", {**setup, **versions}


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
