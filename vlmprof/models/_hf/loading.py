"""Loads weights into a model: safetensors only unless allowed, no missing, unexpected or misshapen tensors."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

from vlmprof.errors import ModelError
from vlmprof.models._checkpoint_gate import admit, require_whole, source_of
from vlmprof.models._hf.checkpoint_files import options
from vlmprof.models._implementations import require_package
from vlmprof.models.family import Checkpoint

MAX_LISTED_KEYS = 6


def load_model(checkpoint: Checkpoint) -> Any:
    """Load the model of a checkpoint into host memory.

    Raises:
        ModelError: the files cannot be read, are in a refused format, or do not match the model's parameters exactly.
    """
    from transformers import AutoModelForImageTextToText

    admit(checkpoint)
    require_whole(checkpoint)
    require_package(checkpoint.attention)
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            source_of(checkpoint),
            dtype=getattr(torch, checkpoint.dtype),
            use_safetensors=None if checkpoint.allow_pickle else True,
            ignore_mismatched_sizes=True,  # listed below; the error of transformers only refers to its log
            output_loading_info=True,
            **({"attn_implementation": checkpoint.attention} if checkpoint.attention else {}),
            **options(checkpoint),
        )
    except (OSError, ValueError, ImportError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(_loading_error(checkpoint, error)) from error
    shapes = [key for key, *_ in report["mismatched_keys"]]
    faults = {"missing": report["missing_keys"], "not expected": report["unexpected_keys"], "of another shape": shapes}
    lines = [f"{len(keys)} {kind} ({_listed(sorted(keys))})" for kind, keys in faults.items() if keys]
    if lines:
        raise ModelError(f"{checkpoint.path} does not hold exactly this model's tensors: {'; '.join(lines)}")
    return model


def _loading_error(checkpoint: Checkpoint, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if checkpoint.trust_remote_code and isinstance(error, AttributeError | ImportError | ValueError):
        return (
            f"{checkpoint.path}: its own code does not run with this version of transformers ({reason}), as is usual"
            " for code written for transformers 4; use a checkpoint whose model class is part of transformers"
        )
    if "safetensors" in str(error):
        return (
            f"{checkpoint.path} has no safetensors weights; convert them, or add 'allow_pickle: true' to the model in"
            f" the job ({reason})"
        )
    return f"{checkpoint.path}: its weights cannot be read: {reason}"


def _listed(keys: list[str]) -> str:
    more = len(keys) - MAX_LISTED_KEYS
    return ", ".join(keys[:MAX_LISTED_KEYS]) + (f" and {more} more" if more > 0 else "")
