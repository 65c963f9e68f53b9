"""A 27-point sweep (crops x top-k x blocks) against two plain ways of doing it, on the same machine in the same run.

Ours is the score pass of the product: ``LoadedModel`` with its engine, its vision features, its look ahead and its
order, the longest prompts first. The plain way is a loop of the library's ``generate`` with the experts' grouped
kernel, as a user would write it. The predecessor's way runs each expert in a Python loop, and loads the model anew for
every configuration; a load (from files that the system still holds in memory) is measured once and told apart.

Ours runs every point. The plain ways run a Latin square of points, in which every value of every knob occurs once;
their mean stands for the mean of the grid, which is exact where the knobs' effects on time add up.

Random weights in bf16 leave the two best tokens so close that kernels of another order of summing change answers;
``equality`` runs the same square in float32, where answers must be equal.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.benchmarks.sections import Report, sync
from vlmprof import registry
from vlmprof.engine.base import EAGER
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.engine.vision_cache import VisionFeatureCache
from vlmprof.models.molmo.modeling import MolmoForConditionalGeneration
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.models.molmo.tiling import token_counts
from vlmprof.records import Example, Picture, Prompt
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.outcome import Sample
from vlmprof.trial.prefetch import BatchPrefetcher
from vlmprof.trial.samples import open_pictures

SIZES = ((640, 480), (480, 640), (1024, 768), (640, 427), (800, 1200), (500, 375), (1280, 720), (768, 1024))
"""Width and height of pictures as datasets of visual questions have them."""
LATIN = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
FULL = 512


def always(image: Image.Image) -> Callable[[], Image.Image]:
    """A picture that is loaded already."""
    return lambda: image


def samples(count: int) -> list[Sample]:
    """Questions about noise; what is asked does not matter, how large the pictures are does."""
    made = []
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        pixels = np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        picture = Picture(width=width, height=height, load=always(image))
        question = f"how many shapes are there left of number {index}?"
        example = Example(
            id=str(index), question=question, question_type="", answers=("1",), picture=picture, cluster=str(index)
        )
        made.append(Sample(example=example, prompt=Prompt(text=question, picture=picture)))
    return made


def values(model: LoadedMolmo, *, tiny: bool) -> dict[str, tuple[Any, ...]]:
    if tiny:
        return {"max_crops": (1, 4, 9), "moe_top_k": (1, 2, 4), "active_blocks": _prefixes(4, 6, 8)}
    return {"max_crops": (2, 6, 12), "moe_top_k": (2, 4, 8), "active_blocks": _prefixes(8, 12, 16)}


def _prefixes(*counts: int) -> tuple[dict[str, Any], ...]:
    return tuple({"keep": count, "policy": "prefix"} for count in counts)


def grid(model: LoadedMolmo, options: Any, report: Report) -> dict[str, Any]:
    knobs = values(model, tiny=options.tiny)
    asked = samples(options.samples)
    points = [dict(zip(knobs, chosen, strict=True)) for chosen in product(*knobs.values())]
    square = [{name: knobs[name][level] for name, level in zip(knobs, row, strict=True)} for row in LATIN]
    found: dict[str, Any] = {
        "samples": len(asked),
        "batch": options.grid_batch,
        "output_tokens": options.grid_tokens,
        "knobs": knobs,
    }
    report.data["sections"]["grid so far"] = found
    ours(model, _longest_first(asked, max(knobs["max_crops"]), model), points, options, found)
    report.write()
    theirs: dict[str, list[float]] = {"plain": [], "python loop": []}
    for way, kernel in (("plain", "grouped_mm"), ("python loop", "eager")):
        for point in square:
            if report.left_s < options.reserve:
                break
            with ExitStack() as stack:
                _enter(stack, model, point)
                plain(model, asked[:2], 2, 2, kernel)
                seconds, tokens = plain(model, asked, options.grid_batch, options.grid_tokens, kernel)
            theirs[way].append(seconds)
            if way == "plain":
                said = found["said"][str(point)]
                equal = [said[one.example.id] == row for one, row in zip(asked, tokens, strict=True)]
                found.setdefault("answers equal to plain", []).append(sum(equal) / len(equal))
            print(f"    {way} {point}: {seconds:.2f} s", flush=True)
    distinct = {tuple(answer) for said in found.pop("said").values() for answer in said.values()}
    found["distinct answers"] = len(distinct)
    found["one load, s"] = load_seconds(model) if report.left_s > options.reserve else None
    return found | _compared(found, theirs, points, square)


def _compared(
    found: dict[str, Any], theirs: dict[str, list[float]], points: list[Any], square: list[Any]
) -> dict[str, Any]:
    scale = FULL / found["samples"]
    own = found["seconds"]
    own_full = found["recording_s"] + scale * (own - found["recording_s"])
    compared: dict[str, Any] = {f"seconds for {FULL} samples, extrapolated": own_full}
    for way, seconds in theirs.items():
        if seconds:
            whole = sum(seconds) / len(seconds) * len(points)
            compared[way] = {
                "points measured": len(seconds),
                "seconds": seconds,
                "grid, extrapolated from these": whole,
                "ratio at these samples": whole / own,
                f"ratio at {FULL} samples, extrapolated": whole * scale / own_full,
            }
    loads = (found["one load, s"] or 0.0) * len(points)
    if loads and "python loop" in compared:
        whole = compared["python loop"]["grid, extrapolated from these"]
        compared["python loop"] |= {
            "ratio at these samples, a load for each point": (whole + loads) / own,
            f"ratio at {FULL} samples, a load for each point, extrapolated": (whole * scale + loads) / own_full,
        }
    return compared


def load_seconds(model: LoadedMolmo) -> float:
    """From files to the device, as a script that is started anew for each configuration does it."""
    with tempfile.TemporaryDirectory() as folder:
        model._model.save_pretrained(folder)
        began = time.perf_counter()
        again = MolmoForConditionalGeneration.from_pretrained(folder, dtype=model._model.dtype).to(model.device)
        sync(model.device)
        seconds = time.perf_counter() - began
        del again
    return seconds


def equality(model: LoadedMolmo, options: Any) -> dict[str, Any]:
    """Answers of ours and of ``generate`` on the Latin square, for a model in float32."""
    knobs, asked = values(model, tiny=options.tiny), samples(min(options.samples, 32))
    engine = StaticEngine("graphs", capture=model.device.startswith("cuda"))
    loaded = LoadedModel(model, engine=engine, vision_cache=VisionFeatureCache())
    found: dict[str, Any] = {"dtype": str(model._model.dtype), "samples": len(asked)}
    equal: list[float] = []
    for row in LATIN:
        with ExitStack() as stack:
            _enter(stack, model, {name: knobs[name][level] for name, level in zip(knobs, row, strict=True)})
            said = _score(loaded, asked, options.grid_batch, options.grid_tokens)
            tokens = plain(model, asked, options.grid_batch, options.grid_tokens, "grouped_mm")[1]
        equal.append(sum(said[one.example.id] == row for one, row in zip(asked, tokens, strict=True)) / len(asked))
    engine.forget()
    return found | {"equal to plain": equal}


def _longest_first(asked: list[Sample], cap: int, model: LoadedMolmo) -> list[Sample]:
    geometry = model._processor.image_processor.geometry

    def tokens(one: Sample) -> int:
        return token_counts(one.prompt.picture.height, one.prompt.picture.width, cap, geometry).vision_tokens

    return sorted(asked, key=tokens, reverse=True)


def ours(model: LoadedMolmo, asked: list[Sample], points: list[Any], options: Any, found: dict[str, Any]) -> None:
    """Every point as the score pass does it; seconds of each, answers as tokens."""
    on_gpu = model.device.startswith("cuda")
    engine = StaticEngine("graphs", capture=on_gpu)
    loaded = LoadedModel(model, engine=engine if on_gpu or options.tiny else EAGER, vision_cache=VisionFeatureCache())
    found["seconds by point"], found["said"] = {}, {}
    for point in points:
        sync(model.device)
        began = time.perf_counter()
        with ExitStack() as stack:
            _enter(stack, model, point)
            found["said"][str(point)] = _score(loaded, asked, options.grid_batch, options.grid_tokens)
        sync(model.device)
        found["seconds by point"][str(point)] = time.perf_counter() - began
    found["seconds"] = sum(found["seconds by point"].values())
    found["recording_s"] = engine.recording_s
    found["images through the vision side"] = loaded.vision_cache.computed
    print(f"    ours: {found['seconds']:.2f} s for {len(points)} points", flush=True)
    engine.forget()


def _score(loaded: LoadedModel, asked: list[Sample], batch: int, cap: int) -> dict[str, list[int]]:
    """Sample -> its answer's tokens."""
    said: dict[str, list[int]] = {}
    with BatchPrefetcher(loaded, lambda pictures: None) as following:
        for start in range(0, len(asked), batch):
            opened, prepared = following.take(asked[start : start + batch], asked[start + batch :])
            answers = loaded.answer(prepared or loaded.prepare(opened.readable), cap)
            said |= {one.example.id: list(given.ids) for one, given in zip(opened.readable, answers, strict=True)}
    return said


def plain(model: LoadedMolmo, asked: list[Sample], batch: int, cap: int, kernel: str) -> tuple[float, list[list[int]]]:
    """A loop of ``generate``, as a user would write it: seconds, and answers as tokens."""
    before = model.decoder.config._experts_implementation
    model.decoder.set_experts_implementation(kernel)
    sync(model.device)
    began, said = time.perf_counter(), []
    try:
        for start in range(0, len(asked), batch):
            prompts = [one.prompt for one in open_pictures(asked[start : start + batch]).readable]
            inputs = dict(model.transfer(model.encode(prompts)).inputs)
            with torch.inference_mode():
                made = model._model.generate(
                    **inputs, max_new_tokens=cap, do_sample=False, eos_token_id=-1, pad_token_id=0
                )
            tokens = made[:, inputs["input_ids"].shape[1] :].tolist()
            for row in tokens:
                model.text(row)
            said += tokens
    finally:
        model.decoder.set_experts_implementation(before)
    sync(model.device)
    return time.perf_counter() - began, said


def _enter(stack: ExitStack, model: LoadedMolmo, point: dict[str, Any]) -> None:
    for name, value in point.items():
        stack.enter_context(registry.load("knobs", name).applied(model, value))
