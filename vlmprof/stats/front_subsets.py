"""What is lost where only some configurations may be chosen: the front of a part beside the front of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from vlmprof.stats.estimates import NORMAL
from vlmprof.stats.fronts import hypervolumes_of_draws
from vlmprof.stats.intervals import MeanInterval
from vlmprof.stats.uncertain_front import MARGIN

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
RATIO_NORMAL = 2.24
"""Standard errors to the ends of a share, whose draws have longer tails than a difference has: by simulation."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFront:
    """The front of some configurations, measured by the front of all."""

    share: MeanInterval
    """Hypervolume of the part over that of all, in the box of all measured values; 1: nothing is lost."""
    loss: MeanInterval
    """How much larger the first cost is at an equal limit on the second one, in its unit: the mean over limits from the
    best to the worst value, where a limit that nothing of the part keeps counts as the worst first cost of all."""


def kept_front(costs: Numbers, draws: Numbers, members: Mask) -> KeptFront | None:
    """What the front of ``members`` keeps of the front of all configurations.

    For two costs the hypervolume is the area between the best first cost that a limit on the second allows, and the
    worst first cost; so the difference of both areas over the range of limits is the mean loss. A front of noisy values
    lies beyond the true one, of many more than of few, and draws repeat that: the distance from the value to the mean
    of the draws, where it points outwards, is added to that end (as ``uncertain_front.hypervolume_interval``).

    Args:
        costs: (configurations, 2) as measured.
        draws: (draws, configurations, 2), around ``costs``.
        members: (configurations,): which may be chosen.

    Returns:
        None where a cost has one value only, so that there is no box, or there are no members.

    Raises:
        ValueError: not two costs.
    """
    if costs.shape[1] != 2:
        raise ValueError(f"expected two costs, got {costs.shape[1]}")
    best, worst = costs.min(axis=0), costs.max(axis=0)
    sides = worst - best
    if not ((sides > 0).all() and members.any()):
        return None
    reference = np.full(2, 1 + MARGIN)
    scaled, drawn = (costs - best) / sides, (draws - best) / sides
    volumes = [
        (hypervolumes_of_draws(scaled[None, chosen], reference)[0], hypervolumes_of_draws(drawn[:, chosen], reference))
        for chosen in (members, np.ones(len(costs), dtype=np.bool_))
    ]
    (part, parts), (whole, wholes) = volumes
    shares = np.divide(parts, wholes, out=np.ones(len(wholes)), where=wholes > 0)  # nothing there, nothing lost
    per_volume = sides[0] / (1 + MARGIN)
    return KeptFront(
        share=_interval(part / whole, shares, RATIO_NORMAL, 1.0),
        loss=_interval((whole - part) * per_volume, (wholes - parts) * per_volume, NORMAL, np.inf),
    )


def _interval(value: float, drawn: Numbers, normal: float, most: float) -> MeanInterval:
    half, bias = normal * float(drawn.std()), float(drawn.mean()) - value
    low, high = value - half - max(0.0, bias), value + half + max(0.0, -bias)
    return MeanInterval(mean=float(value), low=float(max(0.0, low)), high=float(min(most, high)))
