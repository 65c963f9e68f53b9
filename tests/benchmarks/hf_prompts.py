"""Recorded prompts of transformers' models at real widths: beside a launch from Python and beside a bare graph.

    python -m tests.benchmarks.hf_prompts --out results/hf_prompts.json           # dimensions of released checkpoints
    python -m tests.benchmarks.hf_prompts --tiny --device cpu --out /tmp/hf.json  # tiny ones, to try the code

Widths, heads, experts and vision towers are those of the released models; of the language model only the first blocks
are built; weights are random, bf16. For two values of a knob each: vision side and prefill of one request, launched
from Python, recorded by the engine, and captured here as one graph with torch alone; then the stages as the clock of a
timed generation reads them, and how far recorded logits are from the model's own. What cannot be recorded is listed
with its error. ``order`` says whether the value that is more work takes longer.
"""

from __future__ import annotations

import argparse
import statistics
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, Gemma3Processor, InternVLProcessor, LlavaNextProcessor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from tests.benchmarks.prompts import captured, timed_ms
from tests.benchmarks.sections import Report, gpu_state, sync
from tests.models._hf.recipes import QWEN_IMAGE, TURN, no_video, token_id, tokenizer
from vlmprof import registry
from vlmprof.decoding import StaticInputs, unmarked
from vlmprof.engine.base import EAGER
from vlmprof.engine.greedy import generate
from vlmprof.engine.host_reads import HostReads
from vlmprof.engine.recorded_check import recorded_distance
from vlmprof.engine.static_cache import CacheArena, CacheShape, prompt_cache, prompt_slots
from vlmprof.engine.static_engine import StaticEngine, cache_length
from vlmprof.engine.static_prompt import PromptRecorder
from vlmprof.measure.clock import clock_for
from vlmprof.models._hf.processor_compat import allow_missing_video_processors
from vlmprof.models._hf.runtime import LoadedVlm
from vlmprof.models._implementations import EXPERTS_KERNELS
from vlmprof.records import Picture, Prompt, StageTimes

PICTURE = (1024, 768)
QUESTION = "what colour is the cat left of the tree"
REPEATS = 12
"""Timed generations of a request."""
NEW = 8


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model, at its real widths or tiny, and the knob that is turned."""

    name: str
    config: Callable[[bool], Any]
    processor: Callable[[bool], Any]
    knob: str
    values: Callable[[bool], tuple[Any, Any]]
    """Less work, and more."""
    slower: tuple[str, ...]
    """The parts that take longer at the second value."""


def text(tiny: bool, blocks: int, hidden: int, intermediate: int, heads: int, kv: int, **more: Any) -> dict[str, Any]:
    """Sizes of a language model."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": blocks}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv}
    if tiny:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": min(blocks, 7)}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return {**sizes, "vocab_size": 160 if tiny else 32000, "max_position_embeddings": 16384, **ends, **more}


def template(image: str) -> str:
    return TURN.replace("IMAGE", f" {image} ")


def internvl_config(tiny: bool) -> Any:
    """InternVL3-8B: InternViT-300M and Qwen2.5-7B."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = {**small, "image_size": [56, 56]} if tiny else {"image_size": [448, 448]}
    return AutoConfig.for_model(
        "internvl",
        text_config=text(tiny, 8, 3584, 18944, 28, 4, model_type="qwen2"),
        vision_config={"patch_size": [14, 14], **size},
        image_token_id=token_id("<IMG_CONTEXT>"),
        image_seq_length=4 if tiny else 256,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def internvl_processor(tiny: bool) -> Any:
    edge = 56 if tiny else 448
    return InternVLProcessor(
        GotOcr2ImageProcessorPil(size={"height": edge, "width": edge}, max_patches=12),
        tokenizer("<IMG_CONTEXT>"),
        video_processor=no_video(),
        image_seq_length=4 if tiny else 256,
        chat_template=template("<IMG_CONTEXT>"),
    )


def qwen_config(model_type: str, tiny: bool, of_text: dict[str, Any], of_vision: dict[str, Any]) -> Any:
    """Qwen-VL's."""
    head = 8 if tiny else 128
    sections = [2, 1, 1] if tiny else [16, 24, 24]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
    ids = {"image_token_id": token_id("<|image_pad|>"), "video_token_id": token_id("<|video_pad|>")}
    ids |= {"vision_start_token_id": token_id("<|vision_start|>"), "vision_end_token_id": token_id("<|vision_end|>")}
    return AutoConfig.for_model(
        model_type,
        text_config={**of_text, "head_dim": head, "rope_parameters": rope},
        vision_config={**of_vision, "out_hidden_size": of_text["hidden_size"]},
        tie_word_embeddings=False,
        **ids,
    )


