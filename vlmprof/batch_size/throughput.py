"""The knee: the batch size beyond which a larger batch is hardly faster and only adds risk.

A batch takes a fixed time (launches, weights read once) and a time for each sample, so samples per second rise and
level off. The knee is the smallest batch with ``SHARE`` of the best rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vlmprof.batch_size.memory_model import MemoryModel, MemoryPoint
from vlmprof.batch_size.observations import ConfigurationRecord
from vlmprof.batch_size.protocol import Demand

SHARE = 0.95
ENOUGH_TIMES = 10
"""Batches that must have been timed before their common model says anything about a configuration."""
LEAST_SHARE = 0.5
"""Where only that model tells, the knee is at least this share of the largest size: it is an extrapolation, mostly from
batches of nearly the same size, and a batch that is too small costs more time than one that is too large."""


def fast_enough(seconds: Mapping[int, float]) -> int:
    """The smallest size with ``SHARE`` of the best rate among the sizes that ran; 0 when none did.

    Args:
        seconds: Size -> time of its batch.
    """
    best_rate = max((size / took for size, took in seconds.items()), default=0.0)
    return min((size for size, took in seconds.items() if size / took >= SHARE * best_rate), default=0)


def worth_trying(times: Sequence[MemoryPoint], record: ConfigurationRecord, demand: Demand, largest: int) -> int:
    """The knee for a configuration; ``largest`` while there are too few times to know it.

    From the configuration's own times where two sizes ran, else from those of all configurations.

    Args:
        times: Of every configuration with the same memory key, in seconds.
        record: The configuration.
        demand: Its demand.
        largest: The largest size that memory allows.
    """
    own = sorted(record.seconds.items())
    if len(own) > 1:
        (small, small_s), (large, large_s) = own[0], own[-1]
        least = 1
    elif len(times) >= ENOUGH_TIMES:
        least = math.ceil(LEAST_SHARE * largest)
        predict = MemoryModel(times, demand).prediction(0.0)
        small, large = 1, max(largest, 2)
        small_s, large_s = predict(small).mean, predict(large).mean
    else:
        return largest
    per_sample = max((large_s - small_s) / (large - small), 0.0)
    return max(least, knee(max(small_s - per_sample * small, 0.0), per_sample, largest))


def knee(fixed: float, per_sample: float, largest: int) -> int:
    """The smallest batch with ``SHARE`` of the rate of ``largest``, where a batch of b takes ``fixed + per_sample b``.

    b / (fixed + per_sample b) >= SHARE L / (fixed + per_sample L), solved for b.
    """
    if fixed <= 0:
        return 1
    exact = SHARE * largest * fixed / (fixed + (1 - SHARE) * per_sample * largest)
    return min(largest, max(1, math.ceil(exact - 1e-9)))
