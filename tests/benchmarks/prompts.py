"""What the clock says of a prompt: the timing pass of the product beside a bare replay and beside a launch from Python.

    python -m tests.benchmarks.prompts --out results/prompts.json            # MolmoE-1B's sizes, random weights, bf16
    python -m tests.benchmarks.prompts --tiny --device cpu --out /tmp/p.json # the demo's, to try the code

``configurations``: the timing pass at its defaults, for top-k and blocks, with pictures of eight sizes and the given
crops: medians of the stages, their spread within a request as a share, seconds of the pass, why it stopped. ``bare``:
vision and prefill of one request captured here, without the product's engine, replayed, and launched from Python.
``batch``: the same for a batch, and with compiled blocks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from tests.benchmarks.big_models import random_molmo
from tests.benchmarks.grid import samples
from tests.benchmarks.sections import Report, gpu_state, sync
from vlmprof import registry
from vlmprof.decoding import unmarked
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.block_compile import BlockCompiler
from vlmprof.engine.static_engine import StaticEngine, engine_of
from vlmprof.job.spec import TimingSpec
from vlmprof.models.molmo.runtime import LoadedMolmo
from vlmprof.plan.point import Timing
from vlmprof.records import Prompt
from vlmprof.store.schema import STAGES
from vlmprof.trial.columns.speedup import speedup_columns
from vlmprof.trial.outcome import TimedGeneration
from vlmprof.trial.progress import Progress
from vlmprof.trial.samples import open_pictures
from vlmprof.trial.timing_pass import TimingPass, TimingRequests

RUNS = 30
"""Replays and launches of the bare parts."""
BARE = 2
"""The request whose parts are run bare."""


def engine(name: str, device: str) -> AbstractEngine:
    """The engine of a trial; on a CPU the same code without capturing, to try it."""
    if device.startswith("cuda") or name == "eager":
        return engine_of(name, device)
    compiler = BlockCompiler("eager", dynamic=True) if name == "compiled" else None
    return StaticEngine(name, capture=False, prompt_compiler=compiler)


@contextmanager
def point(model: LoadedMolmo, top_k: int, blocks: int, crops: int) -> Iterator[None]:
    """The model at one configuration."""
    values = {"moe_top_k": top_k, "active_blocks": {"keep": blocks, "policy": "prefix"}, "max_crops": crops}
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(registry.load("knobs", name).applied(model, value))
        yield


def requests(count: int) -> list[list[Prompt]]:
    return [[one.prompt] for one in open_pictures(samples(count)).readable]


def configuration(model: LoadedMolmo, name: str, used: AbstractEngine, knobs: Mapping[str, int], options: Any) -> Any:
    """The timing pass of one configuration."""
    timing = Timing(**(TimingSpec().model_dump() | options.timing))
    configured = partial(point, model, **knobs)
    work = TimingRequests(
        requests=requests(timing.requests), length=timing.output_tokens, configured=configured, engine=used
    )
    began, told = time.monotonic(), []

    def note(progress: Progress) -> None:
        told.append((progress.phase, time.monotonic()))

    done = TimingPass(timing, model, work).run(10.0, note)
    ended = time.monotonic()
    timed = [one for block in done.kept for one in block.timed]
    steps = [gap for one in timed for gap in one.stages.step_ms]
    return {
        "engine": name,
        **knobs,
        **used.describe(),
        "seconds": done.seconds,
        "seconds by phase": _phases(began, told, ended),
        "stopped": done.stopped,
        "generations": len(timed),
        "blocks disturbed": [block.disturbed for block in done.blocks if block.disturbed],
        "warm": done.warm,
        "latency_ms": statistics.fmean(_by_request(timed, "end_to_end_ms").values()),
        "stages_ms": {stage: statistics.fmean(_by_request(timed, f"{stage}_ms").values()) for stage in STAGES},
        "stages_sd": {stage: _spread(timed, f"{stage}_ms") for stage in STAGES},
        "step_ms": statistics.median(steps),
        "step_sd": statistics.stdev(steps) / statistics.median(steps),
        f"prefill of request {BARE}, ms": _by_request(timed, "prefill_ms").get(BARE),
        f"vision and connector of request {BARE}, ms": _with_connector(timed).get(BARE),
        "speedup": speedup_columns([done]),
        "recorded_distance": done.recorded_distance,
        "host_bound": done.host_bound and {"busy": done.host_bound.busy_share, "bound": done.host_bound.verdict},
        "joules": done.energy and done.energy.joules / done.energy.rounds,
        "energy_s": done.energy and done.energy.seconds,
    }


def _phases(began: float, told: Sequence[tuple[str, float]], ended: float) -> list[tuple[str, float]]:
    """Phases in order and their seconds; what is told within a phase does not end it. The first is not told."""
    found = [("counting", began)]
    for phase, at in told:
        if phase == "warm up" or phase != found[-1][0]:
            found.append((phase, at))
    ends = [*(at for _, at in found[1:]), ended]
    return [(phase, round(end - at, 2)) for (phase, at), end in zip(found, ends, strict=True)]


def _values(timed: Sequence[TimedGeneration], name: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for one in timed:
        found.setdefault(one.request, []).append(getattr(one.stages, name) or 0.0)
    return found


def _by_request(timed: Sequence[TimedGeneration], name: str) -> dict[int, float]:
    return {request: statistics.median(values) for request, values in _values(timed, name).items()}


def _with_connector(timed: Sequence[TimedGeneration]) -> dict[int, float]:
    connector = _by_request(timed, "connector_ms")
    return {request: ms + connector[request] for request, ms in _by_request(timed, "vision_ms").items()}


def _spread(timed: Sequence[TimedGeneration], name: str) -> float:
    """Standard deviation of times relative to the median of their request."""
    medians = _by_request(timed, name)
    relative = [t / medians[request] for request, times in _values(timed, name).items() for t in times if t]
    return statistics.stdev(relative) if len(relative) > 1 else 0.0


def timed_ms(device: str, work: Callable[[], Any]) -> tuple[float, float]:
    """Median and standard deviation of the device's time, in ms."""
    times = []
    for number in range(-3, RUNS):
        if device.startswith("cuda"):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            work()
            end.record()
            sync(device)
            ms = start.elapsed_time(end)
        else:
            began = time.perf_counter()
            work()
            ms = 1e3 * (time.perf_counter() - began)
        if number >= 0:
            times.append(ms)
    return statistics.median(times), statistics.stdev(times)


