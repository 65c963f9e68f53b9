"""Tiny random checkpoints of many families: a configuration, a processor and a tokenizer made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AriaConfig,
    AriaProcessor,
    AutoConfig,
    AutoModelForImageTextToText,
    Ernie4_5_VLMoeProcessor,
    Glm4vProcessor,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)
from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil
from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import Ernie4_5_VLMoeImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from vlmprof.models._hf.processor_compat import allow_missing_video_processors, has_torchvision

WORDS = ["what", "colour", "is", "the", "cat", "dog", "tree", "how", "many", "are", "there", "red", "left", "of", "?"]
SPECIAL = ["<pad>", "<eos>", "<image>", "<video>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
SPECIAL += ["<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>", "<frame_start>", "<frame_end>"]
SPECIAL += [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
TURN = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
TURN += "{% endif %}{% endfor %}{% endfor %} ?"

BLOCKS = 4
EXPERTS = 4
WIDTH = 32
DENSE = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
MOE = {**DENSE, "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
OLMOE = {**DENSE, "model_type": "olmoe", "num_experts": EXPERTS, "num_experts_per_tok": 2, "norm_topk_prob": False}
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One family, as small as it gets."""

    name: str
    image_text: str
    """What the chat template puts where an image stands."""
    config: Callable[[], Any]
    processor: Callable[[Any, str], Any]
    image_token: str = "<image>"
    max_crops: int | None = None
    """A cap below the trained one; None where the unit is not crops."""
    max_pixels: int | None = None
    vision_tokens: int = 0
    """A target that binds."""


def tokenizer(image_token: str, **more: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS, "\n"])}
    vocabulary |= {f"w{i}": i for i in range(len(vocabulary), 160)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {
        "image_token": image_token,
        "video_token": "<|video_pad|>" if image_token.startswith("<|") else "<video>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
        "video_start_token": "<|vision_start|>",
        "video_end_token": "<|vision_end|>",
        **more,
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>", extra_special_tokens=named
    )
    made.add_special_tokens({"additional_special_tokens": SPECIAL[2:]}, replace_extra_special_tokens=False)
    return made


def token_id(token: str) -> int:
    return SPECIAL.index(token)


def make(recipe: Recipe, folder: Path) -> Path:
    """Save the recipe's model and processor."""
    allow_missing_video_processors()
    torch.manual_seed(11)
    config = recipe.config()
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.normal_(0, 0.12)  # wide enough that every block and expert changes what comes out
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor = recipe.processor(tokenizer(recipe.image_token), TURN.replace("IMAGE", f" {recipe.image_text} "))
    _save(processor, folder)
    return folder


def _save(processor: Any, folder: Path) -> None:
    """As a released checkpoint has it: with a video processor named, where the class has a slot for one."""
    described = processor.to_dict()
    if "video_processor" in described:
        described["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(described))
    (folder / "chat_template.jinja").write_text(processor.chat_template)
    processor.tokenizer.save_pretrained(folder)


def no_video() -> Any:
    """What stands in the slot for videos: nothing, but where torchvision is installed the slot must be filled."""
    if not has_torchvision():
        return None
    from transformers import Qwen2VLVideoProcessor

    return Qwen2VLVideoProcessor()


def _of(model_type: str, **sections: Any) -> Callable[[], Any]:
    return lambda: AutoConfig.for_model(model_type, **sections)


def _idefics3(text: dict[str, Any], model_type: str = "idefics3") -> Callable[[], Any]:
    vision = {**SIGLIP, "image_size": 32, "patch_size": 8}
    return _of(
        model_type,
        text_config=text,
        vision_config=vision,
        scale_factor=2,
        image_token_id=token_id("<image>"),
        pad_token_id=0,
        tie_word_embeddings=False,
    )


def _tiles(image_processor: Any) -> Any:
    return image_processor(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})


def _idefics3_processor(tokens: Any, template: str) -> Any:
    return Idefics3Processor(_tiles(Idefics3ImageProcessorPil), tokens, image_seq_len=4, chat_template=template)


def _smolvlm_processor(tokens: Any, template: str) -> Any:
    return SmolVLMProcessor(
        _tiles(SmolVLMImageProcessorPil), tokens, video_processor=no_video(), image_seq_len=4, chat_template=template
    )


PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]


def _llava(model_type: str, text: dict[str, Any]) -> Callable[[], Any]:
    next_ = model_type == "llava_next"
    vision = {
        **SIGLIP,
        "model_type": "clip_vision_model" if next_ else "siglip_vision_model",
        "image_size": 32,
        "patch_size": 8,
        **({"projection_dim": 32} if next_ else {"vision_use_head": False}),
    }
    return _of(
        model_type,
        text_config=text,
        vision_config=vision,
        image_token_index=token_id("<image>"),
        **({} if next_ else {"video_token_index": token_id("<video>"), "vision_aspect_ratio": "anyres_max_9"}),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="default" if next_ else "full",
        tie_word_embeddings=False,
    )


