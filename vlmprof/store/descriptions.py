"""Describes each column of the three tables in a sentence or two; units and directions are in ``store.schema``.

The same sentences are in ``docs/schema.md``; a test checks that the two are equal. They are not in the metadata of the
Arrow fields, because then every file of every trial would contain all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vlmprof.store.manifest import TableName
from vlmprof.store.row_descriptions import SAMPLES, TIMINGS
from vlmprof.store.schema import setting_words, split_setting

KNOB = "<name>"
"""Placeholder for the knob's name in the columns that every knob has."""
_KNOB_PREFIXES = ("knob_", "requested_", "achieved_", "effect_")

_SPEEDUPS = {
    "vision": ("the vision side, encoder and connector,", "operations"),
    "prefill": ("the prefill", "operations"),
    "decode": ("the first decode step", "bytes of weights and cache"),
}
_PLAIN_INTERVALS = (
    *("accuracy", "flip_rate", "canary_ratio", "timing_tokens_per_s", "e2e_ms_p50"),
    *(f"speedup_{stage}" for stage in _SPEEDUPS),
)
"""Columns whose interval needs no further word at its lower end."""
_PERCENTILES = {"p50": "median", "p90": "90th percentile", "p95": "95th percentile", "p99": "99th percentile"}

DESCRIPTIONS: Mapping[TableName, Mapping[str, str]] = {
    "trials": {
        "trial": "First 12 hexadecimal digits of a hash of everything that decides the outcome.",
        "sweep": "`name` of the job.",
        "state": "`done`, `oom` (the device could not hold it) or `failed`. Only `done` rows are compared.",
        "error": "Why a trial is not `done`; null otherwise. The traceback is in the ledger.",
        "model": "Short name: the last part of the checkpoint's path, or the family.",
        "family": "Model family, as in the job.",
        "architecture": "Architecture of the checkpoint.",
        "checkpoint": "Folder or Hub id, as in the job.",
        "revision": "Commit of the Hub repository, as in the job.",
        "model_fingerprint": "Identity of the weights: a hash of the files, or Hub id and revision.",
        "dtype": (
            "Precision of weights and arithmetic, read from the loaded model; the requested one if the trial did not "
            "finish."
        ),
        "trust_remote_code": "Whether Python code shipped with the weights was allowed to run.",
        "task": "Task, as in the job.",
        "split": "Split that was used; the name of the default split if the job names none.",
        "task_revision": (
            "Identity of the task's data; changes whenever the data change, or the scores that its metric gives (then "
            "with its version)."
        ),
        "seed": "Random seed of the subset.",
        "point": "The knobs and their values, as JSON texts.",
        "work_key": "Equal for trials that did the same work on every sample, even if they requested different values.",
        "not_measured": ("Each instrument that failed, with its reason; its columns are null. Null where none failed."),
        "engine_fallback": (
            "Why decode steps ran eager although the engine records them; null where they ran as `engine` says."
        ),
        "samples": "Questions asked; 0 where accuracy was not measured.",
        "samples_failed": (
            "Questions without an answer. A trial with more than the job allows (`failed_samples_allowed`, by default "
            "none) is `failed` and has no accuracy."
        ),
        "samples_answered": "Questions with an answer: what `accuracy` and `score` are over.",
        "failed_set": "Equal for trials in which the same questions failed; null where none did.",
        "samples_quarantined": (
            "How many of the failed questions were skipped because processes crashed while scoring them."
        ),
        "quarantined": "Their ids, separated by spaces; null if there are none.",
        "samples_empty": "Answers without text.",
        "samples_cut": "Answers that were cut at the cap on output tokens.",
        "samples_unparsable": (
            "Answers that the metric could not parse, such as one that names none of the options. They score 0; "
            "nothing is guessed."
        ),
        "empty_rate": "`samples_empty` as a share of the answers.",
        "cut_rate": "`samples_cut` as a share of the answers.",
        "unparsable_rate": "`samples_unparsable` as a share of the answers.",
        "metric": "Name of the metric behind `score` and `accuracy`.",
        "decoding_left_out": (
            "Settings of the checkpoint's generation configuration that would change greedy answers and are not "
            "applied, such as `repetition_penalty=1.05`; null if there are none."
        ),
        "metric_kind": (
            "`mean`: each answer is scored separately, and the scores are averaged. `corpus`: one number is computed "
            "from all answers together."
        ),
        "score": (
            "Value of the metric. For a `mean` metric it equals `accuracy`; for a `corpus` metric it is F1 (0 to 1) "
            "or CIDEr-D (0 to 10)."
        ),
        "score_low": "Lower end of its 95 % interval; null if a bootstrap would not be valid.",
        "accuracy": "Mean of the samples' scores; null for a `corpus` metric.",
        "batch_size": "Largest batch of the score pass. It has no influence on latency, which is timed separately.",
        "batch_source": (
            "Why that size is safe: `probed` (worst-case inputs ran here), `borrowed` (worst-case inputs ran on a "
            "configuration that needs at least as much memory), `assumed` (memory cannot be measured on this device); "
            "null if the job sets the size or nothing was scored."
        ),
        "batch_probes": "Worst-case batches that this trial ran to find the size.",
        "batch_probes_oom": "How many of these probes did not fit.",
        "batches_split": (
            "Batches of the score pass that ran out of memory twice and were split; their samples were still answered."
        ),
        "samples_per_s": (
            "Throughput of the score pass, including decoding of images and scoring of answers. If several processes "
            "scored, that of the last one; null if the last one scored no sample. Answers of other trials do not count."
        ),
        "scored_by": (
            "Trial that generated all answers of this one, by the same work or longer ones; null if the trial "
            "generated some itself, or several others did. See engine."
        ),
        "samples_shared": "Samples whose answer another trial of the same process had generated by the same work.",
        "shared_rechecked": (
            "Of further such samples, those that were answered again all the same, to compare; null if there were none."
        ),
        "shared_different": (
            "How many of these got another answer. In half precision another batch can change an answer; in float32 "
            "one fails the trial."
        ),
        "samples_resumed": "Samples answered by earlier, interrupted processes of this trial and read back.",
        "score_processes": (
            "Number of processes that answered samples; 1 in an uninterrupted run, null if `scored_by` is set."
        ),
        "score_mixed": "What differed between these processes, such as `device: A100, H100`; null if nothing did.",
        "audit_samples": (
            "Samples that were answered again at batch size 1; null if no sample was answered in a larger batch."
        ),
        "flips": "How many of these were answered differently in their batch.",
        "flip_rate": "`flips` as a share of `audit_samples`.",
        "flip_p": (
            "McNemar's mid-p: probability of score changes at least as one-sided as these if both directions are "
            "equally likely."
        ),
        "flip_rate_allowed": (
            "Every report warns if `flip_rate_low` is above this value, and says that it cannot be told if only"
            " `flip_rate` is: `batch.flip_rate_allowed` of the job."
        ),
        "vision_tokens": "Mean number of vision features per sample that reached the language model.",
        "crops": "Mean number of crops per sample through the vision encoder, the global view included.",
        "capped_share": "Share of samples whose tiling was reduced by the cap.",
        "prompt_tokens": "Mean length of the prompt in the language model, over the samples.",
        "tokens_generated": "Mean length of the answers of the score pass; null where accuracy was not measured.",
        "experts_per_token": "Experts per token, mean over the routers that ran; null for a dense model.",
        "blocks_executed": "Decoder blocks that ran.",
        "vit_crops": (
            "Crops through the vision encoder, counted by a hook on its first block; mean over the counted requests."
        ),
        "vit_patches": "Vectors through that block, class tokens included; counted likewise.",
        "lm_image_tokens": "Image-token positions in the input ids of the language model; counted likewise.",
        "experts_by_router": "Experts per token of each router that ran; null for a dense model.",
        "flops_first_token": (
            "Operations of the vision stages and prefill, mean over the counted requests; a multiplication and an "
            "addition count as two. Null for an attention kernel whose operations cannot be counted."
        ),
        "flops_decode_step": "Operations of the step that produces the second token.",
        "timing_batch_size": "Prompts in a timed request.",
        "timing_output_tokens": "Tokens generated for each prompt of a timed request; exactly this many.",
        "timing_requests": "Number of fixed requests in a repeat.",
        "repeats": "How often each request was timed, at least, without disturbed blocks.",
        "timed_generations": "Generations that were timed and kept, of all requests together.",
        "samples_untimed": (
            "Samples that could not be given to the model, so that others were timed in their place; `not_measured` "
            "names them. Those that a score pass counts as failed are not among them."
        ),
        "untimed_set": "Equal for trials that left out the same samples; null where none was.",
        "timing_processes": "Number of timing sessions; the model is loaded again for each: `timing.processes`.",
        "latency_ms_p50": (
            "End-to-end latency, mean over the requests: the median over groups of consecutive generations, each taken "
            "relative to the median of its request."
        ),
        "latency_ms_p50_low": (
            "Lower end of its 95 % interval, which accounts for dependence between repeats; with several processes, "
            "the interval of the mean of their medians."
        ),
        "latency_half_width": (
            "Half the width of that interval, as a share of the median; `timing.precision` is its target."
        ),
        "latency_modes_apart": (
            "The gap between two levels in which the times dwell, as a share; 0 where there is only one. Where it is "
            "not small beside the differences that matter, time several processes."
        ),
        "latency_ms_p90": "90th percentile of the requests' end-to-end latency; null below 64 requests.",
        "latency_ms_p95": "95th percentile; null below 130 requests.",
        "latency_ms_p99": "99th percentile; null below 662 requests.",
        "latency_ms_tail": "Latency at the highest percentile that the number of requests supports.",
        **{
            f"latency_ms_inputs_{percentile}{end}": (
                f"{meaning} {_PERCENTILES[percentile]}, over all samples, of the latencies that the timed requests "
                "predict for them at batch 1: over inputs, not over repeats."
            )
            for percentile in _PERCENTILES
            for end, meaning in (
                ("", "The"),
                ("_low", "Lower end of the 95 % interval of the"),
                ("_high", "Upper end of the 95 % interval of the"),
            )
        },
        "latency_model_error": (
            "Median error of that prediction for each timed request from the others, as a share of the prediction."
        ),
        "latency_model_half_width": "Half the width of its 95 % prediction interval, as a share of the prediction.",
        "latency_tail_percentile": "That percentile; null below 11 requests.",
        "preprocess_ms_p50": "As `latency_ms_p50`, for this stage.",
        "transfer_ms_p50": "As `latency_ms_p50`, for this stage.",
        "vision_ms_p50": "As `latency_ms_p50`, for this stage.",
        "connector_ms_p50": "As `latency_ms_p50`, for this stage; null if it is part of `vision_ms`.",
        "prefill_ms_p50": "As `latency_ms_p50`, for this stage.",
        "decode_ms_p50": (
            "As `latency_ms_p50`, for this stage. The medians of the stages need not add up to the median end-to-end "
            "latency."
        ),
        "ttft_ms_p50": (
            "Time to first token, from inputs in host memory to the token in host memory: transfer, vision, "
            "connector, prefill."
        ),
        "ttft_with_preprocess_ms_p50": "The same, with preprocessing of the decoded images.",
        "tpot_ms_p50": (
            "Time per output token after the first, (E2E - TTFT) / (tokens - 1); null if one token is generated."
        ),
        "itl_ms_p50": "Inter-token latency: median of the gaps between tokens, pooled over requests.",
        "itl_ms_p90": "90th percentile of the gaps; null below 64 gaps.",
        "itl_ms_p95": "95th percentile of the gaps; null below 130 gaps.",
        "itl_ms_p99": "99th percentile of the gaps; null below 662 gaps.",
        "e2e_ms_p50": (
            "From inputs in host memory to the last token in host memory: `latency_ms_p50` without preprocessing."
        ),
        "timing_samples_per_s": "Number of prompts divided by the total time of the timed requests.",
        "timing_samples_per_s_low": "Lower end of its 95 % interval; of several processes, that of their mean.",
        "timing_tokens_per_s": "Number of generated tokens divided by the total time of the timed requests.",
        **{
            f"speedup_{stage}{end}": meaning.format(what=what, work=work)
            for stage, (what, work) in _SPEEDUPS.items()
            for end, meaning in (
                (
                    "",
                    "How many times longer {what} takes without knobs than with them: the canary's time by this "
                    "configuration's, on one request in the same blocks.",
                ),
                (
                    "_bound",
                    "The same ratio of {work}: the speed-up if {what} took time for nothing else. Null where it is "
                    "not known.",
                ),
            )
        },
        **{f"{name}_low": "Lower end of its 95 % interval." for name in _PLAIN_INTERVALS},
        **{
            f"{name}_high": "Upper end of its 95 % interval."
            for name in (*_PLAIN_INTERVALS, "score", "latency_ms_p50", "timing_samples_per_s")
        },
        "speedup_loaded_with": (
            "Knobs that act when the model is loaded, with their values: the model without knobs that `speedup_*` "
            "compare with was loaded with them too. Null without any."
        ),
        "timing_error": "Why nothing could be timed at this batch size and length although it could at others.",
        "timing_stopped": (
            "Why repeating stopped: `precision`, `bimodal` (precise, but the times dwell at two levels: see "
            "`latency_modes_apart`), `max_repeats` or `max_seconds`; `precision_without_preprocess`: `e2e_ms_p50` is "
            "as precise as asked, and `latency_ms_p50` is not, because preprocessing on the host varies."
        ),
        "warmup_repeats": (
            "Generations that were run and discarded before the timed ones; of several sessions, the largest number."
        ),
        "warm": "Whether warm-up settled: the medians of three windows of five generations were within 1 %.",
        "timing_waited_s": "Seconds that the trial waited for the timing lock of the host.",
        "timing_s": "Seconds of the timing pass without that: recording, warm-up, timing, energy.",
        "timing_exclusive": (
            "Whether no other timing pass ran on its host meanwhile. `timing.exclusive: auto` lets passes run side by "
            "side where all that is timed is recorded."
        ),
        "recorded_stages": (
            "Stages of a timed generation that were recorded as CUDA graphs and replayed: their times are the "
            "device's. All others were launched from Python."
        ),
        "prompt_fallback": "Which parts of a timed prompt could not be recorded, and why; null where none.",
        "recorded_distance": (
            "How far the logits of recorded prompts and decode steps are from those of the model's own forwards, as a "
            "share of their spread: the largest over all timed requests. It is what fused kernels round differently; "
            "more fails the trial."
        ),
        "blocks": "Number of blocks, of up to eight generations each, that were run.",
        "blocks_disturbed": "How many of them were disturbed, judged by a measured cause and not by their durations.",
        "blocks_disturbed_kept": "How many of these are in the estimates because the disturbance persisted.",
        "disturbed_by": "Causes of the disturbances; null if there were none.",
        "power_limited": (
            "Whether the GPU ran at its power limit. That is the steady state of such a board and does not count as a "
            "disturbance."
        ),
        "timings_redone": "Timed generations that were discarded and repeated because their stages did not add up.",
        "stage_sum_error": (
            "Largest relative difference between the sum of the stages and the end-to-end time among the kept "
            "generations; at most 0.02."
        ),
        "canary_ms_p50": (
            "Median of the canary, a reference request after every block: the model as loaded, first request, two "
            "tokens."
        ),
        "canary_ratio": (
            "Median over the blocks of block time divided by the time of the block's canary; drift of the machine "
            "cancels out."
        ),
        "canary_drift_session": (
            "Relative change of the canary from the first third of a session to the last; of several sessions, the "
            "largest absolute value."
        ),
        "canary_drift": "Relative change of the canary since this process first ran it.",
        "peak_bytes": (
            "Peak of the memory reserved on the GPU: in the timing pass if there was one, else in the score pass; "
            "null on a CPU."
        ),
        "device_peak_bytes": (
            "The same, with everything else on the GPU: contexts, libraries, graphs, other processes; null on a CPU."
        ),
        "energy_j_per_sample": (
            "Energy of the whole board divided by the number of prompts, over back-to-back requests; nothing is "
            "subtracted."
        ),
        "energy_j_per_token": "The same, divided by the number of generated tokens.",
        "energy_window_s": (
            "Total length of the windows of that measurement, in seconds; `timing.energy_seconds` sets the length of "
            "a window."
        ),
        "energy_missing": "Why energy was not measured; null if it was.",
        "mfu_vision": (
            "Model FLOP utilisation of vision encoder and connector, relative to the dense peak in the data sheet."
        ),
        "mfu_prefill": "The same for the prefill.",
        "decode_bytes_per_s": (
            "Weights that a decode step must read, divided by the step's time; keys, values and output head are not "
            "counted."
        ),
        "mbu_decode": "`decode_bytes_per_s` divided by the memory bandwidth in the data sheet.",
        "gpu_busy_share": "Time in which kernels run, divided by the time of the generation without a profiler.",
        "launch_ahead_gain": (
            "Relative reduction of a decode step's time once the host has launched kernels ahead of the GPU."
        ),
        "host_bound": (
            "Whether decoding waits for the host (busy share below 0.85, or gain above 0.10); knob effects are then "
            "lower bounds."
        ),
        "impossible": (
            "Whether a stage was faster than the hardware's limits allow; such a row is excluded from every front. "
            "Null if the hardware is not known."
        ),
        "impossible_why": "Which stage, and its lower bound.",
        "device": "Name of the GPU, or `CPU`.",
        "gpu_uuid": "UUID of the GPU, from the driver; null on a CPU.",
        "gpu_driver": "Driver version; null on a CPU.",
        "gpu_clock_mhz": "SM clock when the row was written, after the work; null on a CPU.",
        "cpu": "Name of the processor.",
        "cpu_threads": "Number of torch threads: `resources.threads` of the job.",
        "host": "Name of the machine.",
        "attention": "Attention kernel, read from the loaded modules; joined by `+` if they differ.",
        "experts_kernel": "Kernel of the experts, read from the loaded modules; empty for a dense model.",
        "engine": "`eager`, `graphs` or `compiled`: how the tokens after the first were generated. See engine.",
        "preprocess": (
            "`host` or `device`: where pictures were resized and cut. Null in rows from before there was a choice: the "
            "host. See engine."
        ),
        "decode_attention": (
            "Attention kernel of recorded decode steps; empty for `eager`, whose steps use `attention`."
        ),
        "decode_experts": "Kernel of the experts in recorded decode steps; empty for `eager` and for a dense model.",
        "python": "Version of Python.",
        "torch": "Version of torch.",
        "cuda": "Version of CUDA that torch was built with; `none` for a build without it.",
        "transformers": "Version of transformers.",
        "tokenizers": "Version of tokenizers.",
        "pillow": "Version of Pillow, which decodes and resizes pictures.",
        "torchvision": "Version of torchvision, which some processors resize pictures with; `none` without it.",
        "vlmprof": "Version of vlmprof.",
        "vlmprof_commit": (
            "Commit of the source tree, with `+` if the tree has uncommitted changes; null if vlmprof does not run "
            "from a repository."
        ),
        "executor": "`tune` or `inline`: run on Ray Tune or in one process without Ray.",
        "attempts": "How many processes have started this trial, this one included.",
        "process": "Host name and process id of the process that ran the trial.",
        "load_average": "One-minute load average of the machine when the row was written.",
        "started": "When the trial began.",
        "seconds": "Duration of the trial, including loading of the model if it was loaded for this trial.",
        "load_s": "Of these, loading of the model; null if it was loaded already.",
        "count_s": "Of these, counting by hooks what the first requests compute.",
        "probe_s": "Of these, finding the batch size: worst-case batches, or waiting for another trial that runs one.",
        "score_s": "Of these, answering and scoring the samples, as far as this process did it.",
        "audit_s": "Of these, answering samples again at batch size 1.",
        "warmup_s": "Of these, and of `timing_s`, recording the timed requests and warming up.",
        "schema_version": "Version of these tables. A folder with another version is refused.",
        "knob_<name>": (
            "Number at which the value is plotted: the value itself, the number of blocks it keeps, or the length of "
            "its list."
        ),
        "requested_<name>": "The requested value in readable form, such as `6`, `prefix 4` or `0,1,3`.",
        "achieved_<name>": (
            "What was achieved: mean vision tokens, experts per token, blocks that ran, or mean tokens generated."
        ),
        "effect_<name>": (
            "`effective`, `saturated`, `no-op`, or `not applicable` where the model has nothing for the knob; null if"
            " the trial does not set it or is not `done`. See reading results."
        ),
    },
    "samples": SAMPLES,
    "timings": TIMINGS,
}


