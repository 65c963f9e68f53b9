"""Runs for tests of comparisons: the same questions, with canaries, and as much drift, change and noise as is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import trial_row, write_results
from vlmprof.store import schema, tables

QUESTIONS = 200
TYPES = ("colour", "count")


def write_run(
    folder: Path,
    accuracies: Sequence[float],
    latencies: Sequence[float],
    *,
    drift: float = 1.0,
    canaries: bool = True,
    processes: int = 1,
    noise: float = 0.005,
    seed: int = 0,
    binary: bool = True,
    **columns: Any,
) -> Path:
    """Configurations ``t0``, ``t1``, ... of one knob, with these accuracies and latencies.

    The same questions are right in all runs as far as accuracies are equal: the first ones. ``drift`` multiplies all
    times, the canary's too.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i, (accuracy, latency) in enumerate(zip(accuracies, latencies, strict=True)):
        scores = (np.arange(QUESTIONS) < round(accuracy * QUESTIONS)).astype(float)
        if not binary:
            scores[:1] = 1 / 3
        times = drift * latency * np.exp(rng.normal(0, noise, (processes, 16)))
        canary = drift * 20 * np.exp(rng.normal(0, noise, (processes, 8)))
        row = trial_row(
            {"max_crops": i + 1},
            trial=f"t{i}",
            accuracy=float(scores.mean()),
            latency_ms_p50=float(np.median(times)),
            samples=QUESTIONS,
            timing_processes=processes,
            work_key=f"w{i}",
        )
        rows.append({**row, **columns})
        write_samples(folder, f"t{i}", scores)
        write_timings(folder, f"t{i}", times, canary if canaries else np.empty((processes, 0)))
    return write_results(folder, rows)


def write_samples(folder: Path, trial: str, scores: Sequence[float], answers: Sequence[str] = ()) -> None:
    """Two questions about each picture, of two types in turn; a right answer is ``yes``."""
    rows = [
        {
            "trial": trial,
            "sample": f"q{k:03}",
            "cluster": f"picture {k // 2}",
            "question_type": TYPES[k % 2],
            "question": f"What is {k}?",
            "references": ["yes", "yes", "aye"],
            "prediction": answers[k] if len(answers) else ("yes" if score else "no"),
            "score": score,
        }
        for k, score in enumerate(scores)
    ]
    tables.write(folder, "samples", trial, rows, schema.SAMPLES)


def write_timings(folder: Path, trial: str, times: Any, canaries: Any) -> None:
    """Each session's times of one request, and its canaries."""
    rows = [
        {"trial": trial, "session": session, "block": 0, "canary": is_canary, "request": 0, "output_tokens": 3}
        | {"preprocess_ms": 1.0, "prefill_ms": ms - 3.0, "decode_ms": 2.0, "end_to_end_ms": ms}
        for is_canary, of in ((False, times), (True, canaries))
        for session, each in enumerate(of)
        for ms in np.asarray(each).tolist()
    ]
    tables.write(folder, "timings", trial, rows, schema.TIMINGS)
