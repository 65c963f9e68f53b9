"""Rows of samples for controllers: each answer with its knobs, latencies and picture, as Parquet or in MolmoE's layout.

Both hold every finished trial of a folder. A stage's latency of a sample is predicted from the timed requests, where
the sweep has that; what was measured is the median of the trial's requests, the same for all of its samples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vlmprof import registry
from vlmprof.analyze.adaptive.sample_choices import ROLES
from vlmprof.analyze.comparability import comparable
from vlmprof.errors import UnknownNameError, UserError
from vlmprof.store import tables
from vlmprof.store.filesystem import Where, replace
from vlmprof.store.schema import STAGES, knobs_of

OF_TRIALS = (
    *("model", "task", "split", "seed", "point", "work_key", "metric", "device", "dtype"),
    *("experts_per_token", "blocks_executed", "timing_batch_size", "timing_output_tokens"),
)
MEASURED = ("latency_ms_p50", *(f"{stage}_ms_p50" for stage in STAGES))
PREDICTED = "predicted for the sample"
SAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def sample_rows(folder: Where) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row for each sample of each finished trial, and sentences on what is left out.

    Columns are those of ``samples``, and of its trial ``OF_TRIALS``, ``MEASURED`` with ``measured_`` before them,
    ``requested_<knob>``, ``knob_<knob>`` and the ``group`` of comparable trials.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: no finished trial has samples.
    """
    done = comparable(tables.read(folder, "trials"))
    left_out = [f"left out: {count} {state}" for state, count in done.attrs["left_out"].items()]
    knobs = knobs_of(map(str, done.columns))
    named = [f"{prefix}_{knob}" for knob in knobs for prefix in ("requested", "knob")]
    wanted = ["trial", "group", *(name for name in (*OF_TRIALS, *named, *MEASURED) if name in done)]
    of_trials = pd.DataFrame(done[wanted].to_dict("list")).rename(
        columns={name: f"measured_{name}" for name in MEASURED}
    )
    samples = tables.read(folder, "samples")
    rows = pd.DataFrame(samples.to_dict("list")).merge(of_trials, on="trial", how="inner")
    if rows.empty:
        raise UserError(f"{folder}: no finished trial has answers of samples")
    if without := set(done["trial"]) - set(rows["trial"]):
        left_out.append(f"{len(without)} finished trials have no samples, such as {min(without)}")
    return rows.sort_values(["group", "trial", "sample"], ignore_index=True), tuple(left_out)


def write_rows(folder: Where, path: Path) -> tuple[str, ...]:
    """Write ``sample_rows`` to a Parquet file, whole or not at all; returns the sentences.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: nothing to write, or it cannot be written.
    """
    rows, said = sample_rows(folder)
    _put(path, tables.parquet_bytes(pa.Table.from_pandas(rows, preserve_index=False)))
    return said


