"""From a job and its search strategy to trial plans. Pure: fingerprints of checkpoints and datasets are passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vlmprof import registry
from vlmprof.job.spec import ModelSpec, SweepSpec, TaskSpec
from vlmprof.plan.point import Point, Timing, TrialPlan
from vlmprof.plan.strategy import AbstractStrategy


def expand(
    spec: SweepSpec, fingerprints: Mapping[ModelSpec, str], revisions: Mapping[TaskSpec, str]
) -> tuple[TrialPlan, ...]:
    """All trials of a sweep, grouped by model so that a loaded model serves as many as possible."""
    return tuple(
        TrialPlan(
            model=model,
            model_fingerprint=fingerprints[model],
            task=task,
            task_revision=revisions[task],
            point=point,
            measure=spec.measure,
            timing=Timing(**spec.timing.model_dump()),
            batch_size=None if spec.batch.size == "auto" else spec.batch.size,
            batch_max=spec.batch.max,
            batch_maximize=spec.batch.maximize,
            audit_samples=spec.batch.audit_samples,
            flip_rate_allowed=spec.batch.flip_rate_allowed,
            accelerator=spec.resources.accelerator,
            gpus=str(spec.resources.gpus),
            threads=spec.resources.threads or spec.resources.cpus,
            readers=None if spec.resources.readers == "auto" else spec.resources.readers,
            engine=spec.engine,
            labels=spec.resources.labels,
        )
        for model in spec.models
        for task in spec.tasks
        for point in _points(spec)
    )


def size(spec: SweepSpec) -> int | None:
    """How many trials ``expand`` will give, without making any; None where the strategy cannot know it before."""
    points: int | None = registry.load("strategies", spec.strategy).size(spec.knobs)
    return None if points is None else len(spec.models) * len(spec.tasks) * points


def size_words(spec: SweepSpec) -> str:
    """The size and where it comes from: ``576,000 trials: output_tokens 240 x max_crops 24 x ...``."""
    axes = [f"{name} {len(values)}" for name, values in spec.knobs.items()]
    joined = " x ".join(axes) if spec.strategy == "grid" else f"{spec.strategy} of {', '.join(axes)}"
    several = "".join(
        f", for {len(many)} {noun}" for noun, many in (("models", spec.models), ("tasks", spec.tasks)) if len(many) > 1
    )
    return f"{size(spec) or 0:,} trials ({joined}{several})"


def _points(spec: SweepSpec) -> Iterator[Point]:
    strategy: AbstractStrategy = registry.load("strategies", spec.strategy)(spec.knobs)
    while (point := strategy.ask()) is not None:
        yield point
