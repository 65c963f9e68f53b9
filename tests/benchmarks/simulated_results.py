"""Results folders of any size, made up: the tables and the ledger as a long sweep leaves them, its truth known.

    python -m tests.benchmarks.simulated_results FOLDER   # 343 configurations, 5,000 samples
    python -m tests.benchmarks.simulated_results FOLDER --values 10 --knobs 4 --samples 16 --trials 10000

For trying and timing what reads results: no model ran. Accuracies and latencies grow with each knob and level off, with
a deviation of each configuration; answers are paired and clustered by picture as in ``sweep_simulation``. Objects are
merged as ``store.compaction`` merges them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tests.builders import trial_row
from vlmprof.store import schema, tables
from vlmprof.store.compaction import MERGE_BATCH
from vlmprof.store.ledger import Ledger
from vlmprof.store.manifest import MERGED, TableName

Numbers = NDArray[np.float64]
KNOBS = ("max_crops", "moe_top_k", "active_blocks", "output_tokens")
TYPES = ("colour", "count", "relation", "shape")
STAGES = {"preprocess": 0.05, "transfer": 0.01, "vision": 0.2, "prefill": 0.3, "decode": 0.44}
"""Shares of a latency."""
REQUESTS, REPEATS = 4, 16
NOISE = 0.005
BEGAN = "2026-08-01T10:00:00+00:00"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a sweep is."""

    values: int = 7
    """Of each knob."""
    knobs: int = 3
    samples: int = 5000
    trials: int = 0
    """The first so many configurations of the grid; 0: all."""
    tasks: int = 1
    seed: int = 0


