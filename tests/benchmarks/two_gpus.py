"""One sweep on one GPU and on two of the same machine: how long, which trial ran where, and whether latencies agree.

    python -m tests.benchmarks.two_gpus --out results/two_gpus.json                          # five minutes
    python -m tests.benchmarks.two_gpus --tiny --device cpu --out /tmp/two.json              # on two halves of the CPUs

Eight configurations of a MolmoE with random weights, made here; accuracy and latency. Each run has a private Ray
cluster on loopback and shows it only the GPUs of the run. In the run on two, timing passes do not wait for each other
(``timing.exclusive: false``): the comparison of latencies says what that costs. Where time is left a third run has
them wait, which is the default of a job.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import spearmanr

from tests.benchmarks.sections import Report, gpu_state

TARGET = 0.55
RUN_S = 260
"""The longest run; Ray's start and the first load took 40 s of it on a machine with two H100."""
GRACE_S = 60
"""Beyond the limit, for a run that has begun."""
AGREE = 0.03
"""Latencies of one configuration on two GPUs of one make may differ by so much, as a share."""


class Options:
    """What the command line asked for."""

    def __init__(self, argv: list[str]) -> None:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
        parser.add_argument("--tiny", action="store_true", help="the demo's sizes: to try the code, not the machine")
        parser.add_argument("--samples", type=int, default=0, help="scored by each trial; 0: 96, or 40 when tiny")
        parser.add_argument("--limit", type=float, default=320, help="seconds for everything")
        parser.add_argument("--child", nargs=2, metavar=("JOB", "OUT"), help="run one sweep, in a process of its own")
        parser.add_argument("--make", type=Path, help="make the checkpoint, in a process of its own")
        asked = parser.parse_args(argv)
        self.out, self.device, self.tiny, self.limit = asked.out, asked.device, asked.tiny, asked.limit
        self.samples = asked.samples or (40 if self.tiny else 96)
        self.child, self.make = asked.child, asked.make

    @property
    def passed_on(self) -> list[str]:
        own = ["--out", str(self.out), "--device", self.device]
        return [*own, "--tiny"] if self.tiny else own


def make_checkpoint(folder: Path, options: Options) -> None:
    """A MolmoE of 16 blocks and 2.4 billion parameters in bf16, about 5 GB; or one of the demo's sizes."""
    import torch

    from tests.benchmarks.big_models import molmoe_1b_config, random_molmo
    from vlmprof.models.molmo.registration import register

    register()
    config = None if options.tiny else molmoe_1b_config()
    if config is not None:
        text: Any = config.text_config
        text.num_experts = 16
    model = random_molmo(options.device, tiny=options.tiny, config=config)
    model._model.to("cpu").save_pretrained(folder)
    model._processor.save_pretrained(folder)
    del model
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()


def job(options: Options, folder: Path, checkpoint: Path, workers: int, *, exclusive: bool) -> Path:
    """The job file of one run; the trials have the same ids in all runs but for ``exclusive``."""
    family, dtype = ("demo", "float32") if options.tiny else ("molmo", "bfloat16")
    blocks = (4, 5, 6, 8) if options.tiny else (10, 12, 14, 16)
    cpus = 1 if options.device == "cuda" else max(1, (os.cpu_count() or 1) // workers)
    written = {
        "name": "two_gpus",
        "models": [{"family": family, "checkpoint": str(checkpoint), "dtype": dtype}],
        "tasks": [{"name": "shapes_qa", "samples": options.samples}],
        "knobs": {
            "moe_top_k": [1, 4] if options.tiny else [2, 8],
            "active_blocks": [{"keep": keep, "policy": "prefix"} for keep in blocks],
        },
        "timing": {
            "requests": 1,
            "warmup": 5,
            "warmup_seconds": 0 if options.tiny else 1,
            "repeats": 6 if options.tiny else 12,
            "max_repeats": 6 if options.tiny else 24,
            "max_seconds": 2,
            "energy_seconds": 0,
            "exclusive": exclusive,
        },
        "batch": {"size": 16, "audit_samples": 0},
        "resources": {"gpus": 1 if options.device == "cuda" else 0, "cpus": cpus, "threads": 1},
        "storage": str(folder / "results"),
    }
    folder.mkdir(parents=True)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(written))
    return path


class Watch:
    """A display that notes when the first trial had its model, and when all was done."""

    def __init__(self, log: Path) -> None:
        self.notes: list[str] = []
        self._log, self._began = log, time.monotonic()
        self.loaded_at: float | None = None
        self.settled_at: float = 0.0
        self._settled = 0

    def update(self, view: Any) -> None:
        at_work = any(one.phase not in ("start", "load") for one in view.heartbeat.running.values())
        if self.loaded_at is None and at_work:
            self.loaded_at = time.monotonic()
        if len(view.status.ended) > self._settled:
            self._settled, self.settled_at = len(view.status.ended), time.monotonic()
            so_far = {"trials": self._settled, "sweep_s": self.settled_at - (self.loaded_at or self._began)}
            self._log.write_text(json.dumps(so_far))  # what is known of a run that a time limit cuts

    def note(self, line: str) -> None:
        self.notes.append(line)


