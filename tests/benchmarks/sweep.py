"""A whole sweep as a user runs it: ``vlmprof run`` through Ray, accuracy and latency at the defaults, one GPU.

    python -m tests.benchmarks.sweep --out results/sweep.json                          # 27 points, seven minutes
    python -m tests.benchmarks.sweep --tiny --device cpu --points 2 --out /tmp/s.json  # the demo's sizes, to try it

The model has MolmoE-1B's sizes and random weights in bf16, saved here and loaded as any checkpoint; the data are JPEGs
of photographs' sizes. Says the seconds from the command to its end, where they went, and for each trial its latency,
the spread of its stages, and how its timing pass went.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from tests.benchmarks.big_models import random_molmo
from tests.benchmarks.grid import SIZES
from tests.benchmarks.sections import Report, gpu_state
from vlmprof.models.molmo.registration import register
from vlmprof.store import tables

SHOWN = (
    *("trial", "state", "error", "point", "engine", "recorded_stages", "preprocess"),
    *("seconds", "timing_s", "timing_stopped", "timed_generations", "latency_half_width", "latency_modes_apart"),
    *("warm", "blocks", "blocks_disturbed", "disturbed_by", "recorded_distance", "host_bound", "gpu_busy_share"),
    *("latency_ms_p50", "preprocess_ms_p50", "transfer_ms_p50", "vision_ms_p50", "connector_ms_p50", "prefill_ms_p50"),
    *("itl_ms_p50", "energy_j_per_sample", "batch_size", "not_measured", "prompt_fallback"),
    *("load_s", "count_s", "probe_s", "score_s", "audit_s", "warmup_s", "batch_probes", "batch_source"),
    *("canary_ms_p50", "canary_drift_session", "timing_waited_s", "samples_per_s"),
)


def make_checkpoint(folder: Path, device: str, *, tiny: bool) -> None:
    """A MolmoE-1B with random weights, about 14 GB; or the demo's sizes."""
    register()
    model = random_molmo(device, tiny=tiny)
    model._model.to("cpu").save_pretrained(folder)
    model._processor.save_pretrained(folder)


def made_apart(folder: Path, options: argparse.Namespace) -> None:
    """The checkpoint, made in a process of its own: one that had used the GPU would be another process on it."""
    command = [sys.executable, "-m", "tests.benchmarks.sweep", "--make", str(folder), "--out", str(options.out)]
    tiny = ["--tiny"] if options.tiny else []
    subprocess.run([*command, "--device", options.device, *tiny], check=True, stdout=subprocess.DEVNULL)


def make_data(folder: Path, count: int) -> Path:
    """Questions about JPEGs of noise that has been blurred, so that they compress as photographs do."""
    folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        small = np.random.default_rng(index).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
        (folder / f"{index:04}.jpg").write_bytes(encoded.getvalue())
        question = f"how many shapes are there {'to the left ' * (index % 5)}of number {index}?"
        lines.append(json.dumps({"id": str(index), "image": f"{index:04}.jpg", "question": question, "answer": "1"}))
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_job(folder: Path, checkpoint: Path, data: Path, options: argparse.Namespace) -> Path:
    """The job of the sweep; everything but knobs, sizes and the precision is at its default."""
    blocks, top_k, crops = ((4, 6, 8), (1, 2, 4), (1, 4, 9)) if options.tiny else ((8, 12, 16), (2, 4, 8), (2, 6, 12))
    written: dict[str, Any] = {
        "name": "sweep",
        "models": [
            {
                "family": "demo" if options.tiny else "molmo",
                "checkpoint": str(checkpoint),
                "dtype": "float32" if options.tiny else "bfloat16",
            }
        ],
        "tasks": [{"name": "local", "path": str(data), "metric": "exact_match", "samples": options.samples}],
        "knobs": {
            "output_tokens": [2 if options.tiny else 16],
            "max_crops": list(crops),
            "moe_top_k": list(top_k),
            "active_blocks": [{"keep": keep, "policy": "prefix"} for keep in blocks],
        },
        "engine": options.engine,
        "resources": {"gpus": 1 if options.device == "cuda" else 0, "cpus": 1},
        "storage": str(folder / "results"),
    }
    if options.tiny:
        written["timing"] = {"requests": 2, "repeats": 3, "max_repeats": 3, "warmup_seconds": 0}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(written))
    return path


def run(job: Path, folder: Path, limit_s: float, points: int | None) -> dict[str, Any]:
    """The sweep in a process of its own, as a user starts it; what its tables say, also where it is cut short."""
    command = [sys.executable, "-m", "vlmprof", "run", str(job), *([f"--limit={points}"] if points else [])]
    seen = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    log, began = folder / "run.log", time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **seen}, stdout=output, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(timeout=60)
            code = None
    seconds = time.monotonic() - began
    results = folder / "results"
    rows = tables.read(results, "trials") if (results / "ledger.jsonl").is_file() else pd.DataFrame()
    shown = rows[[name for name in SHOWN if name in rows]]
    return {
        "code": code,
        "seconds": seconds,
        "trials": len(rows),
        "trials_s": float(rows["seconds"].sum()) if len(rows) else None,
        "timing_s": float(rows["timing_s"].sum()) if len(rows) else None,
        "precise": float((rows["timing_stopped"] == "precision").mean()) if len(rows) else None,
        "rows": json.loads(shown.to_json(orient="records")),
        "stage_spread": spread(results) if len(rows) else None,
        "log": log.read_text(errors="replace")[-3000:],
    }


def spread(results: Path) -> dict[str, float]:
    """Standard deviation of each stage relative to the median of its request, the median over trials, as a share."""
    timed = tables.read(results, "timings")
    timed = timed[~timed["canary"] & timed["disturbed"].isna()]
    found = {}
    for stage in ("preprocess", "transfer", "vision", "connector", "prefill", "decode", "end_to_end"):
        ms = timed[f"{stage}_ms"]
        relative = ms / ms.groupby([timed["trial"], timed["request"]]).transform("median")
        found[stage] = float(relative.groupby(timed["trial"]).std().median())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--points", type=int, help="only so many trials")
    parser.add_argument("--limit", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--make", type=Path, help="make the checkpoint here, and nothing else")
    options = parser.parse_args()
    if options.make:
        make_checkpoint(options.make, options.device, tiny=options.tiny)
        return 0
    report = Report(options.out, options.device, options.limit)
    report.data["gpu"] = gpu_state()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        report.section("checkpoint", 120, partial(made_apart, folder / "checkpoint", options))
        data = make_data(folder / "data", options.samples)
        job = make_job(folder, folder / "checkpoint", data, options)
        report.section("sweep", report.left_s, lambda: run(job, folder, report.left_s - 20, options.points))
    print(f"written to {options.out}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
