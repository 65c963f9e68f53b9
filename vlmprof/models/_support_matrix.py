"""``family_table``: which knobs each model supports, in which unit, and why it does not support the others.

The table is computed: each row builds the modules of one architecture without weights (a second each) and inspects
them in the same way as a job check inspects a checkpoint. An entry holds only what cannot be derived: the text model of
a wrapper that takes any, and the architecture whose image processor is used where there is none of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from vlmprof.models._knob_names import knob_names
from vlmprof.models.family import Checkpoint
from vlmprof.surfaces import SURFACES

SHORT_TEXT_CONFIG = {"num_hidden_layers": 4}
"""Decoder blocks of the models built here: enough to have one of every kind."""

NATIVE = ("allenai/MolmoE-1B-0924", "allenai/Molmo-7B-D-0924", "allenai/Molmo-7B-O-0924")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One architecture of transformers."""

    name: str
    model_type: str
    text: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the text model; includes its ``model_type`` where the wrapper takes any text model."""
    processor_of: str = ""
    """The architecture whose image processor it uses; empty where it has its own."""


GEMMA4_MOE = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 64}

ENTRIES = (
    Entry(name="aria", model_type="aria"),
    Entry(name="ernie4_5_vl_moe", model_type="ernie4_5_vl_moe"),
    Entry(name="gemma3", model_type="gemma3"),
    Entry(name="gemma4_moe", model_type="gemma4", text=GEMMA4_MOE),
    Entry(name="glm4v_moe", model_type="glm4v_moe", processor_of="glm4v"),
    Entry(name="idefics3_olmoe", model_type="idefics3", text={"model_type": "olmoe"}),
    Entry(name="internvl", model_type="internvl"),
    Entry(name="internvl_qwen3_moe", model_type="internvl", text={"model_type": "qwen3_moe"}),
    Entry(name="llama4", model_type="llama4"),
    Entry(name="llava_next_olmoe", model_type="llava_next", text={"model_type": "olmoe"}),
    Entry(name="llava_onevision", model_type="llava_onevision"),
    Entry(name="molmo2", model_type="molmo2"),
    Entry(name="qwen2_5_vl", model_type="qwen2_5_vl"),
    Entry(name="qwen3_vl", model_type="qwen3_vl"),
    Entry(name="qwen3_vl_moe", model_type="qwen3_vl_moe", processor_of="qwen3_vl"),
    Entry(name="smolvlm", model_type="smolvlm"),
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """The knobs that one architecture supports."""

    name: str
    family: str
    """The key ``family:`` of a job."""
    architecture: str
    routers: str
    """Class of the routers; empty for a dense model."""
    image_processor: str
    vision_unit: str
    needs_torchvision: bool
    knobs: tuple[str, ...]
    why_not: Mapping[str, str]
    """Knob -> why it does not apply."""


def family_table() -> tuple[FamilyRow, ...]:
    """A row for each architecture in ``NATIVE`` and ``ENTRIES``. Others of transformers can be used too."""
    return (*_native(), *(_row(entry) for entry in ENTRIES))


def _native() -> Iterator[FamilyRow]:
    from vlmprof.models.molmo.anatomy import read_anatomy

    for checkpoint in NATIVE:
        anatomy = read_anatomy("molmo", Checkpoint(path=checkpoint, revision="", dtype="bfloat16"))
        yield FamilyRow(
            name=checkpoint,
            family="molmo",
            architecture=anatomy.architecture,
            routers="MolmoOlmoeTopKRouter" if anatomy.experts else "",
            image_processor="MolmoImageProcessor",
            vision_unit=anatomy.vision_unit,
            needs_torchvision=False,
            **_knob_support(anatomy.lacks),
        )


def _row(entry: Entry) -> FamilyRow:
    from vlmprof.models._hf.anatomy import missing_surfaces
    from vlmprof.models._hf.introspection import find_modules
    from vlmprof.models._hf.meta_model import build_meta_model
    from vlmprof.models._hf.vision_budgets import budget_class

    model = build_meta_model(_config(entry))
    parts = find_modules(model)
    image_processor, on_pil = _image_processor(entry.processor_of or entry.model_type)
    budget = budget_class(image_processor)
    return FamilyRow(
        name=entry.name,
        family="transformers_vlm",
        architecture=f"{type(model).__name__} ({type(parts.decoder).__name__})",
        routers=type(parts.routers[0]).__name__ if parts.routers else "",
        image_processor=image_processor,
        vision_unit=budget.unit if budget else "",
        needs_torchvision=not on_pil,
        **_knob_support(missing_surfaces(type(model).__name__, parts, image_processor)),
    )


def _config(entry: Entry) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(entry.model_type, text_config={**SHORT_TEXT_CONFIG, **entry.text})


def _image_processor(model_type: str) -> tuple[str, bool]:
    """Class name of the image processor without its backend suffix, and whether a version on PIL exists."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    backends: Mapping[str, str] = IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
    return (backends.get("torchvision") or backends["pil"]).removesuffix("Pil"), "pil" in backends


def _knob_support(lacks: Mapping[type, str]) -> dict[str, Any]:
    knobs = knob_names()
    return {
        "knobs": tuple(knobs[surface] for surface in SURFACES if surface not in lacks),
        "why_not": {knobs[surface]: lacks[surface] for surface in SURFACES if surface in lacks},
    }
