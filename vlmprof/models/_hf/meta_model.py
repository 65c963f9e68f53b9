"""A model without weights: its modules on the meta device, built from its configuration in a second.

Nothing is guessed from a configuration's names: what is looked for in a loaded model is looked for in the skeleton.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from vlmprof.errors import ModelError
from vlmprof.models._hf.checkpoint_files import options
from vlmprof.models._hf.introspection import ModelModules, find_modules
from vlmprof.models._hf.processor_compat import allow_missing_video_processors, has_torchvision
from vlmprof.models.family import Checkpoint


def read_config(checkpoint: Checkpoint) -> Any:
    """The configuration of a checkpoint.

    Raises:
        ModelError: it cannot be read, or is of no model that turns images and text into text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    try:
        config = AutoConfig.from_pretrained(checkpoint.path, **options(checkpoint))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_unreadable(checkpoint, error)) from None
    remote = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in KNOWN and not remote:
        raise ModelError(
            f"{checkpoint.path} is a '{config.model_type}' model, which transformers does not load as image and text"
            " to text"
        )
    return config


def build_meta_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The model on the meta device.

    Raises:
        ModelError: transformers cannot build it here; says why.
    """
    from transformers import AutoModelForImageTextToText

    try:
        with _quiet(), torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except (ImportError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"transformers cannot build this {config.model_type} model here: {reason}") from None


@lru_cache(maxsize=16)
def meta_model_modules(checkpoint: Checkpoint, fingerprint: str) -> tuple[Any, ModelModules]:
    """The skeleton of a checkpoint and its parts; remembered by fingerprint, a plan describes a model many times."""
    model = build_meta_model(read_config(checkpoint), trust_remote_code=checkpoint.trust_remote_code)
    return model, find_modules(model)


@lru_cache(maxsize=16)
def read_processor(checkpoint: Checkpoint, fingerprint: str) -> Any:
    """Tokenizer, chat template and image processor; remembered, for describing only: a loaded model has its own."""
    return load_processor(checkpoint)


def load_processor(checkpoint: Checkpoint) -> Any:
    """Tokenizer, chat template and image processor of a checkpoint, on PIL where torchvision is missing.

    Raises:
        ModelError: it cannot be read here, needs torchvision, or has no chat template.
    """
    from transformers import AutoProcessor

    allow_missing_video_processors()
    backend = {} if has_torchvision() else {"backend": "pil"}
    try:
        with _quiet():
            processor = AutoProcessor.from_pretrained(checkpoint.path, **backend, **options(checkpoint))
    except (OSError, ValueError, ImportError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(_no_processor(checkpoint, error)) from None
    if not hasattr(processor, "image_processor") or not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{checkpoint.path}: its {type(processor).__name__} has no chat template, so it is not known how the model"
            " is asked about an image; add chat_template.jinja to the checkpoint, or take its instruction-tuned variant"
        )
    return processor


def _no_processor(checkpoint: Checkpoint, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not has_torchvision() and ("torchvision" in str(error).lower() or "Pil" in str(error)):
        return (
            f"{checkpoint.path}: its image processor has no PIL version and needs torchvision, which is not installed"
            " here; pip install torchvision"
        )
    return f"{checkpoint.path}: its processor cannot be read: {reason}"


def _unreadable(checkpoint: Checkpoint, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return (
            f"{checkpoint.path} brings Python code of its own, which is not run unless the job says so: add"
            " 'trust_remote_code: true' beside the checkpoint if you have read that code"
        )
    return f"{checkpoint.path}: its configuration cannot be read: {reason}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice on classes and defaults: what matters of it is raised or recorded here."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
