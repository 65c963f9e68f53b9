"""Batch sizing on simulated devices: probes, out-of-memory errors, and how near the largest batch.

    python -m tests.benchmarks.batch_sizes [--worlds 30] [--json OUT]

125 configurations (crops x experts x blocks) in random order on 30 worlds (``memory_worlds``); the sizer's constants
were set on seeds 0 to 99, the worlds reported are seeds 3000 and up. Against it, on the same worlds:

* accelerate's ``find_executable_batch_size``, the installed package, around the whole score pass, from 128 and 512;
* Lightning's power and binary search, the installed package's functions with the trainer replaced by the world;
* lm-eval's ``auto``: five forwards inside accelerate's decorator from 64, as its ``_detect_batch_size`` does. It does
  not support images; here it is given the worst-case batch, which it would not have.

``pip install accelerate==1.15.0 lightning==2.6.6`` for the rows of others; without, they are left out, and it says so.
A size that comes out is then used for a whole score pass; one that runs out of memory there is a production failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from tests.benchmarks.memory_simulation import GRID, MOST, SAMPLES, Process, World
from vlmprof.batch_size.observations import Observations
from vlmprof.batch_size.protocol import Demand, ProbeResult, SizeRequest
from vlmprof.batch_size.search import HARD, next_step

HELD_OUT = 3000
"""Seeds below 100 were used to set constants; 1000 to 1029 had been looked at before phases were told apart."""
OTHERS = ("accelerate", "lightning")
TARGETS = {"probes": 1.1 * len(GRID), "oom": 0.1, "share": 0.90, "production_oom": 0.0}
JITTER_TARGET = 0.1


@dataclass
class Tally:
    """One method on one world."""

    probes: int = 0
    oom: int = 0
    probed_samples: int = 0
    production_oom: int = 0
    shares: list[float] = field(default_factory=list)

    def run(self, world: World, process: Process, point: Any, size: int, room: float = 1.0) -> float | None:
        """Probe; the peak, or None where it ran out of memory."""
        self.probes += 1
        self.probed_samples += size
        peak = process.peak(point, size)
        fits = peak <= room * world.total
        self.oom += not fits
        return peak if fits else None

    def use(self, world: World, process: Process, point: Any, size: int) -> None:
        """A score pass at this size."""
        self.shares.append(size / world.true_maximum(point))
        self.production_oom += not world.production(point, size, process)


def order(seed: int) -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(seed + 7)
    return [GRID[i] for i in rng.permutation(len(GRID))]


# --- the methods ------------------------------------------------------------------------------------------------------


def ours(world: World, seed: int) -> Tally:
    tally, process, evidence = Tally(), world.process(), Observations()
    for point in order(seed):
        while (step := next_step(evidence, _question(world, point))).action == "probe":
            peak = tally.run(world, process, point, step.size, HARD)
            told = _told(world, point, step.size, peak, f"{tally.probes}", step.predicted_bytes)
            if peak is not None:
                phases = process.phases(point, step.size, peak)
                told = replace(told, phases=tuple((name, int(bytes_)) for name, bytes_ in phases.items()))
            evidence.add(told)
        tally.use(world, process, point, step.size)
    return tally


def demand(point: tuple[int, int, int]) -> Demand:
    crops, top_k, blocks = point
    return (("blocks", float(blocks)), ("crops", float(crops)), ("experts", float(top_k)))


def _question(world: World, point: tuple[int, int, int]) -> SizeRequest:
    return SizeRequest(
        memory_key="simulated",
        configuration=str(point),
        demand=demand(point),
        max_size=MOST,
        usable_bytes=int(world.total),
        floor_bytes=int(world.floor),
        maximize=True,
    )


def _told(
    world: World, point: tuple[int, int, int], size: int, peak: float | None, name: str, predicted: int
) -> ProbeResult:
    return ProbeResult(
        id=name,
        memory_key="simulated",
        configuration=str(point),
        demand=demand(point),
        size=size,
        outcome="out_of_memory" if peak is None else "ran",
        worst_case=True,
        peak_bytes=None if peak is None else int(peak),
        floor_bytes=int(world.floor),
        usable_bytes=int(world.total),
        predicted_bytes=predicted,
    )


def accelerate_from(start: int) -> Callable[[World, int], Tally]:
    """Its decorator around the whole score pass, as its documentation shows it."""

    def method(world: World, seed: int) -> Tally:
        from accelerate.utils.memory import find_executable_batch_size

        tally, process = Tally(), world.process()
        for point in order(seed):

            def score(batch_size: int, point: Any = point) -> int:
                tally.probes += 1
                if not world.production(point, batch_size, process):
                    tally.oom += 1
                    tally.probed_samples += batch_size
                    raise _out_of_memory()
                return batch_size

            with mock.patch("accelerate.utils.memory.clear_device_cache"):
                size = find_executable_batch_size(score, starting_batch_size=start)()
            tally.shares.append(size / world.true_maximum(point))
        return tally

    return method


def lightning_search(mode: str) -> Callable[[World, int], Tally]:
    """Its own search; the trainer's part of it is the world."""

    def method(world: World, seed: int) -> Tally:
        import lightning.pytorch.tuner.batch_size_scaling as scaling

        tally, process = Tally(), world.process()
        for point in order(seed):
            state = SimpleNamespace(size=2)

            def attempt(*_: Any, point: Any = point, state: Any = state) -> None:
                if tally.run(world, process, point, state.size) is None:
                    raise _out_of_memory()

            def adjust(trainer: Any, name: str = "", state: Any = state, **by: Any) -> tuple[int, bool]:
                before, value = state.size, by.get("value")
                state.size = value if value is not None else int(state.size * by.get("factor", 1.0))
                return state.size, state.size != before

            with _replaced(scaling, attempt, adjust):
                if mode == "power":
                    size = scaling._run_power_scaling(SimpleNamespace(), 2, "batch_size", 25, {})
                else:
                    size = scaling._run_binsearch_scaling(
                        SimpleNamespace(lightning_module=None), 2, "batch_size", 25, {}, 0.05
                    )
            tally.use(world, process, point, size)
        return tally

    return method


