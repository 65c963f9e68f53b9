"""Which engine a trial runs on: what the job says, or what is best where it says ``auto``.

``auto`` is ``eager`` on a CPU, where launching a kernel costs next to nothing. On a GPU it is ``graphs`` wherever the
decode step can be recorded: launched from Python, a step of these models takes three to six times as long as the GPU
needs for it, and how many experts a token is sent to does not show in its latency at all. Recording costs less than a
second a configuration; compiling costs many, so ``compiled`` is for who asks for it.

What a job may say is checked without torch, before anything is loaded; only ``engine_for`` needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vlmprof.job.spec import SweepSpec
from vlmprof.plan.point import TrialPlan
from vlmprof.surfaces import Anatomy

if TYPE_CHECKING:
    from vlmprof.engine.base import AbstractEngine
    from vlmprof.models.family import AbstractModel

RECORDABLE = {"attention": ("sdpa",), "experts_kernel": ("grouped_mm", "batched_mm")}
"""The kernels with which a decode step can be recorded: one shape for every step, and nothing read by the host."""


def why_not_recorded(kernels: Mapping[str, str]) -> str:
    """Why steps on these kernels cannot be recorded; empty where they can."""
    for name, allowed in RECORDABLE.items():
        used = {one for one in kernels.get(name, "").split("+") if one}
        if used - set(allowed):
            return f"{name} {'+'.join(sorted(used))} cannot be recorded, {' or '.join(allowed)} can"
    return ""


def engine_faults(spec: SweepSpec, anatomies: Mapping[str, Anatomy]) -> Iterator[str]:
    """What speaks against the engine of a job, as far as it is known before anything is loaded."""
    if spec.engine not in ("graphs", "compiled"):
        return
    if spec.resources.gpus == 0:
        yield f"{spec.engine} records CUDA graphs, and resources.gpus is 0; use eager or auto"
    for label, anatomy in anatomies.items():
        if anatomy.only_eager:
            yield f"{anatomy.only_eager}; use eager or auto (for model {label})"
    for knob, allowed in RECORDABLE.items():
        for value in spec.knobs.get(knob, ()):
            if value not in allowed:
                yield f"{spec.engine} cannot record steps with {knob} '{value}', only {' or '.join(allowed)}"


def engine_for(plan: TrialPlan, anatomy: Anatomy, model: AbstractModel) -> AbstractEngine:
    """The engine of a trial.

    Raises:
        ModelError: the job names one that this model cannot run on, or not here.
    """
    from vlmprof.engine.base import EAGER
    from vlmprof.engine.static_engine import engine_of

    reason = anatomy.only_eager or why_not_recorded(model.kernels)
    if plan.engine == "auto":
        records = model.device.startswith("cuda") and not reason
        return engine_of("graphs", model.device, pinned=_pinned(plan)) if records else EAGER
    return engine_of(plan.engine, model.device, only_eager=reason, pinned=_pinned(plan))


def _pinned(plan: TrialPlan) -> frozenset[str]:
    """Kernels that the point names: they run as named, also in decode steps."""
    return frozenset(RECORDABLE) & {name for name, _ in plan.point}
