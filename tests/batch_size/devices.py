"""A device that a batch sizer can be driven against, and the drive."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import count

from vlmprof.batch_size.coordinator import ProbeCoordinator
from vlmprof.batch_size.protocol import Demand, ProbeResult, SizeReply, SizeRequest
from vlmprof.batch_size.search import HARD

GIB = 2**30
IDS = count()


def question(
    demand: Demand, total: int, floor: int, most: int = 512, requester: str = "a", **other: object
) -> SizeRequest:
    """A question about the configuration that has this demand."""
    return SizeRequest(
        memory_key="w",
        configuration=str(demand),
        demand=demand,
        max_size=most,
        usable_bytes=total,
        floor_bytes=floor,
        requester=requester,
        **{"maximize": True, **other},  # type: ignore[arg-type]
    )


def told(asked: SizeRequest, answer: SizeReply, peak: int | None, seconds: float = 1.0, name: str = "") -> ProbeResult:
    """What a probe did; a peak of None is an out-of-memory error."""
    return ProbeResult(
        id=name or f"told-{next(IDS)}",
        memory_key=asked.memory_key,
        configuration=asked.configuration,
        demand=asked.demand,
        size=answer.size,
        outcome="out_of_memory" if peak is None else "ran",
        worst_case=True,
        token=answer.token,
        peak_bytes=peak,
        floor_bytes=asked.floor_bytes,
        usable_bytes=asked.usable_bytes,
        predicted_bytes=answer.predicted_bytes,
        seconds=seconds,
    )


@dataclass
class Device:
    """Memory that grows with the product of demands, and remembers what ran on it."""

    total: int = 80 * GIB
    floor: int = 15 * GIB
    each: float = 0.02 * GIB
    fixed_s: float = 0.0
    crooked: dict[Demand, float] = field(default_factory=dict)
    """Factors by which a configuration departs from any order."""
    vision: float = 0.0
    """What a second phase takes, whatever the blocks, for each product of the other demands."""
    tells: bool = True
    """Whether the peak of each phase is told, and not only the whole."""
    ran: dict[Demand, set[int]] = field(default_factory=dict)
    failed: int = 0
    probes: int = 0

    def peak(self, demand: Demand, size: int) -> int:
        return max(self.phases(demand, size).values())

    def phases(self, demand: Demand, size: int) -> dict[str, int]:
        """Bytes of each phase: one grows with the product of all demands, one leaves out the blocks."""
        shares = {"decode": math.prod(amount for _, amount in demand)}
        if self.vision:
            shares["vision"] = self.vision * math.prod(amount for axis, amount in demand if axis != "blocks")
        factor = size * self.each * self.crooked.get(demand, 1.0)
        return {phase: int(self.floor + factor * share) for phase, share in shares.items()}

    def probe(self, demand: Demand, size: int) -> int | None:
        self.probes += 1
        peak = self.peak(demand, size)
        if peak > HARD * self.total:
            self.failed += 1
            return None
        self.ran.setdefault(demand, set()).add(size)
        return peak

    def settle(self, book: ProbeCoordinator, demand: Demand, **other: object) -> SizeReply:
        """Drive the book until it answers."""
        asked = question(demand, self.total, self.floor, **other)  # type: ignore[arg-type]
        for now in range(40):
            answer, _ = book.ask(asked, float(now))
            if answer.action == "use":
                return answer
            assert answer.action == "probe"
            seconds = self.fixed_s + 0.01 * answer.size
            one = told(asked, answer, self.probe(demand, answer.size), seconds)
            if self.vision and self.tells and one.outcome == "ran":
                one = replace(one, phases=tuple(self.phases(demand, answer.size).items()))
            assert book.tell(one)
        raise AssertionError(f"never settles on {demand}")


def demand_of(**axes: float) -> Demand:
    return tuple(sorted(axes.items()))
