"""From a job and its search strategy to trial plans. Pure: fingerprints of checkpoints and datasets are passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vlmprof import registry
from vlmprof.job.spec import SweepSpec, TaskSpec
from vlmprof.plan.model_space import ModelSpace
from vlmprof.plan.point import Point, Timing, TrialPlan
from vlmprof.plan.strategy import AbstractStrategy, Space


def expand(spec: SweepSpec, models: Sequence[ModelSpace], revisions: Mapping[TaskSpec, str]) -> tuple[TrialPlan, ...]:
    """All trials of a sweep, grouped by model so that a loaded model serves as many as possible."""
    return tuple(
        TrialPlan(
            model=space.model,
            model_fingerprint=space.fingerprint,
            task=task,
            task_revision=revisions[task],
            point=point,
            measure=spec.measure,
            timing=Timing.of(spec.timing),
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
            preprocess=spec.preprocess,
            labels=spec.resources.labels,
            inapplicable=space.inapplicable,
        )
        for space in models
        for task in spec.tasks
        for point in _points(spec, space.knobs)
    )


def size(spec: SweepSpec, models: Sequence[ModelSpace]) -> int | None:
    """How many trials ``expand`` will give, without making any; None where the strategy cannot know it before."""
    strategy = registry.load("strategies", spec.strategy)
    points: list[int | None] = [strategy.size(space.knobs) for space in models]
    known = [count for count in points if count is not None]
    return len(spec.tasks) * sum(known) if len(known) == len(points) else None


def size_words(spec: SweepSpec, models: Sequence[ModelSpace]) -> str:
    """The size and where it comes from: ``576,000 trials (output_tokens 240 x max_crops 24 x ...)``."""
    ways = [(space.model.label, _axes(spec, space.knobs)) for space in models]
    alike = len({axes for _, axes in ways}) == 1
    joined = ways[0][1] if alike else "; ".join(f"{axes} for {label}" for label, axes in ways)
    counted = (("models", models if alike else ()), ("tasks", spec.tasks))
    several = "".join(f", for {len(many)} {noun}" for noun, many in counted if len(many) > 1)
    return f"{size(spec, models) or 0:,} trials ({joined}{several})"


def _axes(spec: SweepSpec, knobs: Space) -> str:
    axes = [f"{name} {len(values)}" for name, values in knobs.items()]
    if not axes:
        return "one"
    return " x ".join(axes) if spec.strategy == "grid" else f"{spec.strategy} of {', '.join(axes)}"


def _points(spec: SweepSpec, knobs: Space) -> Iterator[Point]:
    strategy: AbstractStrategy = registry.load("strategies", spec.strategy)(knobs)
    while (point := strategy.ask()) is not None:
        yield point
