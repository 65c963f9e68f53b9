"""The next size to run for one configuration, from all observations with its memory key. Pure functions of values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Literal, final

from vlmprof.batch_size.memory_model import (
    MIN_POINTS,
    MemoryEstimate,
    MemoryModel,
    Predict,
    largest_phase,
    largest_within,
)
from vlmprof.batch_size.observations import ConfigurationRecord, Observations
from vlmprof.batch_size.protocol import SizeRequest, Source
from vlmprof.batch_size.throughput import fast_enough, worth_trying

HARD = 0.985
"""Share of the usable memory that a probe is planned to stay under even if the prediction is wrong; the allocator is
capped there too, so that a probe that takes more ends in an ordinary out-of-memory error."""
CLOSE = 0.05
"""A probe that comes within this share of the limit ends the search."""
AIM = 0.3
"""As a share of ``CLOSE``: how far below the limit a probe aims."""
SKIP = 0.93
"""A size that ran on a covering configuration is used without a probe if it is this share of the largest possible."""
SKIP_OWN, AIM_OWN = 0.915, 0.1
"""The same two for a configuration that has been probed: its own line is more certain than the shared model."""
CARE = 0.01
"""Share of the usable memory: how much further below ``HARD`` a first probe stays."""
SURE = 3.0
"""Standard deviations that a first probe stays under ``HARD``."""
GROWTH, GROWTH_TWO_POINTS = 4, 6
PRIOR_ERROR, ENOUGH_POINTS = 0.03, 15
"""Relative error added to what was measured with other versions, and the number of own points from which on those are
not used."""
RULE_OF_THUMB = 0.5
"""Share of the model family's guess: the second probe of an unknown device may be that large at once."""
SHRINK = 0.85
ROOMY = 3.0
"""A size that ran on a covering configuration needs no probe if it would fit even if it took so many times as much."""
STEEPER = 1.25
"""Workspaces grow in steps: beyond what was measured, the slope may be this much steeper."""
MAX_PROBES = 6
DISCOUNT_ERROR, DISBELIEF_ERROR = 0.025, 0.07
"""Rms errors of predictions above which sizes that ran on other configurations are discounted, and not used at all."""
FIRST_PROBE_SD = 0.05
"""A model with a larger relative standard deviation does not decide how large a first probe may be."""
TESTED_SD = 0.04
"""A prediction of a first probe with a larger relative standard deviation is not counted among the tested ones."""
MIN_TESTED = 10
"""Predictions that must have been tested before a size that ran on another configuration is used without a probe."""
ERRORS_KEPT = 40
RECENT, WORST_WEIGHT, WORST_FROM = 20, 0.75, 0.04
"""A recent probe that took more than predicted by more than ``WORST_FROM`` counts on its own: where one prediction
fails, the next one is likely to fail too."""
PSEUDO_TESTS, PSEUDO_ERROR = 8, 0.012


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStep:
    """What to do next for a configuration."""

    action: Literal["use", "probe"]
    size: int
    source: Source = "probed"
    predicted_bytes: int = 0


def prediction_error(observations: Observations) -> float:
    """Relative rms error of the newest tested predictions, with ``PSEUDO_TESTS`` small errors added at the start."""
    newest = observations.prediction_errors[-ERRORS_KEPT:]
    total = sum(error**2 for error in newest) + PSEUDO_TESTS * PSEUDO_ERROR**2
    worst = max(observations.prediction_errors[-RECENT:], default=0.0)
    return max(math.sqrt(total / (len(newest) + PSEUDO_TESTS)), WORST_WEIGHT * (worst - WORST_FROM))


def next_step(observations: Observations, request: SizeRequest) -> SearchStep:
    """Use a size that has run, or probe one.

    Args:
        observations: With the memory key of the request.
        request: With ``usable_bytes``.
    """
    return _Search(observations, request).step()


