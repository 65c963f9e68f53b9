"""The rows of the three tables, from what a trial produced. No other module computes a column of a finished trial."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmprof.errors import Mismatch
from vlmprof.measure.environment import environment
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import canonical
from vlmprof.records import INAPPLICABLE, Effect, Generation, Observation, Row
from vlmprof.stats.stage_model import StageModel
from vlmprof.store.collector import TrialResult
from vlmprof.store.ledger import State
from vlmprof.surfaces import DecoderStack, ExpertRouting, OutputBudget
from vlmprof.trial.columns.identity import identity
from vlmprof.trial.columns.inputs import inputs_columns, predicted_columns, stage_model_of
from vlmprof.trial.columns.latency import timing_rows
from vlmprof.trial.columns.quality import CorpusScore, quality, too_many_failed
from vlmprof.trial.columns.settings import timing_columns
from vlmprof.trial.outcome import ScoredSample, TimedGeneration, TrialOutcome

UNCOUNTED_ATTENTION = {"flash_attention_2", "flex_attention"}
"""Attention kernels of other packages or compilers: torch's FLOP counter counts none of their operations."""


def finished(outcome: TrialOutcome, model: AbstractModel, run_columns: Row) -> TrialResult:
    """The rows of a trial that ran to its end.

    Raises:
        Mismatch: a knob did not do what it was set to.
    """
    resolved, observed = outcome.resolved, _observed(outcome, model.kernels)
    effects = _effects(outcome, observed)
    corpus_score, missing = CorpusScore.of(outcome), dict(outcome.missing)
    state: State = "failed" if too_many_failed(outcome) else "done"
    device_columns = {**environment(model.device, missing), "preprocess": model.preprocess}
    model_of_stages = stage_model_of(outcome)
    samples = [
        {**_sample_row(one, outcome, observed, model_of_stages), **corpus_score.own(one)} for one in outcome.scored
    ]
    row = {
        **identity(resolved.plan),
        **run_columns,
        "state": state,
        "error": _failure(outcome.scored) if state == "failed" else None,
        "architecture": resolved.anatomy.architecture,
        "decoding_left_out": resolved.anatomy.decoding_left_out or None,
        "split": resolved.task.split(resolved.plan.task.split),
        "work_key": _work_key(outcome, observed),
        **{f"effect_{name}": effect for name, effect in effects.items()},
        **quality(outcome, corpus_score),
        **_audit(outcome),
        **_achieved_by_knob(outcome, observed),
        **_achieved(outcome, observed),
        **_peak(outcome),
        **timing_columns(outcome, str(device_columns["device"] or ""), missing),
        **inputs_columns(model_of_stages, samples),
        **observed.loaded,
        **_engine(outcome),
        **device_columns,
        "not_measured": _not_measured(outcome, missing),
    }
    return TrialResult(
        trial=resolved.plan.id,
        knobs=tuple(effects),
        state=state,
        row=row,
        samples=tuple(sorted(samples, key=lambda sample: str(sample["sample"]))),
        timings=tuple(timing_rows(outcome)),
    )


def _engine(outcome: TrialOutcome) -> Row:
    """The engine's columns; what it recorded of earlier trials says nothing of one that was not timed."""
    of_timing = () if outcome.sessions else ("recorded_stages", "prompt_fallback")
    return {name: value for name, value in outcome.engine.items() if name not in of_timing}


def _not_measured(outcome: TrialOutcome, missing: Mapping[str, str]) -> str | None:
    reasons = dict(missing)
    for index, setting in enumerate(outcome.settings):
        where = f" at {setting.name}" if index else ""
        for found in (setting.missing, *(session.missing for session in setting.sessions)):
            reasons.update({f"{name}{where}": why for name, why in found.items()})
    return "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items())) or None


