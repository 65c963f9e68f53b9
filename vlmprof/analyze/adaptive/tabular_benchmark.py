"""A complete sweep as a tabular benchmark for search methods, in the layout of Syne Tune's blackbox repository.

A search method then asks for a configuration and gets what the sweep measured, at once. The layout is a folder
(``syne_tune/blackbox_repository/blackbox_tabular.py`` and ``serialize.py`` of Syne Tune 0.15): ``configspace.json`` and
``fidelityspace.json`` (name -> class and arguments of a domain), ``hyperparameters.parquet`` (a row a configuration),
``objectives_evaluations.npy`` (float32: tasks, configurations, seeds, fidelities, objectives), ``metadata.json`` and
``fidelities_values.npy``. The fidelity is the number of samples that accuracy is a mean over: nested random parts of
the pictures.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprof.analyze.comparability import comparable, groups_named
from vlmprof.analyze.coupling.full_grid import FullGrid, full_grid
from vlmprof.analyze.objectives import LATENCY, QUALITY, finite
from vlmprof.analyze.score_matrix import ScoreMatrix, read_scores
from vlmprof.errors import UserError
from vlmprof.store import tables
from vlmprof.store.filesystem import Where, replace

FIDELITY = "samples"
SHARES = (0.125, 0.25, 0.5, 1.0)
OBJECTIVES = ("metric_error", "metric_latency_ms", "metric_elapsed_time")
"""1 - accuracy, the median latency, and the seconds that the trial took, in proportion to the samples; all lower."""


def write_benchmark(folder: Where, to: Path, by: str = "") -> tuple[list[Path], tuple[str, ...]]:
    """Write the complete grid of a folder as a benchmark; several groups with one grid become its tasks.

    Args:
        folder: Results.
        to: A folder; created if missing.
        by: Part of the names of the groups to take.

    Returns:
        The files, and sentences on what is left out.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: no complete grid of two knobs, groups with unlike grids, or it cannot be written.
    """
    found, caveats = _grids(folder, by)
    names = list(found)
    first = found[names[0]][0]
    for name, (grid, _) in found.items():
        if (grid.knobs, grid.labels) != (first.knobs, first.labels):
            raise UserError(f"{names[0]} and {name} have unlike grids, and a benchmark has one: name a group with --by")
    samples = min(len(matrix.samples) for _, matrix in found.values())
    fidelities = sorted({max(2, math.ceil(share * samples)) for share in SHARES})
    cells = np.stack([_evaluations(grid, matrix, fidelities) for grid, matrix in found.values()])
    metadata = {
        "objectives_names": list(OBJECTIVES),
        "task_names": names,
        "metric_mode": ["min"] * len(OBJECTIVES),
        "source": f"vlmprof {first.rows['vlmprof'].iloc[0]}" if "vlmprof" in first.rows else "vlmprof",
        "held": dict(first.held),
    }
    contents = {
        "configspace.json": _json({knob: _domain(grid_values(first, knob)) for knob in first.knobs}),
        "fidelityspace.json": _json({FIDELITY: _whole(1, fidelities[-1])}),
        "hyperparameters.parquet": _hyperparameters(first),
        "objectives_evaluations.npy": _npy(cells.astype(np.float32)),
        "fidelities_values.npy": _npy(np.array(fidelities, dtype=np.int64)),
        "metadata.json": _json(metadata),
    }
    return _write(contents, to), caveats


def _grids(folder: Where, by: str) -> tuple[dict[str, tuple[FullGrid, ScoreMatrix]], tuple[str, ...]]:
    frame = comparable(tables.read(folder, "trials"))
    found, caveats, refused = {}, [], []
    for name, part in groups_named(frame, by, folder):
        whole = part[finite(part, QUALITY) & finite(part, LATENCY) & finite(part, "seconds")].reset_index(drop=True)
        try:
            grid = full_grid(whole)
            matrix = read_scores(folder, grid.rows["trial"].tolist())
        except UserError as error:
            refused.append(f"{name}: {error}")
            continue
        found[name] = (grid, matrix)
        caveats += [f"{name}: {sentence}" for sentence in (*grid.caveats, *matrix.caveats)]
        if lacking := len(part) - len(whole):
            caveats.append(f"{name}: {lacking} of {len(part)} trials lack {QUALITY}, {LATENCY} or their seconds")
    if not found:
        raise UserError("; ".join(refused))
    return found, (*caveats, *(f"left out: {one}" for one in refused))


def _evaluations(grid: FullGrid, matrix: ScoreMatrix, fidelities: Sequence[int]) -> NDArray[np.float64]:
    """(configurations, 1, fidelities, objectives)"""
    names, members = np.unique(matrix.paired.clusters, return_inverse=True)
    place = np.random.Generator(np.random.PCG64(0)).permutation(len(names))
    order = np.argsort(place[members], kind="stable")  # pictures in random order, whole ones
    means = np.cumsum(matrix.paired.scores[order], axis=0) / np.arange(1, len(order) + 1)[:, None]
    latency = grid.rows[LATENCY].to_numpy(dtype=np.float64)
    seconds = grid.rows["seconds"].to_numpy(dtype=np.float64)
    found = np.empty((len(latency), 1, len(fidelities), len(OBJECTIVES)))
    for i, count in enumerate(fidelities):
        found[:, 0, i] = np.column_stack([1 - means[count - 1], latency, seconds * count / len(order)])
    return found


def grid_values(grid: FullGrid, knob: str) -> list[int | float | str]:
    """The values of a knob of a grid: numbers where all of them are, else as written."""
    labels = grid.labels[grid.knobs.index(knob)]
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return list(labels)
    return [int(number) if number.is_integer() else number for number in numbers]


def _domain(values: Sequence[int | float | str]) -> dict[str, Any]:
    return {
        "domain_cls": "Categorical",
        "domain_kwargs": {"categories": list(values)},
        "sampler_cls": "Uniform",
        "sampler_kwargs": {},
    }


def _whole(lower: int, upper: int) -> dict[str, Any]:
    return {
        "domain_cls": "Integer",
        "domain_kwargs": {"lower": lower, "upper": upper},
        "sampler_cls": "Uniform",
        "sampler_kwargs": {},
    }


def _hyperparameters(grid: FullGrid) -> bytes:
    columns: dict[str, list[Any]] = {}
    for knob in grid.knobs:
        values = grid_values(grid, knob)
        at = {label: value for label, value in zip(grid.labels[grid.knobs.index(knob)], values, strict=True)}
        columns[knob] = [at[str(label)] for label in grid.rows[f"requested_{knob}"]]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False), sink, compression="gzip")
    return sink.getvalue()


def _npy(values: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, values, allow_pickle=False)
    return sink.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _write(contents: dict[str, bytes], to: Path) -> list[Path]:
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            replace(to / name, data)
    except OSError as error:
        raise UserError(f"{to} cannot be written: {error.strerror or error}") from None
    return [to / name for name in contents]
