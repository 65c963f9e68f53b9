"""Selects where a trial's pictures are cut: where the job says, or for ``auto`` on a GPU if the model can.

A host of a few cores cuts slower than a GPU answers, so the GPU would wait for pictures. On a CPU both ways run on the
same processor, and ``auto`` is ``host``, whose pixels are those of the training to the bit. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmprof.errors import ModelError
from vlmprof.job.spec import SweepSpec
from vlmprof.plan.point import TrialPlan
from vlmprof.records import Preprocess
from vlmprof.surfaces import Anatomy


def preprocess_faults(spec: SweepSpec, models: Sequence[tuple[str, Anatomy]]) -> Iterator[str]:
    """Reasons why the job's ``preprocess`` cannot be used.

    Args:
        spec: The job.
        models: Label and anatomy of each of its models.
    """
    for label, anatomy in models if spec.preprocess == "device" else ():
        if anatomy.only_host:
            yield f"{anatomy.only_host}; use host or auto (for model {label})"


def preprocess_for(plan: TrialPlan, anatomy: Anatomy, device: str) -> Preprocess:
    """Where the pictures of a trial are cut.

    Args:
        plan: The trial.
        anatomy: Of its model.
        device: Of its model, ``cpu`` or ``cuda``.

    Raises:
        ModelError: the job says ``device``, and this model's pictures can only be cut on the host.
    """
    if plan.preprocess == "device":
        if anatomy.only_host:
            raise ModelError(f"preprocess device: {anatomy.only_host}; use preprocess: host")
        return "device"
    on_gpu = device.startswith("cuda") and not anatomy.only_host
    return "device" if plan.preprocess == "auto" and on_gpu else "host"
