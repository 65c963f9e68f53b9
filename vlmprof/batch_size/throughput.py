"""Where a larger batch stops paying. Beyond that it buys risk only.

A batch takes a fixed time (launches, weights read once) and a time for each sample, so samples per second rise and
level off. The knee is the smallest batch with ``SHARE`` of the best rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vlmprof.batch_size.memory_model import LEAST_POINTS, MemoryModel, MemoryPoint
from vlmprof.batch_size.observations import ConfigurationRecord
from vlmprof.batch_size.protocol import Demand

SHARE = 0.9


def fast_enough(seconds: Mapping[int, float]) -> int:
    """The smallest size with ``SHARE`` of the best rate among those that ran; 0 when none did."""
    best = max((size / took for size, took in seconds.items()), default=0.0)
    return min((size for size, took in seconds.items() if size / took >= SHARE * best), default=0)


def worth_trying(times: Sequence[MemoryPoint], known: ConfigurationRecord, demand: Demand, largest: int) -> int:
    """The size beyond which no more than the rest of the rate can be had; ``largest`` while times do not tell.

    From the configuration's own times where two sizes ran, else from those of all configurations.

    Args:
        times: Of every configuration of the world.
        known: The configuration.
        demand: Its demand.
        largest: The size that memory allows.
    """
    own = sorted(known.seconds.items())
    if len(own) > 1:
        (size, took), (more, longer) = own[0], own[-1]
    elif len(times) >= LEAST_POINTS:
        predict = MemoryModel(times, demand).prediction(0.0)
        size, more = 1, max(largest, 2)
        took, longer = predict(size).mean, predict(more).mean
    else:
        return largest
    each = max((longer - took) / (more - size), 0.0)
    return knee(max(took - each * size, 0.0), each, largest)


def knee(fixed: float, each: float, largest: int) -> int:
    """The smallest batch with ``SHARE`` of the rate of ``largest``, where a batch of b takes ``fixed + each b``.

    b / (fixed + each b) >= SHARE L / (fixed + each L), solved for b.
    """
    if fixed <= 0:
        return 1
    exact = SHARE * largest * fixed / (fixed + (1 - SHARE) * each * largest)
    return min(largest, max(1, math.ceil(exact - 1e-9)))
