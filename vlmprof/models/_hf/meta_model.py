"""A model without weights: its modules on the meta device, built from its configuration in about a second.

Nothing is inferred from names in the configuration: the same inspection runs on the meta model and on a loaded one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from vlmprof.errors import ModelError
from vlmprof.models._checkpoint_gate import source_of
from vlmprof.models._hf.checkpoint_files import options
from vlmprof.models._hf.introspection import ModelModules, find_modules
from vlmprof.models._hf.processor_compat import allow_missing_video_processors, has_torchvision
from vlmprof.models.family import Checkpoint


def read_config(checkpoint: Checkpoint) -> Any:
    """The configuration of a checkpoint.

    Raises:
        ModelError: it cannot be read, or is not the configuration of an image-text-to-text model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    try:
        config = AutoConfig.from_pretrained(source_of(checkpoint), **options(checkpoint))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_config_error(checkpoint, error)) from None
    remote = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in KNOWN and not remote:
        raise ModelError(
            f"{checkpoint.path} is a '{config.model_type}' model, which transformers does not load as image and text"
            " to text"
        )
    return config


def build_meta_model(config: Any, *, trust_remote_code: bool = False) -> Any:
    """Build the model on the meta device.

    Raises:
        ModelError: transformers cannot build it here; the message says why.
    """
    from transformers import AutoModelForImageTextToText

    try:
        with _quiet_transformers(), torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
    except (ImportError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"transformers cannot build this {config.model_type} model here: {reason}") from None


@lru_cache(maxsize=16)
def meta_model_modules(checkpoint: Checkpoint, fingerprint: str) -> tuple[Any, ModelModules]:
    """The meta model of a checkpoint and its modules. Cached, because a plan describes the same model many times."""
    model = build_meta_model(read_config(checkpoint), trust_remote_code=checkpoint.trust_remote_code)
    return model, find_modules(model)


@lru_cache(maxsize=16)
def read_processor(checkpoint: Checkpoint, fingerprint: str) -> Any:
    """The processor for describing a checkpoint. Cached and shared; a loaded model has a processor of its own."""
    return load_processor(checkpoint)


def load_processor(checkpoint: Checkpoint) -> Any:
    """Load tokenizer, chat template and image processor; the processor's PIL version where torchvision is missing.

    Raises:
        ModelError: it cannot be read here, needs torchvision, or has no chat template.
    """
    from transformers import AutoProcessor

    allow_missing_video_processors()
    backend = {} if has_torchvision() else {"backend": "pil"}
    try:
        with _quiet_transformers():
            processor = AutoProcessor.from_pretrained(source_of(checkpoint), **backend, **options(checkpoint))
    except (OSError, ValueError, ImportError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(_processor_error(checkpoint, error)) from None
    if not hasattr(processor, "image_processor") or not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{checkpoint.path}: its {type(processor).__name__} has no chat template, which is needed to build a"
            " prompt about an image; add chat_template.jinja to the checkpoint, or use its instruction-tuned variant"
        )
    return processor


def _processor_error(checkpoint: Checkpoint, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not has_torchvision() and ("torchvision" in str(error).lower() or "Pil" in str(error)):
        return (
            f"{checkpoint.path}: its image processor has no PIL version and needs torchvision, which is not installed"
            " here; pip install torchvision"
        )
    return f"{checkpoint.path}: its processor cannot be read: {reason}"


def _config_error(checkpoint: Checkpoint, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return (
            f"{checkpoint.path} contains Python code, which is not run unless the job allows it: add"
            " 'trust_remote_code: true' to the model in the job if you have read that code"
        )
    return f"{checkpoint.path}: its configuration cannot be read: {reason}"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence warnings of transformers about classes and defaults; what matters is raised or recorded by vlmprof."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
