"""What a trial produced -> rows of the three tables. The arithmetic of a row lives here and nowhere else."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlmprof.errors import Mismatch
from vlmprof.measure.environment import environment
from vlmprof.models.family import AbstractModel
from vlmprof.plan.point import canonical
from vlmprof.records import Generation, Observation, Row
from vlmprof.store.collector import TrialResult
from vlmprof.store.ledger import State
from vlmprof.surfaces import DecoderStack, ExpertRouting, OutputBudget
from vlmprof.trial.columns.identity import identity
from vlmprof.trial.columns.latency import latency_columns, timing_rows
from vlmprof.trial.columns.quality import CorpusScore, quality
from vlmprof.trial.outcome import ScoredSample, TimedGeneration, TrialOutcome

UNCOUNTED_ATTENTION = {"flash_attention_2", "flex_attention"}
"""Attention kernels of other packages or compilers: torch's counter would take their operations for nothing."""


def finished(outcome: TrialOutcome, model: AbstractModel, about: Row) -> TrialResult:
    """The rows of a trial that ran to its end.

    Raises:
        Mismatch: a knob did not do what it was set to.
    """
    resolved = outcome.resolved
    seen = _observed(outcome, model.kernels)
    effects = {s.name: s.knob.effect(s.value, resolved.anatomy, seen) for s in resolved.settings}
    lies = sorted(name for name, effect in effects.items() if effect == "mismatch")
    if lies:
        raise Mismatch(f"{', '.join(lies)}: what ran is not what was set; seen: {seen}")
    failed = [one for one in outcome.scored if one.generation is None]
    together = CorpusScore.of(outcome)
    state: State = "failed" if failed else "done"
    about_device = environment(model.device)
    row = {
        **identity(resolved.plan),
        **about,
        "state": state,
        "error": _failure(failed, len(outcome.scored)),
        "architecture": resolved.anatomy.architecture,
        "decoding_left_out": resolved.anatomy.decoding_left_out or None,
        "split": resolved.task.split(resolved.plan.task.split),
        "work_key": _work_key(outcome, seen),
        **{f"effect_{name}": effect for name, effect in effects.items()},
        **quality(outcome, together),
        **_audit(outcome),
        **_achieved_by_knob(outcome, seen),
        **_achieved(outcome, seen),
        **_peak(outcome),
        **latency_columns(outcome, str(about_device["device"])),
        **seen.loaded,
        **outcome.engine,
        **about_device,
    }
    samples = tuple({**_sample_row(resolved.plan.id, one, seen), **together.own(one)} for one in outcome.scored)
    return TrialResult(
        trial=resolved.plan.id,
        knobs=tuple(effects),
        state=state,
        row=row,
        samples=tuple(sorted(samples, key=lambda sample: str(sample["sample"]))),
        timings=tuple(timing_rows(outcome)),
    )


def _observed(outcome: TrialOutcome, loaded: Mapping[str, str]) -> Observation:
    answers = _answers(outcome)
    seen = answers or [generation for one in outcome.timed for generation in one.generations]
    return Observation(
        capped_share=_mean(generation.encoding.capped for generation in seen) or 0.0,
        crops_max=max(generation.encoding.crops for generation in seen),
        blocks_executed=outcome.counts.blocks_executed,
        experts_per_token=outcome.counts.experts_per_token,
        tokens_max=max((generation.tokens for generation in answers), default=0),
        cut_share=_mean(generation.end == "cap" for generation in answers) or 0.0,
        vision_tokens_max=max(generation.encoding.vision_tokens for generation in seen),
        tilings=frozenset(generation.encoding.tiling for generation in seen),
        routing=outcome.counts.routing,
        loaded=loaded,
    )


def _answers(outcome: TrialOutcome) -> list[Generation]:
    return [one.generation for one in outcome.scored if one.generation is not None]


def _failure(failed: Sequence[ScoredSample], samples: int) -> str | None:
    if not failed:
        return None
    return f"{len(failed)} of {samples} samples failed, the first is {failed[0].example.id}: {failed[0].error}"


def _peak(outcome: TrialOutcome) -> dict[str, int | None]:
    """The most that any process of the score pass reserved; none where their devices differ."""
    merged = outcome.merged
    if outcome.peak is None or outcome.scored_by or "device" in merged.mixed:
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