@contextmanager
def _replaced(scaling: Any, attempt: Any, adjust: Any) -> Iterator[None]:
    nothing = ("_reset_progress", "_reset_dataloaders", "garbage_collection_cuda", "rank_zero_info")
    with mock.patch.multiple(
        scaling,
        _try_loop_run=attempt,
        _adjust_batch_size=adjust,
        lightning_setattr=mock.DEFAULT,
        **{name: mock.DEFAULT for name in nothing},
    ):
        yield


def lm_eval_auto(world: World, seed: int) -> Tally:
    """Its detection: five forwards at each size inside accelerate's decorator, from 64, no batch larger."""
    from accelerate.utils.memory import find_executable_batch_size

    tally, process = Tally(), world.process()
    for point in order(seed):

        def detect(batch_size: int, point: Any = point) -> int:
            for _ in range(5):
                if tally.run(world, process, point, batch_size) is None:
                    raise _out_of_memory()
            return batch_size

        with mock.patch("accelerate.utils.memory.clear_device_cache"):
            size = find_executable_batch_size(detect, starting_batch_size=64)()
        tally.use(world, process, point, size)
    return tally


def _out_of_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    method: str
    worlds: int
    jitter: float
    probes: float
    oom: float
    probed_share: float
    """Samples probed, as a share of those scored."""
    share: float
    """Mean of batch over the true maximum."""
    share_p5: float
    production_oom: float
    seconds: float


def measure(name: str, method: Callable[[World, int], Tally], worlds: int, jitter: float = 0.0) -> Row:
    began = time.perf_counter()
    tallies = [method(World(seed, jitter), seed) for seed in range(HELD_OUT, HELD_OUT + worlds)]
    shares = [share for tally in tallies for share in tally.shares]
    return Row(
        method=name,
        worlds=worlds,
        jitter=jitter,
        probes=statistics.fmean(tally.probes for tally in tallies),
        oom=statistics.fmean(tally.oom for tally in tallies),
        probed_share=statistics.fmean(tally.probed_samples for tally in tallies) / (SAMPLES * len(GRID)),
        share=statistics.fmean(shares),
        share_p5=float(np.percentile(shares, 5)),
        production_oom=statistics.fmean(tally.production_oom for tally in tallies),
        seconds=time.perf_counter() - began,
    )


def missed(rows: list[Row]) -> list[str]:
    """Targets that the sizer does not reach."""
    plain, *jittered = (row for row in rows if row.method == "vlmprof")
    wrong = [
        f"{name} {getattr(plain, name):.3f}, target {target:g}"
        for name, target in TARGETS.items()
        if (getattr(plain, name) < target if name == "share" else getattr(plain, name) > target)
    ]
    wrong += [
        f"production_oom {row.production_oom:.3f} at jitter {row.jitter:g}, target {JITTER_TARGET:g}"
        for row in jittered
        if row.production_oom > JITTER_TARGET
    ]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-ours", action="store_true")
    options = parser.parse_args()
    rows = [measure("vlmprof", ours, options.worlds)]
    rows += [measure("vlmprof", ours, options.worlds, jitter) for jitter in (0.04, 0.10)]
    missing = [name for name in OTHERS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed, so not compared: {', '.join(missing)}")
    if not missing and not options.only_ours:
        for name, method in (
            ("accelerate, from 128", accelerate_from(128)),
            ("accelerate, from 512", accelerate_from(512)),
            ("Lightning power", lightning_search("power")),
            ("Lightning binsearch", lightning_search("binsearch")),
            ("lm-eval auto, from 64", lm_eval_auto),
        ):
            rows.append(measure(name, method, options.worlds))
    print("| method | jitter | probes | OOM | probed samples | batch / maximum | 5th percentile | production OOM |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.method} | {row.jitter:.0%} | {row.probes:.1f} | {row.oom:.2f} | {row.probed_share:.1%} |"
            f" {row.share:.3f} | {row.share_p5:.2f} | {row.production_oom:.2f} |"
        )
    wrong = missed(rows)
    print("\n".join(["missed: " + line for line in wrong]) or "every target reached")
    if options.json:
        versions = {name: version(name) for name in ("numpy", *OTHERS) if importlib.util.find_spec(name)}
        about = {"python": platform.python_version(), "machine": platform.machine(), **versions}
        options.json.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
