"""Makes transformers' Auto classes find the native Molmo, whatever a checkpoint says about remote code."""

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

    Registered for both model classes: checkpoints of the Hub name ``AutoModelForCausalLM`` in their ``auto_map``, and
    would ask to run their remote code there otherwise.

    Args:
        force: whether to take the place of a Molmo v1 that transformers itself may bring one day.

    Returns:
        Whether "molmo" now means the classes of this package.
    """
    known = CONFIG_MAPPING["molmo"] if "molmo" in CONFIG_MAPPING else None  # noqa: SIM401 (its get skips registered ones)
    if known not in (None, MolmoConfig) and not force:
        return False
    AutoConfig.register("molmo", MolmoConfig, exist_ok=True)
    for auto_model in (AutoModelForImageTextToText, AutoModelForCausalLM):
        auto_model.register(MolmoConfig, MolmoForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(MolmoConfig, image_processor_classes={"pil": MolmoImageProcessor}, exist_ok=True)
    AutoProcessor.register(MolmoConfig, MolmoProcessor, exist_ok=True)
    register_weight_rules()
    return True
