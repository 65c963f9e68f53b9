"""What the stage clock costs, and whether a GPU's stages can be believed: one command, JSON out.

    python -m tests.benchmarks.clock --out results/clock.json                 # on a GPU, two minutes
    python -m tests.benchmarks.clock --tiny --device cpu --out /tmp/c.json    # the same code on a CPU

Parts, each on the same model in one run. ``overhead``: the same generation with the clock and without it, in turns and
in random order; ``recorded``: the same with steps that run from a recording; the goal is below 1 %. ``marks``: the
clock's calls alone. ``agreement``: stages by the clock of the device beside those of a host's clock that waits at every
mark. ``session``: a whole timing session with energy, host-bound signs and the physics gate. Every part ends in checks
that hold or do not; the exit code says whether all of them did.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from tests.benchmarks.big_models import random_molmo
from tests.contracts.knob_contract import demo_prompts
from vlmprof import registry
from vlmprof.decoding import Clock
from vlmprof.engine.base import EAGER, AbstractEngine
from vlmprof.engine.greedy import generate
from vlmprof.engine.static_engine import StaticEngine
from vlmprof.measure import roofline
from vlmprof.measure.clock import HostClock, clock_for
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import Timing
from vlmprof.records import Prompt, Stage, StageTimes
from vlmprof.stats.timeseries import steady_median_interval
from vlmprof.trial.timing_pass import TimingPass, TimingRequests, stage_sum_error

OVERHEAD_GOAL = 0.01
STAGES = ("preprocess_ms", "transfer_ms", "vision_ms", "connector_ms", "prefill_ms", "decode_ms", "end_to_end_ms")


def overhead(
    model: AbstractModel, prompts: list[Prompt], tokens: int, seconds: float, engine: AbstractEngine = EAGER
) -> dict[str, Any]:
    """Pairs of one generation with the clock and one without, the first of each pair by lot."""
    wall_ms(model, prompts, tokens, None, engine)
    clock, lot = clock_for(model.device), random.Random(0)
    ratios: list[float] = []
    plain_ms: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(ratios) < 10:
        taken = {}
        for timed in lot.sample((True, False), 2):
            taken[timed] = wall_ms(model, prompts, tokens, clock if timed else None, engine)
        ratios.append(taken[True] / taken[False])
        plain_ms.append(taken[False])
    interval = steady_median_interval(ratios)
    assert interval is not None
    return {
        "pairs": len(ratios),
        "generation_ms": statistics.median(plain_ms),
        "overhead": statistics.median(ratios) - 1,
        "overhead_low": interval.low - 1,
        "overhead_high": interval.high - 1,
        "shown_below_goal": interval.high - 1 < OVERHEAD_GOAL,
        "checks": {"not_above_goal": interval.low - 1 < OVERHEAD_GOAL},
    }


def marks(model: AbstractModel, generation_ms: float, tokens: int) -> dict[str, Any]:
    """All calls of a generation's clock with no generation between them: more than they add to it.

    Pairs of whole generations show a difference of one percent only where the host is quieter than that; this does not
    depend on it, and what runs beside the device cannot cost more than it does alone.
    """
    clock, stages = clock_for(model.device), (*STAGES[:5], *["decode_ms"] * (tokens - 1))
    taken = []
    for _ in range(200):
        model.synchronize()
        began = time.perf_counter()
        clock.start()
        for stage in stages:
            clock.mark(cast("Stage", stage.removesuffix("_ms")))
        clock.stop()
        taken.append((time.perf_counter() - began) * 1e3)
    high = statistics.quantiles(taken, n=20)[-1]
    return {
        "calls": len(stages) + 2,
        "all_calls_ms": statistics.median(taken),
        "all_calls_ms_p95": high,
        "generation_ms": generation_ms,
        "share": statistics.median(taken) / generation_ms,
        "checks": {"below_goal": high / generation_ms < OVERHEAD_GOAL},
    }


def wall_ms(
    model: AbstractModel, prompts: list[Prompt], tokens: int, clock: Clock | None, engine: AbstractEngine = EAGER
) -> float:
    """One generation by a clock of our own, the device waited for at both ends."""
    model.synchronize()
    began = time.perf_counter()
    generate(model, prompts, max_new_tokens=tokens, stop_at_eos=False, clock=clock, engine=engine)
    model.synchronize()
    return (time.perf_counter() - began) * 1e3


def recorded_steps(device: str) -> AbstractEngine:
    """Steps that the device runs from a recording, so that its host's mood is not in the comparison."""
    return StaticEngine("graphs", capture=device == "cuda")


def agreement(model: AbstractModel, prompts: list[Prompt], tokens: int, seconds: float) -> dict[str, Any]:
    """The stages by both clocks, in turns. A clock that did not wait would show work in the wrong stage."""
    clocks = {"device": clock_for(model.device), "host": HostClock(model.synchronize)}
    seen: dict[str, list[StageTimes]] = {name: [] for name in clocks}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(seen["host"]) < 6:
        for name, clock in clocks.items():
            stages = generate(model, prompts, max_new_tokens=tokens, stop_at_eos=False, clock=clock).stages
            assert stages is not None
            seen[name].append(stages)
    table = {
        name: {stage: statistics.median(getattr(one, stage) or 0.0 for one in runs) for stage in STAGES}
        for name, runs in seen.items()
    }
    worst = {name: statistics.median(stage_sum_error(one) for one in runs) for name, runs in seen.items()}
    busy = [s for s in STAGES if table["host"][s] > 0.1 * table["host"]["end_to_end_ms"]]
    ratios = {stage: table["device"][stage] / table["host"][stage] for stage in busy}
    return {
        "stages_ms": table,
        "sum_error": worst,
        "device_over_host": ratios,
        "checks": {
            "stages_add_up": max(worst.values()) < 0.02,
            "no_stage_hides_in_another": all(0.25 < ratio < 2.0 for ratio in ratios.values()),
        },
    }


