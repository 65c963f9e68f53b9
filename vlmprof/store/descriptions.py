"""What each column of the three tables means, in a sentence; unit and direction are in ``store.schema``.

The same sentences stand in ``docs/schema.md``, and a test holds the two equal. They are not in the metadata of the
Arrow fields, because each trial's objects would carry all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vlmprof.store.manifest import TableName

KNOB = "<name>"
"""Stands for a knob in the names of the columns that every knob has."""
_KNOB_PREFIXES = ("knob_", "requested_", "achieved_", "effect_")

DESCRIPTIONS: Mapping[TableName, Mapping[str, str]] = {
    "trials": {
        "trial": "First 12 hexadecimal digits of a hash of everything that decides the outcome.",
        "sweep": "`name` of the job.",
        "state": "`done`, `oom` (the device could not hold it) or `failed`. Only `done` rows are compared.",
        "error": "Why a trial is not `done`; null otherwise. Its trace is in the ledger.",
        "model": "Short name: the last part of the checkpoint's path, or the family.",
        "family": "Model family, as in the job.",
        "architecture": "What the checkpoint is made of.",
        "checkpoint": "Folder or Hub id, as in the job.",
        "revision": "Commit of the Hub repository, as in the job.",
        "model_fingerprint": "Identity of the weights: a hash of the files, or Hub id and revision.",
        "dtype": (
            "Precision of weights and arithmetic, read off the loaded model; what it was to be, where a trial did "
            "not finish."
        ),
        "trust_remote_code": "Whether Python code that lies with the weights was allowed to run.",
        "task": "Task, as in the job.",
        "split": "Split that was used, the default one by its name.",
        "task_revision": "Changes when the data of the task do, or the scores that its metric gives.",
        "seed": "Seed of the subset.",
        "point": "The knobs and their values, as JSON texts.",
        "work_key": "Equal for trials that did the same work on every sample, whatever they were asked for.",
        "samples": "Questions asked; 0 where accuracy was not measured.",
        "samples_failed": "Questions without an answer. A trial with any is `failed` and has no accuracy.",
        "samples_quarantined": "Those of the failed that were left out because processes that scored them died.",
        "quarantined": "Their ids, a space between two; null where there are none.",
        "samples_empty": "Answers without text.",
        "samples_cut": "Answers that ended at the cap.",
        "samples_unparsable": (
            "Answers that the metric could not read, such as one that names no option. They score 0; nothing is "
            "guessed."
        ),
        "empty_rate": "`samples_empty` as a share of the answers.",
        "cut_rate": "`samples_cut` as a share of the answers.",
        "unparsable_rate": "`samples_unparsable` as a share of the answers.",
        "metric": "Name of the metric behind `score` and `accuracy`.",
        "decoding_left_out": (
            "Settings of the checkpoint's generation configuration that would change greedy answers and are not "
            "applied, such as `repetition_penalty=1.05`; null where there are none."
        ),
        "metric_kind": (
            "`mean`: each answer is judged alone. `corpus`: one number of all answers together, never averaged."
        ),
        "score": (
            "Value of the metric: equal to `accuracy` for a `mean` metric; F1 (0 to 1) or CIDEr-D (0 to 10) for a "
            "`corpus` metric."
        ),
        "score_low": "Lower end of its 95 % interval; null where a bootstrap would be wrong.",
        "score_high": "Upper end of its 95 % interval.",
        "accuracy": "Mean of the samples' scores; null for a `corpus` metric.",
        "accuracy_low": "Lower end of its 95 % interval.",
        "accuracy_high": "Upper end of its 95 % interval.",
        "batch_size": "Largest batch of the score pass. Latency has nothing to do with it.",
        "batch_source": (
            "Why that size may be used: `probed` (it ran here with worst-case inputs), `borrowed` (on a "
            "configuration that needs at least as much), `assumed` (memory cannot be measured on this device); "
            "null where the job pins it or nothing was scored."
        ),
        "batch_probes": "Worst-case batches that this trial ran to find the size.",
        "batch_probes_oom": "How many of these did not fit.",
        "batches_split": (
            "Batches of the score pass that did not fit, twice, and were split; their samples were answered all "
            "the same."
        ),
        "samples_per_s": (
            "Throughput of the score pass: decoding the pictures and scoring the answers included. Of the last "
            "process alone where several scored; empty where that one scored none, and where `scored_by` is not."
        ),
        "scored_by": (
            "The trial whose longer answers were cut to this one's cap; empty where the trial gave its own. See engine."
        ),
        "samples_resumed": "Answered by earlier processes of this trial, which were cut off, and read back.",
        "score_processes": "Processes that answered samples; 1 in an undisturbed run, null where `scored_by` is not.",
        "score_mixed": "What these processes differed in, as `device: A100, H100`; null where they did not.",
        "audit_samples": "Samples that were answered again at batch 1; null where nothing was answered in a batch.",
        "flips": "How many of these the chosen batch had answered otherwise.",
        "flip_rate": "Their share.",
        "flip_rate_low": "Lower end of its 95 % interval.",
        "flip_rate_high": "Upper end.",
        "flip_p": "McNemar's mid-p: how likely score changes as one-sided as these are by chance.",
        "flip_rate_allowed": "Above it every report warns: `batch.flip_rate_allowed` of the job.",
        "vision_tokens": "Mean over the samples of vision features that reached the language model.",
        "crops": "Mean over the samples of crops through the vision encoder, the global view included.",
        "capped_share": "Share of samples whose tiling the cap cut down.",
        "prompt_tokens": "Mean length of the prompt in the language model.",
        "tokens_generated": "Mean length of the answers of the score pass; null where accuracy was not measured.",
        "experts_per_token": (
            "Experts each token was sent to, mean over the routers that ran; null for a dense model."
        ),
        "blocks_executed": "Decoder blocks that ran.",
        "vit_crops": (
            "Crops through the vision encoder, counted by a hook on its first block; mean over the counted requests."
        ),
        "vit_patches": "Vectors through that block, a class token included; likewise.",
        "lm_image_tokens": "Places of image tokens in the ids that the language model was given; likewise.",
        "experts_by_router": (
            "Experts each token was sent to, router by router, of those that ran; null for a dense model."
        ),
        "flops_first_token": (
            "Operations of vision side and prefill, mean over the counted requests; two for a multiplication and "
            "an addition. Null under an attention kernel whose operations cannot be counted."
        ),
        "flops_decode_step": "Operations of the second token.",
        "timing_batch_size": "Prompts in a timed request.",
        "timing_output_tokens": "Tokens generated for each prompt of a timed request: exact.",
        "timing_requests": "Fixed requests in a repeat.",
        "repeats": "Repeats that were kept.",
        "timing_processes": "Timing sessions, each with the model loaded anew: `timing.processes`.",
        "latency_ms_p50": "Median over the repeats of the mean over the requests, end to end.",
        "latency_ms_p50_low": (
            "Lower end of its 95 % interval: of the median, dependence of repeats accounted for; with several "
            "processes, of the mean of their medians."
        ),
        "latency_ms_p50_high": "Upper end.",
        "latency_half_width": (
            "Half the width of that interval, as a share of the median; `timing.precision` asks for it."
        ),
        "latency_ms_p90": "90th percentile of the requests, end to end; null below 64 of them.",
        "latency_ms_p95": "95th; null below 130 requests.",
        "latency_ms_p99": "99th; null below 662 requests.",
        "latency_ms_tail": "At the largest percentile that the number of requests allows.",
        "latency_tail_percentile": "That percentile; null below 11 requests.",
        "preprocess_ms_p50": "As `latency_ms_p50`, of this stage.",
        "transfer_ms_p50": "As `latency_ms_p50`, of this stage.",
        "vision_ms_p50": "As `latency_ms_p50`, of this stage.",
        "connector_ms_p50": "As `latency_ms_p50`, of this stage; null where it is part of `vision_ms`.",
        "prefill_ms_p50": "As `latency_ms_p50`, of this stage.",
        "decode_ms_p50": (
            "As `latency_ms_p50`, of this stage. Medians of stages need not add up to the median of the whole."
        ),
        "ttft_ms_p50": (
            "Time to first token, from inputs in the host's memory to the token there: transfer, vision, "
            "connector, prefill."
        ),
        "ttft_with_preprocess_ms_p50": "The same from decoded pictures.",
        "tpot_ms_p50": (
            "Time per output token after the first, (E2E - TTFT) / (tokens - 1); null where one token is generated."
        ),
        "itl_ms_p50": "Inter-token latency: median of the single gaps, pooled over requests.",
        "itl_ms_p90": "Their 90th percentile; null below 64 gaps.",
        "itl_ms_p95": "Their 95th; null below 130 gaps.",
        "itl_ms_p99": "Their 99th; null below 662 gaps.",
        "e2e_ms_p50": (
            "From inputs in the host's memory to the last token there: `latency_ms_p50` without preprocessing."
        ),
        "timing_samples_per_s": "Prompts by total time of the timed requests.",
        "timing_tokens_per_s": "Generated tokens by total time of the timed requests.",
        "timing_stopped": "What ended the repeats: `precision`, `max_repeats` or `max_seconds`.",
        "warmup_repeats": "Repeats that were run and dropped before.",
        "warm": "Whether warm-up settled: three windows of five with medians within 1 %.",
        "timing_waited_s": "That the trial waited for the timing lock of the host.",
        "blocks": "Blocks of up to five repeats that were run.",
        "blocks_disturbed": "How many of them were disturbed, by a cause and not by their times.",
        "blocks_disturbed_kept": "How many of these are in the estimates, because the disturbance was there to stay.",
        "disturbed_by": "The causes; null where there were none.",
        "power_limited": "Whether the GPU ran at its power limit: steady state on such a board, no disturbance.",
        "timings_redone": "Timed generations thrown away because their stages did not add up, and run again.",
        "stage_sum_error": (
            "Largest distance of the stages' sum from end to end among the kept generations, as a share; at most 0.02."
        ),
        "canary_ms_p50": "Median of the canary: the model as loaded, first request, two tokens, after every block.",
        "canary_ratio": (
            "Median over the blocks of their time by their canary's: a comparison that drift does not reach."
        ),
        "canary_ratio_low": "Lower end of its 95 % interval.",
        "canary_ratio_high": "Upper end.",
        "canary_drift_session": "Change of the canary from the first third of a session to the last.",
        "canary_drift": "Change of the canary since this process first ran it.",
        "peak_bytes": (
            "Most memory reserved on the GPU: of the timing pass where there was one, else of the score pass; "
            "null on a CPU."
        ),
        "device_peak_bytes": (
            "The same with all else that is used on the GPU: contexts, libraries, graphs, other processes; null "
            "on a CPU."
        ),
        "energy_j_per_sample": (
            "Energy of the whole board by prompts, over back-to-back requests; nothing is subtracted."
        ),
        "energy_j_per_token": "The same by generated tokens.",
        "energy_window_s": "Length of that window, by `timing.energy_seconds`.",
        "energy_missing": "Why there is no energy; null where there is.",
        "mfu_vision": "Model FLOP utilisation of vision encoder and connector, by the data sheet's dense peak.",
        "mfu_prefill": "The same of the prefill.",
        "decode_bytes_per_s": (
            "Weights that a decode step reads at least, by its time; keys, values and output head are not counted."
        ),
        "mbu_decode": "The same by the data sheet's bandwidth.",
        "gpu_busy_share": "Time that kernels run by the time of the generation without a profiler.",
        "launch_ahead_gain": "How much shorter a decode step is once the host has got ahead of the GPU.",
        "host_bound": (
            "Whether decoding waits for the host (busy share below 0.85, or gain above 0.10): knob effects are "
            "lower bounds then."
        ),
        "impossible": (
            "Whether a stage took less than physics allows; such a row is kept off every front. Null where the "
            "hardware is not known."
        ),
        "impossible_why": "Which stage, and its bound.",
        "device": "Name of the GPU, or `CPU`.",
        "gpu_uuid": "Which GPU of the machine, by the driver's name for it; null on a CPU.",
        "gpu_driver": "Version of the driver; null on a CPU.",
        "gpu_clock_mhz": "SM clock when the row was written, after the work; null on a CPU.",
        "cpu": "Name of the processor.",
        "cpu_threads": "Threads of torch: `resources.threads` of the job.",
        "host": "Name of the machine.",
        "attention": "Attention kernel, read off the loaded modules; joined by `+` where they differ.",
        "experts_kernel": "Kernel of the experts, read off the loaded modules; empty for a dense model.",
        "engine": "`eager`, `graphs` or `compiled`: how the tokens after the first were made. See engine.",
        "decode_attention": (
            "Kernel of attention in recorded decode steps; empty for `eager`, whose steps run on `attention`."
        ),
        "decode_experts": "Likewise of the experts.",
        "python": "Version.",
        "torch": "Version.",
        "transformers": "Version.",
        "vlmprof": "Version.",
        "vlmprof_commit": (
            "Commit of the source tree, with `+` when the tree differs from it; null where vlmprof runs from no "
            "repository."
        ),
        "executor": "`tune` or `inline`.",
        "attempts": "How many processes have begun this trial, this one included.",
        "process": "Machine and number of the process that ran the trial.",
        "load_average": "Runnable processes on the machine over the last minute, when the row was written.",
        "started": "When the trial began.",
        "seconds": "How long the trial took, loading the model included where it had to be loaded.",
        "schema_version": "Of these tables. A folder of another version is refused.",
        "knob_<name>": "The number the value is plotted at: itself, the blocks it keeps, or the length of its list.",
        "requested_<name>": "The value as people read it, such as `6`, `prefix 4` or `0,1,3`.",
        "achieved_<name>": (
            "What it came to: mean vision tokens, experts a token, blocks that ran, or mean tokens generated."
        ),
        "effect_<name>": (
            "`effective`, `saturated` or `no-op`, null where the trial did not end well; see reading results."
        ),
    },
    "samples": {
        "trial": "Id of the trial; joins `trials` and `timings`.",
        "sample": "The dataset's own id of the question. Configurations are compared pair by pair on it.",
        "cluster": "Questions about one picture share a cluster: they are not independent evidence.",
        "question_type": "The task's label of the question.",
        "prediction": "The answer as text; null where the sample failed.",
        "score": (
            "By the task's metric, 0 to 1; for CIDEr-D the image's own, 0 to 10; for POPE 1 where the answer is "
            "right. Null where the sample failed."
        ),
        "parsed": "Whether the metric could read the answer.",
        "end": "`eos`: the model ended by itself. `cap`: the cap cut it. `failed`: there is no answer.",
        "tokens_generated": "Tokens of the answer, an end-of-sequence token included.",
        "tiling_rows": "Rows of crops of the high-resolution view.",
        "tiling_cols": "Columns of crops of the high-resolution view.",
        "capped": "Whether a cap kept the picture from the tiling it would have had without one.",
        "crops": "Crops through the vision encoder, the global view included.",
        "vision_tokens": "Vision features that reached the language model.",
        "prompt_tokens": (
            "Length of the prompt in the language model, image tokens and markers included, padding excluded."
        ),
        "effective_key": (
            "Equal for configurations that did the same work on this sample, whatever they were asked for."
        ),
        "batch_size": "Size of the batch this sample was answered in; 0 where its picture could not be read.",
        "error": "Why the sample failed; null otherwise.",
    },
    "timings": {
        "trial": "Id of the trial.",
        "session": "Number of the session, from 0; the model is loaded anew for each.",
        "block": "Number of the block in the session, from 0.",
        "canary": "Whether this is the canary and not the configuration.",
        "repeat": "Number of the repeat in the session, from 0; null for a canary. Warm-up repeats are not kept.",
        "request": "Number of the fixed request in the repeat, from 0. One request is one batch.",
        "batch_size": (
            "Prompts in this request: `timing.batch_size`, or what is left of the requests for the last one."
        ),
        "output_tokens": "Tokens generated for each prompt: exact, end-of-sequence ignored.",
        "preprocess_ms": (
            "Resizing, tiling, tokenising and padding on the host. Decoding the picture file is done before."
        ),
        "transfer_ms": "Inputs to the device; next to nothing on a CPU.",
        "vision_ms": "Vision encoder; with the connector where the two cannot be told apart.",
        "connector_ms": (
            "From the encoder's patches to what the language model reads; null where it is part of `vision_ms`."
        ),
        "prefill_ms": "First forward of the language model, up to the first token on the host.",
        "decode_ms": "All further tokens; detokenisation excluded.",
        "step_ms": "The gap before each token after the first.",
        "end_to_end_ms": "The whole generation by its own pair of clock readings, not the sum of the stages.",
        "disturbed": "What disturbed its block; null for nothing. Disturbed blocks are kept here.",
    },
}


def describe(table: TableName, column: str) -> str:
    """What a column of a table means; empty for one that the table does not have."""
    known = DESCRIPTIONS[table]
    if column in known:
        return known[column]
    prefix = next((prefix for prefix in _KNOB_PREFIXES if column.startswith(prefix)), "")
    return known.get(f"{prefix}{KNOB}", "")


def column_attributes(table: TableName, schema: pa.Schema) -> dict[str, Any]:
    """What a frame says of its columns: plain dictionaries by column, so that they can be kept as ``DataFrame.attrs``.

    Returns:
        ``units``: column -> unit, such as ``ms``, where it has one. ``directions``: column -> ``lower`` or ``higher``,
        whichever is better, for objectives. ``intervals``: column -> the two columns that hold its 95 % interval.
        ``descriptions``: column -> a sentence.
    """
    told = {field.name: _metadata(field) for field in schema}
    return {
        "units": {name: said["unit"] for name, said in told.items() if "unit" in said},
        "directions": {name: said["better"] for name, said in told.items() if "better" in said},
        "intervals": {name: said["interval"].split(",") for name, said in told.items() if "interval" in said},
        "descriptions": {name: describe(table, name) for name in told},
    }


def _metadata(field: pa.Field) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