def write_json(folder: Where, to: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Write a JSON file for each trial, in the layout of the scripts that preceded vlmprof (docs/decisions/oracle.md).

    Their fields have their names and units (milliseconds); null where vlmprof has no such number. Files are called
    ``<task>_imgsizetier-<tier>_crops<mean>_topk<k>_blocks<n>.json``, ``tier`` being the value of the knob of vision
    tokens; a trial whose name another one has gets ``_trial-<id>`` besides.

    Raises:
        StoreError: the folder holds no sweep.
        UserError: as ``write_rows``.
    """
    rows, said = sample_rows(folder)
    written: dict[str, Path] = {}
    for trial, part in rows.groupby("trial", sort=True):
        found = configuration(part)
        crops = found["selected_crops_mean"]
        mean = int(crops) if crops is not None else 0
        stem = f"{part['task'].iloc[0]}_imgsizetier-{found['tier']}_crops{mean}_topk{found['top_k']}"
        name = SAFE.sub("-", f"{stem}_blocks{found['num_active_blocks']}")
        name = f"{name}_trial-{trial}" if name in written else name
        written[name] = to / f"{name}.json"
        _put(written[name], json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return list(written.values()), said


def _put(path: Path, data: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def configuration(part: pd.DataFrame) -> dict[str, Any]:
    """The samples of one trial in the predecessor's layout.

    Args:
        part: Rows of ``sample_rows`` of one trial.
    """
    first = part.iloc[0]
    tier = _tier(first)
    samples = [_sample(row, tier) for row in part.to_dict("records")]
    scores = _finite(part["score"])
    crops, tokens = _finite(part["crops"]), _finite(part["vision_tokens"])
    of_samples = samples[0]["latency_source"] == PREDICTED
    stages = {name: [one[name] for one in samples if one[name] is not None] for name in _TIMES}
    return {
        "tier": tier,
        "tier_range": None,
        "max_crops": _number(first.get("knob_max_crops")),
        "selected_crops_distribution": {str(int(value)): int((crops == value).sum()) for value in np.unique(crops)},
        "selected_crops_mean": _mean(crops),
        "selected_crops_std": _deviation(crops),
        "target_vision_tokens_mean": None,
        "target_vision_tokens_std": None,
        "actual_vision_tokens_mean": _mean(tokens),
        "actual_vision_tokens_std": _deviation(tokens),
        "top_k": _number(first.get("experts_per_token")),
        "num_active_blocks": _number(first.get("blocks_executed")),
        "num_total_blocks": None,
        "active_block_indices": None,
        "num_samples": len(samples),
        "accuracy": _mean(scores),
        "accuracy_std": _deviation(scores),
        "latency_stats": {
            f"{name}_{key}": value
            for name, times in stages.items()
            for key, value in _spread(times, of_samples=of_samples)
        },
        "latency_of_samples": samples[0]["latency_source"],
        "per_sample_results": samples,
        "vlmprof": {name: _plain(first.get(name)) for name in ("trial", "point", "model", "device", "dtype", "metric")},
    }


_TIMES = ("T_vision_total", "T_LLM_prefill", "T_LLM_decode", "T_total", "T_decode_per_token")


def _sample(row: Mapping[Any, Any], tier: str) -> dict[str, Any]:
    generated, ended = _number(row.get("tokens_generated")), row.get("end")
    return {
        "sample_id": _plain(row.get("sample")),
        "tier": tier,
        "tier_range": None,
        "top_k": _number(row.get("experts_per_token")),
        "num_active_blocks": _number(row.get("blocks_executed")),
        "output_tokens": generated,
        "content_tokens": generated - 1 if generated and ended == "eos" else generated,
        "ends_with_eos": None if ended is None or pd.isna(ended) else ended == "eos",
        **_sizes(row),
        "accuracy": _number(row.get("score")),
        "pred": _plain(row.get("prediction")),
        "metadata": {
            "image_id": _plain(row.get("picture")) or _plain(row.get("cluster")),
            "example_id": _plain(row.get("sample")),
            "question": _plain(row.get("question")),
            "question_type": _plain(row.get("question_type")),
            "answers": _plain(row.get("references")),
        },
        **_times(row),
        "error": _plain(row.get("error")),
    }


def _sizes(row: Mapping[Any, Any]) -> dict[str, Any]:
    tiling = [_number(row.get(name)) for name in ("tiling_rows", "tiling_cols")]
    sides = [_number(row.get(name)) for name in ("picture_width", "picture_height")]
    prompt, tokens = _number(row.get("prompt_tokens")), _number(row.get("vision_tokens"))
    return {
        "actual_image_size": sides if all(side is not None for side in sides) else None,
        "actual_num_crops": _number(row.get("crops")),
        "actual_tiling": tiling if all(side is not None for side in tiling) else None,
        "target_vision_tokens": None,
        "actual_vision_tokens": tokens,
        "actual_text_tokens": prompt - tokens if prompt is not None and tokens is not None else None,
        "total_sequence_length": prompt,
    }


def _times(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Predicted for the sample, else the medians of its trial; which of both is said."""
    predicted = _number(row.get("latency_ms_predicted")) is not None
    column = "{}_ms_predicted" if predicted else "measured_{}_ms_p50"
    stages = {name: _number(row.get(column.format(name))) for name in STAGES}
    vision = [ms for ms in (stages["vision"], stages["connector"]) if ms is not None]
    timed, decode = _number(row.get("timing_output_tokens")), stages["decode"]
    return {
        "T_vision_total": sum(vision) if vision else None,
        "T_LLM_prefill": stages["prefill"],
        "T_LLM_decode": decode,
        "T_total": _number(row.get("latency_ms_predicted" if predicted else "measured_latency_ms_p50")),
        "T_decode_per_token": decode / (timed - 1) if decode is not None and timed is not None and timed > 1 else None,
        "T_decode_per_step": None,
        "latency_source": PREDICTED if predicted else "median of the trial",
    }


def _tier(row: pd.Series[Any]) -> str:
    """The value of the knobs of vision tokens, as written; ``native`` where none was set."""
    values = [str(row[f"requested_{knob}"]) for knob in _vision_knobs(row) if pd.notna(row[f"requested_{knob}"])]
    return "-".join(values) or "native"


def _vision_knobs(row: pd.Series[Any]) -> Iterator[str]:
    for knob in knobs_of(map(str, row.index)):
        try:
            if registry.load("knobs", knob).needs in ROLES["tokens"]:
                yield knob
        except UnknownNameError:  # of a plugin that is not installed here
            continue


def _finite(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = column.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(values[np.isfinite(values)])


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _deviation(values: Any) -> float | None:
    return float(np.std(values)) if len(values) else None


def _spread(times: Sequence[float], *, of_samples: bool) -> Iterator[tuple[str, float | None]]:
    """Mean and median; how samples differ is not known where all have the median of the trial."""
    yield from (("mean", _mean(times)), ("std", _deviation(times) if of_samples else None))
    for share in (50, 95, 99):
        known = times and (of_samples or share == 50)
        yield f"p{share}", float(np.percentile(times, share)) if known else None


def _number(value: Any) -> float | int | None:
    """A number without NaN; whole ones as integers."""
    if value is None or pd.isna(value):
        return None
    number = float(value)
    if not np.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