def describe(table: TableName, column: str) -> str:
    """Description of a column; empty if the table has no such column."""
    descriptions = DESCRIPTIONS[table]
    if column in descriptions:
        return descriptions[column]
    first, setting = split_setting(column)
    if setting and table == "trials":
        return f"At {setting_words(setting)}: {descriptions[first]}"
    prefix = next((prefix for prefix in _KNOB_PREFIXES if column.startswith(prefix)), "")
    return descriptions.get(f"{prefix}{KNOB}", "")


def column_attributes(table: TableName, schema: pa.Schema) -> dict[str, Any]:
    """Attributes of the columns as plain dictionaries with column names as keys, to be kept as ``DataFrame.attrs``.

    Returns:
        ``units``: column -> unit, such as ``ms``, for columns with a unit. ``directions``: column -> ``lower`` or
        ``higher``, whichever is better, for objectives. ``intervals``: column -> the two columns of its 95 % interval.
        ``descriptions``: column -> its description.
    """
    columns = {field.name: _metadata(field) for field in schema}
    return {
        "units": {name: metadata["unit"] for name, metadata in columns.items() if "unit" in metadata},
        "directions": {name: metadata["better"] for name, metadata in columns.items() if "better" in metadata},
        "intervals": {
            name: metadata["interval"].split(",") for name, metadata in columns.items() if "interval" in metadata
        },
        "descriptions": {name: describe(table, name) for name in columns},
    }


def _metadata(field: pa.Field) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