def qwen2_5_config(tiny: bool) -> Any:
    """Qwen2.5-VL-7B."""
    small = {"hidden_size": 32, "intermediate_size": 48, "depth": 3, "num_heads": 2, "fullatt_block_indexes": [1]}
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "window_size": 112}
    return qwen_config("qwen2_5_vl", tiny, text(tiny, 8, 3584, 18944, 28, 4), vision | (small if tiny else {}))


def qwen3_moe_config(tiny: bool) -> Any:
    """Qwen3-VL-30B-A3B."""
    experts = {"num_experts": 128, "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    if tiny:
        experts = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 8, "moe_intermediate_size": 24}
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "depth": 3, "num_heads": 2, "patch_size": 14}
    small |= {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "depth": 27, "num_heads": 16, "patch_size": 16}
    sizes = text(tiny, 8, 2048, 6144, 32, 4, **experts)
    return qwen_config("qwen3_vl_moe", tiny, sizes, small if tiny else vision)


def qwen_processor(kind: Any, patch: int, tiny: bool) -> Any:
    most = 64 if tiny else 1280
    images = Qwen2VLImageProcessorPil(
        patch_size=14 if tiny else patch,
        size={"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": most * (2 * patch) ** 2},
    )
    return kind(images, tokenizer("<|image_pad|>"), video_processor=no_video(), chat_template=template(QWEN_IMAGE))


PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def llava_next_config(tiny: bool) -> Any:
    """LLaVA-NeXT with Mistral-7B."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    sizes = small | {"image_size": 56} if tiny else vision | {"image_size": 336}
    return AutoConfig.for_model(
        "llava_next",
        text_config=text(tiny, 8, 4096, 14336, 32, 8, model_type="mistral", sliding_window=None),
        vision_config={**sizes, "model_type": "clip_vision_model", "patch_size": 14, "projection_dim": 32},
        image_token_index=token_id("<image>"),
        image_grid_pinpoints=_pinpoints(tiny),
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _pinpoints(tiny: bool) -> list[list[int]]:
    return [[side // 6 if tiny else side for side in size] for size in PINPOINTS]


def llava_next_processor(tiny: bool) -> Any:
    edge = 56 if tiny else 336
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": edge},
            crop_size={"height": edge, "width": edge},
            image_grid_pinpoints=_pinpoints(tiny),
        ),
        tokenizer("<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


def gemma3_config(tiny: bool) -> Any:
    """Gemma 3 4B."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    sizes = small | {"image_size": 56} if tiny else vision | {"image_size": 896}
    return AutoConfig.for_model(
        "gemma3",
        text_config=text(tiny, 12, 2560, 10240, 8, 4, head_dim=8 if tiny else 256, sliding_window=1024),
        vision_config={**sizes, "model_type": "siglip_vision_model", "patch_size": 14, "vision_use_head": False},
        image_token_index=token_id("<image>"),
        image_token_id=token_id("<image>"),
        boi_token_index=token_id("<img>"),
        eoi_token_index=token_id("</img>"),
        mm_tokens_per_image=4 if tiny else 256,
    )


def gemma3_processor(tiny: bool) -> Any:
    edge = 56 if tiny else 896
    tokens = tokenizer("<image>", boi_token="<img>", eoi_token="</img>")
    images = Gemma3ImageProcessorPil(size={"height": edge, "width": edge})
    return Gemma3Processor(images, tokens, image_seq_length=4 if tiny else 256, chat_template=template("<img>"))