@final
class _Search:
    def __init__(self, observations: Observations, request: SizeRequest) -> None:
        assert request.usable_bytes is not None
        self._observations, self._request, self._usable = observations, request, request.usable_bytes
        self._record = observations.configurations.get(request.configuration) or ConfigurationRecord(request.demand)
        self._limit = self._record.limit(self._usable) - request.floor_bytes
        self._hard = HARD * self._usable - request.floor_bytes
        self._error = prediction_error(observations)
        self._phases = self._predictions()
        self._predict = largest_phase(list(self._phases.values())) if self._phases else None

    def step(self) -> SearchStep:
        own, ceiling = self._own(), self._ceiling()
        if not self._request.maximize and ceiling:
            ceiling = self._knee(own, ceiling)
        borrowed = self._borrowed(ceiling)
        if borrowed and self._is_risky(borrowed):
            borrowed = 0
        if ceiling == 0:
            return SearchStep(action="use", size=0, source="refused")
        if own and own >= borrowed and self._is_enough(own, ceiling):
            return self._chosen(own)
        may_borrow = self._may_borrow() or borrowed <= self._borrowed(ceiling, ROOMY)
        if borrowed > own and may_borrow and self._is_enough(borrowed, ceiling):
            return SearchStep(action="use", size=borrowed, source="borrowed")
        size = min(max(self._target(max(own, borrowed)), borrowed, 1), ceiling)
        if own and size <= own:
            return self._chosen(own)
        return SearchStep(action="probe", size=size, predicted_bytes=self._tested_prediction(size))

    def _own(self) -> int:
        return self._record.safe(self._usable, self._request.floor_bytes, self._request.max_size)

    def _tested_prediction(self, size: int) -> int:
        """The prediction that the probe will test; 0 where the model is too uncertain."""
        if self._predict is None or self._record.peaks:
            return 0
        estimate = self._predict(size)
        return round(self._request.floor_bytes + estimate.mean) if estimate.model_sd <= TESTED_SD else 0

    def _predictions(self) -> dict[str, Predict]:
        """What each phase of a batch will take, for phases with enough points."""
        own, prior = self._observations.points(), self._observations.prior
        predictions = {}
        for phase in {**prior, **own}:
            points, error = own.get(phase, []), max(0.0, self._error - PSEUDO_ERROR)
            if len(points) < ENOUGH_POINTS and phase in prior:
                points, error = [*prior[phase], *points], error + PRIOR_ERROR
            if len(points) >= MIN_POINTS:
                predictions[phase] = MemoryModel(points, self._request.demand).prediction(error)
        return predictions

    def _ceiling(self) -> int:
        """The largest size below all that are known not to fit, on this configuration or on one that needs less."""
        trusted = self._error <= DISCOUNT_ERROR
        others = self._observations.covered(self._request.demand) if trusted else ()
        # A size that ran and took too much is excluded for good: another run might take a little less.
        over = [size for size, peak in self._record.peaks.items() if peak > self._limit]
        failed = [record.smallest_failure(self._usable) for record in chain([self._record], others)]
        return min([self._request.max_size, *(size - 1 for size in [*over, *failed] if size is not None)])

    def _knee(self, own: int, ceiling: int) -> int:
        """The largest size worth trying where a batch only has to be fast."""
        curve = self._curve()
        fits = largest_within(curve, self._limit, 0.0, ceiling) if curve else ceiling
        reachable = min(ceiling, max(fits, own, self._next_by_proportion(), 1))
        worth = worth_trying(self._observations.times(), self._record, self._request.demand, reachable)
        return min(ceiling, max(worth, 1))

    def _chosen(self, own: int) -> SearchStep:
        """Of the configuration's own safe sizes, the largest, or the smallest that is nearly as fast."""
        safe = {size: seconds for size, seconds in self._record.seconds.items() if size <= own}
        return SearchStep(action="use", size=own if self._request.maximize else fast_enough(safe) or own)

    def _borrowed(self, ceiling: int, least_factor: float = 1.0) -> int:
        """The largest size that ran on a configuration that needs at least as much.

        Its peak must fit even if it is larger here by 2.5 times the error of past predictions, where that is large, and
        in any case if it is ``least_factor`` times as large.
        """
        if self._error > DISBELIEF_ERROR:
            return 0
        factor = max(least_factor, 1 + (2.5 * self._error if self._error > DISCOUNT_ERROR else 0.0))
        failed = self._record.smallest_failure(self._usable) or math.inf
        sizes = (
            size
            for record in self._observations.covering(self._request.demand)
            for size, peak in record.peaks.items()
            if peak * factor <= self._limit and size < failed and size <= ceiling
        )
        return max(sizes, default=0)

    def _is_risky(self, size: int) -> bool:
        """Whether a size that ran on another configuration may come too near to the limit here, by the predictions."""
        curve = self._curve()
        if curve is None:
            return False
        estimate = curve(size)
        return estimate.mean + SURE * estimate.sd > self._hard

    def _may_borrow(self) -> bool:
        """Whether a size that ran on another configuration may be used without a probe: predictions were tested."""
        return len(self._observations.prediction_errors) >= MIN_TESTED and self._predict is not None

    def _is_enough(self, size: int, ceiling: int) -> bool:
        """Whether a larger size is not worth a probe."""
        peak = self._record.peaks.get(size)
        if size < min(self._next_by_proportion(), ceiling):
            return False
        if size >= ceiling or len(self._record.peaks) + len(self._record.failures) >= MAX_PROBES:
            return True
        if peak is not None and peak >= self._limit - CLOSE * self._usable:
            return True
        curve = self._curve()
        share = SKIP_OWN if peak is not None else SKIP
        return curve is not None and size >= share * min(ceiling, largest_within(curve, self._limit, -1.0, ceiling))

    def _curve(self) -> Predict | None:
        """What the configuration takes: the shared model, scaled to its own measurements where there are any."""
        if not self._record.peaks:
            return self._predict
        own: dict[str, list[tuple[int, float]]] = {}
        for size, phase, peak in sorted(self._record.phase_peaks()):
            own.setdefault(phase, []).append((size, float(peak)))
        return largest_phase([_through(points, self._phases.get(phase)) for phase, points in own.items()])

    def _target(self, best: int) -> int:
        """The size to probe next, before it is bounded by what is known not to fit."""
        peaks = self._record.peaks
        target = self._limit - (AIM_OWN if peaks else AIM) * CLOSE * self._usable
        curve = self._curve()
        max_size = self._request.max_size
        if not peaks and not self._record.failures:
            if self._predict is None:
                return max(best, 1)
            return min(largest_within(self._predict, target, 0.0, max_size), self._first_probe())
        failed = self._record.smallest_failure(self._usable)
        if curve is None:
            return int(SHRINK * failed) if failed else best * GROWTH
        size = largest_within(curve, target, 0.0, max_size)
        if failed is not None and failed != self._record.size_limit:  # a size limit is exact
            size = min(size, int(SHRINK * failed))
        return min(max(size, self._next_by_proportion()), self._reach())

    def _next_by_proportion(self) -> int:
        """The size after the only one that ran, where its own peak leaves room for far more; else 0.

        The shared model, which may be fitted to few points, must not end a search that has hardly begun: on an H200
        trials ran at batch 1 in a hundredth of the memory.
        """
        peaks, size = self._record.peaks, GROWTH * max(self._record.peaks, default=0)
        if len(peaks) != 1 or self._record.failures:
            return 0
        return size if STEEPER * GROWTH * max(peaks.values()) <= self._limit / 2 else 0

    def _first_probe(self) -> int:
        """The largest first probe: by the model where it is certain enough, else also by proportion."""
        assert self._predict is not None
        sure = largest_within(self._predict, self._hard - CARE * self._usable, SURE, self._request.max_size)
        if sure and self._predict(sure).model_sd <= FIRST_PROBE_SD:
            return sure
        return max(1, int(min(sure, self._by_proportion())))

    def _by_proportion(self) -> float:
        """The largest size that follows from any one measured peak by proportion.

        Memory above the floor is a sum of products of demands and batch size: if each demand grows by some factor, it
        grows by at most the product of the factors.
        """
        sizes = [0.0]
        for record in self._observations.configurations.values():
            pairs = zip(self._request.demand, record.demand, strict=True)
            factor = STEEPER * math.prod(max(1.0, amount / measured) for (_, amount), (_, measured) in pairs)
            sizes += [size * self._hard / (peak * factor) for size, peak in record.peaks.items()]
        return max(sizes)

    def _reach(self) -> int:
        """The largest size to probe beyond the largest that ran, in case the slope is steeper there."""
        peaks = sorted(self._record.peaks.items())
        if not peaks:
            return self._request.max_size
        size, peak = peaks[-1]
        _, slope = _line([(s, float(p)) for s, p in peaks])
        growth = GROWTH if len(peaks) == 1 else GROWTH_TWO_POINTS
        further = (self._hard - peak) / (STEEPER * max(slope, 1.0))
        rule = int(RULE_OF_THUMB * (self._request.rule_of_thumb or 0))
        leap = max(size * growth, rule) if self._predict is None else math.inf
        return int(min(size + max(further, 0.0), leap))


def _through(points: list[tuple[int, float]], shared: Predict | None) -> Predict:
    """What a phase takes, through the largest of its own points: the shared model scaled to it, or a line."""
    size, amount = points[-1]
    if shared is not None:
        ratio = amount / shared(size).mean
        return lambda b: MemoryEstimate(mean=shared(b).mean * ratio, sd=0.0)
    fixed, slope = _line(points)
    return lambda b: MemoryEstimate(mean=fixed + slope * b, sd=0.0)


def _line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Fixed part and slope: through the two largest sizes, or through the origin and the only one."""
    size, amount = points[-1]
    if len(points) == 1:
        return 0.0, amount / size
    smaller_size, smaller_amount = points[-2]
    slope = max((amount - smaller_amount) / (size - smaller_size), 0.0)
    return amount - slope * size, slope
