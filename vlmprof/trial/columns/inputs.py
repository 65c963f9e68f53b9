"""Latency over a task's inputs: what the timed requests predict for every sample, and percentiles over all of them.

Only for requests of one prompt each: what a prompt costs in a batch depends on its neighbours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from vlmprof.records import Row
from vlmprof.stats.generation_times import RequestTime, request_medians
from vlmprof.stats.stage_model import PromptSize, StageModel, fit_stage_model
from vlmprof.store.schema import STAGES
from vlmprof.trial.outcome import ScoredSample, TrialOutcome

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def stage_model_of(outcome: TrialOutcome) -> StageModel | None:
    """The stage model of a trial's timed requests; None without any, for batches, and where they are too much alike."""
    timed = outcome.timed
    if not timed or outcome.settings[0].batch_size != 1:
        return None
    encodings = {one.request: one.generations[0].encoding for one in timed}
    requests = sorted(encodings)
    sizes = [
        PromptSize(encoding.crops, encoding.vision_tokens, encoding.prompt_tokens)
        for encoding in (encodings[request] for request in requests)
    ]
    stages = {}
    for stage in STAGES:
        measured = [(one.request, getattr(one.stages, f"{stage}_ms")) for one in timed]
        if any(ms is None for _, ms in measured):
            continue  # the model does not separate its connector
        medians = request_medians([RequestTime(request, ms) for request, ms in measured])
        stages[stage] = [medians[request] for request in requests]
    return fit_stage_model(sizes, stages)


def predicted_columns(model: StageModel | None, answered: ScoredSample) -> Row:
    """The predicted latency of a sample, in all and by stage; empty without a model or an answer."""
    if model is None or answered.generation is None:
        return {}
    encoding = answered.generation.encoding
    predicted = model.predict(PromptSize(encoding.crops, encoding.vision_tokens, encoding.prompt_tokens))
    return {
        "latency_ms_predicted": predicted.ms,
        "latency_ms_predicted_low": predicted.low,
        "latency_ms_predicted_high": predicted.high,
        **{f"{stage}_ms_predicted": ms for stage, ms in predicted.stages.items()},
    }


def inputs_columns(model: StageModel | None, samples: Sequence[Row]) -> Row:
    """Percentiles of the predicted latencies of all samples, and how well the model predicts.

    A percentile is given from as many samples as put at least one beyond it. Its interval is the model's own: the
    samples are all that the task has, or the subset that the job asks for.
    """
    if model is None:
        return {}
    ordered = sorted(float(str(row["latency_ms_predicted"])) for row in samples if row.get("latency_ms_predicted"))
    row: dict[str, float | int | str | None] = {
        "latency_model_error": statistics.median(abs(error) for error in model.left_out_errors),
        "latency_model_half_width": model.relative_half_width,
    }
    for name, share in PERCENTILES.items():
        if len(ordered) * (1 - share) >= 1 - 1e-9:
            ms = ordered[math.ceil(share * len(ordered)) - 1]
            row[f"latency_ms_inputs_{name}"] = ms
            row[f"latency_ms_inputs_{name}_low"] = max(0.0, ms * (1 - model.relative_half_width))
            row[f"latency_ms_inputs_{name}_high"] = ms * (1 + model.relative_half_width)
    return row