def half_of_the_blocks(tiny: bool) -> tuple[Any, Any]:
    whole = 7 if tiny else 12
    return {"keep": whole // 2, "policy": "prefix"}, {"keep": whole, "policy": "prefix"}


MODELS = (
    Model(
        name="InternVL3-8B",
        config=internvl_config,
        processor=internvl_processor,
        knob="max_crops",
        values=lambda tiny: (1, 12),
        slower=("vision", "prefill"),
    ),
    Model(
        name="Qwen2.5-VL-7B",
        config=qwen2_5_config,
        processor=partial(qwen_processor, Qwen2_5_VLProcessor, 14),
        knob="max_pixels",
        values=lambda tiny: (16 * 784, 64 * 784) if tiny else (256 * 784, 1024 * 784),
        slower=("vision", "prefill"),
    ),
    Model(
        name="Qwen3-VL-30B-A3B",
        config=qwen3_moe_config,
        processor=partial(qwen_processor, Qwen3VLProcessor, 16),
        knob="moe_top_k",
        values=lambda tiny: (2, 8),
        slower=("prefill",),
    ),
    Model(
        name="LLaVA-NeXT-Mistral-7B",
        config=llava_next_config,
        processor=llava_next_processor,
        knob="max_crops",
        values=lambda tiny: (2, 4),
        slower=("vision", "prefill"),
    ),
    Model(
        name="Gemma-3-4B",
        config=gemma3_config,
        processor=gemma3_processor,
        knob="active_blocks",
        values=half_of_the_blocks,
        slower=("prefill",),
    ),
)


def build(model: Model, device: str, tiny: bool) -> LoadedVlm:
    """The model with random weights, made on the device."""
    allow_missing_video_processors()
    torch.manual_seed(0)
    with torch.device(device):
        network = AutoModelForImageTextToText.from_config(
            model.config(tiny), dtype=torch.float32 if tiny else torch.bfloat16
        )
    network.generation_config.eos_token_id, network.generation_config.pad_token_id = 1, 0
    loaded = LoadedVlm(network.eval(), model.processor(tiny), device)
    if loaded.routers:
        loaded.decoder.set_experts_implementation(EXPERTS_KERNELS[0])
    return loaded


def request(device: str) -> Prompt:
    """A question about noise."""
    width, height = PICTURE
    pixels = np.random.RandomState(1).randint(0, 255, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    return Prompt(text=QUESTION, picture=Picture(width=width, height=height, load=lambda: picture))


def attempt(found: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    """The result of the work, or its error and where it was raised, under ``name``."""
    try:
        found[name] = work()
    except Exception as error:  # what fails is a result; the other parts are measured all the same
        trace = traceback.format_exception(error, limit=-8)
        found[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}", "trace": "".join(trace)[-4000:]}
        print(f"    {name}: {found[name]['error']}\n{found[name]['trace']}", flush=True)
        return None
    return found[name]


def bare_graph(device: str, inputs: StaticInputs, work: Callable[[], Any]) -> tuple[float, float]:
    """The time of the work as one graph, captured by torch alone; what the host reads in it is answered from notes."""
    varying = [tensor for name, tensor in inputs.tensors.items() if name not in inputs.fixed]
    reads = HostReads(varying, unchecked=inputs.host_reads == "any")
    with reads.noted():
        work()
    with reads.noted():
        work()

    def answered() -> Any:
        with reads.repeated():
            return work()

    return timed_ms(device, captured(device, answered))


@torch.inference_mode()
def parts(model: LoadedVlm, prompt: Prompt) -> dict[str, Any]:
    """Vision side and prefill: launched, recorded and as a bare graph; medians and standard deviations in ms."""
    device, found = model.device, dict[str, Any]()
    batch = model.transfer(model.encode([prompt]))
    encoding = batch.encodings[0]
    found |= {"crops": encoding.crops, "vision tokens": encoding.vision_tokens, "tokens": encoding.prompt_tokens}
    features = model.see(batch)
    inputs, prompts = model.vision_inputs(batch, unmarked), model.prompt_inputs(batch, features)
    shape = CacheShape(batch=1, length=cache_length(encoding.prompt_tokens + NEW))
    blocks = len(model.decoder.layers)
    attempt(found, "vision, launched", lambda: timed_ms(device, lambda: model.see(batch)))
    attempt(found, "prefill, launched", lambda: timed_ms(device, lambda: model.prefill(batch, features, NEW)))

    recorder = PromptRecorder(CacheArena(), capture=device.startswith("cuda"))
    attempt(found, "vision, recorded", lambda: timed_ms(device, lambda: recorder.see(model, batch, unmarked)))
    attempt(
        found,
        "prefill, recorded",
        lambda: timed_ms(device, lambda: recorder.prefill(model, batch, features, shape)),
    )
    attempt(
        found, "vision, bare graph", lambda: bare_graph(device, inputs, lambda: model.encode_vision(inputs, unmarked))
    )

    def bare_prefill() -> tuple[float, float]:
        filled = prompt_cache(CacheArena(), blocks, shape)
        constants = model.first_prompt(batch, features, prompts, filled)
        slots = prompt_slots(filled)
        return bare_graph(device, prompts, lambda: model.prompt_logits(prompts, slots, constants))

    attempt(found, "prefill, bare graph", bare_prefill)
    recorder.forget()
    return found


def stages(model: Any, prompt: Prompt, engine: Any) -> dict[str, Any]:
    """Stages of timed generations, as the product's clock reads them."""
    clock, runs = clock_for(model.device), list[StageTimes]()
    for number in range(-3, REPEATS):
        run = generate(model, [prompt], max_new_tokens=NEW, stop_at_eos=False, engine=engine, clock=clock)
        if number >= 0 and run.stages:
            runs.append(run.stages)
    found: dict[str, Any] = dict(engine.describe())
    for stage in ("preprocess", "transfer", "vision", "connector", "prefill"):
        times = [getattr(run, f"{stage}_ms") or 0.0 for run in runs]
        found[stage] = (statistics.median(times), statistics.stdev(times))
    found["step"] = statistics.median(step for run in runs for step in run.step_ms)
    found["sum of stages / end to end"] = statistics.median(run.stage_sum_ms / run.end_to_end_ms for run in runs)
    return found


def measure(model: LoadedVlm, knob: str, value: Any, prompt: Prompt) -> dict[str, Any]:
    """Everything of one model at one value of its knob."""
    with ExitStack() as stack:
        stack.enter_context(registry.load("knobs", knob).applied(model, value))
        found: dict[str, Any] = {knob: value, **parts(model, prompt)}
        engine = StaticEngine("graphs", capture=model.device.startswith("cuda"))
        attempt(found, "recorded logits from the model's own", partial(_distance, engine, model, prompt))
        attempt(found, "stages, graphs", lambda: stages(model, prompt, engine))
        engine.forget()
        attempt(found, "stages, eager", lambda: stages(model, prompt, EAGER))
    return found


def _distance(engine: StaticEngine, model: LoadedVlm, prompt: Prompt) -> float | None:
    return recorded_distance(engine, model, [[prompt]], NEW)


def order(less: Mapping[str, Any], more: Mapping[str, Any], slower: tuple[str, ...]) -> dict[str, Any]:
    """Whether more work takes longer, by part and by how it is run; the ratio, and recorded beside bare."""
    found: dict[str, Any] = {}
    for part in slower:
        for kind in ("launched", "recorded", "bare graph"):
            a, b = less.get(f"{part}, {kind}"), more.get(f"{part}, {kind}")
            if isinstance(a, tuple) and isinstance(b, tuple):
                found[f"{part}, {kind}"] = {"right": a[0] < b[0], "ratio": round(b[0] / a[0], 3)}
    for part in ("vision", "prefill"):
        for name, point in (("less", less), ("more", more)):
            recorded, bare = point.get(f"{part}, recorded"), point.get(f"{part}, bare graph")
            if isinstance(recorded, tuple) and isinstance(bare, tuple):
                found[f"{part}, recorded / bare, {name}"] = round(recorded[0] / bare[0], 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds for everything")
    parser.add_argument("--models", default="", help="parts of names, separated by commas; all by default")
    options = parser.parse_args()
    if options.tiny:
        torch.set_num_threads(1)
    report = Report(options.out, options.device, options.limit)
    report.data["gpu"] = gpu_state()
    wanted = [part.lower() for part in options.models.split(",") if part]
    prompt = request(options.device)
    for model in MODELS:
        if wanted and not any(part in model.name.lower() for part in wanted):
            continue
        built: list[LoadedVlm] = []

        def make(model: Model = model, built: list[LoadedVlm] = built) -> str:
            built.append(build(model, options.device, options.tiny))
            sync(options.device)
            return type(built[0].network).__name__

        report.section(f"{model.name}: built", 60, make)
        if not built:
            continue
        points = [
            report.section(f"{model.name}: {value}", 60, partial(measure, built[0], model.knob, value, prompt))
            for value in model.values(options.tiny)
        ]
        if all(points):
            report.section(f"{model.name}: order", 5, partial(order, points[0], points[1], model.slower))
        built.clear()
    print(f"written to {options.out}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
