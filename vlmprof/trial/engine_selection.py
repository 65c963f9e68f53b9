"""Selects the engine of a trial: the one that the job names, or the best available one for ``auto``.

``auto`` is ``eager`` on a CPU, where launching a kernel costs next to nothing. On a GPU it is ``graphs`` if the decode
step can be recorded as a CUDA graph: launched from Python, a step of these models takes three to six times as long as
the GPU needs for it, and the number of experts per token has no visible effect on its latency. Recording takes less
than a second per configuration. Compiling takes many seconds, so ``compiled`` is used only if the job names it.

The job's ``engine`` is checked without torch, before anything is loaded; only ``engine_for`` needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vlmprof.job.spec import SweepSpec
from vlmprof.plan.point import TrialPlan
from vlmprof.plan.strategy import Space
from vlmprof.surfaces import Anatomy

if TYPE_CHECKING:
    from vlmprof.engine.base import AbstractEngine
    from vlmprof.models.family import AbstractModel

RECORDABLE = {"attention": ("sdpa",), "experts_kernel": ("grouped_mm", "batched_mm")}
"""Kernels with which a decode step can be recorded: equal shapes in every step, and no read by the host."""


def why_not_recorded(kernels: Mapping[str, str]) -> str:
    """Why decode steps with these kernels cannot be recorded; empty if they can."""
    for name, allowed in RECORDABLE.items():
        used = {kernel for kernel in kernels.get(name, "").split("+") if kernel}
        if used - set(allowed):
            return f"{name} {'+'.join(sorted(used))} cannot be recorded, {' or '.join(allowed)} can"
    return ""


def engine_faults(spec: SweepSpec, models: Sequence[tuple[str, Anatomy, Space]]) -> Iterator[str]:
    """Reasons why the job's engine cannot be used, as far as they can be found before anything is loaded.

    Args:
        spec: The job.
        models: Label, anatomy and knobs of each of its models.
    """
    if spec.engine not in ("graphs", "compiled"):
        return
    if spec.resources.gpus == 0:
        yield f"{spec.engine} records CUDA graphs, and resources.gpus is 0; use eager or auto"
    for label, anatomy, _ in models:
        if anatomy.only_eager:
            yield f"{anatomy.only_eager}; use eager or auto (for model {label})"
    for knob, allowed in RECORDABLE.items():
        swept = dict.fromkeys(value for _, _, knobs in models for value in knobs.get(knob, ()))
        for value in (value for value in swept if value not in allowed):
            yield f"{spec.engine} cannot record steps with {knob} '{value}', only {' or '.join(allowed)}"


def engine_for(plan: TrialPlan, anatomy: Anatomy, model: AbstractModel) -> AbstractEngine:
    """The engine of a trial.

    Raises:
        ModelError: the job names an engine that this model or this device does not support.
    """
    from vlmprof.engine.base import EAGER
    from vlmprof.engine.static_engine import engine_of

    reason = anatomy.only_eager or why_not_recorded(model.kernels)
    if plan.engine == "auto":
        recordable = model.device.startswith("cuda") and not reason
        return engine_of("graphs", model.device, pinned=_pinned(plan)) if recordable else EAGER
    return engine_of(plan.engine, model.device, only_eager=reason, pinned=_pinned(plan))


def _pinned(plan: TrialPlan) -> frozenset[str]:
    """Kinds of kernel that the point sets: the engine must not replace them in decode steps."""
    return frozenset(RECORDABLE) & {name for name, _ in plan.point}
