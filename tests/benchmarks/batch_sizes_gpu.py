"""Batch sizing on a GPU: 27 configurations of MolmoE-1B's shape, random weights, and one real out-of-memory error.

    python -m tests.benchmarks.batch_sizes_gpu --json OUT [--gib 12]     on a GPU, at most five minutes
    python -m tests.benchmarks.batch_sizes_gpu --json OUT --tiny         the same code on a CPU, with made-up memory

Sections: ``grid`` asks the product's sizer for every configuration (crops x top-k x blocks) and counts probes and
out-of-memory errors; ``exhaustive`` bisects the true maximum of three of them, batch by batch; ``survived`` gives the
score pass a size that cannot fit and looks whether every sample is answered all the same. So that maxima are tens and
not thousands, the process may take the weights and ``--gib`` more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.benchmarks.big_models import random_molmo
from tests.benchmarks.grid import samples, values
from tests.benchmarks.sections import Report, gpu_state
from vlmprof import registry
from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest
from vlmprof.batch_size.sizer import BatchSizer
from vlmprof.engine.device_errors import release
from vlmprof.engine.greedy import generate
from vlmprof.errors import OutOfMemory
from vlmprof.measure import memory_headroom as rooms
from vlmprof.measure.memory_headroom import MemoryHeadroom
from vlmprof.models.molmo.tiling import token_counts
from vlmprof.trial import worst_case_probe
from vlmprof.trial.loaded_model import LoadedModel
from vlmprof.trial.score_pass import ScorePass
from vlmprof.trial.worst_case_probe import WorstCaseProbe, worst_case_sample

TOKENS = 8
MOST = 512
CHECKED = (0, 13, 26)
"""Configurations whose true maximum is looked for: the smallest, the middle, the largest."""
MIB = 2**20
GRID_S = 150.0


@dataclass
class Counting:
    """A sizer that counts what it is told."""

    inner: BatchSizer
    told: list[ProbeResult] = field(default_factory=list)

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        return self.inner.ask(request, about)

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        self.inner.renew(memory_key, configuration, token)

    def tell(self, result: ProbeResult) -> None:
        self.told.append(result)
        self.inner.tell(result)


@dataclass
class TooLarge:
    """A sizer that first says a size that cannot fit, and afterwards half of what failed."""

    size: int
    told: list[ProbeResult] = field(default_factory=list)

    def ask(self, request: SizeRequest, about: Mapping[str, Any]) -> SizeReply:
        return SizeReply(action="use", size=self.size)

    def renew(self, memory_key: str, configuration: str, token: int) -> None:
        """Nothing is leased."""

    def tell(self, result: ProbeResult) -> None:
        self.told.append(result)
        self.size = max(1, result.size // 2)


def resolved(loaded: LoadedModel, settings: tuple[Any, ...]) -> Any:
    """As much of a resolved trial as sizing and scoring look at."""
    geometry = loaded.model._processor.image_processor.geometry  # type: ignore[attr-defined]

    def counts(height: int, width: int, cap: int) -> Any:
        return token_counts(height, width, cap, geometry)

    plan = SimpleNamespace(
        batch_size=None,
        batch_max=MOST,
        batch_maximize=True,
        readers=0,
        model=SimpleNamespace(label="random"),
        model_fingerprint="random",
        task="random pictures",
        task_revision="random",
        engine="eager",
    )
    judged = SimpleNamespace(score=0.0, parsed=True)
    task = SimpleNamespace(metric=SimpleNamespace(judge=lambda text, example: judged))
    anatomy = SimpleNamespace(max_crops=loaded.model.max_crops, count_tokens=counts)
    return SimpleNamespace(plan=plan, anatomy=anatomy, settings=settings, task=task)


def settings_of(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        SimpleNamespace(name=name, value=value, knob=registry.load("knobs", name)) for name, value in point.items()
    )


@contextmanager
def knobs(loaded: LoadedModel, settings: tuple[Any, ...]) -> Iterator[Any]:
    with ExitStack() as stack:
        for one in settings:
            stack.enter_context(one.knob.applied(loaded.model, one.value))
        yield resolved(loaded, settings)


def grid(loaded: LoadedModel, points: list[dict[str, Any]], asked: list[Any], folder: Path) -> dict[str, Any]:
    sizer, rows, began = Counting(BatchSizer(folder)), [], time.perf_counter()
    for point in points:
        if time.perf_counter() - began > GRID_S:  # what there is is reported; the other sections go on
            break
        before, start = len(sizer.told), time.perf_counter()
        with knobs(loaded, settings_of(point)) as trial:
            size = WorstCaseProbe(trial, asked, loaded, TOKENS, sizer).size(MOST)
        told = sizer.told[before:]
        rows.append(
            {
                **{name: str(value) for name, value in point.items()},
                "size": size,
                "seconds": round(time.perf_counter() - start, 2),
                "predicted": [one.predicted_bytes // MIB for one in told],
                "probes": [(one.size, one.outcome, (one.peak_bytes or 0) // MIB) for one in told],
                "phases": [{name: peak // MIB for name, peak in one.phases} for one in told],
            }
        )
    return {
        "configurations": len(rows),
        "probes": len(sizer.told),
        "out_of_memory": sum(one.outcome != "ran" for one in sizer.told),
        "seconds": round(time.perf_counter() - began, 1),
        "rows": rows,
    }


def exhaustive(loaded: LoadedModel, points: list[dict[str, Any]], asked: list[Any], found: Any) -> list[dict[str, Any]]:
    rows = []
    checked = range(len(points)) if len(points) <= len(CHECKED) else CHECKED
    for index in (one for one in checked if one < len(found["rows"])):
        with knobs(loaded, settings_of(points[index])) as trial:
            prompt = worst_case_sample(trial, asked).prompt

            def fits(size: int, prompt: Any = prompt) -> bool:
                release()
                try:
                    generate(loaded.model, [prompt] * size, max_new_tokens=TOKENS, stop_at_eos=False)
                except OutOfMemory:
                    return False
                return True

            size = found["rows"][index]["size"]
            low, high = (size, size + 1) if fits(size) else (0, size)
            while low >= high - 1 and high <= MOST and low == size and fits(high):  # upwards, in growing steps
                low, size, high = high, high, high + max(1, high // 8)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits(middle) else (low, middle)
        answered = found["rows"][index]["size"]
        rows.append({"configuration": index, "size": answered, "maximum": low, "share": round(answered / low, 3)})
    return rows


def survived(loaded: LoadedModel, asked: list[Any], too_large: int) -> dict[str, Any]:
    sizer, said = TooLarge(too_large), []
    failed = WorstCaseProbe.failed

    def heard(self: WorstCaseProbe, size: int, error: OutOfMemory) -> None:
        said.append(f"batch of {size}: {error}")
        failed(self, size, error)

    before = memory()
    nothing_shared = mock.patch.multiple(ScorePass, _shared=lambda *_: {}, _keep=lambda *_: None)
    with knobs(loaded, ()) as trial, mock.patch.object(WorstCaseProbe, "failed", heard), nothing_shared:
        score_pass = ScorePass(resolved=trial, loaded=loaded, samples=asked, max_new_tokens=TOKENS, sizer=sizer)
        scored = list(score_pass.scored())
    release()
    answered = {one.example.id for one in scored if one.generation is not None}
    log = [f"{one.outcome} at {one.size}" for one in sizer.told]
    if len(answered) != len(asked) or len(scored) != len(asked) or not log:
        raise AssertionError(f"{len(answered)} of {len(asked)} answered, {len(scored)} rows, told {log}")
    return {
        "samples": len(asked),
        "answered": len(answered),
        "asked_for": too_large,
        "log": log,
        "said": said,
        "batches": sorted({one.batch_size for one in scored}, reverse=True),
        "memory_before": before,
        "memory_after": memory(),
    }


def memory() -> dict[str, int]:
    """What torch's allocator has counted; empty on a CPU."""
    stats = torch.cuda.memory_stats() if torch.cuda.is_available() else {}
    bytes_of = {f"{kind}_bytes.all.current": MIB for kind in ("reserved", "allocated")}
    names = {"num_ooms": 1, "num_alloc_retries": 1, **bytes_of}
    return {name: stats[name] // unit for name, unit in names.items() if name in stats}


@contextmanager
def made_up_memory(loaded: LoadedModel) -> Iterator[None]:
    """For a CPU: 1,000 MiB of which 400 are held; a row takes 2 for every crop."""
    see, last = type(loaded.model).see, [400.0]

    def limited(self: Any, batch: Any, *args: Any) -> Any:
        last[0] = 400 + 2 * sum(one.crops for one in batch.encodings)
        if last[0] > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory (made up).")
        return see(self, batch, *args)

    def taken(device: str) -> rooms.MemoryTaken:
        return rooms.MemoryTaken(needed=int(last[0] * MIB), in_use=int(last[0] * MIB))

    def begin(device: str) -> None:
        last[0] = 400.0

    room = MemoryHeadroom(usable_bytes=1000 * MIB, held_bytes=400 * MIB, total_bytes=1000 * MIB)
    with (
        mock.patch.object(type(loaded.model), "see", limited),
        mock.patch.multiple(rooms, read_memory_taken=taken, reset_peak=begin),
        mock.patch.multiple(
            worst_case_probe,
            read_headroom=lambda device: room,
            memory_capped=lambda device, room, share: nullcontext(),
            _gpu_probe_lock=lambda device: nullcontext(),
        ),
    ):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=12.0)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = "cpu" if options.tiny else "cuda"
    report = Report(options.json, device, 290)
    report.data["gpu"] = gpu_state()
    loaded = LoadedModel(random_molmo(device, tiny=options.tiny))
    spaces = values(loaded.model, tiny=options.tiny)  # type: ignore[arg-type]
    points = [dict(zip(spaces, chosen, strict=True)) for chosen in product(*spaces.values())]
    if options.tiny:
        points = points[::13]  # the smallest, the middle, the largest
    asked = samples(8)
    if not options.tiny:
        generate(
            loaded.model, [asked[0].prompt], max_new_tokens=2, stop_at_eos=False
        )  # libraries make their workspaces
        release()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + options.gib * 2**30) / total)
    with made_up_memory(loaded) if options.tiny else nullcontext():
        with tempfile.TemporaryDirectory() as folder:
            found = report.section("grid", 160, lambda: grid(loaded, points, asked, Path(folder)))
        too_large = min(160, 2 * found["rows"][-1]["size"] + 4) if found else 100
        report.section("survived", 40, lambda: survived(loaded, samples(too_large), too_large))
        if found:
            report.section("exhaustive", 60, lambda: exhaustive(loaded, points, asked, found))
    print("FAILED: " + ", ".join(report.failed) if report.failed else "every section ran")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
