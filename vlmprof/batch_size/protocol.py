"""What a trial and the batch sizer say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

PROTOCOL = 1
"""Raise it with a change to the values or the methods that a trial and the sizer of a cluster exchange: sweeps that
speak another protocol start a sizer of their own instead of misreading this one."""

Demand = tuple[tuple[str, float], ...]
"""What one sample of a configuration asks of the device: (axis, amount above 0), ordered by axis; see
``trial.worst_case_probe.demand_of``."""

Phases = tuple[tuple[str, int], ...]
"""(phase of a generation, bytes at its peak)"""

Action = Literal["use", "probe", "wait"]
Source = Literal["probed", "borrowed", "assumed", "pinned", "refused"]
"""Why a size may be used: it ran here, it ran on a configuration that needs more, nothing can be measured on this
device, the job says so; ``refused``: nothing fits."""
Outcome = Literal["ran", "out_of_memory", "size_limit"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRequest:
    """A trial asks which batch it may use."""

    world: str
    """All that decides memory and is no knob; see ``sizing.world``."""
    configuration: str
    """The configuration within its world."""
    demand: Demand
    most: int
    """No answer is above it."""
    usable_bytes: int | None = None
    """What this process may take of the device now; None where memory cannot be measured."""
    floor_bytes: int = 0
    """What it holds already, without any batch."""
    asker: str = ""
    """Who asks: one process, one trial."""
    maximize: bool = False
    """The largest safe size, and not the smallest one that is nearly as fast."""
    prior: int | None = None
    """A size that a rule of thumb gives: what the second probe of an unknown device goes by, never an answer."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeReply:
    """What the trial is to do next."""

    action: Action
    size: int = 0
    """To use or to probe; 0 to use: not even one sample fits."""
    source: Source = "probed"
    token: int = 0
    """Of the lease to probe, told with its outcome; a newer lease makes it worthless."""
    predicted_bytes: int = 0
    """The peak that was expected of the probe; 0: nothing was expected."""
    wait_s: float = 0.0
    """Ask again after so long: somebody else is probing this configuration."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a batch did."""

    id: str
    """The same for the same event: a message that arrives twice counts once."""
    world: str
    configuration: str
    demand: Demand
    size: int
    outcome: Outcome
    worst_case: bool
    """A probe; else a batch of the score pass, which says nothing of the worst case unless it failed."""
    token: int = 0
    peak_bytes: int | None = None
    phases: Phases = ()
    """The peak of each phase of the batch, where they could be told apart; ``peak_bytes`` is the most of them."""
    floor_bytes: int = 0
    usable_bytes: int | None = None
    predicted_bytes: int = 0
    seconds: float = 0.0


def covers(more: Demand, less: Demand) -> bool:
    """Whether a sample of ``more`` puts at least as much on the device as one of ``less``, on every axis.

    Loads with different axes cannot be compared.
    """
    return len(more) == len(less) and all(
        a == b and high >= low for (a, high), (b, low) in zip(more, less, strict=True)
    )