def _llava_next_processor(tokens: Any, template: str) -> Any:
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextProcessor(
        images,
        tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )


def _llava_onevision_processor(tokens: Any, template: str) -> Any:
    images = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS)
    return LlavaOnevisionProcessor(
        images,
        tokens,
        video_processor=no_video(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def _internvl(text: dict[str, Any]) -> Callable[[], Any]:
    vision = {**SIGLIP, "image_size": [32, 32], "patch_size": [8, 8]}
    return _of(
        "internvl",
        text_config=text,
        vision_config=vision,
        image_token_id=token_id("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def _internvl_processor(tokens: Any, template: str) -> Any:
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=6)
    return InternVLProcessor(images, tokens, video_processor=no_video(), image_seq_length=4, chat_template=template)


def _qwen(model_type: str, text: dict[str, Any], vision: dict[str, Any]) -> Callable[[], Any]:
    return _of(
        model_type,
        text_config={
            **text,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        },
        vision_config={"depth": 3, "num_heads": 2, "patch_size": 8, "out_hidden_size": WIDTH, **vision},
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def _qwen_processor(kind: Any) -> Callable[[Any, str], Any]:
    def processor(tokens: Any, template: str) -> Any:
        images = Qwen2VLImageProcessorPil(patch_size=8, size={"shortest_edge": 512, "longest_edge": 64 * 64})
        return kind(images, tokens, video_processor=no_video(), chat_template=template)

    return processor


QWEN3_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [0, 1],
}


def _glm4v_moe() -> Any:
    """GLM-4.5V: a dense first block, a shared expert, a sigmoid router that corrects its scores by a bias."""
    text = {
        **DENSE,
        "n_routed_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "head_dim": 8,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
    }
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "image_size": 64, "intermediate_size": 48}
    ids = {"image_token_id": token_id("<|image_pad|>"), "video_token_id": token_id("<|video_pad|>")}
    ends = {"image_start_token_id": token_id("<|vision_start|>"), "image_end_token_id": token_id("<|vision_end|>")}
    videos = {"video_start_token_id": token_id("<video>"), "video_end_token_id": token_id("<fake_token_around_image>")}
    vision = {**vision, "out_hidden_size": WIDTH}
    return AutoConfig.for_model("glm4v_moe", text_config=text, vision_config=vision, **ids, **ends, **videos)


def _glm4v_processor(tokens: Any, template: str) -> Any:
    images = Glm4vImageProcessorPil(patch_size=8, size={"shortest_edge": 512, "longest_edge": 2 * 64 * 64})
    return Glm4vProcessor(images, tokens, video_processor=no_video(), chat_template=template)


def _ernie() -> Any:
    """ERNIE-4.5-VL: text and vision tokens are routed apart, each to experts of their own."""
    text = {
        **DENSE,
        "moe_num_experts": EXPERTS,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_intermediate_size": [24, 16],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "intermediate_size": 48}
    ids = {"image_token_id": token_id("<|image_pad|>"), "video_token_id": token_id("<|video_pad|>")}
    ends = {"image_start_token_id": token_id("<img>"), "image_end_token_id": token_id("</img>")}
    videos = {"video_start_token_id": token_id("<|vision_start|>"), "video_end_token_id": token_id("<|vision_end|>")}
    named = {**ids, **ends, **videos, "tie_word_embeddings": False}
    return AutoConfig.for_model("ernie4_5_vl_moe", text_config=text, vision_config=vision, **named)


def _ernie_processor(tokens: Any, template: str) -> Any:
    images = Ernie4_5_VLMoeImageProcessorPil(patch_size=8, size={"shortest_edge": 512, "longest_edge": 64 * 64})
    return Ernie4_5_VLMoeProcessor(images, tokens, video_processor=no_video(), chat_template=template)


def _molmo2() -> Any:
    """Molmo2: dense, with image tokens that see each other; its image processor is written on torchvision."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    text = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": BLOCKS, "vocab_size": 160, **heads}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 16, "image_size": [32, 32], "patch_size": 8}
    adapter = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    adapter |= {"vision_feature_layer": [1, 0], "intermediate_size": 48, "text_hidden_size": WIDTH}
    ids = {"image_patch_id": token_id("<im_patch>"), "image_start_token_id": token_id("<im_start>")}
    ids |= {"low_res_image_start_token_id": token_id("<low_res_im_start>"), "image_end_token_id": token_id("<im_end>")}
    ids |= {"frame_start_token_id": token_id("<frame_start>"), "frame_end_token_id": token_id("<frame_end>")}
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    text |= {"additional_vocab_size": 8, "rope_parameters": rope, "rope_scaling_layers": [0, 2]}
    return AutoConfig.for_model("molmo2", text_config=text, vision_config=vision, adapter_config=adapter, **ids)


def _molmo2_processor(tokens: Any, template: str) -> Any:
    from transformers import Molmo2Processor, Molmo2VideoProcessor
    from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

    images = Molmo2ImageProcessor(
        size={"height": 32, "width": 32}, patch_size=8, max_crops=6, overlap_margins=[1, 1], pooling_size=[2, 2]
    )
    return Molmo2Processor(images, Molmo2VideoProcessor(), tokens, chat_template=template)


def _aria() -> Any:
    text = {**DENSE, "intermediate_size": 24, "moe_num_experts": EXPERTS, "moe_topk": 2, "moe_num_shared_experts": 1}
    return AriaConfig(
        text_config=text,
        vision_config={**SIGLIP, "model_type": "idefics3_vision", "image_size": 980, "patch_size": 70},
        projector_patch_to_query_dict={49: 8, 196: 16},
        image_token_index=token_id("<image>"),
        tie_word_embeddings=False,
    )


def _aria_processor(tokens: Any, template: str) -> Any:
    return AriaProcessor(AriaImageProcessorPil(), tokens, chat_template=template, size_conversion={490: 8, 980: 16})


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"

RECIPES = [
    Recipe(
        name="idefics3_olmoe",
        image_text="<image>",
        config=_idefics3(OLMOE),
        processor=_idefics3_processor,
        max_crops=4,
        vision_tokens=20,
    ),
    Recipe(
        name="smolvlm",
        image_text="<image>",
        config=_idefics3({**DENSE, "model_type": "llama"}, "smolvlm"),
        processor=_smolvlm_processor,
        max_crops=4,
        vision_tokens=20,
    ),
    Recipe(
        name="llava_next_olmoe",
        image_text="<image>",
        config=_llava("llava_next", OLMOE),
        processor=_llava_next_processor,
        max_crops=1,
        vision_tokens=40,
    ),
    Recipe(
        name="llava_onevision",
        image_text="<image>",
        config=_llava("llava_onevision", {**DENSE, "model_type": "qwen2"}),
        processor=_llava_onevision_processor,
        max_crops=1,
        vision_tokens=40,
    ),
    Recipe(
        name="internvl_qwen3_moe",
        image_text="<IMG_CONTEXT>",
        image_token="<IMG_CONTEXT>",
        config=_internvl({**MOE, "model_type": "qwen3_moe", "head_dim": 8, "norm_topk_prob": True}),
        processor=_internvl_processor,
        max_crops=2,
        vision_tokens=12,
    ),
    Recipe(
        name="qwen2_5_vl",
        image_text=QWEN_IMAGE,
        image_token="<|image_pad|>",
        config=_qwen(
            "qwen2_5_vl",
            DENSE,
            {"hidden_size": 32, "intermediate_size": 48, "window_size": 32, "fullatt_block_indexes": [1]},
        ),
        processor=_qwen_processor(Qwen2_5_VLProcessor),
        max_pixels=1024,
        vision_tokens=6,
    ),
    Recipe(
        name="qwen3_vl_moe",
        image_text=QWEN_IMAGE,
        image_token="<|image_pad|>",
        config=_qwen("qwen3_vl_moe", MOE, QWEN3_VISION),
        processor=_qwen_processor(Qwen3VLProcessor),
        max_pixels=1024,
        vision_tokens=6,
    ),
    Recipe(
        name="internvl",
        image_text="<IMG_CONTEXT>",
        image_token="<IMG_CONTEXT>",
        config=_internvl({**DENSE, "model_type": "qwen2"}),
        processor=_internvl_processor,
        max_crops=2,
        vision_tokens=12,
    ),
    Recipe(
        name="qwen3_vl",
        image_text=QWEN_IMAGE,
        image_token="<|image_pad|>",
        config=_qwen("qwen3_vl", DENSE, QWEN3_VISION),
        processor=_qwen_processor(Qwen3VLProcessor),
        max_pixels=1024,
        vision_tokens=6,
    ),
    Recipe(
        name="glm4v_moe",
        image_text=QWEN_IMAGE,
        image_token="<|image_pad|>",
        config=_glm4v_moe,
        processor=_glm4v_processor,
        max_pixels=1024,
        vision_tokens=6,
    ),
    Recipe(
        name="ernie4_5_vl_moe",
        image_text="<img><|image_pad|></img>",
        image_token="<|image_pad|>",
        config=_ernie,
        processor=_ernie_processor,
        max_pixels=1024,
        vision_tokens=6,
    ),
    Recipe(name="aria", image_text="<image>", config=_aria, processor=_aria_processor, vision_tokens=8),
]
NEED_TORCHVISION = [
    Recipe(
        name="molmo2",
        image_text="<image>",
        config=_molmo2,
        processor=_molmo2_processor,
        max_crops=2,
        vision_tokens=12,
    )
]
"""Families whose image processors have no version for PIL."""

if has_torchvision():
    RECIPES += NEED_TORCHVISION
