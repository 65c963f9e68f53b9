"""``BatchSizer``: which batch fits which configuration. A plain class: the actor only makes it remote.

Ask for the next size to run, tell what it did. On a GPU the measured peak says how far to grow, a step at a time, so
that nothing is answered which has not been approached by a size that ran; an out-of-memory error bounds the search
from above. On a CPU nothing can be measured, and the job's maximum is the answer until it fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

HEADROOM = 0.90
"""Share of the device that a batch may fill."""
GROWTH = 4
"""At most this many times the largest size that ran: one point says nothing about the slope."""
CLOSE_ENOUGH = 0.90
"""A size within this share of the predicted best is kept: the rest is not worth another change of batch."""


@final
@dataclass(slots=True)
class _Known:
    peaks: dict[int, int] = field(default_factory=dict)
    """Batch size that ran -> bytes at its peak."""
    failed: int | None = None
    """Smallest size that did not fit."""
    fitted: int = 0
    """Largest size that ran."""


@final
class BatchSizer:
    """The sizes of all configurations of a sweep, by key."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def ask(self, key: str, most: int, total_bytes: int | None) -> int:
        """The batch size to run next, at most ``most``; 0 when not even one sample fits.

        Args:
            key: Everything that decides how much memory a sample takes: device, model, precision, task, knobs.
            most: The job's upper bound.
            total_bytes: Memory of the device; None where peaks cannot be measured.
        """
        known = self._known.get(key, _Known())
        ceiling = most if known.failed is None else min(most, known.failed - 1)
        if ceiling <= known.fitted:
            return ceiling
        if total_bytes is None:
            return ceiling if known.failed is None else max(known.fitted, ceiling // 2, 1 if ceiling else 0)
        if not known.fitted:
            return min(1, ceiling)
        target = min(ceiling, _predicted(known.peaks, HEADROOM * total_bytes))
        if known.fitted >= CLOSE_ENOUGH * target:
            return known.fitted
        return min(target, GROWTH * known.fitted)

    def tell_fit(self, key: str, size: int, peak_bytes: int | None) -> None:
        """A batch of this size ran, with this peak."""
        known = self._known.setdefault(key, _Known())
        known.fitted = max(known.fitted, size)
        if peak_bytes is not None:
            known.peaks[size] = max(peak_bytes, known.peaks.get(size, 0))

    def tell_out_of_memory(self, key: str, size: int) -> None:
        """A batch of this size did not fit; what ran before at this size or above counts no more."""
        known = self._known.setdefault(key, _Known())
        known.failed = size if known.failed is None else min(known.failed, size)
        known.fitted = min(known.fitted, known.failed - 1)


def _predicted(peaks: dict[int, int], limit_bytes: float) -> int:
    """The largest size under the limit on the line through the two largest sizes seen; no bound from one point."""
    sizes = sorted(peaks)[-2:]
    if len(sizes) < 2:
        return GROWTH * sizes[-1]
    slope = (peaks[sizes[1]] - peaks[sizes[0]]) / (sizes[1] - sizes[0])
    if slope <= 0:
        return GROWTH * sizes[1]
    return int(sizes[1] + (limit_bytes - peaks[sizes[1]]) / slope)