def _achieved_by_knob(outcome: TrialOutcome, seen: Observation) -> dict[str, float | int | None]:
    """What each knob's surface really did, beside what was requested of it."""
    achieved = _achieved(outcome, seen)
    length = achieved["tokens_generated"] or outcome.timing_output_tokens
    by_surface: dict[Any, float | int | None] = {
        ExpertRouting: achieved["experts_per_token"],
        DecoderStack: achieved["blocks_executed"],
        OutputBudget: length,
    }
    # Every other surface is about what the vision side makes of an image; what was loaded is a word with a column of
    # its own name, not a number.
    settings = [s for s in outcome.resolved.settings if not s.knob.load_argument]
    return {f"achieved_{s.name}": by_surface.get(s.knob.needs, achieved["vision_tokens"]) for s in settings}


def _achieved(outcome: TrialOutcome, seen: Observation) -> dict[str, Any]:
    answers = _answers(outcome)
    every = answers or [generation for one in outcome.timed for generation in one.generations]
    return {
        "vision_tokens": _mean(generation.encoding.vision_tokens for generation in every),
        "crops": _mean(generation.encoding.crops for generation in every),
        "capped_share": seen.capped_share,
        "prompt_tokens": _mean(generation.encoding.prompt_tokens for generation in every),
        "tokens_generated": _mean(generation.tokens for generation in answers),
        "experts_per_token": seen.experts_per_token,
        "blocks_executed": len(seen.blocks_executed),
        **_counted(outcome, seen),
    }


def _counted(outcome: TrialOutcome, seen: Observation) -> dict[str, float | str | None]:
    """What hooks saw inside the model, mean over the counted requests."""
    counts, known = outcome.counts, not UNCOUNTED_ATTENTION & set(seen.loaded["attention"].split("+"))
    whole = outcome.counts.prompts or None  # none: a family that does not show its modules
    return {
        "vit_crops": counts.crops / whole if whole else None,
        "vit_patches": counts.patches / whole if whole else None,
        "lm_image_tokens": counts.image_tokens / whole if whole else None,
        "experts_by_router": " ".join(f"{experts:g}" for experts, _ in seen.routing.values()) or None,
        "flops_first_token": outcome.flops.first_token if known else None,
        "flops_decode_step": outcome.flops.decode_step if known else None,
    }


def _work_key(outcome: TrialOutcome, seen: Observation) -> str:
    """Equal for configurations that did the same work on every sample, whatever they were asked for."""
    work = [
        sorted([one.example.id, *one.generation.encoding.tiling] for one in outcome.scored if one.generation),
        [[*generation.encoding.tiling] for one in _each_request(outcome) for generation in one.generations],
        seen.blocks_executed,
        sorted(seen.routing.items()),
        seen.tokens_max if seen.cut_share else None,
        outcome.timing_output_tokens,
        outcome.resolved.plan.model_fingerprint,
        seen.loaded,
    ]
    return hashlib.sha256(canonical(work).encode()).hexdigest()[:12]


def _each_request(outcome: TrialOutcome) -> list[TimedGeneration]:
    """One timed generation of each request: how often it was repeated is no matter of the work."""
    return list({one.request: one for one in outcome.timed}.values())


def _sample_row(trial: str, one: ScoredSample, seen: Observation) -> Row:
    row: dict[str, float | int | str | None] = {
        "trial": trial,
        "sample": one.example.id,
        "cluster": one.example.cluster,
        "question_type": one.example.question_type,
        "score": one.score,
        "batch_size": one.batch_size,
        "error": one.error or None,
    }
    if one.generation is None:
        return {**row, "end": "failed"}
    encoding = one.generation.encoding
    return {
        **row,
        "prediction": one.generation.text,
        "parsed": one.parsed,
        "end": one.generation.end,
        "tokens_generated": one.generation.tokens,
        "tiling_rows": encoding.tiling[0],
        "tiling_cols": encoding.tiling[1],
        "capped": encoding.capped,
        "crops": encoding.crops,
        "vision_tokens": encoding.vision_tokens,
        "prompt_tokens": encoding.prompt_tokens,
        "effective_key": _effective_key(one.generation, seen),
    }


def _effective_key(generation: Generation, seen: Observation) -> str:
    """Equal for configurations that did the same work on this sample, whatever they were asked for."""
    encoding = generation.encoding
    cap = generation.tokens if generation.end == "cap" else None  # a cap that did not cut is no setting of its own
    routing = sorted(seen.routing.items())
    work = [encoding.tiling, encoding.prompt_tokens, seen.blocks_executed, routing, cap, seen.loaded]
    return hashlib.sha256(canonical(work).encode()).hexdigest()[:12]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.fmean(listed) if listed else None
