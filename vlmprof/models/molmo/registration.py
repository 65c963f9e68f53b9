"""Registers the native Molmo with the Auto classes of transformers, also for checkpoints that name remote code."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vlmprof.models.molmo.configuration import MolmoConfig
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.processing import MolmoImageProcessor, MolmoProcessor
from vlmprof.models.molmo.weights import register_weight_rules


def register(*, force: bool = False) -> bool:
    """Register configuration, models and processors under the type "molmo". Calling it again changes nothing.

    Registered for both model classes: Hub checkpoints name ``AutoModelForCausalLM`` in their ``auto_map``, and without
    this transformers would ask to run their remote code.

    Args:
        force: whether to replace a Molmo v1 that a future transformers may contain.

    Returns:
        Whether "molmo" now means the classes of this package.
    """
    registered = CONFIG_MAPPING["molmo"] if "molmo" in CONFIG_MAPPING else None  # noqa: SIM401 (its get() ignores registered classes)
    if registered not in (None, MolmoConfig) and not force:
        return False
    AutoConfig.register("molmo", MolmoConfig, exist_ok=True)
    for auto_model in (AutoModelForImageTextToText, AutoModelForCausalLM):
        auto_model.register(MolmoConfig, MolmoForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(MolmoConfig, image_processor_classes={"pil": MolmoImageProcessor}, exist_ok=True)
    AutoProcessor.register(MolmoConfig, MolmoProcessor, exist_ok=True)
    register_weight_rules()
    return True