def write_simulated(folder: Path, size: Size) -> Path:
    """A finished sweep of that size in a new folder.

    Raises:
        FileExistsError: the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    points = list(
        itertools.islice(itertools.product(range(1, size.values + 1), repeat=size.knobs), size.trials or None)
    )
    ledger = Ledger(folder)
    names = [(task, _id(task, point)) for task in range(size.tasks) for point in points]
    ledger.append("sweep", name="simulated", trials=[trial for _, trial in names], time=BEGAN)
    for task in range(size.tasks):
        world = _World(size, task, np.array(points, dtype=np.float64))
        for at in range(0, len(points), MERGE_BATCH):
            _write_batch(folder, ledger, world, points[at : at + MERGE_BATCH], at)
    ledger.close()
    return folder


def _id(task: int, point: Sequence[int]) -> str:
    return hashlib.sha256(f"{task} {point}".encode()).hexdigest()[:12]


class _World:
    """Truth and answers of one task."""

    def __init__(self, size: Size, task: int, points: Numbers) -> None:
        rng = np.random.default_rng([size.seed, task])
        self.size, self.task, self.rng = size, task, rng
        self.levels = (points - 1) / max(1, size.values - 1)
        gains, bends = rng.uniform(0.02, 0.4, size.knobs), rng.uniform(1.0, 4.0, size.knobs)
        kept = np.prod(1 - gains * np.exp(-bends * self.levels), axis=1)
        self.accuracy = np.clip(0.8 * kept + rng.normal(0, 0.003, len(points)), 0.02, 0.98)
        self.latency_ms = (40 + self.levels @ rng.uniform(5, 60, size.knobs)) * np.exp(rng.normal(0, 0.01, len(points)))
        pictures = rng.integers(0, max(2, size.samples // 3), size.samples)
        self.clusters = np.sort(pictures)
        self.own = 0.8 * rng.standard_normal(size.samples) + 0.4 * rng.standard_normal(size.samples)[self.clusters]
        self.sizes = rng.integers(200, 1400, (max(2, size.samples // 3), 2))[self.clusters]

    def scores(self, index: int) -> Numbers:
        """(samples,): the answers of one configuration."""
        hard = self.own + 0.45 * self.rng.standard_normal(self.size.samples)
        return np.asarray(hard < NormalDist().inv_cdf(float(self.accuracy[index])), dtype=np.float64)


def _write_batch(folder: Path, ledger: Ledger, world: _World, points: Sequence[Sequence[int]], at: int) -> None:
    rows, samples, timings = [], [], []
    for offset, point in enumerate(points):
        trial, index = _id(world.task, point), at + offset
        scores = world.scores(index)
        ratios = np.exp(world.rng.normal(0, NOISE, (REPEATS, REQUESTS)))
        rows.append(_row(world, trial, point, index, scores, ratios))
        samples.append(_samples(world, trial, index, scores))
        timings.append(_timings(world, trial, index, ratios))
        ledger.append("started", trial=trial, time=BEGAN)
        ledger.append("done", trial=trial, time=BEGAN, seconds=30.0)
    knobs = KNOBS[: world.size.knobs]
    parts: dict[TableName, pa.Table] = {
        "trials": pa.Table.from_pylist(
            sorted(rows, key=lambda row: str(row["trial"])), schema=schema.trials_schema(knobs)
        ),
        "samples": tables.concatenated(samples, "samples"),
        "timings": tables.concatenated(timings, "timings"),
    }
    for table, part in parts.items():
        name = f"{table}/merged-000000-{len(ledger.lines):08d}.parquet"
        (folder / table).mkdir(exist_ok=True)
        (folder / name).write_bytes(tables.parquet_bytes(part))
        ledger.append(MERGED, table=table, file=name, trials=sorted(str(row["trial"]) for row in rows))


def _row(
    world: _World, trial: str, point: Sequence[int], index: int, scores: Numbers, ratios: Numbers
) -> dict[str, Any]:
    accuracy, latency = float(scores.mean()), float(world.latency_ms[index] * np.median(ratios))
    error = 1.96 * float(np.sqrt(max(1e-6, accuracy * (1 - accuracy)) / len(scores)))
    settings = dict(zip(KNOBS, point, strict=False))
    columns = {
        "trial": trial,
        "sweep": "simulated",
        "task": f"task_{world.task}",
        "work_key": trial,
        "samples": len(scores),
        "samples_answered": len(scores),
        "accuracy": accuracy,
        "accuracy_low": max(0.0, accuracy - error),
        "accuracy_high": min(1.0, accuracy + error),
        "latency_ms_p50": latency,
        "latency_ms_p50_low": 0.997 * latency,
        "latency_ms_p50_high": 1.003 * latency,
        "vision_tokens": 144.0 * (1 + point[0]),
        "peak_bytes": int((6 + float(world.levels[index].sum())) * 1024**3),
        "timing_requests": REQUESTS,
        "repeats": REPEATS,
        "blocks_executed": point[2] if len(point) > 2 else 16,
        "experts_per_token": float(point[1]) if len(point) > 1 else 8.0,
    }
    knobs = {name: float(value) for name, value in settings.items()}
    return {**trial_row(knobs, **columns), "trial": trial}


def _samples(world: _World, trial: str, index: int, scores: Numbers) -> pa.Table:
    count = len(scores)
    number = np.arange(count)
    latency = world.latency_ms[index] * (0.8 + 0.4 * world.sizes[:, 0] / world.sizes[:, 0].max())
    given: dict[str, Any] = {
        "trial": [trial] * count,
        "sample": [f"val/{one:07d}" for one in number],
        "cluster": [f"picture {one:07d}" for one in world.clusters],
        "question_type": [TYPES[one % len(TYPES)] for one in number],
        "question": [f"what is at {one}?" for one in number],
        "references": [[f"thing {one}"] for one in number],
        "picture_width": world.sizes[:, 0],
        "picture_height": world.sizes[:, 1],
        "prediction": [f"thing {one}" if right else "nothing" for one, right in zip(number, scores, strict=True)],
        "score": scores,
        "parsed": [True] * count,
        "end": ["eos"] * count,
        "tokens_generated": [3] * count,
        "effective_key": [trial] * count,
        "batch_size": [8] * count,
        "latency_ms_predicted": latency,
        "latency_ms_predicted_low": 0.98 * latency,
        "latency_ms_predicted_high": 1.02 * latency,
        **{f"{stage}_ms_predicted": share * latency for stage, share in STAGES.items()},
    }
    return _table(given, schema.SAMPLES)


def _timings(world: _World, trial: str, index: int, ratios: Numbers) -> pa.Table:
    count = ratios.size
    times = (world.latency_ms[index] * ratios).ravel()
    given: dict[str, Any] = {
        "trial": [trial] * count,
        "setting": np.zeros(count, dtype=np.int64),
        "session": np.zeros(count, dtype=np.int64),
        "block": np.repeat(np.arange(REPEATS) // 2, REQUESTS),
        "canary": [False] * count,
        "repeat": np.repeat(np.arange(REPEATS), REQUESTS),
        "request": np.tile(np.arange(REQUESTS), REPEATS),
        "batch_size": np.ones(count, dtype=np.int64),
        "output_tokens": np.full(count, 16),
        **{f"{stage}_ms": share * times for stage, share in STAGES.items()},
        "end_to_end_ms": times,
    }
    return _table(given, schema.TIMINGS)


def _table(given: dict[str, Any], kind: pa.Schema) -> pa.Table:
    count = len(given["trial"])
    columns = [
        pa.array(given[field.name], field.type) if field.name in given else pa.nulls(count, field.type)
        for field in kind
    ]
    return pa.Table.from_arrays(columns, schema=kind)


def _arguments() -> Iterator[tuple[str, int]]:
    for name in Size.__dataclass_fields__:
        yield name, getattr(Size(), name)


def main() -> None:
    """Make a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in _arguments():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    folder = write_simulated(given.pop("folder"), Size(**given))
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(json.dumps({"folder": str(folder), "bytes": held}))


if __name__ == "__main__":
    main()