def _effects(outcome: TrialOutcome, observed: Observation) -> dict[str, str]:
    """Knob -> its effect, also for those that the job sweeps and the model has nothing for.

    Raises:
        Mismatch: a knob did not do what it was set to.
    """
    resolved = outcome.resolved
    effects: dict[str, Effect] = {s.name: s.knob.effect(s.value, resolved.anatomy, observed) for s in resolved.settings}
    mismatches = sorted(name for name, effect in effects.items() if effect == "mismatch")
    if mismatches:
        raise Mismatch(f"{', '.join(mismatches)}: what ran is not what was set; observed: {observed}")
    return {**effects, **dict.fromkeys(resolved.plan.inapplicable, INAPPLICABLE)}


def _observed(outcome: TrialOutcome, loaded: Mapping[str, str]) -> Observation:
    answers = _answers(outcome)
    observed = answers or outcome.generated
    return Observation(
        capped_share=_mean(generation.encoding.capped for generation in observed) or 0.0,
        crops_max=max(generation.encoding.crops for generation in observed),
        blocks_executed=outcome.counts.blocks_executed,
        experts_per_token=outcome.counts.experts_per_token,
        tokens_max=max((generation.tokens for generation in answers), default=0),
        cut_share=_mean(generation.end == "cap" for generation in answers) or 0.0,
        vision_tokens_max=max(generation.encoding.vision_tokens for generation in observed),
        tilings=frozenset(generation.encoding.tiling for generation in observed),
        routing=outcome.counts.routing,
        loaded=loaded,
    )


def _answers(outcome: TrialOutcome) -> list[Generation]:
    return [answered.generation for answered in outcome.scored if answered.generation is not None]


def _failure(scored: Sequence[ScoredSample]) -> str | None:
    failed = [answered for answered in scored if answered.generation is None]
    if not failed:
        return None
    return f"{len(failed)} of {len(scored)} samples failed, the first is {failed[0].example.id}: {failed[0].error}"


def _peak(outcome: TrialOutcome) -> dict[str, int | None]:
    """The largest peak of the processes that scored; no column where their devices differ.

    Nor where answers were shared: the batches of the rest may be smaller than those of the whole.
    """
    merged, shared = outcome.merged, any(answered.answered_by for answered in outcome.scored)
    if outcome.peak is None or shared or "device" in merged.mixed:
        return {}
    return {"peak_bytes": max(outcome.peak.peak_bytes, merged.peak_bytes or 0)}


def _audit(outcome: TrialOutcome) -> dict[str, float | int | None]:
    audit = outcome.audit
    if audit is None:
        return {}
    return {
        "audit_samples": audit.samples,
        "flips": audit.flips,
        "flip_rate": audit.flip_rate.mean,
        "flip_rate_low": audit.flip_rate.low,
        "flip_rate_high": audit.flip_rate.high,
        "flip_p": audit.mcnemar_p,
        "flip_rate_allowed": outcome.resolved.plan.flip_rate_allowed,
    }


def _achieved_by_knob(outcome: TrialOutcome, observed: Observation) -> dict[str, float | int | None]:
    """What each knob's surface really did, next to what was requested."""
    achieved = _achieved(outcome, observed)
    length = achieved["tokens_generated"] or outcome.timing_output_tokens
    by_surface: dict[Any, float | int | None] = {
        ExpertRouting: achieved["experts_per_token"],
        DecoderStack: achieved["blocks_executed"],
        OutputBudget: length,
    }
    # Every other surface changes the number of vision tokens. Knobs of loading have a column of their own name, which
    # holds a word and not a number.
    settings = [s for s in outcome.resolved.settings if not s.knob.load_argument]
    return {f"achieved_{s.name}": by_surface.get(s.knob.needs, achieved["vision_tokens"]) for s in settings}


def _achieved(outcome: TrialOutcome, observed: Observation) -> dict[str, Any]:
    answers = _answers(outcome)
    every = answers or outcome.generated
    return {
        "vision_tokens": _mean(generation.encoding.vision_tokens for generation in every),
        "crops": _mean(generation.encoding.crops for generation in every),
        "capped_share": observed.capped_share,
        "prompt_tokens": _mean(generation.encoding.prompt_tokens for generation in every),
        "tokens_generated": _mean(generation.tokens for generation in answers),
        "experts_per_token": observed.experts_per_token,
        "blocks_executed": len(observed.blocks_executed),
        **_counted(outcome, observed),
    }