def child(job_path: Path, out: Path) -> None:
    """Run the sweep in this process; what it gave goes to ``out``."""
    from vlmprof.store import tables
    from vlmprof.sweep.cluster import LOCAL, set_ray_environment
    from vlmprof.sweep.cost import CostEstimator
    from vlmprof.trial.resolve import prepare

    set_ray_environment(LOCAL, verbose=False)
    from vlmprof.sweep.driver import launch  # imports Ray, which reads its settings then

    prepared, watch = prepare(job_path), Watch(out.with_suffix(".partial"))
    began = time.monotonic()
    states = launch(prepared.spec, prepared.plans, LOCAL, watch, verbose=False)
    whole_s = time.monotonic() - began
    folder = prepared.spec.folder
    trials = tables.read(folder, "trials").set_index("trial")
    samples = tables.read(folder, "samples").sort_values(["trial", "sample"])
    estimator = CostEstimator()
    found = {
        "states": states,
        "notes": watch.notes,
        "whole_s": whole_s,
        "sweep_s": None if watch.loaded_at is None else watch.settled_at - watch.loaded_at,
        "estimates": {plan.id: estimator.estimate(plan).cost for plan in prepared.plans},
        "points": {plan.id: str(plan.point) for plan in prepared.plans},
        "predictions": samples.groupby("trial")["prediction"].agg(list).to_dict(),
        "trials": json.loads(trials[[name for name in COLUMNS if name in trials]].to_json(orient="index")),
    }
    out.write_text(json.dumps(found))


COLUMNS = [
    "state",
    "error",
    "device",
    "gpu_uuid",
    "process",
    "started",
    "seconds",
    "latency_ms_p50",
    "latency_ms_p50_low",
    "latency_ms_p50_high",
    "accuracy",
    "timing_waited_s",
    "blocks_disturbed",
    "blocks",
    "engine",
]


