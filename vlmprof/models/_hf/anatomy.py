"""The anatomy of any image-text-to-text model, from its configuration and processor: no weights are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vlmprof.models._decoding import ignored_settings
from vlmprof.models._hf.checkpoint_files import fingerprint, generation_settings
from vlmprof.models._hf.introspection import ModelModules, always_normalised, attention_blocks, reachable_experts
from vlmprof.models._hf.meta_model import meta_model_modules, read_processor
from vlmprof.models._hf.vision_budgets import Budget, budget_class
from vlmprof.models._implementations import EXPERTS_KERNELS, attention_kernels
from vlmprof.models._knob_names import knob_names
from vlmprof.models._processor_pool import ProcessorPool
from vlmprof.models.family import Checkpoint
from vlmprof.surfaces import (
    FIXED,
    SURFACES,
    Anatomy,
    DecoderStack,
    ExpertRouting,
    ExpertsKernel,
    FreeTiling,
    PixelBudget,
    TokenBudget,
    TokenCounts,
    VisionBudget,
)

VISION_SURFACES = (VisionBudget, TokenBudget, PixelBudget)


def read_anatomy(family: str, checkpoint: Checkpoint) -> Anatomy:
    """The anatomy of a checkpoint.

    Raises:
        ModelError: there is no such checkpoint, it is not pinned, or transformers cannot load it here.
    """
    identity = fingerprint(checkpoint)
    model, parts = meta_model_modules(checkpoint, identity)
    processor = read_processor(checkpoint, identity)
    name = type(model).__name__
    text = parts.decoder.config
    budget = budget_of(processor)
    lacks = missing_surfaces(name, parts, type(processor.image_processor).__name__.removesuffix("Pil"))
    return Anatomy(
        family=family,
        architecture=f"{name} ({type(parts.decoder).__name__})",
        fingerprint=identity,
        decoder_blocks=len(parts.decoder.layers),
        max_crops=budget.trained if budget else 1,
        min_crops=budget.lowest if budget else 1,
        vision_unit=budget.unit if budget else FIXED,
        experts=parts.experts,
        reachable_experts=reachable_experts(text, parts.experts),
        experts_per_token=parts.routers[0].top_k if parts.routers else None,
        router_blocks=parts.router_blocks,
        renormalises=_renormalises(parts),
        attention_blocks=attention_blocks(text, len(parts.decoder.layers)),
        attention_kernels=attention_kernels(model),
        experts_kernels=() if ExpertsKernel in lacks else EXPERTS_KERNELS,
        decoding_left_out=ignored_settings(generation_settings(checkpoint)),
        provides=frozenset(SURFACES) - set(lacks),
        lacks=lacks,
        count_tokens=budget.count if budget else _count_by_processing(processor),
        budgets=budget.values() if budget else (1,),
        only_eager=_why_only_eager(name, text, parts),
    )


def _why_only_eager(name: str, text: Any, parts: ModelModules) -> str:
    """Why a decode step of this model cannot run repeatedly on fixed memory; empty where it can."""
    kinds = sorted(set(getattr(text, "layer_types", None) or ["full_attention"]) - {"full_attention"})
    if kinds:
        return f"{name} has blocks of {', '.join(kinds)}, whose cache has no fixed shape"
    return f"{name}: its blocks share keys and values" if parts.shares_cache else ""


def budget_of(processor: Any) -> Budget | None:
    """The vision budget of a processor; None for an image processor that vlmprof has no budget for."""
    make_budget: Callable[[Any], Budget] | None = budget_class(type(processor.image_processor).__name__)
    return make_budget(processor) if make_budget else None


def missing_surfaces(name: str, parts: ModelModules, image_processor: str) -> dict[type, str]:
    """Surface that this model does not provide -> why not."""
    hint = _tiling_hint(image_processor)
    lacks: dict[type, str] = {FreeTiling: f"{image_processor} chooses the tiling itself{hint}"}
    if parts.dense_compute:
        lacks[ExpertRouting] = (
            f"{name} runs every expert on every token and only weights the outputs: a smaller k would change answers"
            " and save nothing"
        )
    elif not parts.routers:
        lacks[ExpertRouting] = f"{name} is dense, it routes no experts"
    if not parts.routers:
        lacks[ExpertsKernel] = f"{name} is dense, it has no experts to compute"
    elif parts.dense_compute or not parts.decoder._can_set_experts_implementation():
        lacks[ExpertsKernel] = f"{name} computes its experts in only one way"
    if parts.shares_cache:
        lacks[DecoderStack] = f"{name}: its blocks read keys and values of other blocks, so none can be skipped"
    return {**lacks, **_vision_reasons(image_processor)}


def _vision_reasons(image_processor: str) -> dict[type, str]:
    budget = budget_class(image_processor)
    if budget is None:
        return dict.fromkeys(VISION_SURFACES, f"vlmprof cannot limit the vision tokens of {image_processor}")
    why = f"{image_processor} counts its budget in {budget.unit}; use {_knobs_of(budget)}"
    return {surface: why for surface in VISION_SURFACES if surface not in budget.surfaces}


def _tiling_hint(image_processor: str) -> str:
    budget = budget_class(image_processor)
    return f"; use {_knobs_of(budget)}" if budget else ""


def _knobs_of(budget: type[Budget]) -> str:
    knobs = knob_names()
    return " or ".join(
        knobs[surface] for surface in (VisionBudget, PixelBudget, TokenBudget) if surface in budget.surfaces
    )


def _renormalises(parts: ModelModules) -> bool | None:
    if always_normalised(parts.routers):
        return None
    return all(router.norm_topk_prob for router in parts.routers if hasattr(router, "norm_topk_prob"))


def _count_by_processing(processor: Any) -> Callable[[int, int, int], TokenCounts]:
    """Token counts for a processor without a known budget: process a blank image of that size and count."""
    processors = ProcessorPool(processor)

    @lru_cache(maxsize=1024)
    def count(height: int, width: int, _: int) -> TokenCounts:
        from PIL import Image

        blank = Image.new("RGB", (width, height))
        with processors.borrowed() as borrowed:
            inputs = borrowed(text=[processor.image_token], images=[[blank]], return_tensors="pt")
        tokens = int((inputs["input_ids"] == processor.image_token_id).sum())
        return TokenCounts(tiling=(1, tokens), crops=1, vision_tokens=tokens)

    return count
