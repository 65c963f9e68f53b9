"""Results folders for tests, written through the store as a sweep writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmprof.store import schema, tables
from vlmprof.store.ledger import Ledger

GPU = "NVIDIA H200"


def trial_row(knobs: Mapping[str, float] | None = None, **columns: Any) -> dict[str, Any]:
    """A finished trial at these knob values; its id follows from them unless it is given."""
    knobs = knobs or {}
    point = " ".join(f"{name}={value:g}" for name, value in sorted(knobs.items()))
    trial = hashlib.sha256(f"{point} {sorted(columns.items())}".encode()).hexdigest()[:12]
    row: dict[str, Any] = {
        "trial": trial,
        "sweep": "combined",
        "state": "done",
        "model": "MolmoE-1B-0924",
        "family": "molmo",
        "model_fingerprint": "f00d",
        "dtype": "bfloat16",
        "task": "vqa_v2",
        "split": "val",
        "task_revision": "1",
        "seed": 0,
        "point": point,
        "work_key": trial,
        "samples": 500,
        "samples_failed": 0,
        "metric": "vqa",
        "accuracy": 0.5,
        "timing_batch_size": 1,
        "timing_output_tokens": 16,
        "timing_requests": 4,
        "repeats": 20,
        "latency_ms_p50": 100.0,
        "peak_bytes": 16 * 1024**3,
        "device": GPU,
        "cpu": "Some CPU",
        "cpu_threads": 8,
        "schema_version": schema.SCHEMA_VERSION,
    }
    for name, value in knobs.items():
        row |= {f"knob_{name}": float(value), f"requested_{name}": f"{value:g}", f"effect_{name}": "effective"}
    row |= columns
    return {**_intervals(row), **row}


def _intervals(row: Mapping[str, Any]) -> dict[str, float]:
    halves = {"accuracy": 0.05, "latency_ms_p50": 1.0}
    measured = {name: half for name, half in halves.items() if isinstance(row[name], float)}
    ends = (("low", -1), ("high", 1))
    return {f"{name}_{end}": row[name] + sign * half for name, half in measured.items() for end, sign in ends}


def write_results(folder: Path, rows: Iterable[Mapping[str, Any]], name: str = "combined") -> Path:
    """A results folder as a finished sweep leaves it: tables first, then the ledger."""
    rows = list(rows)
    for row in rows:
        kind = schema.schema_of_row(row)
        tables.write(folder, "trials", row["trial"], [row], kind)
    ledger = Ledger(folder)
    ledger.append("sweep", name=name, trials=[row["trial"] for row in rows], time="2026-08-01T10:00:00+00:00")
    for minute, row in enumerate(rows):
        ledger.append("started", trial=row["trial"], time=f"2026-08-01T10:{minute % 60:02d}:00+00:00")
        ended = f"2026-08-01T10:{minute % 60:02d}:30+00:00"
        ledger.append(row["state"], trial=row["trial"], time=ended, seconds=30.0)
    ledger.close()
    return folder


def read_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Any:
    """These rows as the reading wing sees them."""
    return tables.read(write_results(folder, rows), "trials")


def combined_sweep(**columns: Any) -> list[dict[str, Any]]:
    """Sixteen configurations: crops 1, 2, 4, 9 (9 does not bind) x experts 1, 4 x blocks 8, 16."""
    return [
        _configuration(crops, experts, blocks, **columns)
        for crops in (1, 2, 4, 9)
        for experts in (1, 4)
        for blocks in (8, 16)
    ]


def _configuration(crops: int, experts: int, blocks: int, **columns: Any) -> dict[str, Any]:
    real_crops = min(crops, 4)  # no image of this data tiles into more
    accuracy = 0.16 + 0.13 * real_crops**0.5 + (0.18 if blocks == 16 else 0.0) + (0.15 if experts == 4 else 0.0)
    # What a repetition of the same work differs by: small, and not the same twice.
    wobble = ((crops * crops + experts * 3 + blocks) % 7 - 3) / 900
    latency = (18 + 9 * real_crops + blocks * (3.1 + 0.3 * experts)) * (1 + wobble)
    half = 1.96 * (accuracy * (1 - accuracy) / 320) ** 0.5
    row = trial_row(
        {"max_crops": crops, "moe_top_k": experts, "active_blocks": blocks},
        accuracy=accuracy,
        accuracy_low=accuracy - half,
        accuracy_high=accuracy + half,
        latency_ms_p50=latency,
        latency_ms_p50_low=latency * 0.992,
        latency_ms_p50_high=latency * 1.013,
        vision_tokens=144.0 * (1 + real_crops),
        blocks_executed=blocks,
        experts_per_token=float(experts),
        peak_bytes=int((6 + 0.4 * blocks + 0.3 * real_crops) * 1024**3),
        work_key=f"{real_crops}-{experts}-{blocks}",
        **{**_speedups(real_crops, experts, blocks), **columns},
    )
    row["effect_max_crops"] = "saturated" if crops == 9 else "effective"
    row["effect_active_blocks"] = "no-op" if blocks == 16 else "effective"
    row["requested_active_blocks"] = f"prefix {blocks}"
    return row


def _speedups(crops: int, experts: int, blocks: int) -> dict[str, float]:
    """Realised speed-ups of a configuration: of what its work allows, four fifths."""
    bounds = {"vision": 5 / (1 + crops), "prefill": 16 / blocks * 6 / (2 + experts), "decode": 16 / blocks}
    realised = {stage: 1 + 0.8 * (bound - 1) for stage, bound in bounds.items()}
    ends = (("", 1.0), ("_low", 0.97), ("_high", 1.04))
    found = {f"speedup_{stage}{end}": ratio * share for stage, ratio in realised.items() for end, share in ends}
    return found | {f"speedup_{stage}_bound": bound for stage, bound in bounds.items()}


def write_answers(folder: Path, trial: str, scores: Mapping[str, float | None], per_picture: int = 1) -> None:
    """The rows of ``samples`` of a trial: sample -> its score, with so many questions about each picture."""
    rows = [
        {"trial": trial, "sample": name, "cluster": f"picture {i // per_picture}", "score": score}
        for i, (name, score) in enumerate(scores.items())
    ]
    tables.write(folder, "samples", trial, rows, schema.SAMPLES)


def write_times(folder: Path, trial: str, sessions: Iterable[Iterable[float]], **columns: Any) -> None:
    """The rows of ``timings`` of a trial: the end-to-end times of each session, of one request."""
    rows = [
        {"trial": trial, "session": number, "block": 0, "canary": False, "repeat": i, "request": 0, "output_tokens": 3}
        | {"preprocess_ms": 1.0, "prefill_ms": ms - 3.0, "decode_ms": 2.0, "end_to_end_ms": ms, **columns}
        for number, times in enumerate(sessions)
        for i, ms in enumerate(times)
    ]
    tables.write(folder, "timings", trial, rows, schema.TIMINGS)