def sweep(options: Options, folder: Path, checkpoint: Path, gpus: Sequence[str], *, exclusive: bool) -> dict[str, Any]:
    """One run on these GPUs, in a process that sees no others."""
    path = job(options, folder, checkpoint, len(gpus), exclusive=exclusive)
    seen = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    if options.device == "cuda":
        seen["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    out = folder / "found.json"
    command = [sys.executable, "-m", "tests.benchmarks.two_gpus", *options.passed_on, "--child", str(path), str(out)]
    subprocess.run(command, env={**os.environ, **seen}, check=True, timeout=options.limit)
    found: dict[str, Any] = json.loads(out.read_text())
    bad = {trial: row["error"] for trial, row in found["trials"].items() if row["state"] != "done"}
    if bad or len(found["trials"]) != len(found["points"]):
        raise RuntimeError(f"not all trials are done: {bad or found['states']}; {found['notes']}")
    return found


def where(found: dict[str, Any]) -> dict[str, str]:
    """Trial -> the GPU it ran on; on a CPU, the process."""
    return {trial: row.get("gpu_uuid") or row["process"] for trial, row in found["trials"].items()}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What goes into the report of one run."""
    durations = [row["seconds"] for row in found["trials"].values()]
    estimates = [found["estimates"][trial] for trial in found["trials"]]
    places = where(found)
    return {
        "sweep_s": found["sweep_s"],
        "whole_s": found["whole_s"],
        "trial_s": {"median": statistics.median(durations), "most": max(durations)},
        "trials": {found["points"][trial]: place for trial, place in places.items()},
        "trials by gpu": {place: list(places.values()).count(place) for place in sorted(set(places.values()))},
        "at once on one gpu": overlaps(found),
        "timing waited s": sum(row["timing_waited_s"] or 0 for row in found["trials"].values()),
        "blocks disturbed": sum(row["blocks_disturbed"] or 0 for row in found["trials"].values()),
        "estimate against seconds (Spearman)": float(spearmanr(estimates, durations).statistic),
        "engine": sorted({row["engine"] for row in found["trials"].values()}),
        "notes": found["notes"],
    }


def overlaps(found: dict[str, Any]) -> int:
    """Pairs of trials that shared a GPU for more than the second to which a start is known."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for trial, place in where(found).items():
        row = found["trials"][trial]
        start = datetime.fromisoformat(row["started"]).timestamp()
        spans.setdefault(place, []).append((start, start + row["seconds"]))
    ordered = [sorted(same) for same in spans.values()]
    return sum(b[0] < a[1] - 1.0 for same in ordered for a, b in itertools.pairwise(same))


def compared(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """The second run against the first, configuration by configuration."""
    by_point = {two["points"][trial]: row for trial, row in two["trials"].items()}
    said = {two["points"][trial]: answers for trial, answers in two["predictions"].items()}
    ratios, within, equal = {}, [], []
    for trial, row in one["trials"].items():
        point = one["points"][trial]
        other = by_point[point]
        ratios[point] = other["latency_ms_p50"] / row["latency_ms_p50"]
        within.append(abs(ratios[point] - 1) <= AGREE)
        equal.append(said[point] == one["predictions"][trial])
    middle = statistics.median(ratios.values())
    return {
        "ratio": two["sweep_s"] / one["sweep_s"],
        "ratio with start and load": two["whole_s"] / one["whole_s"],
        "latency ratio, median": middle,
        "latency ratio, range": [min(ratios.values()), max(ratios.values())],
        f"latencies within {AGREE:.0%}": sum(within) / len(within),
        "configurations with equal answers": sum(equal) / len(equal),
        "latency ratios": ratios,
    }


def checked(options: Options, places: dict[str, int], shared: int, figures: dict[str, Any]) -> dict[str, bool]:
    """What this benchmark promises, each true or not."""
    return {
        f"sweep time at most {TARGET} of one": figures["ratio"] <= TARGET,
        "both worked": len(places) == 2 and min(places.values()) >= math.ceil(sum(places.values()) / 4),
        "no two trials at once on one": shared == 0,
        "latencies agree": abs(figures["latency ratio, median"] - 1) <= AGREE,
        "answers agree": figures["configurations with equal answers"] == 1 or not options.tiny,
    }


def visible_gpus() -> list[str]:
    """The first two GPUs of this machine, as CUDA numbers them within what is visible."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown:
        return shown.split(",")[:2]
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    return [str(index) for index, line in enumerate(listed.splitlines()) if line.startswith("GPU")][:2]


def run(options: Options) -> int:
    report = Report(options.out, "cpu", options.limit + GRACE_S)  # this process stays off the GPUs
    report.data["gpu"] = gpu_state() if options.device == "cuda" else "none: two halves of the CPUs"
    gpus = visible_gpus() if options.device == "cuda" else ["0", "1"]
    if len(gpus) < 2:
        print(f"this needs two GPUs, there are {len(gpus)}", flush=True)
        return 2
    with tempfile.TemporaryDirectory(prefix="vlmprof-two-gpus-") as home:
        return _run(options, report, gpus, Path(home))


def _run(options: Options, report: Report, gpus: Sequence[str], home: Path) -> int:
    checkpoint, runs = home / "checkpoint", {}
    make = [sys.executable, "-m", "tests.benchmarks.two_gpus", *options.passed_on, "--make", str(checkpoint)]
    report.section("checkpoint", 90, lambda: subprocess.run(make, check=True, timeout=90).returncode)

    def measure(name: str, some: Sequence[str], *, exclusive: bool) -> dict[str, Any]:
        log = home / name / "found.partial"
        try:
            runs[name] = sweep(options, home / name, checkpoint, some, exclusive=exclusive)
        finally:
            if log.is_file():
                report.data[f"{name}, as far as it came"] = json.loads(log.read_text())
        return summary(runs[name])

    # One first: it takes twice as long, and without it the other says nothing.
    report.section("one", RUN_S, lambda: measure("one", gpus[:1], exclusive=False))
    report.section("two", RUN_S, lambda: measure("two", gpus, exclusive=False))
    if report.failed or len(runs) < 2:
        return 1
    figures = report.section("compared", 10, lambda: compared(runs["one"], runs["two"]))
    two = report.data["sections"]["two"]
    checks = checked(options, two["trials by gpu"], two["at once on one gpu"], figures)
    report.data["checks"] = checks
    report.write()
    print(json.dumps(checks, indent=1), flush=True)
    if report.left_s - GRACE_S > 1.2 * runs["one"]["whole_s"]:
        report.section("two, exclusive", RUN_S, lambda: measure("exclusive", gpus, exclusive=True))
        if "exclusive" in runs:
            report.section("compared, exclusive", 10, lambda: compared(runs["one"], runs["exclusive"]))
    print(f"failed: {report.failed or 'nothing'}; written to {options.out}", flush=True)
    return 0 if all(checks.values()) and not report.failed else 1


def main(argv: list[str]) -> int:
    options = Options(argv)
    if options.make:
        make_checkpoint(options.make, options)
        return 0
    if options.child:
        child(Path(options.child[0]), Path(options.child[1]))
        return 0
    return run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
