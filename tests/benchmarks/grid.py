"""A 27-point sweep (crops x top-k x blocks) against two plain ways of doing it, on the same machine in the same run.

Ours is the score pass of the product: ``Bench`` with its engine, its vision features and its look ahead. The plain way
is a loop of the library's ``generate`` with the experts' grouped kernel, as a user would write it; the predecessor's
way runs each expert in a Python loop besides, and does not count what reloading the model for each value would add.

Ours runs every point. The plain ways run a Latin square of points, in which every value of every knob occurs once;
their mean stands for the mean of the grid, which is exact where the knobs' effects on time add up.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.benchmarks.sections import Report, sync
from vlmprof import registry
from vlmprof.engine.engine import EAGER
from vlmprof.engine.fixed import FixedMemory
from vlmprof.engine.sights import Sights
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.records import Example, Picture, Prompt
from vlmprof.trial.bench import Bench, NextBatch
from vlmprof.trial.samples import Asked, open_pictures

SIZES = ((640, 480), (480, 640), (1024, 768), (640, 427), (800, 1200), (500, 375), (1280, 720), (768, 1024))
"""Width and height of pictures as datasets of visual questions have them."""
LATIN = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
FULL = 512


def samples(count: int) -> list[Asked]:
    """Questions about noise; what is asked does not matter, how large the pictures are does."""
    made = []
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        pixels = np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        picture = Picture(width=width, height=height, load=lambda image=image: image)
        question = f"how many shapes are there left of number {index}?"
        example = Example(
            id=str(index), question=question, question_type="", answers=("1",), picture=picture, cluster=str(index)
        )
        made.append(Asked(example=example, prompt=Prompt(text=question, picture=picture)))
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
    ours(model, asked, points, options, found)
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
                equal = [a == b for a, b in zip(said, tokens, strict=True)]
                found.setdefault("answers equal to plain", []).append(sum(equal) / len(equal))
            print(f"    {way} {point}: {seconds:.2f} s", flush=True)
    distinct = {tuple(answer) for said in found.pop("said").values() for answer in said}
    found["distinct answers"] = len(distinct)
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
    return compared


def ours(model: LoadedMolmo, asked: list[Asked], points: list[Any], options: Any, found: dict[str, Any]) -> None:
    """Every point as the score pass does it; seconds of each, answers as tokens."""
    on_gpu = model.device.startswith("cuda")
    engine = FixedMemory("graphs", capture=on_gpu)
    bench = Bench(model, engine=engine if on_gpu or options.tiny else EAGER, sights=Sights())
    found["seconds by point"], found["said"] = {}, {}
    for point in points:
        sync(model.device)
        began = time.perf_counter()
        with ExitStack() as stack:
            _enter(stack, model, point)
            found["said"][str(point)] = _score(bench, asked, options.grid_batch, options.grid_tokens)
        sync(model.device)
        found["seconds by point"][str(point)] = time.perf_counter() - began
    found["seconds"] = sum(found["seconds by point"].values())
    found["recording_s"] = engine.recording_s
    found["images through the vision side"] = bench.sights.computed
    print(f"    ours: {found['seconds']:.2f} s for {len(points)} points", flush=True)
    engine.forget()


def _score(bench: Bench, asked: list[Asked], batch: int, cap: int) -> list[list[int]]:
    said = []
    with NextBatch(bench, lambda pictures: None) as following:
        for start in range(0, len(asked), batch):
            opened, prepared = following.take(asked[start : start + batch], asked[start + batch : start + 2 * batch])
            said += [list(one.ids) for one in bench.answer(prepared, opened.readable, cap)]
    return said


def plain(model: LoadedMolmo, asked: list[Asked], batch: int, cap: int, kernel: str) -> tuple[float, list[list[int]]]:
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