def captured(device: str, work: Callable[[], Any]) -> Callable[[], Any]:
    """The work as a CUDA graph, by torch alone; as it is on a CPU."""
    if not device.startswith("cuda"):
        return work
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@torch.inference_mode()
def bare(model: LoadedMolmo, prompts: list[Prompt], knobs: Mapping[str, int]) -> dict[str, Any]:
    """Vision side and prefill of one batch: launched from Python, replayed, and with compiled blocks replayed."""
    found: dict[str, Any] = {**knobs, "rows": len(prompts)}
    with point(model, **knobs):
        batch = model.transfer(model.encode(prompts))
        found["tokens"] = sum(encoding.prompt_tokens for encoding in batch.encodings)
        found["crops"] = sum(encoding.crops for encoding in batch.encodings)
        inputs = model.vision_inputs(batch, unmarked)

        def see() -> Any:
            return model.encode_vision(inputs, unmarked)

        prompt = model.prompt_inputs(batch, see())

        def prefill() -> Any:
            return model.prompt_logits(prompt, DynamicCache(config=model.decoder.config), None)

        def own_prefill() -> Any:
            return model.prefill(batch, prompt.tensors["features"], 1)

        for name, work in (("vision", see), ("prefill", prefill)):
            found[f"{name}, replayed, ms"] = timed_ms(model.device, captured(model.device, work))
        for name, work in (("vision", see), ("prefill", own_prefill)):
            found[f"{name}, launched, ms"] = timed_ms(model.device, work)
    return found


def batch(model: LoadedMolmo, used: AbstractEngine, prompts: list[Prompt], knobs: Mapping[str, int]) -> dict[str, Any]:
    """Vision side and prefill of a batch as an engine times them."""
    with torch.inference_mode(), point(model, **knobs):
        on_device = model.transfer(model.encode(prompts))
        began = time.perf_counter()

        def see() -> Any:
            return used.see(model, on_device, unmarked, exact=True)

        features = see()

        def prefill() -> Any:
            return used.begin(model, on_device, features, 2, exact=True)

        prefill()
        sync(model.device)
        recorded_s = time.perf_counter() - began
        return {
            **knobs,
            **used.describe(),
            "rows": len(prompts),
            "recording, s": recorded_s,
            "vision, ms": timed_ms(model.device, see),
            "prefill and one step loaded, ms": timed_ms(model.device, prefill),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=float, default=280.0, help="seconds for everything")
    parser.add_argument("--engines", default="graphs,compiled,eager")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--preprocess", choices=["device", "host"], default="device")
    parser.add_argument("--seconds", type=float, default=30.0, help="timing.max_seconds")
    options = parser.parse_args()
    options.timing = {"max_seconds": options.seconds} | (
        {"requests": 3, "repeats": 2, "max_repeats": 2, "warmup_seconds": 0.0} if options.tiny else {}
    )
    model = random_molmo(options.device, tiny=options.tiny)
    model.preprocess = options.preprocess
    report = Report(options.out, options.device, options.limit)
    report.data["gpu"] = gpu_state()
    top_ks, depths, crops = ((4, 1), (8, 4), 9) if options.tiny else ((8, 2), (16, 8), 12)
    knobs = [{"top_k": k, "blocks": blocks, "crops": crops} for blocks in depths for k in top_ks]
    one = requests(BARE + 1)[BARE]
    for each in knobs:
        report.section(f"bare {each}", 60, partial(bare, model, one, each))
    for name in options.engines.split(","):
        used = engine(name, options.device) if name != "eager" else EAGER
        for each in knobs:
            report.section(f"{name} {each}", 90, partial(configuration, model, name, used, each, options))
        used.forget()
    many = [prompt for request in requests(options.rows) for prompt in request]
    report.section("bare batch", 60, partial(bare, model, many, knobs[0]))
    for name in ("graphs", "compiled"):
        used = engine(name, options.device)
        report.section(f"batch {name}", 90, partial(batch, model, used, many, knobs[0]))
        used.forget()
    print(f"written to {options.out}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
