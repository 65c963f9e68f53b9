"""The values that a trial and the batch sizer exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

PROTOCOL = 2
"""Raise it with a change to the values or the methods that a trial and the sizer of a cluster exchange: sweeps with
another protocol number start a sizer of their own instead of misreading this one."""

Demand = tuple[tuple[str, float], ...]
"""What one sample of a configuration requires of the device: (axis, amount above 0), ordered by axis; see
``trial.worst_case_probe.demand_of``."""

Phases = tuple[tuple[str, int], ...]
"""(phase of a generation, bytes at its peak)"""

Action = Literal["use", "probe", "wait"]
Source = Literal["probed", "borrowed", "assumed", "pinned", "refused"]
"""Why a size may be used: it ran on this configuration (``probed``), it ran on one that needs at least as much
(``borrowed``), nothing can be measured on this device (``assumed``), the job sets it (``pinned``); or no size fits
(``refused``)."""
Outcome = Literal["ran", "out_of_memory", "size_limit"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRequest:
    """A trial asks which batch size it may use."""

    memory_key: str
    """Everything except knobs that affects memory; see ``trial.memory_key``."""
    configuration: str
    """The configuration, unique within its memory key."""
    demand: Demand
    max_size: int
    """No reply has a larger size."""
    usable_bytes: int | None = None
    """What this process may take of the device now; None where memory cannot be measured."""
    floor_bytes: int = 0
    """What the process holds already, without any batch."""
    requester: str = ""
    """The requesting trial: unique to one trial in one process."""
    maximize: bool = False
    """Look for the largest safe size, not for the smallest one that is nearly as fast."""
    rule_of_thumb: int | None = None
    """A size that the model family guesses. It bounds the second probe of an unknown device, and is never a reply."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReply:
    """What the trial has to do next."""

    action: Action
    size: int = 0
    """The size to use or to probe; 0 with ``use``: not even one sample fits."""
    source: Source = "probed"
    token: int = 0
    """Of the lease to probe; sent back with the result, which is ignored once there is a newer lease."""
    predicted_bytes: int = 0
    """The predicted peak of the probe; 0: there is no prediction."""
    wait_s: float = 0.0
    """Ask again after so long: another trial is probing this configuration."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What happened when a batch ran."""

    id: str
    """The same for the same event: a message that arrives twice counts once."""
    memory_key: str
    configuration: str
    demand: Demand
    size: int
    outcome: Outcome
    worst_case: bool
    """True for a probe; False for a batch of the score pass, which shows nothing of the worst case unless it failed."""
    token: int = 0
    peak_bytes: int | None = None
    phases: Phases = ()
    """The peak of each phase of the batch, where phases were measured; ``peak_bytes`` is the largest of them."""
    floor_bytes: int = 0
    usable_bytes: int | None = None
    predicted_bytes: int = 0
    seconds: float = 0.0


def covers(larger: Demand, smaller: Demand) -> bool:
    """Whether a sample of ``larger`` requires at least as much as one of ``smaller`` on every axis.

    False for demands with different axes, which cannot be compared.
    """
    return len(larger) == len(smaller) and all(
        axis == other and amount >= other_amount
        for (axis, amount), (other, other_amount) in zip(larger, smaller, strict=True)
    )