def _counted(outcome: TrialOutcome, observed: Observation) -> dict[str, float | str | None]:
    """Counts of hooks inside the model, mean over the counted requests."""
    counts, countable = outcome.counts, not UNCOUNTED_ATTENTION & set(observed.loaded["attention"].split("+"))
    # 0: a family whose modules are not accessible.
    prompts = (None if "network" in counts.failures else outcome.counts.prompts) or None
    return {
        "vit_crops": counts.crops / prompts if prompts and "vision" not in counts.failures else None,
        "vit_patches": counts.patches / prompts if prompts and "vision" not in counts.failures else None,
        "lm_image_tokens": counts.image_tokens / prompts if prompts else None,
        "experts_by_router": " ".join(f"{experts:g}" for experts, _ in observed.routing.values()) or None,
        "flops_first_token": outcome.flops.first_token if countable else None,
        "flops_decode_step": outcome.flops.decode_step if countable else None,
    }


def _work_key(outcome: TrialOutcome, observed: Observation) -> str:
    """Equal for configurations that computed the same on every sample, whatever their settings."""
    work = [
        sorted(
            [answered.example.id, *answered.generation.encoding.tiling]
            for answered in outcome.scored
            if answered.generation
        ),
        [[*generation.encoding.tiling] for timed in _each_request(outcome) for generation in timed.generations],
        observed.blocks_executed,
        sorted(observed.routing.items()),
        observed.tokens_max if observed.cut_share else None,
        outcome.timing_output_tokens,
        outcome.resolved.plan.model_fingerprint,
        observed.loaded,
    ]
    return hashlib.sha256(canonical(work).encode()).hexdigest()[:12]


def _each_request(outcome: TrialOutcome) -> list[TimedGeneration]:
    """One timed generation of each request: the number of repeats does not belong to the work."""
    return list({timed.request: timed for timed in outcome.timed}.values())


def _sample_row(
    answered: ScoredSample, outcome: TrialOutcome, observed: Observation, model_of_stages: StageModel | None
) -> Row:
    example = answered.example
    picture = example.picture
    row: dict[str, Any] = {
        "trial": outcome.resolved.plan.id,
        "sample": example.id,
        "cluster": example.cluster,
        "question_type": example.question_type,
        "question": example.question,
        "references": list(example.answers),
        "picture": picture.name or None,
        "picture_width": None if picture.fault else picture.width,
        "picture_height": None if picture.fault else picture.height,
        "score": answered.score,
        "batch_size": answered.batch_size,
        "answered_by": answered.answered_by,
        "error": answered.error or None,
    }
    if answered.generation is None:
        return {**row, "end": "failed"}
    encoding = answered.generation.encoding
    return {
        **row,
        "prediction": answered.generation.text,
        "parsed": answered.parsed,
        "end": answered.generation.end,
        "tokens_generated": answered.generation.tokens,
        "tiling_rows": encoding.tiling[0],
        "tiling_cols": encoding.tiling[1],
        "capped": encoding.capped,
        "crops": encoding.crops,
        "vision_tokens": encoding.vision_tokens,
        "prompt_tokens": encoding.prompt_tokens,
        "effective_key": _effective_key(answered.generation, observed),
        **predicted_columns(model_of_stages, answered),
    }


def _effective_key(generation: Generation, observed: Observation) -> str:
    """Equal for configurations that computed the same on this sample, whatever their settings."""
    encoding = generation.encoding
    cap = generation.tokens if generation.end == "cap" else None  # a cap that cut nothing makes no difference
    routing = sorted(observed.routing.items())
    work = [encoding.tiling, encoding.prompt_tokens, observed.blocks_executed, routing, cap, observed.loaded]
    return hashlib.sha256(canonical(work).encode()).hexdigest()[:12]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.fmean(listed) if listed else None
