"""The next size to run for one configuration, from all that is known of its world. Pure: evidence in, a step out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Literal, final

from vlmprof.batch_size.memory_model import LEAST_POINTS, MemoryEstimate, MemoryModel, Predict, largest, most_of
from vlmprof.batch_size.observations import ConfigurationRecord, Observations
from vlmprof.batch_size.protocol import SizeRequest, Source
from vlmprof.batch_size.throughput import fast_enough, worth_trying

HARD = 0.985
"""Share of the usable memory that a probe is planned to stay under whatever the prediction errs; the allocator is
capped there too, so that a miss is an ordinary out-of-memory error."""
CLOSE = 0.05
"""A probe that comes within this share of the limit ends the search."""
AIM = 0.3
"""Of ``CLOSE``: how far below the limit a probe aims."""
SKIP = 0.93
"""A size that ran on a covering configuration is taken as it is when it is this share of what could be had."""
SKIP_OWN, AIM_OWN = 0.915, 0.1
"""The same two for a configuration that has been probed itself: its own line is surer than the shared model."""
CARE = 0.01
"""Of the usable memory: how much further below ``HARD`` a first probe stays."""
SURE = 3.0
"""Standard deviations under ``HARD`` that a first probe keeps."""
GROWTH, GROWTH_TWO_POINTS = 4, 6
PRIOR_DOUBT, ENOUGH = 0.03, 15
"""Distrust of what another world measured, and the own points that make it superfluous."""
RULE_OF_THUMB = 0.5
"""Of what a family guesses: so far the second probe of an unknown device may go at once."""
SHRINK = 0.85
STEEPER = 1.25
"""Workspaces grow in steps: a slope may be this much steeper further on."""
MOST_PROBES = 6
DISTRUST, DISBELIEF = 0.025, 0.07
"""Rms error of predictions above which what others ran is discounted, and above which nothing of others counts."""
BOLD = 0.05
"""A model that is less sure than this does not decide how far a first probe goes."""
CLAIM = 0.04
"""A model that is less sure than this of a first probe claims nothing, and is not put to the test by it."""
EARNED = 10
"""So many predictions must have been put to the test before a size that ran elsewhere is used unseen."""
REMEMBERED = 40
RECENT, SHOCK, SHOCK_FROM = 20, 0.75, 0.04
"""One recent probe that took more than was expected by more than ``SHOCK_FROM`` counts by itself: the place where one
prediction fails is a place where the next one does."""
PSEUDO, PSEUDO_ERROR = 8, 0.012


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStep:
    """What to do next for a configuration."""

    action: Literal["use", "probe"]
    size: int
    source: Source = "probed"
    predicted_bytes: int = 0


def surprise(evidence: Observations) -> float:
    """The audit: relative rms error of the newest predictions that were tested, some benign ones beforehand."""
    newest = evidence.surprises[-REMEMBERED:]
    total = sum(error**2 for error in newest) + PSEUDO * PSEUDO_ERROR**2
    worst = max(evidence.surprises[-RECENT:], default=0.0)
    return max(math.sqrt(total / (len(newest) + PSEUDO)), SHOCK * (worst - SHOCK_FROM))


def next_step(evidence: Observations, question: SizeRequest) -> SearchStep:
    """Use a size that is proven, or probe one.

    Args:
        evidence: Of the question's world.
        question: With ``usable_bytes``.
    """
    return _Search(evidence, question).step()


@final
class _Search:
    def __init__(self, evidence: Observations, question: SizeRequest) -> None:
        assert question.usable_bytes is not None
        self._evidence, self._question, self._usable = evidence, question, question.usable_bytes
        self._known = evidence.known.get(question.configuration) or ConfigurationRecord(question.demand)
        self._limit = self._known.limit(self._usable) - question.floor_bytes
        self._hard = HARD * self._usable - question.floor_bytes
        self._q = surprise(evidence)
        self._trusts = self._q <= DISBELIEF
        self._phases = self._predictions()
        self._predict = most_of(list(self._phases.values())) if self._phases else None

    def step(self) -> SearchStep:
        own, ceiling = self._known.safe(self._usable, self._question.most), self._ceiling()
        if not self._question.maximize and ceiling:
            ceiling = self._worth(own, ceiling)
        borrowed = self._borrowed(ceiling)
        if borrowed and self._risky(borrowed):
            borrowed = 0
        if ceiling == 0:
            return SearchStep(action="use", size=0, source="refused")
        if own and own >= borrowed and self._is_enough(own, ceiling):
            return self._chosen(own)
        if borrowed > own and self._may_borrow() and self._is_enough(borrowed, ceiling):
            return SearchStep(action="use", size=borrowed, source="borrowed")
        size = min(max(self._aim(max(own, borrowed)), borrowed, 1), ceiling)
        if own and size <= own:
            return self._chosen(own)
        return SearchStep(action="probe", size=size, predicted_bytes=self._audited(size))

    def _audited(self, size: int) -> int:
        """The prediction that the probe will put to the test; 0 where the model does not claim to know."""
        if self._predict is None or self._known.peaks:
            return 0
        expected = self._predict(size)
        return round(self._question.floor_bytes + expected.mean) if expected.claimed <= CLAIM else 0

    def _predictions(self) -> dict[str, Predict]:
        """What each phase of a batch will take; of those that have been seen often enough."""
        own, prior = self._evidence.points(), self._evidence.prior
        found = {}
        for phase in {**prior, **own}:
            points, distrust = own.get(phase, []), max(0.0, self._q - PSEUDO_ERROR)
            if len(points) < ENOUGH and phase in prior:
                points, distrust = [*prior[phase], *points], distrust + PRIOR_DOUBT
            if len(points) >= LEAST_POINTS:
                found[phase] = MemoryModel(points, self._question.demand).prediction(distrust)
        return found

    def _ceiling(self) -> int:
        """Below every size that is known not to fit, here or on a configuration that needs less."""
        others = self._evidence.covered(self._question.demand) if self._q <= DISTRUST else ()
        # What ran and took too much is no size for this configuration either, however it is measured again.
        over = [s for s, peak in self._known.peaks.items() if peak > self._known.limit(self._usable)]
        refused = [known.refused(self._usable) for known in chain([self._known], others)]
        return min([self._question.most, *(s - 1 for s in [*over, *refused] if s is not None)])

    def _worth(self, own: int, ceiling: int) -> int:
        """The most that is worth trying, where speed is what a batch is for."""
        curve = self._curve()
        reachable = max(largest(curve, self._limit, 0.0, ceiling) if curve else ceiling, own, 1)
        worth = worth_trying(self._evidence.times(), self._known, self._question.demand, reachable)
        return min(ceiling, max(worth, 1))

    def _chosen(self, own: int) -> SearchStep:
        """Of the own sizes that ran and are safe, the largest, or the smallest that is nearly as fast."""
        safe = {size: took for size, took in self._known.seconds.items() if size <= own}
        return SearchStep(action="use", size=own if self._question.maximize else fast_enough(safe) or own)

    def _borrowed(self, ceiling: int) -> int:
        """The largest size that ran where more is needed, and would fit even if the audit's doubts came true."""
        if not self._trusts:
            return 0
        doubt = 1 + (2.5 * self._q if self._q > DISTRUST else 0.0)
        floor, refused = self._question.floor_bytes, self._known.refused(self._usable) or math.inf
        sizes = (
            size
            for known in self._evidence.covering(self._question.demand)
            for size, peak in known.peaks.items()
            if (peak - floor) * doubt <= self._limit and size < refused and size <= ceiling
        )
        return max(sizes, default=0)

    def _risky(self, size: int) -> bool:
        """Whether a size that ran elsewhere may come too near to the limit here, by what is known of it."""
        curve = self._curve()
        if curve is None:
            return False
        expected = curve(size)
        return expected.mean + SURE * expected.sd > self._hard

    def _may_borrow(self) -> bool:
        """Whether a size that ran elsewhere may be used unseen: the audit was passed often."""
        return len(self._evidence.surprises) >= EARNED and self._predict is not None

    def _is_enough(self, size: int, ceiling: int) -> bool:
        """Whether a larger size is not worth a probe."""
        peak = self._known.peaks.get(size)
        if size >= ceiling or len(self._known.peaks) + len(self._known.refusals) >= MOST_PROBES:
            return True
        if peak is not None and peak - self._question.floor_bytes >= self._limit - CLOSE * self._usable:
            return True
        curve = self._curve()
        enough = SKIP_OWN if peak is not None else SKIP
        return curve is not None and size >= enough * min(ceiling, largest(curve, self._limit, -1.0, ceiling))

    def _curve(self) -> Predict | None:
        """Own measurements first: the line through two of them, or the shared model bent to pass through one."""
        if not self._known.peaks:
            return self._predict
        own: dict[str, list[tuple[int, float]]] = {}
        for size, phase, peak in sorted(self._known.phase_peaks()):
            own.setdefault(phase, []).append((size, max(float(peak - self._question.floor_bytes), 1.0)))
        return most_of([_through(ran, self._phases.get(phase)) for phase, ran in own.items()])

    def _aim(self, best: int) -> int:
        ran = self._known.peaks
        target = self._limit - (AIM_OWN if ran else AIM) * CLOSE * self._usable
        curve = self._curve()
        most = self._question.most
        if not ran and not self._known.refusals:
            return min(largest(self._predict, target, 0.0, most), self._first()) if self._predict else max(best, 1)
        refused = self._known.refused(self._usable)
        if curve is None:
            return int(SHRINK * refused) if refused else best * GROWTH
        aimed = largest(curve, target, 0.0, most)
        if refused is not None and refused != self._known.size_limit:  # that one is exact
            aimed = min(aimed, int(SHRINK * refused))
        return min(aimed, self._reach())

    def _first(self) -> int:
        """How far a first probe may go: by the model where it claims to know, else by what can be proven."""
        assert self._predict is not None
        sure = largest(self._predict, self._hard - CARE * self._usable, SURE, self._question.most)
        if sure and self._predict(sure).claimed <= BOLD:
            return sure
        return max(1, int(min(sure, self._proven())))

    def _proven(self) -> float:
        """The largest size by proportion alone, from whichever point allows most.

        Memory above the floor is a sum of products of demands and batch size: if each demand grows by some factor, it
        grows by at most the product of the factors.
        """
        sizes = [0.0]
        for known in self._evidence.known.values():
            pairs = zip(self._question.demand, known.demand, strict=True)
            factor = STEEPER * math.prod(max(1.0, here / there) for (_, here), (_, there) in pairs)
            floor = self._question.floor_bytes
            sizes += [size * self._hard / (max(peak - floor, 1) * factor) for size, peak in known.peaks.items()]
        return max(sizes)

    def _reach(self) -> int:
        """How far one may go from the largest size that ran, were the slope steeper further on."""
        ran = sorted(self._known.peaks.items())
        if not ran:
            return self._question.most
        size, peak = ran[-1]
        grown = float(peak - self._question.floor_bytes)
        _, slope = _line([(s, float(p - self._question.floor_bytes)) for s, p in ran])
        growth = GROWTH if len(ran) == 1 else GROWTH_TWO_POINTS
        further = (self._hard - grown) / (STEEPER * max(slope, 1.0))
        rule = int(RULE_OF_THUMB * (self._question.prior or 0))
        leap = max(size * growth, rule) if self._predict is None else math.inf
        return int(min(size + max(further, 0.0), leap))


def _through(ran: list[tuple[int, float]], shared: Predict | None) -> Predict:
    """A phase through the largest of its own points: bent from what all configurations say, or a line."""
    size, grown = ran[-1]
    if shared is not None:
        ratio = grown / shared(size).mean
        return lambda b: MemoryEstimate(mean=shared(b).mean * ratio, sd=0.0)
    fixed, slope = _line(ran)
    return lambda b: MemoryEstimate(mean=fixed + slope * b, sd=0.0)


def _line(ran: list[tuple[int, float]]) -> tuple[float, float]:
    """Fixed part and slope: through the two largest sizes; from one, as if nothing were fixed."""
    size, grown = ran[-1]
    if len(ran) == 1:
        return 0.0, grown / size
    before, less = ran[-2]
    slope = max((grown - less) / (size - before), 0.0)
    return grown - slope * size, slope