def session(
    model: AbstractModel, prompts: list[Prompt], tokens: int, energy_seconds: float, dtype: str
) -> dict[str, Any]:
    """A timing session as a trial has it, and what physics says of it."""
    timing = Timing(
        batch_size=len(prompts),
        requests=1,
        output_tokens=tokens,
        warmup=15,
        warmup_seconds=2.0,
        repeats=20,
        max_repeats=60,
        max_seconds=10.0,
        precision=0.01,
        processes=1,
        exclusive=True,
        energy_seconds=energy_seconds,
    )
    work = TimingRequests(requests=[prompts], length=tokens, configured=nullcontext)
    done = TimingPass(timing, model, work).run(0.0, lambda progress: None)
    firsts = [one.stages for block in done.kept for one in block.timed]
    medians = {stage: statistics.median(getattr(one, stage) or 0.0 for one in firsts) for stage in STAGES}
    step = statistics.median(gap for one in firsts for gap in one.step_ms)
    name = torch.cuda.get_device_name() if model.device == "cuda" else "CPU"
    hardware = roofline.hardware_of(name)
    bounds: dict[str, float] = {}
    if hardware and done.operations:
        vision = done.operations["vision"] + done.operations.get("connector", 0)
        flop = {"vision": vision, **{stage: done.operations[stage] for stage in ("prefill", "decode")}}  # type: ignore[index]
        bounds = {stage: roofline.compute_bound_ms(hardware, count, dtype) for stage, count in flop.items()}
        bounds["decode"] = max(bounds["decode"], roofline.memory_bound_ms(hardware, done.decode_bytes or 0))
    vision_ms = medians["vision_ms"] + medians["connector_ms"]
    measured = {"vision": vision_ms, "prefill": medians["prefill_ms"], "decode": step}
    energy = asdict(done.energy) if done.energy else None
    return {
        "device": name,
        "stages_ms": medians,
        "step_ms": step,
        "stopped": done.stopped,
        "repeats": sum(len(block.timed) for block in done.kept),
        "warm": done.warm,
        "waited_s": done.waited_s,
        "blocks_disturbed": [block.disturbed for block in done.blocks if block.disturbed],
        "canary_ms": [block.canary.stages.end_to_end_ms for block in done.blocks if block.canary],
        "peak": asdict(done.peak) if done.peak else None,
        "energy": energy,
        "energy_missing": done.energy_missing,
        "joules_per_token": energy["joules"] / energy["rounds"] / len(prompts) / tokens if energy else None,
        "host_bound": {**asdict(done.host_bound), "verdict": done.host_bound.verdict} if done.host_bound else None,
        "bounds_ms": bounds,
        "share_of_bound": {stage: bounds[stage] / measured[stage] for stage in bounds},
        "checks": {
            "stages_add_up": max(stage_sum_error(one) for one in firsts) < 0.05,
            "not_impossible": not roofline.impossible_stages(measured, bounds),
            "hidden_stage_is_impossible": not bounds or bool(roofline.impossible_stages({"prefill": 1e-3}, bounds)),
        },
    }


def main(argv: list[str]) -> int:
    """Run all parts and write the report; 0 when all checks held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the demo's sizes: to try the code, not the machine")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each of the first two parts")
    parser.add_argument("--parts", default="overhead,recorded,marks,agreement,session")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = random_molmo(asked.device, tiny=asked.tiny)
    many = demo_prompts(registry.load("tasks", "shapes_qa"), 8)
    prompts = many[:1]
    for _ in range(3):
        wall_ms(model, prompts, asked.tokens, None)
    energy_seconds = 5.0 if asked.device == "cuda" else 0.0
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else platform.processor() or "CPU",
        "model": "demo sizes, float32" if asked.tiny else "MolmoE-1B sizes, bfloat16",
        "torch": torch.__version__,
        "tokens": asked.tokens,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    dtype = "float32" if asked.tiny else "bfloat16"
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: overhead(model, prompts, asked.tokens, asked.seconds),
        "marks": lambda: marks(
            model, statistics.median(wall_ms(model, prompts, asked.tokens, None) for _ in range(10)), asked.tokens
        ),
        "agreement": lambda: agreement(model, prompts, asked.tokens, asked.seconds),
        "recorded": lambda: overhead(model, many, 4 * asked.tokens, asked.seconds, recorded_steps(model.device)),
        "session": lambda: session(model, prompts, asked.tokens, energy_seconds, dtype),
    }
    checks: dict[str, bool] = {}
    unknown = set(asked.parts.split(",")) - set(parts)
    if unknown:
        parser.error(f"no part named {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name, part in (
        (name, parts[name]) for name in asked.parts.split(",")
    ):  # told as each part ends: a time limit loses the rest and not all
        began = time.monotonic()
        report[name] = part()
        report[name]["seconds"] = time.monotonic() - began
        checks |= {f"{name}.{check}": held for check, held in report[name]["checks"].items()}
        asked.out.write_text(json.dumps({**report, "checks": checks}, indent=1) + "\n")
        print(json.dumps({name: report[name]}, indent=1), flush=True)
    failed = [name for name, held in checks.items() if not held]
    print(f"FAILED: {', '.join(failed)}" if failed else "all checks held")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
