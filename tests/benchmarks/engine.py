"""Benchmarks of the engine: one command, ratios measured side by side in one run, JSON out.

    python -m tests.benchmarks.engine --out results/engine.json                # on a GPU, five minutes at most
    python -m tests.benchmarks.engine --tiny --device cpu --out /tmp/e.json    # the same code on a CPU, no claims

Parts (``--parts``): ``answers`` (do all engines say the same), ``decode`` (milliseconds a decode step), ``kernels``
(the experts of one block by each kernel), ``profile`` (which kernels a step spends its time in), ``grid`` (a 27-point
sweep against two plain ways), ``equality`` (do the sweep's answers equal the plain way's in float32).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.big_models import random_molmo
from tests.benchmarks.sections import Report, copy_bandwidth, gpu_state, median_ms, sync
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.device_errors import release
from vlmprof.engine.kernels import run_experts
from vlmprof.engine.static_engine import StaticEngine, engine_of
from vlmprof.models.molmo.runtime import LoadedMolmo, MolmoBatch
from vlmprof.records import Encoding

PARTS = ("answers", "decode", "kernels", "profile", "grid", "equality")
ENGINES = ("eager", "graphs", "compiled")
TEXT_IDS = 250
"""Above the special tokens of the tokenizer: a prompt of text has no image tokens."""


class Options:
    """What the command line asked for."""

    def __init__(self, argv: list[str]) -> None:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--parts", default="decode,answers,kernels,profile")
        parser.add_argument("--device", default="cuda")
        parser.add_argument("--tiny", action="store_true", help="the demo's sizes: to try the code, not the machine")
        parser.add_argument("--batches", default="1,16,64,256")
        parser.add_argument("--prompt", type=int, default=0, help="tokens; 0: 1,024, or 40 when tiny")
        parser.add_argument("--steps", type=int, default=0, help="decode steps timed; 0: 32, or 6 when tiny")
        parser.add_argument("--samples", type=int, default=0, help="of the grid; 0: 512, or 6 when tiny")
        parser.add_argument("--grid-batch", type=int, default=0, help="of the grid; 0: 32, or 3 when tiny")
        parser.add_argument("--grid-tokens", type=int, default=16, help="of every answer of the grid")
        parser.add_argument("--reserve", type=float, default=20, help="seconds the grid leaves to what comes after")
        parser.add_argument("--python-loop-batch", type=int, default=16)
        parser.add_argument("--limit", type=float, default=300, help="seconds for everything")
        asked = parser.parse_args(argv)
        self.out, self.device, self.tiny, self.limit = asked.out, asked.device, asked.tiny, asked.limit
        self.parts = asked.parts.split(",")
        unknown = set(self.parts) - set(PARTS)
        if unknown:
            parser.error(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        self.batches = [int(batch) for batch in asked.batches.split(",")]
        self.prompt = asked.prompt or (40 if self.tiny else 1024)
        self.steps = asked.steps or (6 if self.tiny else 32)
        self.samples = asked.samples or (6 if self.tiny else 512)
        self.grid_batch = asked.grid_batch or (3 if self.tiny else 32)
        self.grid_tokens, self.reserve = asked.grid_tokens, asked.reserve
        self.loop_batch = asked.python_loop_batch


def make_engine(name: str, options: Options) -> AbstractEngine:
    if name == "eager" or options.device.startswith("cuda"):
        return engine_of(name, options.device)
    # On a CPU there is nothing to capture: the same steps run from Python, so that this script can be tried.
    return StaticEngine(name, capture=False, compiler=BlockCompiler("eager") if name == "compiled" else None)


def text_batch(model: LoadedMolmo, rows: int, tokens: int, seed: int = 1) -> MolmoBatch:
    """Prompts of random text tokens, all of one length; the last rows of a large batch are shorter, and padded."""
    vocabulary = model.decoder.config.vocab_size
    low = min(TEXT_IDS, vocabulary // 2)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(low, vocabulary - 130 if vocabulary > 1000 else vocabulary, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if rows >= 4:
        mask[-1, : tokens // 4] = 0
    one = Encoding(tiling=(1, 1), natural_tiling=(1, 1), crops=0, vision_tokens=0, prompt_tokens=tokens)
    return model.transfer(MolmoBatch(inputs={"input_ids": ids, "attention_mask": mask}, encodings=(one,) * rows))


Tokens = list[list[int]]


def decode_with(
    engine: AbstractEngine, model: LoadedMolmo, batch: MolmoBatch, steps: int
) -> tuple[Tokens, float, float]:
    """Tokens by row, milliseconds of the prompt, milliseconds a decode step."""
    sync(model.device)
    begin = time.perf_counter()
    decoding = engine.begin(model, batch, None, steps + 1, exact=True)
    first = decoding.first.tolist()
    middle = time.perf_counter()
    rest = decoding.rest(steps, frozenset())
    sync(model.device)
    end = time.perf_counter()
    tokens = [list(row) for row in zip(first, *(step.tolist() for step in rest), strict=True)]
    return tokens, 1e3 * (middle - begin), 1e3 * (end - middle) / steps


def library_decode(model: LoadedMolmo, batch: MolmoBatch, steps: int) -> tuple[list[list[int]], float]:
    """Tokens by row and milliseconds a decode step of ``generate``, by stamps between its forwards."""
    stamps: list[Any] = []
    on_gpu = model.device.startswith("cuda")

    def stamp(*_: Any) -> None:
        if on_gpu:
            stamps.append(torch.cuda.Event(enable_timing=True))
            stamps[-1].record()
        else:
            stamps.append(time.perf_counter())

    hook = model._model.lm_head.register_forward_hook(stamp)
    try:
        inputs = {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}
        with torch.inference_mode():
            made = model._model.generate(
                **inputs, max_new_tokens=steps + 1, do_sample=False, eos_token_id=-1, pad_token_id=0
            )
    finally:
        hook.remove()
    sync(model.device)
    gaps = [a.elapsed_time(b) if on_gpu else 1e3 * (b - a) for a, b in itertools.pairwise(stamps[1:])]
    tokens: list[list[int]] = made[:, inputs["input_ids"].shape[1] :].tolist()
    return tokens, statistics.median(gaps)


@contextmanager
def experts_by(model: LoadedMolmo, kernel: str) -> Iterator[None]:
    before = model.decoder.config._experts_implementation
    model.decoder.set_experts_implementation(kernel)
    try:
        yield
    finally:
        model.decoder.set_experts_implementation(before)


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> dict[str, float]:
    """Share of rows that are equal to the end, and mean share of tokens before the first that differs."""
    shares = []
    for x, y in zip(ours, theirs, strict=True):
        equal = [a == b for a, b in zip(x, y, strict=True)]
        shares.append((equal.index(False) if False in equal else len(equal)) / len(equal))
    return {"rows_equal": statistics.fmean(share == 1 for share in shares), "prefix_equal": statistics.fmean(shares)}


def answers(model: LoadedMolmo, options: Options) -> dict[str, Any]:
    """Every engine against ``generate`` and against itself, at two batch sizes; in bf16 some flips are normal."""
    found: dict[str, Any] = {"dtype": str(model._model.dtype)}
    for rows in (1, 8):
        batch = text_batch(model, rows, options.prompt)
        library, _ = library_decode(model, batch, options.steps)
        eager = decode_with(EAGER, model, batch, options.steps)[0]
        found[f"batch {rows}"] = {"eager against generate": agreement(eager, library)}
        for name in ("graphs", "compiled"):
            engine = make_engine(name, options)
            said = decode_with(engine, model, batch, options.steps)[0]
            again = decode_with(engine, model, batch, options.steps)[0]
            found[f"batch {rows}"] |= {
                f"{name} against generate": agreement(said, library),
                f"{name} against eager": agreement(said, eager),
                f"{name} against itself": agreement(again, said),
                f"{name} ran on": dict(engine.describe()),
            }
    return found


def limit_ms(model: LoadedMolmo, rows: int, context: float, bandwidth: float) -> float:
    """Milliseconds to read once, at the measured copy bandwidth, all that a decode step must read.

    Attention and router weights, the output layer, the experts that ``rows`` tokens are expected to choose when they
    choose independently, and the keys and values of the tokens so far.
    """
    config, size = model.decoder.config, model._model.dtype.itemsize
    experts, k = config.num_experts, model.routers[0].top_k
    one = next(model.decoder.parameters()).dtype.itemsize
    everything = sum(p.numel() for block in model.decoder.layers for p in block.parameters())
    of_experts = sum(p.numel() for block in model.decoder.layers for p in block.mlp.experts.parameters())
    needed = 1 - (1 - k / experts) ** rows
    weights = (everything - of_experts + of_experts * needed + model._model.lm_head.weight.numel()) * one
    cached = 2 * rows * context * config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    return float(1e3 * (weights + cached * len(model.decoder.layers) * size) / bandwidth)


def decode_at(model: LoadedMolmo, rows: int, options: Options, bandwidth: float) -> dict[str, Any]:
    """One batch size: every engine and ``generate``, in one go on one prompt; a shorter one where memory ends."""
    for prompt in (options.prompt, options.prompt // 2, options.prompt // 4):
        try:
            return _decode_at(model, rows, prompt, options, bandwidth)
        except torch.OutOfMemoryError as error:
            print(f"    {rows} rows of {prompt} tokens: {str(error).splitlines()[0][:120]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    raise MemoryError(f"{rows} rows of {prompt} tokens do not fit")


def _decode_at(model: LoadedMolmo, rows: int, prompt: int, options: Options, bandwidth: float) -> dict[str, Any]:
    batch = text_batch(model, rows, prompt)
    floor = limit_ms(model, rows, prompt + options.steps / 2, bandwidth)
    found: dict[str, Any] = {"prompt_tokens": prompt, "limit_ms": floor, "generate_ms": float("nan")}
    try:
        library_decode(model, batch, 3)
        found["generate_ms"] = library_decode(model, batch, min(options.steps, 12))[1]
    except torch.OutOfMemoryError:
        found["generate"] = "out of memory"
    gc.collect()
    for name in ENGINES:
        engine = make_engine(name, options)
        sync(model.device)
        began = time.perf_counter()
        decode_with(engine, model, batch, options.steps)
        ready_s = time.perf_counter() - began
        runs = [decode_with(engine, model, batch, options.steps) for _ in range(2 if name == "eager" else 3)]
        step = statistics.median(run[2] for run in runs)
        found[name] = {
            "ms": step,
            "prefill_ms": statistics.median(run[1] for run in runs),
            "first_call_s": ready_s,
            "against_limit": step / floor,
            "faster_than_generate": found["generate_ms"] / step,
            **engine.describe(),
        }
        engine.forget()
        gc.collect()
        beside = f"limit {floor:.2f}, generate {found['generate_ms']:.2f}"
        print(f"    {rows:4d} rows {name}: {step:.2f} ms, {beside}", flush=True)
    if rows == options.loop_batch:
        with experts_by(model, "eager"):
            found["generate_python_loop_ms"] = library_decode(model, batch, min(options.steps, 6))[1]
    return found


def kernels(model: LoadedMolmo, options: Options) -> dict[str, Any]:
    """The experts of one block, by each kernel, for batch sizes x top-k: where one should give way to the next."""
    block = model.decoder.layers[0].mlp
    experts, width, dtype = block.experts, model.decoder.config.hidden_size, model._model.dtype
    found: dict[str, Any] = {}
    for k in (1, 2, 4, 8):
        if k > experts.num_experts:
            continue
        for rows in options.batches if options.tiny else (1, 4, 16, 32, 64, 128, 256):
            hidden = torch.randn(rows, width, device=model.device, dtype=dtype)
            scores = torch.rand(rows, experts.num_experts, device=model.device)
            weights, chosen = scores.softmax(-1).topk(k, dim=-1)
            weights = weights.to(dtype)
            given = (experts, hidden, chosen, weights)
            found[f"k {k} rows {rows}"] = {
                name: _repeated_ms(model, partial(run_experts, name, *given))
                for name in ("gathered", "dense", "grouped_mm")
                if name != "gathered" or rows * k <= 4 * experts.num_experts
            }
    return found


@torch.inference_mode()
def _repeated_ms(model: LoadedMolmo, work: Callable[[], Any]) -> float | str:
    """Milliseconds of ``work``; on a GPU of its replay from a graph, so that launching it costs nothing."""
    if not model.device.startswith("cuda"):
        return median_ms(model.device, work, 3)
    try:
        beside = torch.cuda.Stream()
        with torch.cuda.stream(beside):
            work()
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(8):
                work()
        return median_ms(model.device, graph.replay, 5, warmup=2) / 8
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def profile(model: LoadedMolmo, options: Options) -> dict[str, Any]:
    """The kernels in which decode steps spend their time on the device, microseconds a step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watched

    on_gpu, found, steps = model.device.startswith("cuda"), {}, 8
    for rows in (1, 64):
        batch = text_batch(model, rows, options.prompt)
        for name in ("graphs", "compiled"):
            engine = make_engine(name, options)
            decoding = engine.begin(model, batch, None, 2 * steps, exact=True)
            decoding.rest(2, frozenset())
            sync(model.device)
            with watched(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
                decoding.rest(steps, frozenset())
                sync(model.device)
            key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
            events = sorted(seen.key_averages(), key=lambda event: -getattr(event, key))
            found[f"{name} {rows}"] = {
                f"{event.key[:90]} x{event.count / steps:.0f}": round(getattr(event, key) / steps, 1)
                for event in events[:16]
            } | {"all": round(sum(getattr(event, key) for event in events) / steps, 1)}
            engine.forget()
    return found


def finite(model: LoadedMolmo) -> dict[str, Any]:
    """Nothing was left as memory had it."""
    bad = [name for name, weight in model._model.named_parameters() if not bool(weight.isfinite().all())]
    if bad:
        raise ValueError(f"not finite: {bad[:5]}")
    return {"parameters": sum(weight.numel() for weight in model._model.parameters())}


def exact_molmo(options: Options) -> LoadedMolmo:
    """The same model in float32."""
    model = random_molmo(options.device, tiny=options.tiny)
    model._model.float()
    return model


def run(options: Options) -> int:
    report = Report(options.out, options.device, options.limit)
    report.data["gpu"] = gpu_state()
    bandwidth = report.section("copy_bandwidth", 20, lambda: copy_bandwidth(options.device))
    made: dict[str, LoadedMolmo] = {}
    report.section("model", 120, lambda: made.update(model=random_molmo(options.device, tiny=options.tiny)))
    if "model" not in made or not bandwidth:
        return 1
    model = made["model"]
    report.section("weights", 30, lambda: finite(model))
    if "grid" in options.parts:
        from tests.benchmarks.grid import grid

        report.section("grid", options.limit, lambda: grid(model, options, report))
    if "decode" in options.parts:
        for rows in options.batches:
            report.section(f"decode {rows}", 90, partial(decode_at, model, rows, options, bandwidth))
    if "answers" in options.parts:
        report.section("answers", 60, lambda: answers(model, options))
    if "kernels" in options.parts:
        report.section("kernels", 60, lambda: kernels(model, options))
    if "profile" in options.parts:
        report.section("profile", 90, lambda: profile(model, options))
    if "equality" in options.parts:
        from tests.benchmarks.grid import equality

        made.clear()
        del model  # two of them do not fit beside what their prompts need
        release()
        report.section("equality", 120, lambda: equality(exact_molmo(options), options))
    print(f"failed: {report.failed or 'nothing'}; written to {options.out}", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(run(Options(sys.argv[1:])))
