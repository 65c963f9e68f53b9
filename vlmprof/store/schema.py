"""The columns of the three tables, each with its type, unit and direction in the Arrow field metadata.

``trials`` is Pareto-ready: one row per configuration; a column with a ``better`` of ``lower`` or ``higher`` is an
objective, and ``interval`` names the pair of columns that hold its 95 % interval. ``samples`` has one row per question
and configuration, ``timings`` one row per repeat. ``trials_schema`` adds a set of columns for each knob, and one for
each further batch size and length that was timed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 2

Better = Literal["lower", "higher"]
TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def column(
    name: str, kind: pa.DataType, unit: str = "", better: Better | None = None, interval: bool = False
) -> pa.Field:
    """One field; ``interval`` means that ``<name>_low`` and ``<name>_high`` hold its 95 % interval."""
    metadata = {"unit": unit, "better": better or "", "interval": f"{name}_low,{name}_high" if interval else ""}
    return pa.field(name, kind, metadata={key: value for key, value in metadata.items() if value})


STAGES = ("preprocess", "transfer", "vision", "connector", "prefill", "decode")
SPEEDUPS = ("vision", "prefill", "decode")
"""Stages that are compared with those of the model without knobs; vision is encoder and connector together."""

SAMPLES = pa.schema(
    [
        column("trial", TEXT),
        column("sample", TEXT),
        column("cluster", TEXT),
        column("question_type", TEXT),
        column("question", TEXT),
        column("references", pa.list_(TEXT)),
        column("picture", TEXT),
        column("picture_width", WHOLE, "pixels"),
        column("picture_height", WHOLE, "pixels"),
        column("prediction", TEXT),
        column("score", REAL, "", "higher"),
        column("parsed", FLAG),
        column("end", TEXT),
        column("tokens_generated", WHOLE, "tokens"),
        column("tiling_rows", WHOLE, "crops"),
        column("tiling_cols", WHOLE, "crops"),
        column("capped", FLAG),
        column("crops", WHOLE, "crops"),
        column("vision_tokens", WHOLE, "tokens"),
        column("prompt_tokens", WHOLE, "tokens"),
        column("effective_key", TEXT),
        column("batch_size", WHOLE, "samples"),
        column("answered_by", TEXT),
        column("latency_ms_predicted", REAL, "ms", "lower", interval=True),
        column("latency_ms_predicted_low", REAL, "ms"),
        column("latency_ms_predicted_high", REAL, "ms"),
        *(column(f"{stage}_ms_predicted", REAL, "ms", "lower") for stage in STAGES),
        column("error", TEXT),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

CHUNKS = pa.schema(
    [
        column("sample", TEXT),
        column("text", TEXT),
        column("ids", pa.list_(WHOLE)),
        column("end", TEXT),
        *(column(name, WHOLE) for name in ("tiling_rows", "tiling_cols", "natural_rows", "natural_cols")),
        *(column(name, WHOLE) for name in ("tokens", "crops", "vision_tokens", "prompt_tokens", "batch_size")),
        column("error", TEXT),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
"""Answers of a trial that has not ended: only what it takes to go on from them. Removed once it is done."""


TIMINGS = pa.schema(
    [
        column("trial", TEXT),
        column("setting", WHOLE),
        column("session", WHOLE),
        column("block", WHOLE),
        column("canary", FLAG),
        column("repeat", WHOLE),
        column("request", WHOLE),
        column("batch_size", WHOLE, "samples"),
        column("output_tokens", WHOLE, "tokens"),
        *(column(f"{stage}_ms", REAL, "ms", "lower") for stage in STAGES),
        column("step_ms", pa.list_(REAL), "ms"),
        column("end_to_end_ms", REAL, "ms", "lower"),
        column("disturbed", TEXT),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

_IDENTITY = [
    column("trial", TEXT),
    column("sweep", TEXT),
    column("state", TEXT),
    column("error", TEXT),
    column("model", TEXT),
    column("family", TEXT),
    column("architecture", TEXT),
    column("checkpoint", TEXT),
    column("revision", TEXT),
    column("model_fingerprint", TEXT),
    column("dtype", TEXT),
    column("trust_remote_code", FLAG),
    column("task", TEXT),
    column("split", TEXT),
    column("task_revision", TEXT),
    column("seed", WHOLE),
    column("point", TEXT),
    column("work_key", TEXT),
]

_SCORE = [
    column("samples", WHOLE, "samples"),
    column("samples_failed", WHOLE, "samples", "lower"),
    column("samples_answered", WHOLE, "samples"),
    column("failed_set", TEXT),
    column("samples_quarantined", WHOLE, "samples", "lower"),
    column("quarantined", TEXT),
    column("samples_empty", WHOLE, "samples", "lower"),
    column("samples_cut", WHOLE, "samples", "lower"),
    column("samples_unparsable", WHOLE, "samples", "lower"),
    column("empty_rate", REAL, "fraction", "lower"),
    column("cut_rate", REAL, "fraction", "lower"),
    column("unparsable_rate", REAL, "fraction", "lower"),
    column("metric", TEXT),
    column("decoding_left_out", TEXT),
    column("metric_kind", TEXT),
    column("score", REAL, "", "higher", interval=True),
    column("score_low", REAL),
    column("score_high", REAL),
    column("accuracy", REAL, "fraction", "higher", interval=True),
    column("accuracy_low", REAL, "fraction"),
    column("accuracy_high", REAL, "fraction"),
    column("batch_size", WHOLE, "samples"),
    column("batch_source", TEXT),
    column("batch_probes", WHOLE),
    column("batch_probes_oom", WHOLE),
    column("batches_split", WHOLE),
    column("samples_per_s", REAL, "samples/s", "higher"),
    column("scored_by", TEXT),
    column("samples_shared", WHOLE, "samples"),
    column("shared_rechecked", WHOLE, "samples"),
    column("shared_different", WHOLE, "samples"),
    column("samples_resumed", WHOLE, "samples"),
    column("score_processes", WHOLE),
    column("score_mixed", TEXT),
    column("audit_samples", WHOLE, "samples"),
    column("flips", WHOLE, "samples", "lower"),
    column("flip_rate", REAL, "fraction", "lower", interval=True),
    column("flip_rate_low", REAL, "fraction"),
    column("flip_rate_high", REAL, "fraction"),
    column("flip_p", REAL, "probability"),
    column("flip_rate_allowed", REAL, "fraction"),
]

_ACHIEVED = [
    column("vision_tokens", REAL, "tokens", "lower"),
    column("crops", REAL, "crops"),
    column("capped_share", REAL, "fraction"),
    column("prompt_tokens", REAL, "tokens"),
    column("tokens_generated", REAL, "tokens"),
    column("experts_per_token", REAL, "experts"),
    column("blocks_executed", WHOLE, "blocks"),
    column("vit_crops", REAL, "crops"),
    column("vit_patches", REAL, "patches"),
    column("lm_image_tokens", REAL, "tokens"),
    column("experts_by_router", TEXT, "experts"),
    column("flops_first_token", REAL, "FLOP", "lower"),
    column("flops_decode_step", REAL, "FLOP", "lower"),
]

_TIME = [
    column("timing_batch_size", WHOLE, "samples"),
    column("timing_output_tokens", WHOLE, "tokens"),
    column("timing_requests", WHOLE),
    column("samples_untimed", WHOLE, "samples", "lower"),
    column("untimed_set", TEXT),
    column("repeats", WHOLE),
    column("timed_generations", WHOLE),
    column("timing_processes", WHOLE),
    column("latency_ms_p50", REAL, "ms", "lower", interval=True),
    column("latency_ms_p50_low", REAL, "ms"),
    column("latency_ms_p50_high", REAL, "ms"),
    column("latency_half_width", REAL, "fraction"),
    column("latency_modes_apart", REAL, "fraction"),
    *(column(f"latency_ms_{tail}", REAL, "ms", "lower") for tail in ("p90", "p95", "p99", "tail")),
    column("latency_tail_percentile", REAL, "fraction"),
    *(
        column(f"latency_ms_inputs_{percentile}{end}", REAL, "ms", None if end else "lower", interval=not end)
        for percentile in ("p50", "p90", "p95", "p99")
        for end in ("", "_low", "_high")
    ),
    column("latency_model_error", REAL, "fraction"),
    column("latency_model_half_width", REAL, "fraction"),
    *(column(f"{stage}_ms_p50", REAL, "ms", "lower") for stage in STAGES),
    column("ttft_ms_p50", REAL, "ms", "lower"),
    column("ttft_with_preprocess_ms_p50", REAL, "ms", "lower"),
    column("tpot_ms_p50", REAL, "ms", "lower"),
    *(column(f"itl_ms_{tail}", REAL, "ms", "lower") for tail in ("p50", "p90", "p95", "p99")),
    column("e2e_ms_p50", REAL, "ms", "lower", interval=True),
    column("e2e_ms_p50_low", REAL, "ms"),
    column("e2e_ms_p50_high", REAL, "ms"),
    *(
        column(f"timing_{unit}_per_s{end}", REAL, f"{unit}/s", None if end else "higher", interval=not end)
        for unit in ("samples", "tokens")
        for end in ("", "_low", "_high")
    ),
    *(
        column(f"speedup_{stage}{end}", REAL, "ratio", None if end else "higher", interval=not end)
        for stage in SPEEDUPS
        for end in ("", "_low", "_high", "_bound")
    ),
    column("speedup_loaded_with", TEXT),
    column("timing_error", TEXT),
    column("timing_stopped", TEXT),
    column("warmup_repeats", WHOLE),
    column("warm", FLAG),
    column("timing_waited_s", REAL, "s"),
    column("timing_s", REAL, "s"),
    column("timing_exclusive", FLAG),
    column("recorded_stages", TEXT),
    column("prompt_fallback", TEXT),
    column("recorded_distance", REAL, "fraction"),
    column("blocks", WHOLE),
    column("blocks_disturbed", WHOLE),
    column("blocks_disturbed_kept", WHOLE),
    column("disturbed_by", TEXT),
    column("power_limited", FLAG),
    column("timings_redone", WHOLE),
    column("stage_sum_error", REAL, "fraction"),
    column("canary_ms_p50", REAL, "ms"),
    column("canary_ratio", REAL, "ratio", "lower", interval=True),
    column("canary_ratio_low", REAL, "ratio"),
    column("canary_ratio_high", REAL, "ratio"),
    column("canary_drift_session", REAL, "fraction"),
    column("canary_drift", REAL, "fraction"),
    column("peak_bytes", WHOLE, "bytes", "lower"),
    column("device_peak_bytes", WHOLE, "bytes", "lower"),
    column("energy_j_per_sample", REAL, "J", "lower"),
    column("energy_j_per_token", REAL, "J", "lower"),
    column("energy_window_s", REAL, "s"),
    column("energy_missing", TEXT),
    column("not_measured", TEXT),
    column("engine_fallback", TEXT),
    column("mfu_vision", REAL, "fraction", "higher"),
    column("mfu_prefill", REAL, "fraction", "higher"),
    column("decode_bytes_per_s", REAL, "bytes/s", "higher"),
    column("mbu_decode", REAL, "fraction", "higher"),
    column("gpu_busy_share", REAL, "fraction"),
    column("launch_ahead_gain", REAL, "fraction"),
    column("host_bound", FLAG),
    column("impossible", FLAG),
    column("impossible_why", TEXT),
]

_PROVENANCE = [
    column("device", TEXT),
    column("gpu_uuid", TEXT),
    column("gpu_driver", TEXT),
    column("gpu_clock_mhz", WHOLE, "MHz"),
    column("cpu", TEXT),
    column("cpu_threads", WHOLE),
    column("host", TEXT),
    column("attention", TEXT),
    column("experts_kernel", TEXT),
    column("engine", TEXT),
    column("preprocess", TEXT),
    column("decode_attention", TEXT),
    column("decode_experts", TEXT),
    column("python", TEXT),
    column("torch", TEXT),
    column("cuda", TEXT),
    column("transformers", TEXT),
    column("tokenizers", TEXT),
    column("pillow", TEXT),
    column("torchvision", TEXT),
    column("vlmprof", TEXT),
    column("vlmprof_commit", TEXT),
    column("executor", TEXT),
    column("attempts", WHOLE),
    column("process", TEXT),
    column("load_average", REAL),
    column("started", TEXT, "UTC"),
    column("seconds", REAL, "s"),
    *(column(f"{phase}_s", REAL, "s") for phase in ("load", "count", "probe", "score", "audit", "warmup")),
    column("schema_version", WHOLE),
]


AT_A_SETTING = (
    "timing_error",
    "timing_requests",
    "timed_generations",
    "samples_untimed",
    *(f"latency_ms_p50{end}" for end in ("", "_low", "_high")),
    "ttft_ms_p50",
    "tpot_ms_p50",
    *(f"timing_{unit}_per_s{end}" for unit in ("samples", "tokens") for end in ("", "_low", "_high")),
    *(f"speedup_{stage}{end}" for stage in SPEEDUPS for end in ("", "_low", "_high", "_bound")),
    "peak_bytes",
    "energy_j_per_sample",
    "energy_j_per_token",
    "mfu_vision",
    "mfu_prefill",
    "timing_stopped",
    "timing_s",
    "recorded_stages",
    "prompt_fallback",
    "blocks_disturbed_kept",
    "host_bound",
)
"""Columns of the first timed setting that every further one has too; ``at_setting`` is what they are called."""
_SETTING = re.compile(r"(?P<name>.+)_at_(?P<setting>b[1-9]\d*(?:_o[1-9]\d*)?)(?P<end>_low|_high)?$")


def setting_name(batch_size: int, output_tokens: int | None) -> str:
    """What the columns of a timed setting end in: ``b8_o16``; ``b8`` where a knob sets the number of tokens."""
    return f"b{batch_size}" if output_tokens is None else f"b{batch_size}_o{output_tokens}"


def at_setting(name: str, setting: str) -> str:
    """The column of a further setting: ``latency_ms_p50_at_b8_o16``, and its interval with ``_low`` at the end."""
    end = next((end for end in ("_low", "_high") if name.endswith(end)), "")
    return f"{name.removesuffix(end)}_at_{setting}{end}"


def split_setting(name: str) -> tuple[str, str]:
    """The column of the first setting that a column of a further one is like, and the setting; else the name alone."""
    found = _SETTING.match(name)
    first = f"{found['name']}{found['end'] or ''}" if found else ""
    return (first, found["setting"]) if found and first in AT_A_SETTING else (name, "")


def settings_of(names: Iterable[str]) -> list[str]:
    """The further timed settings whose columns are among these column names, the smallest batches first."""
    found = {setting for name in names if (setting := split_setting(name)[1])}
    return sorted(found, key=lambda setting: [int(number) for number in re.findall(r"\d+", setting)])


def setting_words(setting: str) -> str:
    """A setting for display: ``batch 8, 16 tokens``."""
    batch, *length = re.findall(r"\d+", setting)
    return f"batch {batch}" + (f", {length[0]} token{'s' if length[0] != '1' else ''}" if length else "")


def trials_schema(knobs: Iterable[str], settings: Iterable[str] = ()) -> pa.Schema:
    """The schema of ``trials`` for rows with these knobs and these further timed settings.

    Each setting has the columns of ``AT_A_SETTING``. Each knob has ``knob_<name>`` (the number it is plotted at),
    ``requested_<name>`` (the value as written), ``achieved_<name>`` (what its surface measured) and ``effect_<name>``
    (effective, saturated, no-op or mismatch).
    """
    kinds = {"knob": REAL, "requested": TEXT, "achieved": REAL, "effect": TEXT}
    extra = [column(f"{prefix}_{knob}", kind) for knob in sorted(knobs) for prefix, kind in kinds.items()]
    first = {field.name: field for field in _TIME}
    at = [_at(first[name], setting) for setting in settings for name in AT_A_SETTING]
    fields = [*_IDENTITY, *extra, *_SCORE, *_ACHIEVED, *_TIME, *at, *_PROVENANCE]
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION)})


def schema_of_row(names: Iterable[str]) -> pa.Schema:
    """The schema of ``trials`` for rows that have these columns."""
    listed = list(names)
    return trials_schema(knobs_of(listed), settings_of(listed))


def _at(field: pa.Field, setting: str) -> pa.Field:
    metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    if "interval" in metadata:
        metadata["interval"] = ",".join(at_setting(end, setting) for end in metadata["interval"].split(","))
    return pa.field(at_setting(field.name, setting), field.type, metadata=metadata)


def knobs_of(names: Iterable[str]) -> list[str]:
    """The knobs whose columns are among these column names."""
    return sorted(name.removeprefix("knob_") for name in names if name.startswith("knob_"))
